"""Bits that each stage of a hierarchy needs for the tokens of held-out music.

This is the training cross-entropy over fixed crops, spread over all records,
with the conditions of training.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from mmdcodec.data import token_batches
from mmdcodec.data.aligned_tokens import AlignedTokens
from mmdcodec.data.record_order import spread
from mmdcodec.data.token_records import TokenSource
from mmdcodec.evaluate import bootstrap, likelihood, token_sets
from mmdcodec.parallel import shares

BATCH = 8


class StageLikelihood(NamedTuple):
  """Cross-entropy of crops under a stage.

  Attributes:
    found: nats and counts of each crop, see `Likelihood`.
    bits_per_token: mean over all tokens.
    low: lower end of its 95% bootstrap interval over the crops.
    high: upper end.
    bits_per_frame: sum over the codebooks of a frame.
    frame_rate: frames per second.
    uniform: bits of a token if all were equally likely.
    alone: bits of a token for an adaptive coder of each codebook by itself.
  """

  found: likelihood.Likelihood
  bits_per_token: float
  low: float
  high: float
  bits_per_frame: float
  frame_rate: float
  uniform: float
  alone: float


def measure(
  stage: Any,
  sources: Sequence[TokenSource | AlignedTokens],
  *,
  crops: int,
  show: Callable[[int, int], None] = lambda done, total: None,
) -> StageLikelihood:
  """Measures a stage on held-out tokens.

  Args:
    stage: a `Stage`.
    sources: data sets from `token_sets.of_stage`.
    crops: number of crops, each as long as in training.
    show: shows the progress.
  """
  model = stage.model.clone(remat="none")
  params = jax.device_put(stage.variables["params"])
  frames = token_sets.crop_frames(stage)
  books = slice(model.first_codebook, model.first_codebook + model.codebooks)
  rows = [
    token_batches.crop(
      sources[k], record, where, frames, stage.conditions, books
    )
    for k, record, where in spread(sources, crops)
  ]

  def measure_batch(start: int) -> tuple[np.ndarray, np.ndarray]:
    some = [rows[min(start + i, len(rows) - 1)] for i in range(BATCH)]
    batch = jax.tree.map(lambda *x: np.stack(x), *some)
    sums = likelihood.sums(
      model, params, batch["codes"], batch["lengths"], batch["conditions"]
    )
    left = len(rows) - start
    nats = np.asarray(sums[0], np.float64)
    return nats[:left], np.asarray(sums[1])[:left]

  starts = range(0, len(rows), BATCH)
  measured = shares.apply(measure_batch, starts, show, size=BATCH)
  found = likelihood.Likelihood(
    *map(np.concatenate, zip(*measured, strict=True))
  )
  bits, tokens = found.nats.sum(1) / math.log(2), found.counts.sum(1)
  low, high = bootstrap.interval(
    lambda at: bits[at].sum() / max(tokens[at].sum(), 1), len(rows)
  )
  codes = []
  for row in rows:
    made, kept = stage.from_frames(row["codes"][None], row["lengths"][None])
    codes.append(made[0, : kept[0]])
  alone = likelihood.counted(codes, model.codebook_size)[0]
  return StageLikelihood(
    found=found,
    bits_per_token=float(bits.sum() / tokens.sum()),
    low=low,
    high=high,
    bits_per_frame=found.bits_per_frame,
    frame_rate=stage.frame_rate,
    uniform=math.log2(model.codebook_size),
    alone=float(alone.mean()),
  )
