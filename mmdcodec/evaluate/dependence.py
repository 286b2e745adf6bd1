"""How much codebooks say about one another: all measures at once.

Twice over: for the codes of a frame (aligned), and for those that one step of
a language model predicts together under its pattern. Codebooks that collapse
depend on nothing, so use and entropy of the codes always stand beside.
"""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np

from mmdcodec.evaluate import code_rows, codebooks
from mmdcodec.evaluate.coded_size import CodedSize, coded_size
from mmdcodec.evaluate.kernel_dependence import (
  KernelDependence,
  kernel_dependence,
)
from mmdcodec.evaluate.mutual_information import (
  MutualInformation,
  mutual_information,
)
from mmdcodec.evaluate.total_correlation import (
  TotalCorrelation,
  total_correlation,
)
from mmdcodec.generation import patterns

# Below so many frames for each code, weak dependence stays unseen.
FRAMES_PER_CODE = 100
FEWEST_CLIPS = 10


@dataclasses.dataclass(frozen=True)
class Measured:
  """The measures on one kind of row."""

  total: TotalCorrelation
  pairs: MutualInformation
  coded: CodedSize
  kernel: KernelDependence | None


@dataclasses.dataclass(frozen=True)
class Dependence:
  """Dependence between the codebooks of a codec.

  Attributes:
    aligned: of the codes of a frame.
    together: of the codes that one step of the pattern predicts; the same
      object as `aligned` if there is no pattern.
    counts: [codebooks, size] how often each code was chosen.
    use: share of the codes in use, [codebooks].
    perplexity: [codebooks].
    frames: that were looked at.
    clips: of which they are.
    sizes: codes in each codebook.
    warnings: what makes these figures doubtful, one sentence each.
  """

  aligned: Measured
  together: Measured
  counts: np.ndarray
  use: np.ndarray
  perplexity: np.ndarray
  frames: int
  clips: int
  sizes: np.ndarray
  warnings: tuple[str, ...]

  def summary(self) -> dict[str, float]:
    """One row of numbers; bits are per frame."""
    row = {"frames": self.frames, "clips": self.clips}
    row["use"] = float(self.use.mean())
    row["perplexity"] = float(self.perplexity.mean())
    row["entropy"] = float(self.aligned.total.entropy.sum())
    for name, found in (("aligned", self.aligned), ("together", self.together)):
      row[f"{name}/total_correlation"] = found.total.bits
      row[f"{name}/total_correlation_error"] = found.total.error
      row[f"{name}/share"] = found.total.share
      bits = found.pairs.bits
      pairs = np.isfinite(bits) & np.triu(np.ones(bits.shape, bool), 1)
      row[f"{name}/mutual_information"] = float(bits[pairs].mean())
      row[f"{name}/significant_pairs"] = int(
        found.pairs.significant[pairs].sum()
      )
      for field in ("alone", "earlier", "previous", "both"):
        row[f"{name}/coded_{field}"] = float(getattr(found.coded, field).sum())
      if found.kernel is not None:
        row[f"{name}/dhsic"] = found.kernel.normalised
        row[f"{name}/dhsic_null"] = found.kernel.null
        row[f"{name}/independence_loss"] = found.kernel.loss
    return row

  def to_dict(self) -> dict:
    """Everything, as JSON takes it (None for what is not a number)."""
    fields = dataclasses.asdict(self)
    return {"summary": _plain(self.summary()), **_plain(fields)}


def measure(
  codes: np.ndarray,
  size: int | Sequence[int],
  *,
  pattern: patterns.PatternMaker | None | str = "delay",
  mask: np.ndarray | None = None,
  streams: np.ndarray | None = None,
  seed: int = 0,
) -> Dependence:
  """All measures of dependence, for frames and for the steps of a pattern.

  Args:
    codes: int [clips, frames, codebooks], of at least two codebooks.
    size: codes in a codebook, one number or one for each.
    pattern: name of a pattern or one of `mmdcodec.generation.patterns`; None
      or "parallel": codes of a frame are predicted together.
    mask: bool [clips, frames], False where there is no frame.
    streams: [clips, frames, codebooks, dim] code vectors, for kernel measures.
    seed: of everything random.

  Returns:
    See `Dependence`.

  Raises:
    UserError: one codebook, no rows, or codes outside of the codebooks.
  """
  codes = np.asarray(codes)
  clips, frames, books = codes.shape
  if isinstance(pattern, str):
    name = pattern
    pattern = None if name == "parallel" else patterns.make(name, books)
  sizes = code_rows.sizes_of(size, books)
  aligned = _measure(codes, sizes, None, mask, streams, seed)
  together = aligned
  if pattern is not None:
    together = _measure(codes, sizes, pattern, mask, streams, seed)
  counts = np.asarray(codebooks.histogram(codes, int(sizes.max()), mask))
  perplexity = codebooks.statistics(counts)["perplexity"]
  count = int(counts[0].sum())
  valid = clips if mask is None else int(np.asarray(mask).any(1).sum())
  return Dependence(
    aligned=aligned,
    together=together,
    counts=counts,
    use=(counts > 0).sum(1) / sizes,
    perplexity=perplexity,
    frames=count,
    clips=valid,
    sizes=sizes,
    warnings=tuple(_warnings(count, valid, sizes, together)),
  )


def _measure(codes, sizes, pattern, mask, streams, seed) -> Measured:
  given = dict(pattern=pattern, mask=mask)
  kernel = None
  if streams is not None:
    # Of the largest kind of step, where a pattern has several.
    rows = code_rows.gather(codes, sizes, **given)[0]
    kernel = kernel_dependence(streams, rows, seed=seed)
  return Measured(
    total=total_correlation(codes, sizes, **given, seed=seed),
    pairs=mutual_information(codes, sizes, **given, seed=seed),
    coded=coded_size(codes, sizes, **given),
    kernel=kernel,
  )


def _warnings(frames, clips, sizes, measured):
  """What a reader must know before believing the numbers."""
  largest = int(sizes.max())
  if frames < FRAMES_PER_CODE * largest:
    yield (
      f"{frames:,} frames are few for codebooks of {largest}: total correlation"
      " is a lower bound that may miss most of a weak dependence, and entropies"
      f" are too low. {FRAMES_PER_CODE * largest:,} frames or more are better."
    )
  if clips < FEWEST_CLIPS:
    yield (
      f"{clips} clips are few: they were cut into pieces to hold some out, and"
      f" errors are too small. {FEWEST_CLIPS} clips or more are better."
    )
  null, bits = measured.pairs.null, measured.pairs.bits
  if np.nanmean(null) > max(0.1, np.nanmean(bits)):
    yield (
      "by chance alone, histograms of two codebooks share"
      f" {np.nanmean(null):.2f} bits here: read mutual information with its"
      " error."
    )


def _plain(value):
  if isinstance(value, dict):
    return {key: _plain(each) for key, each in value.items()}
  if isinstance(value, (list, tuple)):
    return [_plain(each) for each in value]
  if isinstance(value, np.ndarray):
    return _plain(value.tolist())
  if isinstance(value, np.generic):
    return _plain(value.item())
  if isinstance(value, float) and not math.isfinite(value):
    return None
  return value
