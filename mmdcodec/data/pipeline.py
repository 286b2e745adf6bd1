"""Training batches: random crops of the records of weighted data sets.

The order is a function of the seed and an index that counts crops over all
hosts, so its state is one integer, which any number of hosts can continue
from. What is shuffled and mixed are references to records; a record is read,
and its crop decoded, only in the last step, by several threads at once.

Augmentation follows EnCodec (Defossez et al. 2022, arXiv 2210.13438, section
4.1): a random gain, and with some probability a second random crop is added.
Where that paper rejects a clipped sum, the sum is scaled down to full scale:
rejecting would make the order depend on the content.
"""

import functools
import os
import sys
import weakref
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import grain
import numpy as np
from absl import flags

from mmdcodec.data.source import Source, crop, describe
from mmdcodec.errors import UserError
from mmdcodec.machine import cpus

__all__ = ["batches", "describe", "fixed_batches", "open_source", "Batches"]

Datasets = str | os.PathLike | Sequence | Mapping

# Grain reads absl's flags, which are parsed only under `app.run`: not in a
# notebook, in pytest or under argparse.
if not flags.FLAGS.is_parsed():
  flags.FLAGS.mark_as_parsed()


def open_source(dataset_dir: str | os.PathLike) -> Source:
  """Random access to the records of a data set.

  Raises:
    UserError: the folder is not a data set.
  """
  return Source(dataset_dir)


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
  threads: int | None = None,
  process_index: int | None = None,
  process_count: int | None = None,
) -> "Batches":
  """An endless iterator of batches of random crops.

  Every record is drawn once before any is drawn again, in an order new for
  each epoch, and cropped at a random place. A record shorter than the crop is
  padded with zeros; `lengths` tells how much of it is audio. Records of
  another rate or number of channels are converted crop by crop; preparing
  them at the right rate is faster.

  Args:
    datasets: a data set; a list of them, which are drawn from as one; or a
      mapping from data set to the share of crops that come from it.
    batch: crops of one step on all hosts together.
    seconds: length of a crop.
    rate: Hz of the crops.
    channels: channels of the crops.
    seed: of order, crops and augmentation.
    gain_db: range of the random gain of a crop, uniform in dB.
    mix: probability that a second crop is added to a crop.
    threads: batches decoded at a time; None is one for each CPU, at most 16.
    process_index: this host; None asks JAX.
    process_count: number of hosts; None asks JAX. The rows of all hosts, one
      after the other, are the same global batch whatever their number.

  Returns:
    The iterator; see `Batches`.

  Raises:
    UserError: not a data set, or an argument out of range.
  """
  for name, value in (
    ("batch", batch),
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
  if process_index is None or process_count is None:
    import jax

    process_index, process_count = jax.process_index(), jax.process_count()
  if batch % process_count:
    raise UserError(
      f"the batch of {batch} cannot be shared by {process_count} hosts;"
      " choose a multiple of their number."
    )
  sources, weights = _open(datasets)
  transform = _Crop(
    sources,
    weights,
    samples=max(1, round(seconds * rate)),
    rate=rate,
    channels=channels,
    gain_db=(low, high),
    mix=mix,
  )
  order, crops = np.random.SeedSequence(seed).generate_state(2)
  crop_dataset = _order(sources, weights, int(order))
  crop_dataset = crop_dataset.random_map(transform, seed=int(crops))
  return Batches(
    crop_dataset,
    batch=batch,
    shard=grain.sharding.ShardOptions(process_index, process_count),
    threads=threads or default_threads(),
  )


def default_threads() -> int:
  """Threads that decode crops unless told otherwise: at most 16."""
  return min(16, cpus())


class Batches(Iterator):
  """Batches of crops of this host, without end.

  Each is a dict of `audio`, float32 `[batch / hosts, samples, channels]`, and
  `lengths`, int32 `[batch / hosts]`, the samples that are not padding.
  """

  def __init__(
    self,
    crops: grain.MapDataset,
    *,
    batch: int,
    shard: grain.sharding.ShardOptions,
    threads: int,
  ):
    """Takes a data set of crops without end."""
    self._crops, self._batch = crops, batch
    self._shard, self._threads = shard, threads
    self._iterator = self._closer = None
    self.set_state({"index": 0})

  def __next__(self) -> dict[str, np.ndarray]:
    """The next batch."""
    if self._iterator is None:
      raise ValueError("the iterator of batches was closed.")
    return next(self._iterator)

  def get_state(self) -> dict[str, int]:
    """The number of crops that all hosts together have been given."""
    if self._iterator is None:
      raise ValueError("the iterator of batches was closed.")
    return {"index": int(self._iterator.get_state()[_INDEX])}

  def set_state(self, state: Mapping[str, int]) -> None:
    """Continues where a state was taken, on any number of hosts."""
    self.close()
    index = int(state["index"])
    rows = _Rows(self._crops, self._batch, self._shard, index % self._batch)
    iterator = iter(
      grain.experimental.ElasticIterator(
        rows,
        self._batch,
        self._shard,
        # An element is a whole batch here; Grain's default buffers 500.
        read_options=grain.ReadOptions(
          num_threads=self._threads, prefetch_buffer_size=self._threads + 1
        ),
      )
    )
    iterator.set_state({_INDEX: index})
    self._iterator = iterator
    # Threads that still decode when the interpreter ends print tracebacks.
    self._closer = weakref.finalize(self, iterator.close)

  def close(self) -> None:
    """Ends the threads; safe to call twice."""
    if self._closer is not None:
      self._closer()
    self._iterator = self._closer = None

  def __enter__(self) -> "Batches":
    """Closes at the end of a `with` block."""
    return self

  def __exit__(self, *_) -> None:
    """Closes."""
    self.close()


def fixed_batches(
  datasets: Datasets,
  *,
  batch: int,
  seconds: float,
  rate: int,
  channels: int = 1,
  count: int,
  distinct: bool = False,
) -> list[dict]:
  """Batches for evaluation: always the same crops, spread over all records.

  Args:
    datasets: as for `batches`; weights do not matter here.
    batch: crops in a batch.
    seconds: length of a crop.
    rate: Hz of the crops.
    channels: channels of the crops.
    count: number of batches.
    distinct: for statistics, which overlapping crops would make look better
      than they are: each crop is of another record, and says of which file.

  Returns:
    `count` dicts as those of `Batches`. If `distinct`, at most as many as the
    records fill, each with `source` too, a list of str: the data set and file
    that each crop was cut from, equal for crops of one file.

  Raises:
    UserError: not a data set, or `distinct` and fewer records than a batch.
  """
  sources, _ = _open(datasets)
  ends = np.cumsum([len(s) for s in sources])
  if distinct:
    count = min(count, int(ends[-1]) // batch)
    if not count:
      raise UserError(
        f"a batch of {batch} crops is asked for, but there are {ends[-1]}"
        " records; take a smaller batch or more music."
      )
  samples = max(1, round(seconds * rate))
  rows, names = [], []
  for i in range(batch * count):
    place = (i + 0.5) / (batch * count) * ends[-1]
    k = int(np.searchsorted(ends, place, side="right"))
    record, where = divmod(place - (ends[k] - len(sources[k])), 1)
    x = crop(
      sources[k].flac(int(record)),
      where,
      samples=samples,
      rate=rate,
      channels=channels,
    )
    rows.append(_padded(x, samples))
    names.append((k, int(record)))
  found = [
    {key: np.stack([r[key] for r in rows[i : i + batch]]) for key in rows[0]}
    for i in range(0, batch * count, batch)
  ]
  if distinct:
    for i, each in enumerate(found):
      each["source"] = [
        f"{sources[k].path}: {sources[k][record]['path']}"
        for k, record in names[i * batch : (i + 1) * batch]
      ]
  return found


_INDEX = "global_next_index"


@dataclass(frozen=True)
class _Crop(grain.transforms.RandomMap):
  """(source, record) -> a crop of that record, augmented."""

  sources: list[Source]
  weights: list[float]
  samples: int
  rate: int
  channels: int
  gain_db: tuple[float, float]
  mix: float

  def random_map(self, element, rng: np.random.Generator) -> dict:
    x = self._one(*element, rng)
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
    return _padded(x, self.samples)

  def _one(self, k: int, index: int, rng) -> np.ndarray:
    where, gain = rng.random(), rng.uniform(*self.gain_db)
    x = crop(
      self.sources[k].flac(index),
      where,
      samples=self.samples,
      rate=self.rate,
      channels=self.channels,
    )
    return x * np.float32(10 ** (gain / 20)) if gain else x


class _Shuffled(grain.MapDataset):
  """Pairs (k, record) of source k without end, in a new order each epoch.

  Grain's own shuffle walks cycles of a permutation of at least 2^16 indices:
  0.3 ms a crop for a data set of a hundred records, as long as the decoding.
  """

  def __init__(self, k: int, length: int, seed: int):
    super().__init__()
    self._k, self._length, self._seed = k, length, seed
    self._permutation = functools.lru_cache(2)(self._permute)

  def _permute(self, epoch: int) -> np.ndarray:
    rng = np.random.default_rng([self._seed, epoch])
    return rng.permutation(np.arange(self._length, dtype=np.uint32))

  def __len__(self) -> int:
    return sys.maxsize

  def __getitem__(self, index):
    if isinstance(index, slice):
      return self.slice(index)
    epoch, place = divmod(index, self._length)
    return self._k, int(self._permutation(epoch)[place])


class _Rows(grain.MapDataset):
  """Puts crops in an order that makes shares of hosts contiguous.

  Elastic iteration gives host h of n the rows h, h + n, h + 2n, ... of a
  batch. Hosts' rows are laid one after the other to form a global array, so
  without this the order in it would depend on the number of hosts.
  """

  def __init__(self, parent, batch: int, shard, offset: int):
    super().__init__(parent)
    self._batch, self._hosts, self._offset = batch, shard.shard_count, offset

  def __len__(self) -> int:
    return len(self._parent)

  def __getitem__(self, index):
    if isinstance(index, slice):
      return self.slice(index)
    step, row = divmod(index - self._offset, self._batch)
    row, host = divmod(row, self._hosts)
    row += host * (self._batch // self._hosts)
    return self._parent[self._offset + step * self._batch + row]


def _open(datasets: Datasets) -> tuple[list[Source], list[float]]:
  """Opens data sets; weights of a list are its lengths, and sum to 1."""
  if isinstance(datasets, str | os.PathLike):
    datasets = [datasets]
  sources = [Source(path) for path in datasets]
  if not sources:
    raise UserError("expected at least one data set.")
  if isinstance(datasets, Mapping):
    weights = [float(w) for w in datasets.values()]
  else:
    weights = [source.seconds for source in sources]
  if min(weights) < 0 or not sum(weights):
    raise UserError(f"weights of data sets must not be negative: {datasets}.")
  used = [(s, w / sum(weights)) for s, w in zip(sources, weights, strict=True)]
  used = [(s, w) for s, w in used if w]
  return [s for s, _ in used], [w for _, w in used]


def _order(sources, weights, seed: int) -> grain.MapDataset:
  """References to records in training order, without end."""
  seeds = np.random.SeedSequence(seed).generate_state(len(sources))
  parts = [
    _Shuffled(k, len(source), int(seeds[k])) for k, source in enumerate(sources)
  ]
  return parts[0] if len(parts) == 1 else grain.MapDataset.mix(parts, weights)


def _padded(x: np.ndarray, samples: int) -> dict[str, np.ndarray]:
  length = np.int32(len(x))
  if len(x) < samples:
    x = np.pad(x, ((0, samples - len(x)), (0, 0)))
  return {"audio": x, "lengths": length}
