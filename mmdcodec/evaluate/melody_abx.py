"""Whether tokens follow the melody and not the instruments."""

from typing import NamedTuple

import numpy as np

from mmdcodec.evaluate import bootstrap
from mmdcodec.evaluate.bootstrap import Measure
from mmdcodec.evaluate.melody_pairs import Groups
from mmdcodec.evaluate.token_distance import abx_errors, edit_distances
from mmdcodec.parallel import shares
from mmdcodec.tokenizers.interface import Tokenizer

# Songs encoded, and pairs compared, at a time.
_BATCH, _PAIRS = 8, 128

# Codes [frames, codebooks] by group, melody and setting.
Codes = list[list[list[np.ndarray]]]


class Measured(NamedTuple):
  """Edit distances and ABX errors of one kind of tokens, mean of each group.

  Attributes:
    same: distance of the same melody in two settings.
    other: of two melodies in two settings, with the same tempo, key and mode.
    error: ABX error: X and A have the same melody, A and B the same setting;
      the tempo, key and mode of all three are the same.
    easy: the same with any song of another group as B.
    used: number of codes of the first codebook that occur.
  """

  same: np.ndarray
  other: np.ndarray
  error: np.ndarray
  easy: np.ndarray
  used: int

  def interval(self, name: str) -> Measure:
    """Mean of a field over groups, and its confidence interval."""
    return bootstrap.mean(getattr(self, name))


def encode(
  tokenizer: Tokenizer, groups: Groups, codebooks: int | None = None
) -> Codes:
  """Encodes all songs.

  Args:
    tokenizer: makes the codes.
    groups: songs of one length.
    codebooks: number of codebooks to keep, from the first; None: all.
  """
  songs = [song for group in groups for songs in group for song in songs]

  def encode_batch(start: int) -> list[np.ndarray]:
    some = songs[start : start + _BATCH]
    x = np.stack([song.audio for song in some])
    return [*tokenizer.encode(x, some[0].rate)[..., :codebooks]]

  found = shares.apply(encode_batch, range(0, len(songs), _BATCH))
  return _grouped([codes for each in found for codes in each], groups)


def shuffled(codes: Codes, seed: int = 0) -> Codes:
  """Gives each song the codes of a song chosen at random: chance."""
  flat = [each for group in codes for songs in group for each in songs]
  order = np.random.default_rng(seed).permutation(len(flat))
  return _grouped([flat[i] for i in order], codes)


def measure(codes: Codes) -> Measured:
  """Measures codes of two settings of each melody.

  Args:
    codes: of at least two groups, with at least two melodies each.
  """
  melodies, count = len(codes[0]), len(codes)
  first = [[songs[0] for songs in group] for group in codes]
  second = [[songs[1] for songs in group] for group in codes]
  # The next group, whose tempo and key are others.
  within = _distances(first, second)
  before = _distances(first, [*second[1:], second[0]])
  after = _distances([*first[1:], first[0]], second)
  diagonal = np.arange(melodies)
  apart = ~np.eye(melodies, dtype=bool)
  own = within[:, diagonal, diagonal]
  # X in the first setting (rows), and in the second one (columns).
  errors = np.stack(
    [
      abx_errors(own[:, :, None], within)[:, apart],
      abx_errors(own[:, None, :], within)[:, apart],
    ]
  )
  easy = np.stack(
    [
      abx_errors(own[:, :, None], before),
      abx_errors(own[:, None, :], after),
    ]
  )
  flat = np.concatenate(
    [each[:, 0] for group in codes for songs in group for each in songs]
  )
  return Measured(
    own.mean(1),
    within[:, apart].mean(1),
    errors.mean((0, 2)),
    easy.transpose(1, 0, 2, 3).reshape(count, -1).mean(1),
    len(np.unique(flat)),
  )


def _distances(
  one: list[list[np.ndarray]], other: list[list[np.ndarray]]
) -> np.ndarray:
  """Edit distances [groups, melodies, melodies] within pairs of groups."""
  pairs = [
    (a, b)
    for these, those in zip(one, other, strict=True)
    for a in these
    for b in those
  ]
  found = [
    edit_distances(pairs[start : start + _PAIRS])
    for start in range(0, len(pairs), _PAIRS)
  ]
  shape = (len(one), len(one[0]), len(other[0]))
  return np.concatenate(found).reshape(shape)


def _grouped(flat: list[np.ndarray], like: list[list[list]]) -> Codes:
  """Arranges a flat list like groups of melodies in settings."""
  rest = iter(flat)
  return [[[next(rest) for _ in songs] for songs in group] for group in like]
