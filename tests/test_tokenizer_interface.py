"""The interface of tokenizers, kept by every codec and by a user's tokenizer.

Must catch: a codec whose codes do not have the number, size or length that it
announces; codes that depend on the rest of a batch; a tokenizer that needs
anything but the interface to make token data sets; codes of two tokenizers
paired at different times, or over different audio.
"""

import copy
import json
import shutil

import jax
import numpy as np
import pytest
import soundfile
from random_codec import write_random_codec

import mmdcodec
from mmdcodec.data import records, tokenization
from mmdcodec.data.aligned_tokens import AlignedTokens, match
from mmdcodec.data.record_source import SUMMARY, describe
from mmdcodec.data.token_batches import crop, fixed_token_batches, token_batches
from mmdcodec.data.token_records import TokenSource
from mmdcodec.errors import UserError
from mmdcodec.tokenizers.interface import AudioCodec, Tokenizer
from mmdcodec.tokenizers.stereo_codec import StereoCodec
from mmdcodec.train import settings

RATE, STRIDE = 8000, 20


class Loudness(Tokenizer):
  """A user's tokenizer: 20 times a second, how loud, and whether louder."""

  kind, hash = "loudness", "loudness-1"
  rate, channels, frame_rate, codebook_sizes = 4000, 1, 20.0, (16, 2)

  def encode(self, x, rate=None, *, lengths=None):
    """See `Tokenizer`."""
    x, lengths = self.prepare(x, rate, lengths)
    x = np.where(np.arange(x.shape[1])[:, None] < lengths[:, None, None], x, 0)
    size = round(self.rate / self.frame_rate)
    x = np.pad(x, ((0, 0), (0, -x.shape[1] % size), (0, 0)))
    energy = (x.reshape(len(x), -1, size) ** 2).mean(-1)
    levels = np.clip(16 + np.log2(energy + 1e-9) / 2, 0, 15)
    louder = np.diff(levels, axis=1, prepend=0) > 0
    return np.stack([levels, louder], -1).astype(np.int32)


@pytest.fixture(scope="module")
def tokenizers(tmp_path_factory):
  """One of each kind, by name."""
  folder = tmp_path_factory.mktemp("codecs")
  mono = mmdcodec.load(write_random_codec(folder / "mono", 0))
  chunked = write_random_codec(folder / "chunked", 1, "encodec_stereo_tiny")
  spectral = write_random_codec(
    folder / "spectral", 2, "spectral_tiny", causal=True
  )
  return {
    "mono": mono,
    "stereo": StereoCodec(mono),
    "chunked": mmdcodec.load(chunked),
    "spectral": mmdcodec.load(spectral),
    "user": Loudness(),
  }


def noise(samples, channels, seed=0):
  """Audio that gets louder."""
  x = np.random.default_rng(seed).normal(0, 0.3, (samples, channels))
  return (x * np.linspace(0.01, 1, samples)[:, None]).astype(np.float32)


@pytest.mark.parametrize(
  "name", ["mono", "stereo", "chunked", "spectral", "user"]
)
def test_codes_are_as_announced(tokenizers, name):
  """Each item of a batch has the codes that it has alone, in the numbers."""
  tokenizer = tokenizers[name]
  assert tokenizer.codebooks == len(tokenizer.codebook_sizes)
  assert tokenizer.codebook_size == max(tokenizer.codebook_sizes)
  # The third ends inside an overlap of chunks.
  lengths = [2000, 1201, 795]
  x = np.zeros((3, 2000, tokenizer.channels), np.float32)
  for i, length in enumerate(lengths):
    x[i, :length] = noise(length, tokenizer.channels, i)
  codes = tokenizer.encode(x, lengths=lengths)
  assert codes.dtype == np.int32
  assert codes.shape[2] == tokenizer.codebooks
  assert codes.shape[1] == tokenizer.frames_of(2000)
  for i, length in enumerate(lengths):
    alone = tokenizer.encode(x[i, :length], rate=tokenizer.rate)[0]
    assert len(alone) == tokenizer.frames_of(length)
    np.testing.assert_array_equal(codes[i, : len(alone)], alone)
    assert (alone.max(0) < tokenizer.codebook_sizes).all() and alone.min() >= 0
  assert len(np.unique(codes[0])) > 4
  # Of another rate and number of channels: converted.
  other = noise(4000, 3 - tokenizer.channels)
  found = tokenizer.encode(other, rate=2 * tokenizer.rate)
  assert found.shape[1:] == codes.shape[1:]
  with pytest.raises(UserError, match="NaN"):
    tokenizer.encode(np.full(2000, np.nan))
  with pytest.raises(UserError, match="lengths"):
    tokenizer.encode(x, lengths=[2000, 2001, 1])
  with pytest.raises(UserError, match="at least one sample"):
    tokenizer.encode(x[:0])


def test_whole_frames_are_no_more_than_themselves():
  """Catches a frame too many where a frame rate is not exact in binary."""

  class Slow(Loudness):
    rate, frame_rate = 8000, 8000 / 240

  frames = [Slow().frames_of(n) for n in (0, 1, 239, 240, 241, 720)]
  assert frames == [0, 1, 1, 1, 2, 3]


@pytest.mark.parametrize("name", ["mono", "spectral"])
def test_an_encoder_that_overflows_gives_no_codes(tokenizers, name):
  """Catches an index one past the codebook in a file or a token data set."""
  codec = copy.copy(tokenizers[name])
  codec.variables = jax.tree_util.tree_map_with_path(
    lambda path, leaf: leaf * 1e20 if "encoder" in str(path) else leaf,
    codec.variables,
  )
  x = noise(800, 1)
  with pytest.raises(UserError, match="no codes"):
    codec.encode(x)
  with pytest.raises(UserError, match="no codes"):
    list(codec.encode_blocks([x]))


@pytest.mark.parametrize("name", ["mono", "stereo", "spectral"])
def test_parts_decode_to_the_whole(tokenizers, name):
  """Codes that arrive in parts give the audio of all of them, and early."""
  codec = tokenizers[name]
  assert isinstance(codec, AudioCodec)
  codes = codec.encode(noise(60 * STRIDE, codec.channels))
  codes = np.concatenate([codes, codes[:, ::-1]])
  whole = codec.decode(codes)
  assert whole.shape == (2, 60 * codec.stride, codec.channels)
  taken = []

  def parts():
    for part in np.split(codes, [0, 7, 35, 35, 36], axis=1):
      taken.append(part)
      yield part

  made = []
  for x in codec.decode_parts(parts(), 16):
    made.append(x)
    if len(made) == 1:
      assert len(taken) < 6
  np.testing.assert_allclose(np.concatenate(made, 1), whole, atol=2e-5)


def test_a_codec_without_pieces_decodes_at_the_end(tokenizers):
  """A user's codec that only decodes whole clips still plays in parts."""

  class Constant(AudioCodec):
    rate, channels, frame_rate, stride = RATE, 1, 400.0, STRIDE
    hash, codebook_sizes = "constant", (8,)

    def encode(self, x, rate=None, *, codebooks=None, lengths=None):
      x, _ = self.prepare(x, rate, lengths)
      return np.zeros((len(x), self.frames_of(x.shape[1]), 1), np.int32)

    def decode(self, codes, *, length=None):
      return np.repeat(codes[..., :1] / 8.0, STRIDE, 1)[:, :length]

  codec = Constant()
  codes = np.arange(8).reshape(1, 8, 1)
  (audio,) = codec.decode_parts(iter(np.split(codes, 4, axis=1)), 2)
  np.testing.assert_array_equal(audio, codec.decode(codes))
  assert codec.base is codec and codec.kind == "codec"


@pytest.fixture(scope="module")
def audio(tmp_path_factory):
  """Six records of different lengths, two of one file."""
  folder = tmp_path_factory.mktemp("aligned")
  (folder / "in").mkdir()
  for i, seconds in enumerate((1.0, 1.5, 0.7, 2.9, 1.2)):
    x = noise(round(seconds * RATE), 1, i)
    soundfile.write(folder / "in" / f"{i}.wav", x, RATE)
  records.prepare(
    folder / "in", folder / "audio", rate=RATE, seconds=1.5, progress=False
  )
  return folder / "audio"


@pytest.fixture(scope="module")
def sets(audio, tokenizers, tmp_path_factory):
  """Token data sets of the codec and of the user's tokenizer."""
  folder = tmp_path_factory.mktemp("tokens")
  for name in ("mono", "user"):
    tokenization.tokenize(audio, folder / name, tokenizers[name], batch=4)
  return folder


def test_any_tokenizer_makes_token_data_sets(audio, sets):
  """The records of a user's tokenizer, and a summary that names it."""
  about, made = describe(sets / "user", "tokens"), TokenSource(sets / "user")
  assert (about["tokenizer"], about["hash"]) == ("loudness", "loudness-1")
  assert (made.codebooks, made.codebook_sizes) == (2, (16, 2))
  assert (made.codebook_size, made.frame_rate, made.window) == (16, 20.0, None)
  assert len(made) == 6
  seconds = [len(made[i]["codes"]) / 20 for i in range(6)]
  assert sum(seconds) == pytest.approx(made.seconds, abs=6 / 20)
  assert made.seconds == describe(audio)["seconds"]


def test_crops_are_aligned_in_time(sets):
  """The other tokens of a crop are those of the same time and record."""
  target, other = (TokenSource(sets / name) for name in ("mono", "user"))
  both = AlignedTokens(target, {"loud": other})
  # 400 frames a second begin together with 20 every 20.
  assert (len(both), both.grid, both.codebooks) == (6, 20, 4)
  for i in range(6):
    codes, rate = both[i]["streams"]["loud"]
    np.testing.assert_array_equal(codes, other[i]["codes"])
    assert rate == 20.0
    for where in (0.0, 0.37, 0.99):
      plain, aligned = crop(target, i, where, 100), crop(both, i, where, 100)
      record = target[i]["codes"]
      start = int(where * max(1, len(record) - 99)) // 20 * 20
      np.testing.assert_array_equal(
        aligned["codes"], record[start : start + 100]
      )
      assert plain.keys() == aligned.keys()
  few = crop(target, 3, 0.5, 100, codebooks=slice(1, 3))
  whole = crop(target, 3, 0.5, 100)
  np.testing.assert_array_equal(few["codes"], whole["codes"][:, 1:3])


def test_each_target_finds_its_partner(sets, audio, tokenizers, tmp_path):
  """Data sets are paired by their audio, in whatever order they are named."""
  (tmp_path / "in").mkdir()
  for i in range(6):
    soundfile.write(tmp_path / "in" / f"{i}.wav", noise(9600, 1, 9 + i), RATE)
  records.prepare(
    tmp_path / "in", tmp_path / "audio", rate=RATE, seconds=9, progress=False
  )
  for name in ("mono", "user"):
    tokenization.tokenize(
      tmp_path / "audio", tmp_path / name, tokenizers[name], batch=4
    )
  targets = [TokenSource(folder / "mono") for folder in (sets, tmp_path)]
  others = [TokenSource(folder / "user") for folder in (tmp_path, sets)]
  pairs = match(targets, {"loud": others})
  assert [pair.streams["loud"].path for pair in pairs] == [
    str(sets / "user"),
    str(tmp_path / "user"),
  ]
  wrong = {"loud": str(tmp_path / "user")}
  size = {"batch": 2, "frames": 50, "streams": wrong}
  for use in (
    lambda: AlignedTokens(targets[0], {"loud": others[0]}),
    lambda: token_batches(sets / "mono", **size),
    lambda: fixed_token_batches(sets / "mono", count=1, **size),
  ):
    with pytest.raises(UserError, match=r"\(loud\) was not made from"):
      use()
  # Copied elsewhere, it is the same audio.
  shutil.copytree(audio, tmp_path / "copy")
  tokenization.tokenize(tmp_path / "copy", tmp_path / "again", Loudness())
  AlignedTokens(targets[0], {"loud": TokenSource(tmp_path / "again")})


def test_sets_of_earlier_versions(sets, tmp_path):
  """A summary of before tokenizers opens; records tell what audio it is of."""
  shutil.copytree(sets / "mono", tmp_path / "old")
  file = tmp_path / "old" / SUMMARY
  new = json.loads(file.read_text())
  old = {k: v for k, v in new.items() if k in ("kind", "records", "frames")}
  old |= {k: new[k] for k in ("seconds", "rate", "frame_rate", "source")}
  old |= {"codec": new["hash"], "stride": STRIDE, "codebooks": 4}
  file.write_text(json.dumps(old | {"codebook_size": 32, "version": "0.1"}))
  opened, made = TokenSource(tmp_path / "old"), TokenSource(sets / "mono")
  for name in ("tokenizer", "hash", "frame_rate", "window", "codebook_sizes"):
    assert getattr(opened, name) == getattr(made, name), name
  np.testing.assert_array_equal(opened[2]["codes"], made[2]["codes"])
  AlignedTokens(opened, {"loud": TokenSource(sets / "user")})
  # The same number of records, of other files.
  source = TokenSource(sets / "user")
  opened_ = {**source[5], "path": "other.wav"}

  class Other(TokenSource):
    def __getitem__(self, index):
      return opened_ if index == 5 else source[index]

  with pytest.raises(UserError, match="was not made from the audio"):
    AlignedTokens(opened, {"loud": Other(sets / "user")})


def test_streams_of_a_config():
  """Catches data sets under the wrong name, and a name that is left out."""
  found = settings.parse_streams("loud=A, loud=B,joint=C=1")
  assert found == {"loud": ["A", "B"], "joint": ["C=1"]}
  assert settings.parse_streams("") == settings.parse_streams({}) == {}
  assert settings.parse_streams({"loud": "A,B"}) == {"loud": ["A", "B"]}
  with pytest.raises(UserError, match="expected NAME=TOKENS"):
    settings.parse_streams("A,loud=B")
