"""A piece of music while it is made, as a stream that a browser plays."""

import asyncio
import struct
import threading
from collections.abc import AsyncIterator

import numpy as np
import soxr

# Of the stream.
RATE, CHANNELS = 48_000, 2
_POLL = 0.05  # seconds between two looks for more


class Piece:
  """Audio that one thread makes while any number of listeners hear it.

  Attributes:
    rate: Hz.
    channels: channels of the audio.
    samples: how many there will be, if nobody stops it.
  """

  def __init__(self, rate: int, channels: int, samples: int):
    """Makes an empty piece."""
    self.rate, self.channels, self.samples = rate, channels, samples
    self._parts: list[np.ndarray] = []
    self._finished = threading.Event()

  def add(self, audio: np.ndarray) -> None:
    """Adds float32 [samples, channels]."""
    # Appending is atomic, and listeners only look at what is there.
    self._parts.append(np.asarray(audio, np.float32))

  def finish(self) -> None:
    """Says that nothing more comes."""
    self._finished.set()

  @property
  def audio(self) -> np.ndarray:
    """What has been made so far, float32 [samples, channels]."""
    return np.concatenate(
      [np.zeros((0, self.channels), np.float32), *self._parts]
    )

  async def wav(self) -> AsyncIterator[bytes]:
    """Yields a WAV file of the piece, from the beginning, as it is made.

    It is float32 at 48 kHz and stereo, whatever the piece is: Chromium plays a
    stream only after about 250 kB, which would be 5 s of 16 bits at 24 kHz.

    Its header gives the length that is expected. A piece that was stopped is
    shorter; players end where the file does.
    """
    samples = round(self.samples * RATE / self.rate)
    yield wav_header(RATE, CHANNELS, samples)
    resampler = soxr.ResampleStream(self.rate, RATE, self.channels)
    sent = 0
    while True:
      last = self._finished.is_set()  # before looking, or the end may be lost
      for part in self._parts[sent:]:
        sent += 1
        yield _stereo(resampler.resample_chunk(part))
      if last:
        end = np.zeros((0, self.channels), np.float32)
        yield _stereo(resampler.resample_chunk(end, last=True))
        return
      await asyncio.sleep(_POLL)


def _stereo(x: np.ndarray) -> bytes:
  """Float32 samples of two channels; what exceeds full scale is clipped."""
  x = np.clip(x, -1, 1).astype("<f4")
  return np.repeat(x, CHANNELS // x.shape[1], axis=1).tobytes()


def wav_header(rate: int, channels: int, samples: int) -> bytes:
  """The header of a WAV file of float32."""
  block = 4 * channels
  size = min(samples * block, 0xFFFFFFFF - 36)
  return struct.pack(
    "<4sI4s4sIHHIIHH4sI",
    b"RIFF", 36 + size, b"WAVE", b"fmt ", 16, 3, channels, rate, rate * block,
    block, 32, b"data", size,
  )  # fmt: skip
