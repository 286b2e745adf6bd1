"""Codes of the records of audio data sets, on all devices of a process."""

import collections
import io
import queue
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor

import jax
import numpy as np
import soundfile

from mmdcodec.audio import files, melody
from mmdcodec.data import tokens
from mmdcodec.data.source import Source
from mmdcodec.errors import UserError
from mmdcodec.nn.conv import frames
from mmdcodec.platform import cpus
from mmdcodec.tokenizers import validation
from mmdcodec.tokenizers.loaded_codec import LoadedCodec
from mmdcodec.tokenizers.stereo_codec import StereoCodec

# Batches in work for each device: one is read while another is encoded.
_AT_A_TIME = 2


def check_codec(codec: LoadedCodec | StereoCodec) -> None:
  """Raises a UserError unless token records can hold what a codec makes."""
  validation.codes_alone(codec.model)
  if codec.model.codebook_size > 1 << 16:
    raise UserError(
      f"the codec has {codec.model.codebook_size} codes in a codebook; token"
      " records hold 65536 at most."
    )


def encoded(
  source: Source,
  codec: LoadedCodec | StereoCodec,
  batches: Iterable[range],
  rows: int,
) -> Iterator[list[dict]]:
  """Token records of batches of records, several at a time, in their order.

  Args:
    source: the audio.
    codec: makes the codes.
    batches: indices of records.
    rows: of every batch, so that there is one program for each length.

  Yields:
    The token records of a batch.
  """
  codecs = [codec.on(device) for device in jax.local_devices()] * _AT_A_TIME
  free = queue.SimpleQueue()
  for each in codecs:
    free.put(each)
  readers = ThreadPoolExecutor(cpus(), "read")
  workers = ThreadPoolExecutor(len(codecs), "encode")

  def work(indices: range) -> list[dict]:
    clips = list(readers.map(lambda i: _read(source, codec, i), indices))
    here = free.get()
    try:
      codes = _encode(here, [x for _, _, x in clips], rows)
    finally:
      free.put(here)
    return [
      tokens.record(each, classes, record)
      for each, (record, classes, _) in zip(codes, clips, strict=True)
    ]

  waiting = collections.deque()
  try:
    for indices in batches:
      waiting.append(workers.submit(work, indices))
      if len(waiting) > 2 * len(codecs):
        yield waiting.popleft().result()
    for future in waiting:
      yield future.result()
  finally:
    workers.shutdown(cancel_futures=True)
    readers.shutdown()


def _read(
  source: Source, codec: LoadedCodec | StereoCodec, index: int
) -> tuple[dict, np.ndarray, np.ndarray]:
  """A record, its melody, and its audio as the codec takes it."""
  record = source[index]
  with soundfile.SoundFile(io.BytesIO(record.pop("audio"))) as sound:
    x = sound.read(dtype="float32", always_2d=True)
  rate = record["rate"]
  tune = files.resample(files.mix(x, 1), rate=rate, to=melody.RATE)
  classes = melody.pitch_classes(tune, melody.RATE)
  x = files.mix(x, codec.channels)
  return record, classes, files.resample(x, rate=rate, to=codec.rate)


def _encode(
  codec: LoadedCodec | StereoCodec, clips: list[np.ndarray], rows: int
) -> list[np.ndarray]:
  """Codes [frames, codebooks] of each clip [samples, channels]."""
  lengths = np.ones(rows, np.int64)  # of rows that only fill the batch
  lengths[: len(clips)] = [len(clip) for clip in clips]
  x = np.zeros((rows, lengths.max(), codec.channels), np.float32)
  for row, clip in zip(x, clips, strict=False):
    row[: len(clip)] = clip
  codes = codec.encode(x, lengths=lengths)
  ends = frames(lengths, codec.model.stride)
  return [codes[i, : ends[i]] for i in range(len(clips))]
