"""Rows of codes: the codes that one step of a language model predicts.

Dependence is measured on rows. Without a pattern a row is a frame; under the
delay pattern it holds frame t - k of codebook k. Rows are in temporal order and
record their clip and piece of music. Adjacent rows are similar, and so are
clips of one piece, because music repeats itself: code that splits or shuffles
rows must keep them together.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

from mmdcodec.errors import UserError
from mmdcodec.patterns import PatternMaker

# Codes in each codebook: one number for all, or one per codebook.
Sizes = int | Sequence[int] | np.ndarray

# With fewer pieces, too many permutations leave a piece in its place.
MANY_PIECES = 10


@dataclasses.dataclass(frozen=True)
class Rows:
  """Rows of one kind of step: piece by piece, each clip in temporal order.

  Attributes:
    codebooks: the k codebooks of a row, in increasing order.
    codes: int32 [rows, k].
    frames: int32 [rows, k], the frame of each code.
    clip: int32 [rows], the clip of each row.
    piece: int32 [rows], the piece of music of each row, in increasing order.
  """

  codebooks: tuple[int, ...]
  codes: np.ndarray
  frames: np.ndarray
  clip: np.ndarray
  piece: np.ndarray

  def __len__(self) -> int:
    """Returns the number of rows."""
    return len(self.codes)

  def units(self, least: int = 20) -> np.ndarray:
    """Returns units to hold out or resample: whole pieces if there are many.

    Fewer than `MANY_PIECES` pieces are cut into equal stretches of time. These
    are not independent, because repetitions within a piece and the music around
    a cut can be on both sides of a split.

    Args:
      least: minimum number of stretches if there are few pieces.

    Returns:
      int32 [rows], numbered from 0, in increasing order.
    """
    pieces, counts = np.unique(self.piece, return_counts=True)
    few = len(pieces) < MANY_PIECES
    parts = -(-least // max(len(pieces), 1)) if few else 1
    within = np.concatenate([np.arange(n) * parts // n for n in counts])
    unit = np.repeat(np.arange(len(pieces)), counts) * parts + within
    return np.unique(unit, return_inverse=True)[1].astype(np.int32)

  def previous(self, codes: np.ndarray, nothing: int) -> np.ndarray:
    """Returns the codes of the previous row in the same clip.

    Args:
      codes: [rows].
      nothing: value for the first row of a clip.

    Returns:
      [rows].
    """
    before = np.concatenate([[nothing], codes[:-1]])
    first = np.concatenate([[True], self.clip[1:] != self.clip[:-1]])
    return np.where(first, nothing, before)

  def shuffled(self, random: np.random.Generator) -> np.ndarray:
    """Returns indices that shuffle the codebooks independently.

    Each codebook gets its own random order of the pieces. If there are few, its
    rows are also rotated by a random number. Every codebook keeps its codes and
    their temporal order; only the pairing of codebooks is lost.

    Args:
      random: the random generator.

    Returns:
      int [rows, k], the row that each code comes from.
    """
    starts = np.flatnonzero(np.diff(self.piece, prepend=-1))
    pieces = np.split(np.arange(len(self)), starts[1:])
    out = np.empty_like(self.codes, np.int64)
    for k in range(out.shape[1]):
      order = random.permutation(len(pieces))
      at = np.concatenate([pieces[i] for i in order])
      shift = random.integers(len(at)) if len(pieces) < MANY_PIECES else 0
      out[:, k] = np.roll(at, shift)
    return out


def pad(codes: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
  """Pads the codes of clips of different lengths into one array.

  Args:
    codes: codes of each clip, int [frames, codebooks].

  Returns:
    (codes int32 [clips, frames, codebooks], mask bool [clips, frames]).
  """
  longest = max(len(clip) for clip in codes)
  out = np.zeros((len(codes), longest, codes[0].shape[-1]), np.int32)
  mask = np.zeros(out.shape[:2], bool)
  for i, clip in enumerate(codes):
    out[i, : len(clip)], mask[i, : len(clip)] = clip, True
  return out, mask


def sizes_of(size: Sizes, codebooks: int) -> np.ndarray:
  """Converts one size or one per codebook to int64 [codebooks].

  Raises:
    ValueError: a size is less than 1.
  """
  sizes = np.broadcast_to(np.asarray(size, np.int64), (codebooks,))
  if sizes.min() < 1:
    raise ValueError(
      f"codebook sizes are {sizes.tolist()}; expected at least 1 each"
    )
  return sizes


def gather(
  codes: np.ndarray,
  size: Sizes,
  *,
  pattern: PatternMaker | None = None,
  mask: np.ndarray | None = None,
  pieces: Sequence | None = None,
) -> list[Rows]:
  """Gathers rows of codes under a pattern.

  Args:
    codes: int [clips, frames, codebooks].
    size: codes in a codebook, one number or one per codebook.
    pattern: a row has the codes of one of its steps; None: those of a frame.
    mask: bool [clips, frames], False in padding; rows with a padded frame are
      left out.
    pieces: [clips], a number or name for the piece of music of each clip. Clips
      of one piece are held out, shuffled and resampled together. None means
      that each clip is a piece.

  Returns:
    Rows of each kind of step (`Pattern.groups`), largest first. No codebook is
    in two kinds, so bits per row of each kind add up to bits per frame.

  Raises:
    UserError: a code is outside of its codebook, every step of the pattern
      holds only one code, kinds of steps share a codebook, or no row is
      complete.
    ValueError: the shapes do not fit.
  """
  codes = np.asarray(codes)
  if codes.ndim != 3 or not np.issubdtype(codes.dtype, np.integer):
    raise ValueError(
      "codes must be integers [clips, frames, codebooks], got"
      f" {codes.dtype} {codes.shape}"
    )
  clips, frames, books = codes.shape
  valid = np.ones((clips, frames), bool) if mask is None else np.asarray(mask)
  if valid.shape != (clips, frames):
    raise ValueError(f"mask is {valid.shape}; expected {(clips, frames)}")
  valid = valid.astype(bool)
  pieces = np.arange(clips) if pieces is None else np.asarray(pieces)
  if pieces.shape != (clips,):
    raise ValueError(f"pieces are {pieces.shape}; expected {(clips,)}")
  pieces = np.unique(pieces, return_inverse=True)[1]
  sizes = sizes_of(size, books)
  if ((codes < 0) | (codes >= sizes))[valid].any():
    raise UserError(f"codes must lie from 0 to {(sizes - 1).tolist()}.")
  if pattern is None:
    groups = [
      (tuple(range(books)), np.repeat(np.arange(frames)[:, None], books, 1))
    ]
  else:
    groups = pattern(frames).groups
  if not groups or books < 2:
    raise UserError(
      "every step of the pattern predicts only one code, so there is no"
      " dependence to measure; choose another pattern."
    )
  every = [book for members, _ in groups for book in members]
  if len(every) > len(set(every)):
    # A codebook would get several values, each for some of its frames.
    raise UserError(
      "the pattern predicts one codebook in steps of several kinds, with"
      f" codebooks {' and '.join(str(members) for members, _ in groups)}, in"
      f" clips of {frames} frames; choose a pattern that always predicts the"
      " same codebooks together, or longer clips if the pattern is a delay."
    )
  found = []
  for members, at in groups:
    columns = np.asarray(members)
    whole = valid[:, at].all(-1)  # [clips, steps]
    clip, step = np.nonzero(whole)
    order = np.argsort(pieces[clip], kind="stable")
    clip, step = clip[order], step[order]
    found.append(
      Rows(
        tuple(members),
        codes[clip[:, None], at[step], columns].astype(np.int32),
        at[step].astype(np.int32),
        clip.astype(np.int32),
        pieces[clip].astype(np.int32),
      )
    )
  if not all(len(rows) for rows in found):
    raise UserError(
      f"clips of at most {frames} frames are too short for the pattern; use"
      " longer clips."
    )
  return found
