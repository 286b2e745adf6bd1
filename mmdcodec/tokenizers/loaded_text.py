"""A sentence encoder with weights: texts in, unit vectors out."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from mmdcodec import precision
from mmdcodec.models import bert, text_tokens
from mmdcodec.models.text_condition import text_list
from mmdcodec.nn import norms
from mmdcodec.tokenizers import validation
from mmdcodec.tokenizers.loaded_codec import fingerprint, owned

# Texts that are encoded at a time.
_ROWS = 8


class LoadedText:
  """A sentence encoder of BERT's form, such as MiniLM.

  Attributes:
    config: content of the bundle's config.json.
    variables: parameters.
    hash: identifies settings and weights.
    width: size of a vector.
  """

  def __init__(
    self,
    config: dict[str, Any],
    variables: Mapping[str, Any],
    assets: Mapping[str, bytes],
  ) -> None:
    """Takes what a bundle of kind "text" holds.

    Raises:
      UserError: a field is out of its bounds, or the tokenizer is missing.
    """
    self.config = config
    self.hash = fingerprint(config, dict(variables))
    self.variables = owned(dict(variables))
    self.model = precision.in_float32(bert.from_config(config["model"]))
    self.width = self.model.width
    self.tokenizer = text_tokens.make_tokenizer(
      config.get("tokenizer", "word_pieces"), assets
    )
    self._embed = jax.jit(self._embed_tokens)

  def embed_text(self, texts: str | Sequence[str]) -> np.ndarray:
    """Embeds texts as the mean of their tokens' vectors.

    Args:
      texts: a text or several; long ones are cut.

    Returns:
      float32 [texts, width], each of length 1.

    Raises:
      UserError: there is no text, it is not valid Unicode, or its tokens are
        not those of the weights.
    """
    texts = text_list(texts)
    out = np.empty((len(texts), self.width), np.float32)
    blocks = text_tokens.blocks(
      self.tokenizer, texts, self.model.longest, rows=_ROWS
    )
    for at, tokens, mask in blocks:
      found = np.asarray(self._embed(self.variables, tokens, mask))
      out[at] = found[: len(at)]
    return validation.text_vectors(out)

  @precision.exactly
  def _embed_tokens(
    self, variables: Any, tokens: jax.Array, mask: jax.Array
  ) -> jax.Array:
    x: Any = self.model.apply(variables, tokens, mask)
    return norms.unit_vectors(bert.mean_of_tokens(x, mask), 1e-12)
