"""Measures how well a music model predicts held-out music, in bits.

This is the training cross-entropy (`losses.cross_entropy`) over whole clips.
Longer clips are cut into windows of the model's training length; the model sees
no codes from before a window.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from mmdcodec.errors import UserError
from mmdcodec.evaluate import coded_size
from mmdcodec.generation.musicgen import LoadedMusic
from mmdcodec.losses import cross_entropy
from mmdcodec.models.code_likelihood import nats_of_codes
from mmdcodec.models.conditioning import Inputs
from mmdcodec.models.token_lm import TokenLM
from mmdcodec.parallel import shares
from mmdcodec.platform import bucket

# Windows per batch.
BATCH = 8


@dataclasses.dataclass(frozen=True)
class Likelihood:
  """Cross-entropy of clips under a model.

  Attributes:
    nats: float64 [clips, codebooks], summed over the codes of a clip.
    counts: int64 [clips, codebooks], number of codes.
  """

  nats: np.ndarray
  counts: np.ndarray

  @property
  def summary(self) -> dict[str, Any]:
    """Summary over all clips; see `losses.cross_entropy.summary`."""
    return cross_entropy.summary(self.nats.sum(0), self.counts.sum(0))

  @property
  def bits_per_frame(self) -> float:
    """Average over all frames of all clips."""
    return float(self.summary["bits_per_frame"])

  @property
  def of_clips(self) -> np.ndarray:
    """Bits per frame of each clip: float64 [clips]."""
    return (self.nats / self.counts).sum(1) / math.log(2)


def measure(
  music: LoadedMusic,
  codes: Sequence[np.ndarray],
  texts: Sequence[str] | None = None,
  *,
  seconds: float | None = None,
  progress: Callable[[int, int], None] | None = None,
) -> Likelihood:
  """Computes the cross-entropy of clips under a music model.

  Args:
    music: the model.
    codes: codes of each clip by the model's codec, int [frames, codebooks].
    texts: text of each clip, cut to the length that the model takes; None for
      no texts.
    seconds: length of a window; the model's by default and at most.
    progress: called with (windows done, total) of this process.

  Returns:
    See `Likelihood`.

  Raises:
    UserError: there are no codes, or the number of texts differs.
  """
  codes = [np.asarray(each, np.int32) for each in codes]
  texts = [""] * len(codes) if texts is None else list(texts)
  if not codes or not all(len(each) for each in codes):
    raise UserError("there is nothing to measure: every clip needs a frame.")
  if len(texts) != len(codes):
    raise UserError(
      f"there are {len(texts)} texts of {len(codes)} clips; give one of each."
    )
  # There is no backward pass.
  model = music.model.clone(remat="none")
  most = model.frames
  if seconds is not None:
    most = max(1, min(most, round(seconds * music.frame_rate)))
  windows = [
    (clip, start)
    for clip, each in enumerate(codes)
    for start in range(0, len(each), most)
  ]
  # Few distinct sizes, so that few programs are compiled.
  size = min(most, bucket(max(map(len, codes))))
  books = slice(model.first_codebook, model.first_codebook + model.codebooks)
  inputs = _inputs(music, texts)
  params = jax.device_put(music.variables["params"])
  shape = (len(codes), model.codebooks)

  def measure_batch(start: int) -> list[np.ndarray]:
    here = windows[start : start + BATCH]
    batch = np.zeros((BATCH, size, model.codebooks), np.int32)
    lengths, rows = np.zeros(BATCH, np.int32), np.zeros(BATCH, np.int32)
    for row, (clip, start) in enumerate(here):
      part = codes[clip][start : start + most, books]
      batch[row, : len(part)], lengths[row], rows[row] = part, len(part), clip
    mine = jax.tree.map(lambda x, rows=rows: x[rows], inputs)
    return list(jax.device_get(sums(model, params, batch, lengths, mine)))

  found = shares.apply(
    measure_batch,
    range(0, len(windows), BATCH),
    progress or (lambda done, total: None),
    size=BATCH,
  )
  nats, counts = np.zeros(shape), np.zeros(shape, np.int64)
  for index, (clip, _) in enumerate(windows):
    batch, row = divmod(index, BATCH)
    nats[clip] += found[batch][0][row]
    counts[clip] += found[batch][1][row]
  return Likelihood(nats, counts)


def counted(
  codes: Sequence[np.ndarray], size: int
) -> tuple[np.ndarray, np.ndarray]:
  """Computes bits per frame without a language model.

  Uses ideal adaptive coders (`coded_size`), which learn their counts from these
  clips.

  Args:
    codes: codes of each clip, int [frames, codebooks].
    size: codes in a codebook.

  Returns:
    (unigram, bigram), both float64 [codebooks]: for each codebook separately,
    and given the previous code of the codebook.
  """
  together = np.concatenate(codes)
  starts = np.cumsum([0, *map(len, codes[:-1])])
  before = np.roll(together, 1, axis=0)
  before[starts] = size  # no code
  found = []
  for x, last in zip(together.T, before.T, strict=True):
    unigram = coded_size.coder_bits(x, size, [])
    bigram = coded_size.coder_bits(x, size, [last])
    found.append(
      (
        coded_size.mixture_bits([unigram]),
        coded_size.mixture_bits([unigram, bigram]),
      )
    )
  unigram, bigram = np.array(found).T / len(together)
  return unigram, bigram


@functools.partial(jax.jit, static_argnums=0)
def sums(
  model: TokenLM,
  params: dict[str, Any],
  codes: jax.Array,
  lengths: jax.Array,
  inputs: Inputs,
) -> tuple[jax.Array, jax.Array]:
  """Sums nats and counts codes of each row: both [batch, codebooks]."""
  nats, mask = nats_of_codes(model, params, codes, lengths, inputs)
  return nats.sum(1), mask.sum(1)


def _inputs(music: LoadedMusic, texts: list[str]) -> Inputs:
  """Makes the conditions of all clips, NumPy arrays; only texts are given."""
  return {
    each.name: each.arrays(texts, 0.0)
    if each.name == "text"
    else each.nothing(len(texts))
    for each in music.conditions
  }
