"""Texts as tokens: bytes, or the pieces that a T5 was trained with."""

from collections.abc import Mapping, Sequence

import numpy as np

from mmdcodec.errors import UserError

# Of a bundle, beside its weights: what the `tokenizers` library reads.
TOKENIZER_FILE = "tokenizer.json"
_END = 256


class Bytes:
  """Any UTF-8 text as its bytes, and 256 at its end."""

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
    except Exception as error:  # of no kind of its own
      raise UserError(
        f"the model's {TOKENIZER_FILE} can't be read: {error}."
      ) from None
    # Padding and cutting are done here, for all tokenizers alike.
    self._tokenizer.no_padding()
    self._tokenizer.no_truncation()

  def encode(self, text: str) -> list[int]:
    """Tokens of a text, with the end that T5 expects."""
    return self._tokenizer.encode(text).ids


def make_tokenizer(name: str, assets: Mapping[str, bytes]) -> Bytes | Pieces:
  """The tokenizer of a model.

  Args:
    name: "bytes" or "t5".
    assets: further files of a bundle by name, for "t5".

  Raises:
    UserError: unknown name, or its file is missing.
  """
  if name == "bytes":
    return Bytes()
  if name != "t5":
    raise UserError(f"the tokenizer is {name!r}; it must be bytes or t5.")
  if TOKENIZER_FILE not in assets:
    raise UserError(
      f"the model has no {TOKENIZER_FILE}, which its prompts need: put that of"
      " its T5 beside its weights."
    )
  return Pieces(assets[TOKENIZER_FILE])


def tokenize_cut(
  tokenizer: Bytes | Pieces, texts: Sequence[str], size: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """Texts as one array of a given size; what is longer is cut.

  Args:
    tokenizer: of the model.
    texts: an empty one asks for nothing.
    size: tokens of the array.

  Returns:
    (tokens int32 [batch, size], their number in each text int32 [batch], which
    texts are not empty bool [batch]).
  """
  out = np.zeros((len(texts), size), np.int32)
  lengths = np.zeros(len(texts), np.int32)
  for i, text in enumerate(texts):
    tokens = tokenizer.encode(text)[:size]
    out[i, : len(tokens)], lengths[i] = tokens, len(tokens)
  return out, lengths, np.array([bool(text.strip()) for text in texts])


def tokenize(
  tokenizer: Bytes | Pieces, texts: Sequence[str], longest: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """Texts as one array.

  Args:
    tokenizer: of the model.
    texts: an empty one asks for nothing.
    longest: tokens that the model takes.

  Returns:
    (tokens int32 [batch, tokens], their mask bool [batch, tokens], which texts
    are not empty bool [batch]).

  Raises:
    UserError: a text that is too long.
  """
  found = [tokenizer.encode(text) for text in texts]
  for text, tokens in zip(texts, found, strict=True):
    if len(tokens) > longest:
      raise UserError(
        f"the prompt {text[:40]!r}... has {len(tokens)} tokens; this model"
        f" takes {longest} at most."
      )
  lengths = np.array([len(tokens) for tokens in found])
  out = np.zeros((len(found), max(1, lengths.max())), np.int32)
  for row, tokens in zip(out, found, strict=True):
    row[: len(tokens)] = tokens
  mask = np.arange(out.shape[1]) < lengths[:, None]
  return out, mask, np.array([bool(text.strip()) for text in texts])
