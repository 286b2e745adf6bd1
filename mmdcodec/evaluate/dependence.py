"""Runs all measures of the dependence between codebooks.

Everything is measured twice: on the codes of one frame ("aligned"), and on the
codes that one step of a language model predicts under its pattern ("together").
Collapsed codebooks are trivially independent, so read these measures together
with codebook usage and entropy.
"""

import dataclasses
import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from mmdcodec import patterns
from mmdcodec.evaluate import code_rows, codebooks
from mmdcodec.evaluate.coded_size import CodedSize, coded_size
from mmdcodec.evaluate.json_values import plain
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

# With fewer frames per code, weak dependence goes undetected.
FRAMES_PER_CODE = 100


@dataclasses.dataclass(frozen=True)
class Measured:
  """All measures on one kind of row.

  Attributes:
    total: total correlation.
    pairs: mutual information of pairs of codebooks.
    coded: size under an adaptive coder.
    kernel: kernel measures, or None without code vectors.
  """

  total: TotalCorrelation
  pairs: MutualInformation
  coded: CodedSize
  kernel: KernelDependence | None


@dataclasses.dataclass(frozen=True)
class Dependence:
  """Dependence between the codebooks of a codec.

  Attributes:
    aligned: measures on the codes of a frame.
    together: measures on the codes of one step of the pattern; the same object
      as `aligned` if there is no pattern.
    counts: [codebooks, size], how often each code was chosen.
    usage: share of codes chosen at least once, [codebooks].
    perplexity: [codebooks].
    frames: number of frames.
    clips: number of clips.
    sizes: codes in each codebook.
    warnings: reasons to doubt these figures, one sentence each.
  """

  aligned: Measured
  together: Measured
  counts: np.ndarray
  usage: np.ndarray
  perplexity: np.ndarray
  frames: int
  clips: int
  sizes: np.ndarray
  warnings: tuple[str, ...]

  def summary(self) -> dict[str, float]:
    """Summarizes everything in one row of numbers; bits are per frame."""
    row: dict[str, float] = {"frames": self.frames, "clips": self.clips}
    row["usage"] = float(self.usage.mean())
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
    """Converts everything for JSON, with None for NaN and infinity."""
    return {"summary": plain(self.summary()), **plain(self)}


def measure(
  codes: np.ndarray,
  size: code_rows.Sizes,
  *,
  pattern: patterns.PatternMaker | None | str = "delay",
  mask: np.ndarray | None = None,
  pieces: Sequence | None = None,
  vectors: np.ndarray | None = None,
  seed: int = 0,
  progress: Callable[[int, int], None] | None = None,
) -> Dependence:
  """Measures dependence, for frames and for the steps of a pattern.

  Args:
    codes: int [clips, frames, codebooks], at least two codebooks.
    size: codes in a codebook, one number or one per codebook.
    pattern: pattern of the language model (`mmdcodec.patterns`), or its name;
      None or "parallel" means all codes of a frame.
    mask: bool [clips, frames], False in padding.
    pieces: [clips], a number or name for the piece of music of each clip, as in
      `code_rows.gather`; None means that each clip is a piece.
    vectors: code vectors [codebooks, size, dim] for the kernel measures.
    seed: random seed.
    progress: called with (measures done, total), starting with 0 done.

  Returns:
    `Dependence`.

  Raises:
    UserError: there is only one codebook, a code is outside its codebook, or
      the pattern has no rows in these clips.
  """
  codes = np.asarray(codes)
  clips, _, books = codes.shape
  if isinstance(pattern, str):
    name = pattern
    pattern = None if name == "parallel" else patterns.make(name, books)
  sizes = code_rows.sizes_of(size, books)
  # Raises errors before minutes of work.
  rows = code_rows.gather(
    codes, sizes, pattern=pattern, mask=mask, pieces=pieces
  )[0]
  kinds = [None] if pattern is None else [None, pattern]
  given: dict[str, Any] = dict(mask=mask, pieces=pieces)
  done, total = itertools.count(), len(kinds) * (3 + (vectors is not None))
  count = lambda: progress and progress(next(done), total)
  count()
  measured = [
    _measure(codes, sizes, kind, given, vectors, seed, count) for kind in kinds
  ]
  aligned, together = measured[0], measured[-1]
  counts = np.asarray(codebooks.histogram(codes, int(sizes.max()), mask))
  perplexity = codebooks.statistics(counts)["perplexity"]
  frames = int(counts[0].sum())
  valid = clips if mask is None else int(np.asarray(mask).any(1).sum())
  return Dependence(
    aligned=aligned,
    together=together,
    counts=counts,
    usage=(counts > 0).sum(1) / sizes,
    perplexity=perplexity,
    frames=frames,
    clips=valid,
    sizes=sizes,
    warnings=tuple(
      _warnings(frames, len(np.unique(rows.piece)), sizes, together)
    ),
  )


def _measure(
  codes: np.ndarray,
  sizes: np.ndarray,
  pattern: patterns.PatternMaker | None,
  given: dict[str, Any],
  vectors: np.ndarray | None,
  seed: int,
  count: Callable[[], Any],
) -> Measured:
  """Runs all measures under one pattern; calls `count` after each."""
  given = dict(given, pattern=pattern)

  def counted(measure: Callable, *args: Any, **options: Any) -> Any:
    found = measure(*args, **options)
    count()
    return found

  kernel = None
  if vectors is not None:
    # The largest kind of step if the pattern has several.
    rows = code_rows.gather(codes, sizes, **given)[0]
    kernel = counted(kernel_dependence, vectors, rows, seed=seed)
  coded = dict(pattern=pattern, mask=given["mask"])
  return Measured(
    total=counted(total_correlation, codes, sizes, **given, seed=seed),
    pairs=counted(mutual_information, codes, sizes, **given, seed=seed),
    coded=counted(coded_size, codes, sizes, **coded),
    kernel=kernel,
  )


def _warnings(
  frames: int, pieces: int, sizes: np.ndarray, measured: Measured
) -> Iterator[str]:
  """Yields reasons to doubt the numbers."""
  largest = int(sizes.max())
  if frames < FRAMES_PER_CODE * largest:
    yield (
      f"{frames:,} frames are few for codebooks of {largest}: total correlation"
      " is a lower bound that may miss most of a weak dependence, and entropies"
      f" are too low. Use {FRAMES_PER_CODE * largest:,} frames or more."
    )
  if pieces < code_rows.MANY_PIECES:
    yield (
      f"{pieces} pieces of music are few: they were cut into stretches to hold"
      " some out, so repetitions within a piece count as dependence, and the"
      f" errors are too small. Use {code_rows.MANY_PIECES} pieces or more."
    )
  null, bits = measured.pairs.null, measured.pairs.bits
  if np.nanmean(null) > max(0.1, np.nanmean(bits)):
    yield (
      "histograms of two independent codebooks would share"
      f" {np.nanmean(null):.2f} bits by chance here: read mutual information"
      " together with its error."
    )
