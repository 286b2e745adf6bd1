"""Training batches: random crops of the records of token data sets.

`record_order.py` orders the records, as for audio in `pipeline.py`.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import grain
import numpy as np

from mmdcodec.data import aligned_tokens, record_order
from mmdcodec.data.aligned_tokens import AlignedTokens
from mmdcodec.data.record_order import Batches, Datasets
from mmdcodec.data.token_records import TokenSource
from mmdcodec.errors import UserError
from mmdcodec.models.condition import Condition


def token_batches(
  datasets: Datasets,
  *,
  batch: int,
  frames: int,
  seed: int = 0,
  codebooks: slice = slice(None),
  conditions: Sequence[Condition] = (),
  streams: Mapping[str, Datasets] | None = None,
  tokenizer_hash: str | None = None,
  threads: int | None = None,
  process_index: int | None = None,
  process_count: int | None = None,
) -> Batches:
  """Returns an endless iterator of batches of random crops of codes.

  Order, epochs, weights and state work as in `pipeline.batches`. A record
  shorter than the crop is padded with zeros.

  Args:
    datasets: a token data set; a list of them, sampled as one; or a mapping
      from data set to the share of crops that come from it.
    batch: global batch size, summed over all hosts.
    frames: length of a crop.
    seed: seed for order and crops.
    codebooks: codebooks to read; all by default.
    conditions: a language model's conditions, read in addition to the codes.
    streams: data sets of other tokenizers for the same audio, by name and in
      any order, for conditions to read; see `aligned_tokens`.
    tokenizer_hash: hash of the tokenizer that must have made `datasets`; None
      accepts any, but the same one for all.
    threads: batches made at a time; None is one per CPU, at most 16.
    process_index: index of this host; None takes JAX's.
    process_count: number of hosts; None takes JAX's.

  Returns:
    `Batches`: dicts as from `crop`, with a leading axis of `batch / hosts`.

  Raises:
    UserError: not a token data set, a wrong tokenizer, data sets for different
      audio, or an argument out of range.
  """
  sources, weights = _open(datasets, frames, tokenizer_hash, streams or {})
  return record_order.batches(
    sources,
    weights,
    _Crop(sources, frames, tuple(conditions), codebooks),
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
  codebooks: slice = slice(None),
  conditions: Sequence[Condition] = (),
  streams: Mapping[str, Datasets] | None = None,
  tokenizer_hash: str | None = None,
) -> list[dict[str, Any]]:
  """Makes batches for evaluation: fixed crops, spread over all records.

  Args:
    datasets: as for `token_batches`; weights are ignored.
    batch: crops in a batch.
    frames: length of a crop.
    count: number of batches.
    codebooks: as for `token_batches`, like the following arguments.
    conditions: conditions of a language model.
    streams: data sets of other tokenizers.
    tokenizer_hash: hash of the tokenizer.

  Returns:
    `count` dicts like those of `token_batches`.

  Raises:
    UserError: not a token data set, a wrong tokenizer, or data sets for
      different audio.
  """
  sources, _ = _open(datasets, frames, tokenizer_hash, streams or {})
  rows = [
    crop(sources[k], record, where, frames, conditions, codebooks)
    for k, record, where in record_order.spread(sources, batch * count)
  ]
  return record_order.stacked(rows, batch)


def crop(
  source: TokenSource | AlignedTokens,
  index: int,
  where: float,
  frames: int,
  conditions: Sequence[Condition] = (),
  codebooks: slice = slice(None),
) -> dict[str, Any]:
  """Crops a record, padded with zeros if it has too few frames.

  Args:
    source: the data set.
    index: index of the record.
    where: in [0, 1), the start as a fraction of all possible starts.
    frames: length of the crop.
    conditions: conditions to read in addition to the codes.
    codebooks: codebooks to read; all by default.

  Returns:
    `codes`, int32 `[frames, codebooks]`; `lengths`, int32, the frames without
    padding; `conditions`, the arrays of `Condition.read` by name.
  """
  record = source[index]
  start = int(where * max(1, len(record["codes"]) - frames + 1))
  # Where a frame of each stream begins.
  grid = source.grid if isinstance(source, AlignedTokens) else 1
  grid = math.lcm(grid, *(each.added for each in conditions if each.added))
  start -= start % grid
  codes = record["codes"][start : start + frames, codebooks]
  record["seconds"] = len(codes) / source.frame_rate
  seconds = start / source.frame_rate
  return {
    "codes": np.pad(codes, ((0, frames - len(codes)), (0, 0))),
    "lengths": np.int32(len(codes)),
    "conditions": {
      each.name: each.read(record, seconds) for each in conditions
    },
  }


@dataclass(frozen=True)
class _Crop(grain.transforms.RandomMap):
  """Maps (source, record) to a crop of that record."""

  sources: Sequence[TokenSource | AlignedTokens]
  frames: int
  conditions: tuple[Condition, ...]
  codebooks: slice

  def random_map(
    self, element: tuple[int, int], rng: np.random.Generator
  ) -> dict[str, Any]:
    k, record = element
    return crop(
      self.sources[k],
      record,
      rng.random(),
      self.frames,
      self.conditions,
      self.codebooks,
    )


def _open(
  datasets: Datasets,
  frames: int,
  tokenizer_hash: str | None,
  streams: Mapping[str, Datasets],
) -> tuple[Sequence[TokenSource | AlignedTokens], list[float]]:
  """Opens token data sets of one tokenizer, and aligns other streams."""
  if frames <= 0:
    raise UserError(f"frames must be more than 0, not {frames}.")
  sources, weights = record_order.open_sources(datasets, TokenSource)
  wanted = tokenizer_hash or sources[0].hash
  for source in sources:
    if source.hash != wanted:
      whose = "the model's" if tokenizer_hash else f"that of {sources[0].path}"
      raise UserError(
        f"{source.path} has codes of the {source.tokenizer} {source.hash}, not"
        f" of {wanted}, {whose}; make it again with that one."
      )
  if not streams:
    return sources, weights
  opened = {
    name: record_order.open_sources(sets, TokenSource)[0]
    for name, sets in streams.items()
  }
  return aligned_tokens.match(sources, opened), weights
