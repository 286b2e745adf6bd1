"""A hierarchy whose stages compute nothing: tests ask who is told what.

Every code is a checksum of all that a stage may depend on: key, window, what it
has made in this window, and conditions. So two runs make the same codes exactly
if all stages were given the same, and nothing is ever compiled.
"""

import zlib

import jax
import numpy as np

from mmdcodec.audio import levels
from mmdcodec.generation.musiclm import LoadedMusicLM
from mmdcodec.generation.musiclm_parts import Parts, check_parts
from mmdcodec.generation.single_stages import SingleStages
from mmdcodec.generation.stage import Stage
from mmdcodec.generation.token_sampler import SamplerState, TokenSampler
from mmdcodec.models import lm_presets, token_lm
from mmdcodec.tokenizers.interface import AudioCodec, Tokenizer
from mmdcodec.tokenizers.mulan import is_text

RATE = 800


def checksum(*parts):
  """A number that depends on all arrays and numbers."""
  found = 0
  for part in parts:
    found = zlib.crc32(np.ascontiguousarray(part).tobytes(), found)
  return found


class FakeSampler:
  """In place of a `TokenSampler`; remembers what it was given.

  Attributes:
    calls: (state, window, inputs, options) of each window.
  """

  start = TokenSampler.start

  def __init__(self, model):
    self.model, self.calls = model, []

  def sample_window(self, state, window, inputs, options, part=None):
    """See `TokenSampler`."""
    self.calls.append((state, window, inputs, options))
    for arrays in inputs.values():
      assert arrays.get("tokens", np.zeros(1)).min() >= 0
      assert len(arrays["given"]) == len(state.codes)
    assert window.end - window.start <= self.model.frames or self.model.window
    assert window.start <= state.done < window.end
    keys = np.asarray(jax.random.key_data(state.keys))
    part = part or window.end
    codes = state.codes.copy()
    for frame in range(state.done, window.end):
      for i, row in enumerate(codes):
        if (row[frame] >= 0).all():
          continue
        given = [inputs[k][name][i] for k in inputs for name in inputs[k]]
        before = row[window.start : frame]
        for k in range(row.shape[1]):
          place = [window.start, frame, k]
          made = checksum(keys[i], place, before, *given)
          row[frame, k] = made % self.model.codebook_size
      done = frame + 1
      if done == window.end or (done - state.done) % part == 0:
        yield SamplerState(codes.copy(), state.keys, done)


class FakeStage:
  """In place of a `Stage`."""

  from_frames, to_frames = Stage.from_frames, Stage.to_frames

  def __init__(self, maker, deaf=(), **fields):
    model = token_lm.preset("tiny", cross=False, **fields)
    self.model = token_lm.from_config(model)
    self.conditions = self.model.make_conditions()
    self.sampler = FakeSampler(self.model)
    self.frame_rate = maker.frame_rate
    self.seconds = self.model.frames / self.frame_rate
    self.target = {
      "tokenizer": maker.kind, "hash": maker.hash,
      "frame_rate": maker.frame_rate,
    }  # fmt: skip
    self.streams = {
      each.name: {
        "tokenizer": KINDS[each.name], "hash": f"{KINDS[each.name]}-hash"
      }
      for each in self.conditions
      if each.name not in deaf
    }  # fmt: skip
    # Of three frames, one is left without repeats.
    if self.model.collapse:
      self.frame_rate /= 3
      self.target["token_rate"] = self.frame_rate

  def takes(self, name):
    """See `Stage`."""
    return any(each.name == name for each in self.conditions)


class FakeTokenizer(Tokenizer):
  """Codes are checksums of the samples of a frame, of the first channel."""

  rate, channels = RATE, 1

  def __init__(self, kind, frame_rate, sizes):
    self.kind, self.hash = kind, f"{kind}-hash"
    self.frame_rate, self.codebook_sizes = frame_rate, sizes

  def encode(self, x, rate=None, *, lengths=None):
    """See `Tokenizer`."""
    x, lengths = self.prepare(x, rate, lengths)
    frames = self.frames_of(x.shape[1])
    hop = self.rate / self.frame_rate
    codes = np.zeros((len(x), frames, self.codebooks), np.int32)
    for i, frame, k in np.ndindex(codes.shape):
      part = x[i, round(frame * hop) : round((frame + 1) * hop), 0]
      codes[i, frame, k] = checksum(part, [k]) % self.codebook_size
    return codes


class FakeJoint(FakeTokenizer):
  """Codes of texts are checksums too; an embedding is a point on a circle."""

  def encode_clip(self, x, rate=None, *, lengths=None):
    """See `Mulan`."""
    text = is_text(x)
    x = [each.encode() for each in x] if text else self.prepare(x, rate)[0]
    size, books = self.codebook_size, range(self.codebooks)
    sums = [
      [zlib.crc32(bytes([k]), zlib.crc32(bytes(each))) % size for k in books]
      for each in x
    ]
    return np.array(sums, np.int32)

  def check_prompts(self, texts):
    """See `Mulan`."""
    assert all(len(text) < 1000 for text in texts)

  def embed_text(self, texts):
    """See `Mulan`."""
    angle = np.array([zlib.crc32(text.encode()) / 1e8 for text in texts])
    return np.stack([np.cos(angle), np.sin(angle)], 1)

  def embed_audio(self, x, rate=None):
    """See `Mulan`."""
    levels.check(x, "audio")
    angle = np.array([zlib.crc32(np.ascontiguousarray(y)) / 1e8 for y in x])
    return np.stack([np.cos(angle), np.sin(angle)], 1)


class FakeCodec(FakeTokenizer, AudioCodec):
  """Audio repeats a number that is made of a frame's codes.

  Attributes:
    decoded: how often it was asked for audio.
    config: that of a codec that does not share its codes with another.
  """

  stride = 20
  config: dict = {}

  def __init__(self):
    super().__init__("codec", 40.0, (32,) * 4)
    self.decoded = 0

  def decode(self, codes, *, length=None):
    """See `AudioCodec`."""
    assert codes.min() >= 0 and codes.max() < self.codebook_size
    self.decoded += 1
    weights = 32.0 ** -np.arange(1, 1 + codes.shape[2])
    values = (codes * weights).sum(2) / 2
    audio = np.repeat(values, self.stride, 1)[..., None].astype(np.float32)
    # Codecs that have hardly been trained exceed full scale by far.
    audio[:, :: self.stride] += 60
    return audio

  def decode_parts(self, parts, size):
    """See `AudioCodec`."""
    for codes in parts:
      yield self.decode(codes)


def _tokens(order, **fields):
  return dict(kind="tokens", order=order, **fields)


# The kind of tokenizer that each condition has its tokens from.
KINDS = {
  "joint": "mulan", "melody": "melody_embedding", "semantic": "semantic",
  "coarse": "codec", "chroma": "melody",
}  # fmt: skip
CONDITIONS = {
  "joint": _tokens(0, codebooks=3, size=16),
  "melody": _tokens(1, codebooks=2, size=8, frames=2, frame_rate=4 / 3),
  "chroma": lm_presets.CHROMA
  | dict(
    kind="melody",
    frames=32,
    frame_rate=40.0,
    added_to=1,
    rate=800,
    window=64,
    hop=32,
  ),
  "semantic": _tokens(2, size=16, frames=20, frame_rate=25.0),
  "coarse": _tokens(2, codebooks=2, size=32, frames=12, frame_rate=40.0),
}
STAGES = {
  "semantic": dict(
    codebooks=1, codebook_size=16, frames=40, takes=("joint", "melody")
  ),
  "coarse": dict(
    codebooks=2, codebook_size=32, frames=32, takes=("joint", "semantic")
  ),
  "fine": dict(
    codebooks=2, codebook_size=32, first_codebook=2, frames=12,
    takes=("joint", "coarse"),
  ),
}  # fmt: skip


def fake_musiclm(without=(), **changes):
  """A `LoadedMusicLM` of fakes.

  Args:
    without: names of parts and stages to leave out: "joint", "fine_lm", ...
    **changes: fields of a stage, by its name; `takes` has its conditions, and
      `deaf` those that training never saw.
  """
  parts = {
    "codec": FakeCodec(),
    "semantic": FakeTokenizer("semantic", 25.0, (16,)),
    "joint": FakeJoint("mulan", 1.0, (16,) * 3),
    "melody": FakeTokenizer("melody_embedding", 4 / 3, (8, 8)),
  }
  stages = {}
  for name, fields in STAGES.items():
    fields = {**fields, **changes.get(name, {})}
    takes = {
      each: CONDITIONS[each]
      for each in fields.pop("takes")
      if each not in without or each in fields.get("deaf", ())
    }
    maker = parts["semantic" if name == "semantic" else "codec"]
    stages[name] = FakeStage(maker, conditions=takes, **fields)
  stages = {k: v for k, v in stages.items() if f"{k}_lm" not in without}
  parts = {k: v for k, v in parts.items() if k not in without}
  found = Parts(stages=stages, **parts)
  check_parts(found)
  music = LoadedMusicLM.__new__(LoadedMusicLM)
  SingleStages.__init__(music, found)
  return music
