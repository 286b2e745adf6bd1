"""Tokenizers of texts.

bytes         the bytes of a text
t5            the sentence pieces of T5
word_pieces   the pieces of words of uncased BERT models
roberta       the pieces of bytes of RoBERTa
"""

import functools
from collections.abc import Iterator, Mapping, Sequence
from typing import Protocol

import numpy as np

from mmdcodec import bounds
from mmdcodec.bounds import one_of
from mmdcodec.errors import UserError
from mmdcodec.models.word_pieces import WordPieces
from mmdcodec.platform import bucket

# File beside a bundle's weights that the `tokenizers` library reads.
TOKENIZER_FILE = "tokenizer.json"
# Tokenizers by name, and the files of a bundle that each of them needs.
FILES: dict[str, tuple[str, ...]] = {
  "bytes": (),
  "t5": (TOKENIZER_FILE,),
  "word_pieces": (TOKENIZER_FILE,),
  "roberta": (TOKENIZER_FILE,),
}
_END = 256


class TextTokenizer(Protocol):
  """What turns a text into tokens, the last of which marks its end."""

  def encode(self, text: str) -> list[int]:
    """Tokens of a text."""


class Bytes:
  """The UTF-8 bytes of a text, then 256."""

  def encode(self, text: str) -> list[int]:
    """Tokens of a text."""
    return [*text.encode(), _END]


class Pieces:
  """Pieces of T5 or RoBERTa, by the `tokenizers` library."""

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
      # The library says what is wrong with what can't be decoded.
      description = description.decode(errors="replace")
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
    """Tokens of a text, with the end token that its model expects."""
    return self._tokenizer.encode(text).ids


def make_tokenizer(name: str, assets: Mapping[str, bytes]) -> TextTokenizer:
  """Makes the tokenizer of a model.

  Args:
    name: one of FILES.
    assets: files of the bundle by name, as FILES says.

  Raises:
    UserError: the name is unknown, or the tokenizer's file is missing or
      damaged.
  """
  bounds.check("the tokenizer", name, one_of(tuple(FILES)))
  if name == "bytes":
    return Bytes()
  if TOKENIZER_FILE not in assets:
    whose = {"t5": "its T5"}.get(name, "its text encoder")
    raise UserError(
      f"the model has no {TOKENIZER_FILE}, which its prompts need: put that of"
      f" {whose} beside its weights."
    )
  return _from_file(name, assets[TOKENIZER_FILE])


@functools.lru_cache(4)
def _from_file(name: str, description: str | bytes) -> TextTokenizer:
  kind = WordPieces if name == "word_pieces" else Pieces
  return kind(description)


def cut(ids: Sequence[int], longest: int) -> list[int]:
  """Drops the tokens before the last one that are too many."""
  return [*ids] if len(ids) <= longest else [*ids[: longest - 1], ids[-1]]


def blocks(
  tokenizer: TextTokenizer, texts: Sequence[str], longest: int, *, rows: int
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
  """Tokens of texts, those of similar lengths together.

  What an encoder computes of a text does then not depend on the texts beside
  it: a block always has as many rows, and its size depends on one text's
  length. Blocks of other shapes would be other programs, which round
  differently.

  Args:
    tokenizer: the tokenizer.
    texts: any number.
    longest: tokens of the longest text; others are `cut`.
    rows: texts in a block; missing ones are empty.

  Yields:
    (indices of the texts [n], tokens int32 [rows, size], mask bool [rows, size]
    with False for padding), where the first n rows are valid.
  """
  found = [cut(tokenizer.encode(text), longest) for text in texts]
  by_size: dict[int, list[int]] = {}
  for i, ids in enumerate(found):
    by_size.setdefault(min(longest, bucket(len(ids))), []).append(i)
  for size, members in by_size.items():
    for start in range(0, len(members), rows):
      some = members[start : start + rows]
      tokens = np.zeros((rows, size), np.int32)
      mask = np.zeros((rows, size), bool)
      for row, i in enumerate(some):
        tokens[row, : len(found[i])] = found[i]
        mask[row, : len(found[i])] = True
      yield np.array(some), tokens, mask
