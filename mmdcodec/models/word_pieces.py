"""The tokenizer of uncased BERT models: word pieces.

Devlin et al. 2019, arXiv 1810.04805. A text loses its accents and capitals and
is split at spaces and punctuation. Each word is then covered from the left by
the longest pieces of a vocabulary; pieces inside a word begin with "##".
"""

import unicodedata
from collections.abc import Mapping
from typing import Any

from mmdcodec.errors import UserError
from mmdcodec.store import inputs

# Longer words are unknown.
LONGEST_WORD = 100
START, END, UNKNOWN = "[CLS]", "[SEP]", "[UNK]"

# First and last characters of the blocks of Chinese ideographs, which are words
# of their own.
_IDEOGRAPHS = (
  ("\u4e00", "\u9fff"),
  ("\u3400", "\u4dbf"),
  ("\U00020000", "\U0002a6df"),
  ("\U0002a700", "\U0002b73f"),
  ("\U0002b740", "\U0002b81f"),
  ("\U0002b820", "\U0002ceaf"),
  ("\uf900", "\ufaff"),
  ("\U0002f800", "\U0002fa1f"),
)


def split(text: str) -> list[str]:
  """Splits a text into words without accents and capitals.

  Args:
    text: any text.

  Returns:
    Words; every punctuation mark and ideograph is one.
  """
  spaced = "".join(_spaced(c) for c in text)
  plain = "".join(
    c
    for c in unicodedata.normalize("NFD", spaced)
    if unicodedata.category(c) != "Mn"
  )
  # One by one: Python has another small sigma for the end of a word.
  lower = "".join(c.lower() for c in plain)
  return "".join(f" {c} " if _is_mark(c) else c for c in lower).split()


def _spaced(c: str) -> str:
  """A character, with spaces around an ideograph; nothing for controls."""
  if c in "\t\n\r" or unicodedata.category(c) == "Zs":
    return " "
  if c == "\ufffd" or unicodedata.category(c).startswith("C"):
    return ""
  ideograph = any(first <= c <= last for first, last in _IDEOGRAPHS)
  return f" {c} " if ideograph else c


def _is_mark(c: str) -> bool:
  """Whether a character is punctuation, or another visible one of ASCII."""
  if c.isascii():
    return c.isprintable() and not c.isalnum() and c != " "
  return unicodedata.category(c).startswith("P")


class WordPieces:
  """Turns texts into numbers of a vocabulary."""

  def __init__(self, description: str | bytes):
    """Takes the contents of a tokenizer.json.

    Raises:
      UserError: it does not describe an uncased tokenizer of BERT.
    """
    if isinstance(description, bytes):
      description = description.decode(errors="replace")
    self.ids = _vocabulary(inputs.parse_json(description, "tokenizer.json"))

  def encode(self, text: str) -> list[int]:
    """Tokens of a text, between those of a start and an end.

    Names of special tokens in the text are ordinary words.
    """
    out = [self.ids[START]]
    for word in split(text):
      out += self._pieces(word)
    return [*out, self.ids[END]]

  def _pieces(self, word: str) -> list[int]:
    """Covers a word by pieces, or by the unknown token if that fails."""
    found: list[int] = []
    start = 0
    unknown = [self.ids[UNKNOWN]]
    if len(word) > LONGEST_WORD:
      return unknown
    while start < len(word):
      inside = "##" if start else ""
      for end in range(len(word), start, -1):
        piece = self.ids.get(inside + word[start:end])
        if piece is not None:
          found.append(piece)
          start = end
          break
      else:
        return unknown
    return found


def _vocabulary(config: Any) -> dict[str, int]:
  """Reads the vocabulary of a parsed tokenizer.json."""

  def part(name: str, of: Any = config) -> Mapping[str, Any]:
    found = of.get(name) if isinstance(of, Mapping) else None
    return found if isinstance(found, Mapping) else {}

  model, normalizer = part("model"), part("normalizer")
  vocabulary = part("vocab", of=model)
  good = (
    model.get("type") == "WordPiece"
    and model.get("continuing_subword_prefix", "##") == "##"
    and normalizer.get("lowercase", True) is True
    and normalizer.get("strip_accents") in (None, True)
    and all(type(i) is int and i >= 0 for i in vocabulary.values())
    and {START, END, UNKNOWN} <= {*vocabulary}
  )
  if not good:
    raise UserError(
      "tokenizer.json is not that of an uncased BERT: expected word pieces in"
      f" lower case, with {START}, {END} and {UNKNOWN}."
    )
  return dict(vocabulary)
