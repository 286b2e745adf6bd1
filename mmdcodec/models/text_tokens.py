"""Tokenizers of texts: bytes, or the sentence pieces of T5."""

import functools
from collections.abc import Mapping

from mmdcodec import bounds
from mmdcodec.bounds import one_of
from mmdcodec.errors import UserError

# File beside a bundle's weights that the `tokenizers` library reads.
TOKENIZER_FILE = "tokenizer.json"
# Tokenizers by name, and the files of a bundle that each of them needs.
FILES: dict[str, tuple[str, ...]] = {"bytes": (), "t5": (TOKENIZER_FILE,)}
_END = 256


class Bytes:
  """The UTF-8 bytes of a text, then 256."""

  def encode(self, text: str) -> list[int]:
    """Tokens of a text."""
    return [*text.encode(), _END]


class Pieces:
  """T5's sentence pieces, by the `tokenizers` library."""

  def __init__(self, description: str | bytes):
    """Takes the contents of a tokenizer.json."""
    try:
      import tokenizers
    except ImportError:
      raise UserError(
        "this model's prompts need the tokenizers library: pip install"
        " 'mmdcodec[hub]'."
      ) from None
    if isinstance(description, bytes):
      description = description.decode()
    try:
      self._tokenizer = tokenizers.Tokenizer.from_str(description)
    except Exception as error:  # it has no specific class
      raise UserError(
        f"the model's {TOKENIZER_FILE} can't be read: {error}."
      ) from None
    # Padding and cutting are done by the caller, for all tokenizers alike.
    self._tokenizer.no_padding()
    self._tokenizer.no_truncation()

  def encode(self, text: str) -> list[int]:
    """Tokens of a text, with the end token that T5 expects."""
    return self._tokenizer.encode(text).ids


def make_tokenizer(name: str, assets: Mapping[str, bytes]) -> Bytes | Pieces:
  """Makes the tokenizer of a model.

  Args:
    name: "bytes" or "t5".
    assets: files of the bundle by name; "t5" needs one.

  Raises:
    UserError: the name is unknown, or the tokenizer's file is missing.
  """
  bounds.check("the tokenizer", name, one_of(tuple(FILES)))
  if name == "bytes":
    return Bytes()
  if TOKENIZER_FILE not in assets:
    raise UserError(
      f"the model has no {TOKENIZER_FILE}, which its prompts need: put that of"
      " its T5 beside its weights."
    )
  return _pieces(assets[TOKENIZER_FILE])


@functools.lru_cache(4)
def _pieces(description: str | bytes) -> Pieces:
  return Pieces(description)
