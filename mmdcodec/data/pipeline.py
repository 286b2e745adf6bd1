"""Training batches: random crops of the records of weighted data sets.

`record_order.py` orders the records; this module decodes crops of them.

Augmentation follows EnCodec (Defossez et al. 2022, arXiv 2210.13438, section
4.1): a random gain, and with some probability a second random crop is added.
The paper rejects sums that clip; here they are scaled down to full scale,
because rejection would make the order depend on the content.
"""

from collections.abc import Callable
from dataclasses import dataclass

import grain
import numpy as np

from mmdcodec.data import record_order
from mmdcodec.data.record_order import Batches, Datasets
from mmdcodec.data.record_source import Source, crop, labels
from mmdcodec.errors import UserError

# Makes further arrays of an example from the labels of its record (path,
# caption, tags, position) and random numbers; None for the same ones always.
Describe = Callable[[dict, np.random.Generator | None], dict[str, np.ndarray]]

_LABELS = ("source", "caption", "tags")


def batches(
  datasets: Datasets,
  *,
  batch: int,
  seconds: float,
  rate: int,
  channels: int = 1,
  seed: int = 0,
  gain_db: tuple[float, float] = (0.0, 0.0),
  mix: float = 0.0,
  describe: Describe | None = None,
  threads: int | None = None,
  process_index: int | None = None,
  process_count: int | None = None,
) -> Batches:
  """Returns an endless iterator of batches of random crops.

  Every record comes once per epoch, in a new order each time, and is cropped at
  a random place. A record shorter than the crop is padded with zeros; `lengths`
  excludes the padding. Records with another rate or number of channels are
  converted crop by crop; preparing them at the right rate is faster.

  Args:
    datasets: a data set; a list of them, sampled as one; or a mapping from
      data set to the share of crops that come from it.
    batch: global batch size, summed over all hosts.
    seconds: length of a crop.
    rate: sample rate of the crops in Hz.
    channels: channels of the crops.
    seed: seed for order, crops and augmentation.
    gain_db: range of the random gain of a crop, uniform in dB.
    mix: probability that a second crop is added to a crop.
    describe: makes further arrays of each example from its record's labels.
    threads: batches decoded at a time; None is one per CPU, at most 16.
    process_index: index of this host; None takes JAX's.
    process_count: number of hosts; None takes JAX's. The rows of all hosts,
      concatenated, form the same global batch for any number of hosts.

  Returns:
    `Batches`: dicts of `audio`, float32 `[batch / hosts, samples, channels]`,
    and `lengths`, int32 `[batch / hosts]`, the number of valid samples; and of
    what `describe` makes.

  Raises:
    UserError: not a data set, or an argument out of range.
  """
  for name, value in (
    ("seconds", seconds),
    ("rate", rate),
    ("channels", channels),
  ):
    if value <= 0:
      raise UserError(f"{name} must be more than 0, not {value}.")
  if not 0 <= mix <= 1:
    raise UserError(f"mix is a probability from 0 to 1, not {mix}.")
  low, high = gain_db
  if low > high:
    raise UserError(f"gain_db is (lowest, highest) in dB, not {gain_db}.")
  sources, weights = record_order.open_sources(datasets, Source)
  transform = _Crop(
    sources,
    weights,
    samples=max(1, round(seconds * rate)),
    rate=rate,
    channels=channels,
    gain_db=(low, high),
    mix=mix,
    describe=describe,
  )
  return record_order.batches(
    sources,
    weights,
    transform,
    batch=batch,
    seed=seed,
    threads=threads,
    process_index=process_index,
    process_count=process_count,
  )


def fixed_batches(
  datasets: Datasets,
  *,
  batch: int,
  seconds: float,
  rate: int,
  channels: int = 1,
  count: int,
  distinct: bool = False,
  describe: Describe | None = None,
) -> list[dict]:
  """Makes batches for evaluation: fixed crops, spread over all records.

  Args:
    datasets: as for `batches`; weights are ignored.
    batch: crops in a batch.
    seconds: length of a crop.
    rate: sample rate of the crops in Hz.
    channels: channels of the crops.
    count: number of batches.
    distinct: whether to take each crop from a different record, for statistics
      that overlapping crops would bias, and to return its file and caption.

  Returns:
    `count` dicts like those of `batches`. If `distinct`, at most as many as the
    records fill, each with two more lists of str: `source`, the data set and
    file of each crop, equal for crops of one file; and `caption`.

  Raises:
    UserError: not a data set, or `distinct` and fewer records than a batch.
  """
  sources, _ = record_order.open_sources(datasets, Source)
  if distinct:
    records = sum(len(source) for source in sources)
    count = min(count, records // batch)
    if not count:
      raise UserError(
        f"the batch has {batch} crops, but there are only {records} records;"
        " choose a smaller batch or prepare more music."
      )
  samples = max(1, round(seconds * rate))
  rows, told = [], []
  for k, record, where in record_order.spread(sources, batch * count):
    x = crop(
      sources[k].flac(record),
      where,
      samples=samples,
      rate=rate,
      channels=channels,
    )
    row = _padded(x, samples)
    if describe is not None:
      row |= describe(labels(sources[k].features(record)), None)
    rows.append(row)
    if distinct:
      words = labels(sources[k].features(record))
      source = f"{sources[k].path}: {words['path']}"
      told.append((source, words["caption"], words["tags"]))
  found = record_order.stacked(rows, batch)
  if distinct:
    for i, each in enumerate(found):
      mine = told[i * batch : (i + 1) * batch]
      for name, column in zip(_LABELS, zip(*mine, strict=True), strict=True):
        each[name] = list(column)
  return found


@dataclass(frozen=True)
class _Crop(grain.transforms.RandomMap):
  """Maps (source, record) to an augmented crop of that record."""

  sources: list[Source]
  weights: list[float]
  samples: int
  rate: int
  channels: int
  gain_db: tuple[float, float]
  mix: float
  describe: Describe | None

  def random_map(
    self, element: tuple[int, int], rng: np.random.Generator
  ) -> dict:
    x = self._one(element[0], element[1], rng)
    if self.mix and rng.random() < self.mix:
      k = int(rng.choice(len(self.sources), p=self.weights))
      y = self._one(k, int(rng.integers(len(self.sources[k]))), rng)
      if len(x) < len(y):
        x, y = y, x
      x[: len(y)] += y
    if self.mix or self.gain_db != (0.0, 0.0):
      peak = max(x.max(), -x.min())
      if peak > 1:
        x /= peak
    example = _padded(x, self.samples)
    if self.describe is not None:
      source = self.sources[element[0]]
      example |= self.describe(labels(source.features(element[1])), rng)
    return example

  def _one(self, k: int, index: int, rng: np.random.Generator) -> np.ndarray:
    """Crops record `index` of source k and applies a random gain."""
    where, gain = rng.random(), rng.uniform(*self.gain_db)
    x = crop(
      self.sources[k].flac(index),
      where,
      samples=self.samples,
      rate=self.rate,
      channels=self.channels,
    )
    return x * np.float32(10 ** (gain / 20)) if gain else x


def _padded(x: np.ndarray, samples: int) -> dict:
  length = np.int32(len(x))
  if len(x) < samples:
    x = np.pad(x, ((0, samples - len(x)), (0, 0)))
  return {"audio": x, "lengths": length}
