"""Encodes the records of audio data sets on all devices of a process."""

import collections
import io
import queue
from collections.abc import Callable, Generator, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import numpy as np
import soundfile

from mmdcodec.audio import files, melody
from mmdcodec.data import token_records
from mmdcodec.data.record_source import Source
from mmdcodec.errors import UserError
from mmdcodec.platform import cpus
from mmdcodec.tokenizers.interface import Tokenizer

# Batches in progress on each device: one is read while another is encoded.
_AT_A_TIME = 2


def check_tokenizer(tokenizer: Tokenizer) -> None:
  """Raises UserError unless token records can hold a tokenizer's codes."""
  tokenizer.check_codes_suffice()
  if tokenizer.codebook_size > 1 << 16:
    raise UserError(
      f"the tokenizer has {tokenizer.codebook_size} codes in a codebook; token"
      " records hold 65536 at most."
    )


def encoded(
  source: Source,
  tokenizers: Sequence[Tokenizer],
  batches: Iterable[range],
  rows: int,
) -> Generator[list[list[dict]], None, None]:
  """Encodes batches of records, several at a time, in order.

  Args:
    source: the audio data set.
    tokenizers: tokenizers that make the codes. Each record is read once.
    batches: indices of records.
    rows: rows to pad each batch to, so that each length compiles one program.

  Yields:
    The token records of a batch: a list for each tokenizer.
  """

  def read(index: int) -> tuple[dict, np.ndarray, list[np.ndarray]]:
    record, x = read_record(source, index)
    mono = files.resample(files.mix(x, 1), rate=record["rate"], to=melody.RATE)
    classes = melody.pitch_classes(mono, melody.RATE)
    return record, classes, [convert(x, record["rate"], t) for t in tokenizers]

  def encode(here: Sequence[Tokenizer], items: Sequence) -> list[list[dict]]:
    made = []
    for i, tokenizer in enumerate(here):
      codes = _encode(tokenizer, [clips[i] for _, _, clips in items], rows)
      made.append(
        [
          token_records.record(each, classes, record)
          for each, (record, classes, _) in zip(codes, items, strict=True)
        ]
      )
    return made

  return mapped(tokenizers, batches, read, encode)


def mapped(
  tokenizers: Sequence[Tokenizer],
  batches: Iterable[Iterable[int]],
  read: Callable[[int], Any],
  apply: Callable[[Sequence[Tokenizer], list[Any]], Any],
) -> Generator[Any, None, None]:
  """Applies tokenizers to batches of records, several at a time, in order.

  Args:
    tokenizers: what `apply` gets, with weights on one of the devices.
    batches: indices of records.
    read: reads a record; runs in several threads.
    apply: computes something from tokenizers and a batch of what was read; runs
      in several threads.

  Yields:
    What `apply` returns for each batch.
  """
  devices = jax.local_devices()
  replicas = [[t.on(d) for t in tokenizers] for d in devices] * _AT_A_TIME
  free: queue.SimpleQueue = queue.SimpleQueue()
  for each in replicas:
    free.put(each)
  readers = ThreadPoolExecutor(cpus(), "read")
  workers = ThreadPoolExecutor(len(replicas), "encode")

  def work(indices: Iterable[int]) -> Any:
    items = list(readers.map(read, indices))
    here = free.get()
    try:
      return apply(here, items)
    finally:
      free.put(here)

  waiting: collections.deque = collections.deque()
  try:
    for indices in batches:
      waiting.append(workers.submit(work, indices))
      if len(waiting) > 2 * len(replicas):
        yield waiting.popleft().result()
    for future in waiting:
      yield future.result()
  finally:
    workers.shutdown(cancel_futures=True)
    readers.shutdown()


def read_record(source: Source, index: int) -> tuple[dict, np.ndarray]:
  """Reads a record without its bytes, and its audio [samples, channels]."""
  record = source[index]
  with soundfile.SoundFile(io.BytesIO(record.pop("audio"))) as sound:
    return record, sound.read(dtype="float32", always_2d=True)


def convert(x: np.ndarray, rate: int, tokenizer: Tokenizer) -> np.ndarray:
  """Converts audio [samples, channels] to a tokenizer's rate and channels."""
  x = files.mix(x, tokenizer.channels)
  return files.resample(x, rate=rate, to=tokenizer.rate)


def padded(
  clips: Sequence[np.ndarray], rows: int
) -> tuple[np.ndarray, np.ndarray]:
  """Makes a batch of clips [samples, channels].

  Returns:
    (float32 [rows, samples, channels], valid samples [rows]; rows that pad the
    batch have length 1).
  """
  lengths = np.ones(rows, np.int64)
  lengths[: len(clips)] = [len(clip) for clip in clips]
  x = np.zeros((rows, lengths.max(), clips[0].shape[1]), np.float32)
  for row, clip in zip(x, clips, strict=False):
    row[: len(clip)] = clip
  return x, lengths


def _encode(
  tokenizer: Tokenizer, clips: list[np.ndarray], rows: int
) -> list[np.ndarray]:
  """Returns codes [frames, codebooks] of each clip [samples, channels]."""
  x, lengths = padded(clips, rows)
  codes = tokenizer.encode(x, lengths=lengths)
  return [
    each[: tokenizer.frames_of(len(clip))]
    for each, clip in zip(codes, clips, strict=False)
  ]
