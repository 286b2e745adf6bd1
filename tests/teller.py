"""A tokenizer that tells the song and the frame, and audio that it can read."""

import contextlib
import copy
import types

import jax
import numpy as np
import pytest
import soundfile

from mmdcodec.data import records, token_shards
from mmdcodec.tokenizers.interface import Tokenizer
from mmdcodec.tokenizers.loaded_codec import LoadedCodec

RATE, STRIDE = 8000, 20


class Teller(Tokenizer):
  """A tokenizer whose codes of a frame are its song and its number.

  Args:
    name: its hash.
    dies_at: encoding this song, or a later one, raises.
    size: of its codebooks.
    **changes: fields of its model.
  """

  kind, rate, channels, frame_rate = "teller", RATE, 1, RATE / STRIDE

  def __init__(self, name="teller", dies_at=10**9, size=1024, **changes):
    self.hash, self.codebook_sizes = name, (size, size)
    fields = {"normalize": False, "chunk": None, "chunk_seconds": 0.0}
    self.model = types.SimpleNamespace(**(fields | changes))
    self.calls, self.dies_at = [], dies_at

  @property
  def seen(self):
    """Number of records encoded."""
    return sum(self.calls)

  def on(self, device):
    """Another one with the same list of calls, as weights elsewhere are."""
    return copy.copy(self)

  check_codes_suffice = LoadedCodec.check_codes_suffice

  def encode(self, x, rate=None, *, lengths=None):
    """Reads off what `song` wrote."""
    told = np.rint(x[:, ::STRIDE, 0] * 32768).astype(np.int32)
    songs = told[lengths > 1, 0] // 1000  # the others only fill the batch
    if songs.max() >= self.dies_at:
      raise RuntimeError("killed")
    self.calls.append(len(songs))
    return np.stack([told // 1000, told % 1000], -1)


def song(number, frames):
  """Audio of which a `Teller` tells the number and the frames."""
  x = np.repeat(number * 1000 + np.arange(frames), STRIDE)
  return x.astype(np.int16)


def make(folder, songs, rate=RATE, channels=1):
  """A data set of audio: one record for each of `songs`, name -> samples."""
  (folder / "in").mkdir(parents=True)
  for name, x in songs.items():
    soundfile.write(folder / "in" / f"{name}.wav", x, rate)
    (folder / "in" / f"{name}.txt").write_text(f"the song {name}")
  records.prepare(
    folder / "in", folder / "audio",
    rate=rate, channels=channels, seconds=8.0, progress=False,
  )  # fmt: skip
  return folder / "audio"


def make_songs(folder):
  """Songs 0 to 10 of 60, 67, ... frames; their names sort as they count."""
  return make(folder, {f"{i:02}": song(i, 60 + 7 * i) for i in range(11)})


@contextlib.contextmanager
def few_records():
  """Shards of three records and two devices: small, and several of each."""
  with pytest.MonkeyPatch.context() as patch:
    devices = jax.local_devices()[:2]
    patch.setattr(jax, "local_devices", lambda: devices)
    patch.setattr(token_shards, "_LEAST", 3)
    yield
