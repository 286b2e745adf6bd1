"""Text as a condition of a language model: prompts and captions."""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from mmdcodec.bounds import mapping, one_of, whole
from mmdcodec.errors import UserError
from mmdcodec.formatting import is_utf8
from mmdcodec.models import fields, text_tokens
from mmdcodec.models.condition import (
  Arrays,
  Condition,
  dense,
  first,
)
from mmdcodec.models.text_encoder import T5Encoder
from mmdcodec.nn.conv import length_mask
from mmdcodec.platform import bucket


@dataclasses.dataclass(frozen=True, kw_only=True)
class Text(Condition):
  """A prompt, read by a T5 encoder.

  MusicGen, Copet et al. 2023, arXiv 2306.05284, 2.4. Arrays: `tokens` int
  [batch, tokens] and `lengths` [batch], the tokens that are not padding.

  Attributes:
    tokenizer: "bytes" or "t5".
    longest: maximum number of tokens of a prompt.
    encoder: fields of the `T5Encoder`.
  """

  kind = "text"

  tokenizer: Annotated[str, one_of(tuple(text_tokens.FILES))]
  longest: Annotated[int, whole(1, 1 << 16)]
  encoder: Annotated[Mapping[str, Any], mapping()]

  @property
  def problem(self) -> str | None:
    """See the base class."""
    fields.check_known(self.encoder, T5Encoder, hidden=("dtype",))
    T5Encoder(**self.encoder, parent=None)
    return None

  def shapes(self) -> dict[str, tuple[tuple[int, ...], Any]]:
    """See the base class."""
    return {"tokens": ((self.longest,), jnp.int32), "lengths": ((), jnp.int32)}

  def nothing(self, batch: int) -> Arrays:
    """See the base class; an empty text is one token of padding."""
    return {
      "tokens": np.zeros((batch, 1), np.int32),
      "lengths": np.zeros(batch, np.int32),
      "given": np.zeros(batch, bool),
    }

  def encode(
    self, module: nn.Module, arrays: Arrays
  ) -> tuple[jax.Array, jax.Array]:
    """See the base class."""
    tokens, given = arrays["tokens"], arrays["given"]
    mask = length_mask(arrays["lengths"], tokens.shape[1])
    encoder = T5Encoder(
      **self.encoder, dtype=module.dtype, name=f"{self.name}_encoder"
    )
    x = encoder(tokens, mask)
    # The public models have no projection if the widths are equal.
    if x.shape[-1] != module.width:
      x = dense(module, f"{self.name}_projection")(x)
    # Zeros are the empty text: attention to them adds nothing, and the public
    # models were trained with them as a prefix.
    return jnp.where((mask & given[:, None])[..., None], x, 0), mask

  @property
  def files(self) -> tuple[str, ...]:
    """See the base class."""
    return text_tokens.FILES[self.tokenizer]

  @property
  def pretrained(self) -> str:
    """See the base class."""
    # T5 was trained on far more text than captions of music.
    if self.tokenizer == "t5":
      return f"conditioner/{self.name}_encoder"
    return ""

  def in_training(self, data: Mapping[str, Any]) -> "Text":
    """See the base class: captions are cut to `data.text_tokens`."""
    longest = min(data["text_tokens"], self.longest)
    return dataclasses.replace(self, longest=longest)

  def read(self, record: Mapping[str, Any], start: float) -> Arrays:
    """See the base class: the caption, padded to `longest` tokens."""
    del start
    return first(self._tokenize([record["caption"]], self.longest))

  def check(self, value: Any, rate: int) -> list[Any]:
    """See the base class: a text or a list of them, where None is empty."""
    del rate
    texts = text_list(value)
    tokenizer = text_tokens.make_tokenizer(self.tokenizer, self.assets)
    for text in texts:
      count = len(tokenizer.encode(text))
      if count > self.longest:
        raise UserError(
          f"the prompt {text[:40]!r}... has {count} tokens; this model takes at"
          f" most {self.longest}."
        )
    return texts

  def arrays(self, items: Sequence[str | None], start: float) -> Arrays:
    """See the base class.

    Texts of more than `longest` tokens are cut, but keep their end token.
    """
    del start
    return self._tokenize([text or "" for text in items])

  def _tokenize(self, texts: list[str], size: int | None = None) -> Arrays:
    """Arrays of texts, `size` tokens wide; None means as wide as needed."""
    tokenizer = text_tokens.make_tokenizer(self.tokenizer, self.assets)
    found = [
      text_tokens.cut(tokenizer.encode(text), self.longest) for text in texts
    ]
    # Few different sizes, so that few programs are compiled.
    size = size or bucket(max(map(len, found)))
    tokens = np.zeros((len(texts), size), np.int32)
    for row, each in zip(tokens, found, strict=True):
      row[: len(each)] = each
    return {
      "tokens": tokens,
      "lengths": np.array([len(each) for each in found], np.int32),
      "given": np.array([bool(text.strip()) for text in texts]),
    }


def text_list(value: Any) -> list[str]:
  """Prompts as a list; None becomes an empty text.

  Raises:
    UserError: the value is neither a text nor a list of texts, or a text is not
      valid Unicode.
  """
  several = isinstance(value, Iterable) and not isinstance(value, str)
  texts = list(value) if several else [value]
  texts = ["" if text is None else text for text in texts]
  if not texts or not all(isinstance(text, str) for text in texts):
    raise UserError(
      f"prompts are {texts!r}; expected a text or a list of at least one."
    )
  for text in texts:
    if not is_utf8(text):
      raise UserError(f"the prompt {text!r} is not in UTF-8.")
  return texts
