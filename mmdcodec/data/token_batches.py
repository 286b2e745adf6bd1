"""Training batches: random crops of the records of token data sets.

Which record comes when is said in `order.py`, as for audio in `pipeline.py`.
"""

from dataclasses import dataclass

import grain
import numpy as np

from mmdcodec.audio import melody as melody_lib
from mmdcodec.data import record_order
from mmdcodec.data.record_order import Batches, Datasets
from mmdcodec.data.tokens import TokenSource
from mmdcodec.errors import UserError


def token_batches(
  datasets: Datasets,
  *,
  batch: int,
  frames: int,
  seed: int = 0,
  melody: int = 0,
  codec: str | None = None,
  threads: int | None = None,
  process_index: int | None = None,
  process_count: int | None = None,
) -> Batches:
  """An endless iterator of batches of random crops of codes.

  Order, epochs, weights and state are those of `pipeline.batches`. A record
  shorter than the crop is padded with zeros; `lengths` tells how much of it
  is codes.

  Args:
    datasets: a token data set; a list of them, which are drawn from as one; or
      a mapping from data set to the share of crops that come from it.
    batch: crops of one step on all hosts together.
    frames: length of a crop.
    seed: of order and crops.
    melody: frames of the melody that each crop begins with; 0: none.
    codec: hash of the codec that the data sets must be of; None for any, but
      the same one.
    threads: batches made at a time; None is one for each CPU, at most 16.
    process_index: this host; None asks JAX.
    process_count: number of hosts; None asks JAX.

  Returns:
    `Batches`: dicts of `codes`, int32 `[batch / hosts, frames, codebooks]`,
    `lengths`, int32 `[batch / hosts]`, the frames that are not padding, and
    `caption`, str in an object array `[batch / hosts]`; with `melody` int32
    `[batch / hosts, melody]`, pitch classes.

  Raises:
    UserError: not a token data set, or not of the codec, or an argument out of
      range.
  """
  sources, weights = _open(datasets, frames, codec)
  return record_order.batches(
    sources,
    weights,
    _Crop(sources, frames, melody),
    batch=batch,
    seed=seed,
    threads=threads,
    process_index=process_index,
    process_count=process_count,
  )


def fixed_token_batches(
  datasets: Datasets,
  *,
  batch: int,
  frames: int,
  count: int,
  melody: int = 0,
  codec: str | None = None,
) -> list[dict]:
  """Batches for evaluation: always the same crops, spread over all records.

  Args:
    datasets: as for `token_batches`; weights do not matter here.
    batch: crops in a batch.
    frames: length of a crop.
    count: number of batches.
    melody: as for `token_batches`.
    codec: as for `token_batches`.

  Returns:
    `count` dicts as those of `token_batches`.

  Raises:
    UserError: not a token data set, or not of the codec.
  """
  sources, _ = _open(datasets, frames, codec)
  places = record_order.spread(sources, batch * count)
  rows = [
    crop(sources[k], record, where, frames, melody)
    for k, record, where in places
  ]
  return record_order.stacked(rows, batch)


def crop(
  source: TokenSource, index: int, where: float, frames: int, melody: int = 0
) -> dict:
  """Frames of a record, padded with zeros if it has fewer.

  Args:
    source: the data set.
    index: of the record.
    where: in [0, 1), the start as a fraction of all the starts there are.
    frames: length of the crop.
    melody: frames of its melody; one that ends before begins again.

  Returns:
    `codes`, int32 `[frames, codebooks]`, `lengths`, `caption`, and `melody`
    int32 `[melody]` if it was asked for.
  """
  record = source[index]
  start = int(where * max(1, len(record["codes"]) - frames + 1))
  codes = record["codes"][start : start + frames]
  found = {
    "codes": np.pad(codes, ((0, frames - len(codes)), (0, 0))),
    "lengths": np.int32(len(codes)),
    # An object: as NumPy's own text, a batch takes rows times the longest.
    "caption": np.array(record["caption"], object),
  }
  if melody:
    per_frame = melody_lib.RATE / melody_lib.HOP / source.frame_rate
    tune = record["melody"][round(start * per_frame) :]
    found["melody"] = melody_lib.fit(tune, melody)
  return found


@dataclass(frozen=True)
class _Crop(grain.transforms.RandomMap):
  """(source, record) -> a crop of that record."""

  sources: list[TokenSource]
  frames: int
  melody: int

  def random_map(self, element, rng: np.random.Generator) -> dict:
    k, record = element
    return crop(self.sources[k], record, rng.random(), self.frames, self.melody)


def _open(datasets, frames: int, codec: str | None):
  """Opens token data sets of one codec; see `order.open_sources`."""
  if frames <= 0:
    raise UserError(f"frames must be more than 0, not {frames}.")
  sources, weights = record_order.open_sources(datasets, TokenSource)
  wanted = codec or sources[0].codec
  for source in sources:
    if source.codec != wanted:
      whose = "the model's" if codec else f"that of {sources[0].path}"
      raise UserError(
        f"{source.path} has codes of the codec {source.codec}, not of {wanted},"
        f" {whose}; make it again with that one."
      )
  return sources, weights
