"""The order of records: shuffled, weighted, endless, on any number of hosts.

The order is a function of the seed and an index that counts examples over all
hosts. So the state is one integer, and any number of hosts can continue from
it. References to records are shuffled and mixed; the last step reads the
records and makes examples, in several threads.

A source is a sequence of records with their total length in `seconds`.
"""

import functools
import os
import sys
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import grain
import jax
import numpy as np
from absl import flags

from mmdcodec.errors import UserError
from mmdcodec.platform import cpus

Datasets = str | os.PathLike | Sequence | Mapping

_INDEX = "global_next_index"

# Grain reads absl's flags, which are only parsed under `app.run`, not in a
# notebook, in pytest or under argparse.
if not flags.FLAGS.is_parsed():
  flags.FLAGS.mark_as_parsed()


def open_sources(
  datasets: Datasets, source: Callable
) -> tuple[list, list[float]]:
  """Opens data sets.

  Args:
    datasets: a data set; a list of them, sampled as one; or a mapping from
      data set to its weight.
    source: function that opens a data set.

  Returns:
    The sources with a weight above 0, and their weights, which sum to 1.

  Raises:
    UserError: not a data set, no data set, or a negative weight.
  """
  if isinstance(datasets, str | os.PathLike):
    datasets = [datasets]
  sources = [source(path) for path in datasets]
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


def spread(sources: Sequence, count: int) -> Iterator[tuple[int, int, float]]:
  """Yields `count` fixed places, spread over all records.

  Each is (source, record, place in the record as a fraction in [0, 1)).
  """
  ends = np.cumsum([len(s) for s in sources])
  for i in range(count):
    place = (i + 0.5) / count * ends[-1]
    k = int(np.searchsorted(ends, place, side="right"))
    record, where = divmod(place - (ends[k] - len(sources[k])), 1)
    yield k, int(record), where


def stacked(examples: Sequence[dict], batch: int) -> list[dict]:
  """Stacks examples into batches, in order."""
  return [
    jax.tree.map(lambda *x: np.stack(x), *examples[i : i + batch])
    for i in range(0, len(examples), batch)
  ]


def default_threads() -> int:
  """Returns the default number of threads that make examples, at most 16."""
  return min(16, cpus())


def batches(
  sources: Sequence,
  weights: Sequence[float],
  transform: grain.transforms.RandomMap,
  *,
  batch: int,
  seed: int,
  threads: int | None,
  process_index: int | None,
  process_count: int | None,
) -> "Batches":
  """Returns an endless iterator of batches of examples.

  Args:
    sources: sources of the records.
    weights: share of each source; they sum to 1.
    transform: makes an example, a dict of arrays, from (source, record).
    batch: global batch size, summed over all hosts.
    seed: seed for the order and for the random numbers of `transform`.
    threads: batches made at a time; None is `default_threads`.
    process_index: index of this host; None takes JAX's.
    process_count: number of hosts; None takes JAX's.

  Raises:
    UserError: the batch is empty, or not a multiple of the number of hosts.
  """
  if batch <= 0:
    raise UserError(f"batch must be more than 0, not {batch}.")
  if process_index is None or process_count is None:
    process_index, process_count = jax.process_index(), jax.process_count()
  if batch % process_count:
    raise UserError(
      f"the batch of {batch} cannot be shared by {process_count} hosts;"
      " choose a multiple of their number."
    )
  order, examples = np.random.SeedSequence(seed).generate_state(2)
  references = _references(sources, weights, int(order))
  return Batches(
    references.random_map(transform, seed=int(examples)),
    batch=batch,
    shard=grain.sharding.ShardOptions(process_index, process_count),
    threads=threads or default_threads(),
  )


class Batches(Iterator):
  """Endless batches of this host's examples.

  Each is a dict of arrays with a leading axis of `batch / hosts`.
  """

  def __init__(
    self,
    examples: grain.MapDataset,
    *,
    batch: int,
    shard: grain.sharding.ShardOptions,
    threads: int,
  ):
    """Takes an endless data set of examples."""
    self._examples, self._batch = examples, batch
    self._shard, self._threads = shard, threads
    self._iterator: Any = None
    self._closer: Callable[[], Any] | None = None
    self.set_state({"index": 0})

  def __next__(self) -> dict[str, np.ndarray]:
    """Returns the next batch."""
    if self._iterator is None:
      raise ValueError("the iterator of batches was closed.")
    return next(self._iterator)

  def get_state(self) -> dict[str, int]:
    """Returns the number of examples that all hosts have received in total."""
    if self._iterator is None:
      raise ValueError("the iterator of batches was closed.")
    return {"index": int(self._iterator.get_state()[_INDEX])}

  def set_state(self, state: Mapping[str, int]) -> None:
    """Continues from a state, on any number of hosts."""
    self.close()
    index = int(state["index"])
    rows = _Rows(self._examples, self._batch, self._shard, index % self._batch)
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
    # Threads still decoding when the interpreter exits would print tracebacks.
    self._closer = weakref.finalize(self, iterator.close)

  def close(self) -> None:
    """Stops the threads; safe to call twice."""
    if self._closer is not None:
      self._closer()
    self._iterator = self._closer = None

  def __enter__(self) -> "Batches":
    """Returns itself; the end of the `with` block closes it."""
    return self

  def __exit__(self, *_: Any) -> None:
    """Closes the iterator."""
    self.close()


def _references(
  sources: Sequence, weights: Sequence[float], seed: int
) -> grain.MapDataset:
  """Returns endless references to records in training order."""
  seeds = np.random.SeedSequence(seed).generate_state(len(sources))
  parts = [
    _Shuffled(k, len(source), int(seeds[k])) for k, source in enumerate(sources)
  ]
  return parts[0] if len(parts) == 1 else grain.MapDataset.mix(parts, weights)


class _Shuffled(grain.MapDataset):
  """Endless pairs (k, record) of source k, in a new order each epoch.

  Grain's own shuffle walks cycles of a permutation of at least 2^16 indices.
  With a hundred records, this takes 0.3 ms per crop, as long as decoding.
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

  def __getitem__(self, index: Any) -> Any:
    if isinstance(index, slice):
      return self.slice(index)
    epoch, place = divmod(index, self._length)
    return self._k, int(self._permutation(epoch)[place])


class _Rows(grain.MapDataset):
  """Reorders examples so that the rows of each host are contiguous.

  Elastic iteration gives host h of n the rows h, h + n, h + 2n, ... of a
  batch. A global array concatenates the rows of all hosts, so without this its
  order would depend on the number of hosts.
  """

  def __init__(
    self,
    parent: grain.MapDataset,
    batch: int,
    shard: grain.sharding.ShardOptions,
    offset: int,
  ):
    super().__init__(parent)
    self._batch, self._hosts, self._offset = batch, shard.shard_count, offset

  def __len__(self) -> int:
    return len(self._parent)

  def __getitem__(self, index: Any) -> Any:
    if isinstance(index, slice):
      return self.slice(index)
    step, row = divmod(index - self._offset, self._batch)
    row, host = divmod(row, self._hosts)
    row += host * (self._batch // self._hosts)
    return self._parent[self._offset + step * self._batch + row]
