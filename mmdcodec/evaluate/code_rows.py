"""Rows of codes: what one step of a language model predicts together.

Measures of dependence look at rows and not at frames. Without a pattern a row
is a frame; under the delay pattern it holds frame t - k of codebook k. Rows
stay in the order of time and know their clip, because neighbours in time are
alike: whoever splits or shuffles them must keep them together. So are clips of
one piece of music, which repeats itself: rows know their piece as well.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

from mmdcodec.errors import UserError
from mmdcodec.patterns import PatternMaker

# With fewer, too many orders of pieces leave one where it was.
MANY_PIECES = 10


@dataclasses.dataclass(frozen=True)
class Rows:
  """Rows of one kind: piece after piece, their clips in the order of time.

  Attributes:
    codebooks: which ones stand in a row, k of them, rising.
    codes: int32 [rows, k].
    frames: int32 [rows, k], the frame that each code is of.
    clip: int32 [rows], the clip that each row is of.
    piece: int32 [rows], the piece of music that each row is of, never falling.
  """

  codebooks: tuple[int, ...]
  codes: np.ndarray
  frames: np.ndarray
  clip: np.ndarray
  piece: np.ndarray

  def __len__(self) -> int:
    """Number of rows."""
    return len(self.codes)

  def units(self, least: int = 20) -> np.ndarray:
    """What is held out or drawn again: whole pieces, where there are many.

    If there are fewer than `MANY_PIECES`, each is cut into equal stretches of
    time. These are not independent: what a piece repeats, or what is at a seam,
    is then on both sides of a split.

    Args:
      least: number of stretches wanted, where pieces are few.

    Returns:
      int32 [rows], numbered from 0, never falling.
    """
    pieces, counts = np.unique(self.piece, return_counts=True)
    few = len(pieces) < MANY_PIECES
    parts = -(-least // max(len(pieces), 1)) if few else 1
    within = np.concatenate([np.arange(n) * parts // n for n in counts])
    unit = np.repeat(np.arange(len(pieces)), counts) * parts + within
    return np.unique(unit, return_inverse=True)[1].astype(np.int32)

  def previous(self, codes: np.ndarray, nothing: int) -> np.ndarray:
    """What stood one row earlier in the same clip.

    Args:
      codes: [rows].
      nothing: stands for it in the first row of a clip.

    Returns:
      [rows].
    """
    before = np.concatenate([[nothing], codes[:-1]])
    first = np.concatenate([[True], self.clip[1:] != self.clip[:-1]])
    return np.where(first, nothing, before)

  def shuffled(self, random: np.random.Generator) -> np.ndarray:
    """Where each codebook's rows come from in an order without dependence.

    The pieces of each codebook are laid end to end in an order of its own; if
    they are few, the whole is turned by a random number of rows as well. Every
    codebook keeps its codes and their order in time; only what stood beside
    what is lost.

    Args:
      random: what draws.

    Returns:
      int [rows, k].
    """
    starts = np.flatnonzero(np.diff(self.piece, prepend=-1))
    pieces = np.split(np.arange(len(self)), starts[1:])
    out = np.empty(self.codes.shape, np.int64)
    for k in range(out.shape[1]):
      order = random.permutation(len(pieces))
      at = np.concatenate([pieces[i] for i in order])
      turn = random.integers(len(at)) if len(pieces) < MANY_PIECES else 0
      out[:, k] = np.roll(at, turn)
    return out


def pad(codes: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
  """Codes of clips of different length as one array.

  Args:
    codes: of each clip [frames, codebooks].

  Returns:
    (codes int32 [clips, frames, codebooks], mask bool [clips, frames]).
  """
  longest = max(len(clip) for clip in codes)
  out = np.zeros((len(codes), longest, codes[0].shape[-1]), np.int32)
  mask = np.zeros(out.shape[:2], bool)
  for i, clip in enumerate(codes):
    out[i, : len(clip)], mask[i, : len(clip)] = clip, True
  return out, mask


def sizes_of(size: int | Sequence[int], codebooks: int) -> np.ndarray:
  """Codes in each codebook: int64 [codebooks] of one number or of many."""
  sizes = np.broadcast_to(np.asarray(size, np.int64), (codebooks,))
  if sizes.min() < 1:
    raise ValueError(f"sizes of codebooks are {sizes.tolist()}")
  return sizes


def gather(
  codes: np.ndarray,
  size: int | Sequence[int],
  *,
  pattern: PatternMaker | None = None,
  mask: np.ndarray | None = None,
  pieces: Sequence | None = None,
) -> list[Rows]:
  """Rows of codes under a pattern.

  Args:
    codes: int [clips, frames, codebooks].
    size: codes in a codebook, one number or one for each.
    pattern: codes of one step make a row; None for those of one frame.
    mask: bool [clips, frames], False where there is no frame; rows that touch
      one are left out.
    pieces: [clips], a number or name of the piece of music that each clip is
      of; clips with the same one are held out, shuffled and drawn again
      together. None: each clip is a piece of its own.

  Returns:
    Rows of each kind of step (`Pattern.groups`), largest first. No codebook is
    in two kinds, so what is found per row of each is per frame.

  Raises:
    UserError: a code is outside of its codebook, every step of the pattern
      holds one code only, kinds of step share a codebook, or no row is whole.
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
      "every step of the pattern predicts one code, so none can depend on one"
      " that is predicted with it; choose another pattern."
    )
  all_held = [book for held, _ in groups for book in held]
  if len(all_held) > len(set(all_held)):
    # A codebook would have several values, each of a part of its frames.
    raise UserError(
      "the pattern predicts a codebook in steps of several kinds, with"
      f" codebooks {' and '.join(str(held) for held, _ in groups)}, in clips of"
      f" {frames} frames; choose a pattern that always predicts it with the"
      " same ones, or longer clips if the pattern is a delay."
    )
  found = []
  for held, at in groups:
    books_of = np.asarray(held)
    whole = valid[:, at].all(-1)  # [clips, steps]
    clip, step = np.nonzero(whole)
    order = np.argsort(pieces[clip], kind="stable")
    clip, step = clip[order], step[order]
    found.append(
      Rows(
        tuple(held),
        codes[clip[:, None], at[step], books_of].astype(np.int32),
        at[step].astype(np.int32),
        clip.astype(np.int32),
        pieces[clip].astype(np.int32),
      )
    )
  if not all(len(rows) for rows in found):
    raise UserError(
      f"the clips, of {frames} frames at most, are too short for the pattern."
    )
  return found
