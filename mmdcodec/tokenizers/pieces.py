"""Cuts audio and codes into pieces of equal size.

A piece is (array [batch, size, width], lengths [batch]). All pieces of a clip
have the same size; those at its end have fewer valid rows, followed by zeros.
"""

import abc
from collections.abc import Iterable, Iterator
from typing import Any

import jax
import numpy as np

from mmdcodec.models.codec import Codec

Piece = tuple[np.ndarray, np.ndarray]
# (codes [batch, size, codebooks], valid frames [batch], scale [batch, chunks]
# or None).
CodedPiece = tuple[np.ndarray, np.ndarray, np.ndarray | None]


def cut(x: np.ndarray, lengths: np.ndarray, size: int) -> Iterator[Piece]:
  """Yields the pieces of a complete array [batch, time, width]."""
  for start in range(0, x.shape[1], size):
    piece = x[:, start : start + size]
    short = size - piece.shape[1]
    valid = np.clip(lengths - start, 0, size)
    yield np.pad(piece, ((0, 0), (0, short), (0, 0))), valid


def gather(blocks: Iterable[np.ndarray], size: int) -> Iterator[Piece]:
  """Yields the pieces of one clip that arrives in blocks [time, width]."""
  held: list[np.ndarray] = []
  count = 0
  for block in blocks:
    held.append(np.asarray(block))
    count += len(block)
    if count < size:
      continue
    x, held, count = np.concatenate(held), [], count % size
    for start in range(0, len(x) - size + 1, size):
      yield x[None, start : start + size], np.array([size])
    held = [x[len(x) - count :].copy()]
  if count:
    yield from cut(np.concatenate(held)[None], np.array([count]), size)


def with_next(pieces: Iterable[Any]) -> Iterator[tuple[Any, Any]]:
  """Yields each piece with its successor; zeros follow the last one."""
  here = None
  for piece in pieces:
    if here is not None:
      yield here, piece
    here = piece
  if here is not None:
    yield here, jax.tree.map(np.zeros_like, here)


def windows(
  pieces: Iterable[Piece], before: int, after: int
) -> Iterator[tuple[np.ndarray, np.ndarray, int, np.ndarray]]:
  """Yields pieces with context on both sides.

  Args:
    pieces: pieces of at least `before + after` samples each.
    before: samples of context before a piece.
    after: samples of context after a piece.

  Yields:
    (x [batch, before + size + after, width], valid samples in x [batch],
    start of the piece in x, valid samples of the piece [batch]). The first
    window has no context before its piece.
  """
  past = None
  for (x, lengths), (coming, more) in with_next(pieces):
    if past is None:
      parts, start = [x, coming[:, : before + after]], 0
    else:
      parts, start = [past, x, coming[:, :after]], before
    window = np.concatenate(parts, 1)
    ahead = np.minimum(more, window.shape[1] - start - x.shape[1])
    valid = np.where(lengths > 0, start + lengths + ahead, 0)
    yield window, valid, start, lengths
    past = x[:, x.shape[1] - before :]


class Coder(abc.ABC):
  """Codes and decodes clips piece by piece.

  Attributes:
    model: the codec.
    size: frames in a piece.
    samples: samples in a piece.
    chunks: chunks in a piece, if the codec has chunks.
    per_chunk: frames in a chunk.
  """

  model: Codec
  size: int
  samples: int
  chunks: int = 0
  per_chunk: int = 0

  @abc.abstractmethod
  def encode(
    self,
    variables: Any,
    pieces: Iterable[Piece],
    codebooks: int | None = None,
  ) -> Iterator[CodedPiece]:
    """Yields the codes of each piece of audio.

    Args:
      variables: the codec's variables.
      pieces: pieces of audio with `samples` samples each.
      codebooks: number of codebooks to use, from the first; None: all.
    """

  @abc.abstractmethod
  def decode(
    self,
    variables: Any,
    pieces: Iterable[CodedPiece],
    length: int | None = None,
  ) -> Iterator[Piece]:
    """Yields the audio of each piece of codes.

    Args:
      variables: the codec's variables.
      pieces: as `encode` yields them.
      length: number of samples in the clips, if known. A codec with chunks
        needs it if a clip ends inside an overlap.
    """
