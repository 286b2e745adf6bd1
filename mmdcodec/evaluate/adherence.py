"""Whether each part of a piece follows what was asked for it.

In story mode (MusicLM, arXiv 2301.11325, 4.4) a piece has a prompt for each
span of time. A span should be nearer to its own prompt than to those of the
spans beside it. In a long piece of one prompt, each part should follow it as
much as the first part does.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from mmdcodec.evaluate import bootstrap, pairing
from mmdcodec.evaluate.pairing import Pairing


def story_likeness(alike: np.ndarray) -> Pairing | None:
  """Likeness to a span's own prompt, less that to its neighbours'.

  Args:
    alike: float [stories, spans, prompts], of each span and each prompt of its
      story; NaN where a pair says nothing.

  Returns:
    See `pairing.sign_test`, over the stories; stories that say nothing do not
    count. None if none of them says anything.
  """
  stories, spans, _ = alike.shape
  better = np.full((stories, spans), np.nan)
  for k in range(spans):
    beside = [j for j in (k - 1, k + 1) if 0 <= j < spans]
    margins = alike[:, k, k, None] - alike[:, k, beside]
    better[:, k] = bootstrap.finite_mean(margins, 1)
  means = bootstrap.finite_mean(better, 1)
  known = means[np.isfinite(means)]
  return pairing.sign_test(known) if len(known) else None


def trait_likeness(told: np.ndarray, heard: np.ndarray) -> np.ndarray:
  """Whether spans have the trait of each prompt of their story.

  Args:
    told: values [stories, prompts].
    heard: values [stories, spans].

  Returns:
    float [stories, spans, prompts] for `story_likeness`: 1 where they agree, 0
    where not, and NaN where the prompt tells the same as the span's own, so
    that the trait cannot tell them apart.
  """
  told, heard = np.asarray(told), np.asarray(heard)
  found = (heard[:, :, None] == told[:, None, :]).astype(float)
  own = np.eye(told.shape[1], dtype=bool)
  same = told[:, :, None] == told[:, None, :]
  found[same & ~own] = np.nan
  return found


class Part(NamedTuple):
  """How much one part of long pieces follows their prompts.

  Attributes:
    start: seconds.
    share: share of the traits that agree.
    low: lower end of its 95% bootstrap interval over the pieces.
    high: upper end.
    change: `share` less that of the first part of the same pieces.
    change_low: lower end of its interval.
    change_high: upper end.
  """

  start: float
  share: float
  low: float
  high: float
  change: float
  change_low: float
  change_high: float


def drift(
  told: Mapping[str, Sequence[str]],
  heard: Mapping[str, np.ndarray],
  seconds: float,
) -> list[Part]:
  """Agreement with the prompt by part of a piece, the mean over the traits.

  Args:
    told: value of each trait in the prompt of each piece.
    heard: value of each trait in each clip, [pieces, parts, clips of a part].
    seconds: length of a part.
  """
  same = np.stack(
    [
      (np.asarray(heard[name]) == np.asarray(told[name])[:, None, None]).mean(2)
      for name in heard
    ]
  ).mean(0)
  first = same[:, 0]
  return [
    Part(k * seconds, *bootstrap.mean(row), *bootstrap.mean(row - first))
    for k, row in enumerate(same.T)
  ]
