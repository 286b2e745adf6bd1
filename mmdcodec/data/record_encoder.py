"""Encodes the records of audio data sets on all devices of a process."""

import collections
import io
import queue
from collections.abc import Generator, Iterable
from concurrent.futures import ThreadPoolExecutor

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
  tokenizer: Tokenizer,
  batches: Iterable[range],
  rows: int,
) -> Generator[list[dict], None, None]:
  """Encodes batches of records, several at a time, in order.

  Args:
    source: the audio data set.
    tokenizer: tokenizer that makes the codes.
    batches: indices of records.
    rows: rows to pad each batch to, so that each length compiles one program.

  Yields:
    The token records of a batch.
  """
  encoders = [tokenizer.on(d) for d in jax.local_devices()] * _AT_A_TIME
  free: queue.SimpleQueue = queue.SimpleQueue()
  for each in encoders:
    free.put(each)
  readers = ThreadPoolExecutor(cpus(), "read")
  workers = ThreadPoolExecutor(len(encoders), "encode")

  def work(indices: range) -> list[dict]:
    clips = list(readers.map(lambda i: _read(source, tokenizer, i), indices))
    here = free.get()
    try:
      codes = _encode(here, [x for _, _, x in clips], rows)
    finally:
      free.put(here)
    return [
      token_records.record(each, classes, record)
      for each, (record, classes, _) in zip(codes, clips, strict=True)
    ]

  waiting: collections.deque = collections.deque()
  try:
    for indices in batches:
      waiting.append(workers.submit(work, indices))
      if len(waiting) > 2 * len(encoders):
        yield waiting.popleft().result()
    for future in waiting:
      yield future.result()
  finally:
    workers.shutdown(cancel_futures=True)
    readers.shutdown()


def _read(
  source: Source, tokenizer: Tokenizer, index: int
) -> tuple[dict, np.ndarray, np.ndarray]:
  """Reads a record, its melody, and its audio in the tokenizer's format."""
  record = source[index]
  with soundfile.SoundFile(io.BytesIO(record.pop("audio"))) as sound:
    x = sound.read(dtype="float32", always_2d=True)
  rate = record["rate"]
  mono = files.resample(files.mix(x, 1), rate=rate, to=melody.RATE)
  classes = melody.pitch_classes(mono, melody.RATE)
  x = files.mix(x, tokenizer.channels)
  return record, classes, files.resample(x, rate=rate, to=tokenizer.rate)


def _encode(
  tokenizer: Tokenizer, clips: list[np.ndarray], rows: int
) -> list[np.ndarray]:
  """Returns codes [frames, codebooks] of each clip [samples, channels]."""
  lengths = np.ones(rows, np.int64)  # rows that pad the batch have length 1
  lengths[: len(clips)] = [len(clip) for clip in clips]
  x = np.zeros((rows, lengths.max(), tokenizer.channels), np.float32)
  for row, clip in zip(x, clips, strict=False):
    row[: len(clip)] = clip
  codes = tokenizer.encode(x, lengths=lengths)
  return [
    each[: tokenizer.frames_of(len(clip))]
    for each, clip in zip(codes, clips, strict=False)
  ]
