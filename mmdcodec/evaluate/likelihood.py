"""How well a music model predicts music that it was not trained on, in bits.

The cross-entropy of training (`losses.cross_entropy`) over whole clips. Longer
clips are cut into windows of the length that the model was trained on, and at
the start of each it knows nothing but the text.
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
from mmdcodec.platform import bucket

# Windows that are measured at a time.
BATCH = 8


@dataclasses.dataclass(frozen=True)
class Likelihood:
  """The cross-entropy of clips under a model.

  Attributes:
    nats: float64 [clips, codebooks], of all codes of a clip together.
    counts: int64 [clips, codebooks], of its codes.
  """

  nats: np.ndarray
  counts: np.ndarray

  @property
  def summary(self) -> dict[str, Any]:
    """Over all clips, see `losses.cross_entropy.summary`."""
    return cross_entropy.summary(self.nats.sum(0), self.counts.sum(0))

  @property
  def bits_per_frame(self) -> float:
    """Over all clips, longer ones counting more."""
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
  """Cross-entropy of clips under a music model.

  Args:
    music: a `LoadedMusic`.
    codes: of each clip, int [frames, codebooks], of the model's codec.
    texts: of each clip; what is longer than the model takes is cut. None:
      without texts.
    seconds: of a window; those of the model by default and at most.
    progress: is told (windows measured, windows in all).

  Returns:
    See `Likelihood`.

  Raises:
    UserError: no codes, or another number of texts.
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
  # Few different sizes, so that few programs are compiled.
  size = min(most, bucket(max(map(len, codes))))
  inputs = _inputs(music, texts)
  params = jax.device_put(music.variables["params"])
  shape = (len(codes), model.codebooks)
  nats, counts = np.zeros(shape), np.zeros(shape, np.int64)
  for done in range(0, len(windows), BATCH):
    here = windows[done : done + BATCH]
    batch = np.zeros((BATCH, size, model.codebooks), np.int32)
    lengths, rows = np.zeros(BATCH, np.int32), np.zeros(BATCH, np.int32)
    for row, (clip, start) in enumerate(here):
      part = codes[clip][start : start + most]
      batch[row, : len(part)], lengths[row], rows[row] = part, len(part), clip
    mine = jax.tree.map(lambda x, rows=rows: x[rows], inputs)
    found = jax.device_get(_sums(model, params, batch, lengths, mine))
    for row, (clip, _) in enumerate(here):
      nats[clip] += found[0][row]
      counts[clip] += found[1][row]
    if progress is not None:
      progress(done + len(here), len(windows))
  return Likelihood(nats, counts)


def counted(
  codes: Sequence[np.ndarray], size: int
) -> tuple[np.ndarray, np.ndarray]:
  """What the codes cost without a language model, in bits per frame.

  Ideal adaptive coders (`coded_size`), which know nothing at first and count
  what they have seen of these very clips.

  Args:
    codes: of each clip, int [frames, codebooks].
    size: codes in a codebook.

  Returns:
    float64 [codebooks] twice: of each codebook by itself (unigram), and of each
    code given the one before it (bigram).
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
def _sums(
  model: TokenLM,
  params: dict[str, Any],
  codes: jax.Array,
  lengths: jax.Array,
  inputs: Inputs,
) -> tuple[jax.Array, jax.Array]:
  """Nats and number of the codes of each row: [batch, codebooks]."""
  nats, mask = nats_of_codes(model, params, codes, lengths, inputs)
  return nats.sum(1), mask.sum(1)


def _inputs(music: LoadedMusic, texts: list[str]) -> Inputs:
  """Conditions of all clips, NumPy arrays: texts, and nothing else."""
  return {
    each.name: each.arrays(texts, 0.0)
    if each.name == "text"
    else each.nothing(len(texts))
    for each in music.conditions
  }
