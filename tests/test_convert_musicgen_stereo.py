"""Stereo MusicGen: a mono codec that codes left and right in turns.

Must catch: sides that swap or mix, in audio, in streams and on the way in; a
guess at stereo where a config says what it is.
"""

import re

import numpy as np
import pytest
from musicgen_weights import STEREO, source, write_folder
from random_music import word_tokenizer

import mmdcodec
from mmdcodec import bundle
from mmdcodec.audio import files
from mmdcodec.cli.main import main
from mmdcodec.data import tokenization
from mmdcodec.data.token_records import TokenSource
from mmdcodec.errors import UserError


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  """The stereo model as the public library writes it."""
  config, w, _ = source(STEREO)
  out = tmp_path_factory.mktemp("stereo") / "in"
  return write_folder(out, config, w, word_tokenizer())


@pytest.fixture(scope="module")
def music(folder):
  return mmdcodec.load(folder)


X = np.random.default_rng(0).uniform(-0.5, 0.5, (2, 80, 2))


def test_two_channels(music):
  """Catches sides that swap or mix, out of codes and on the way in."""
  arrays = source(STEREO)[2]
  codes, want = arrays["out/codes_1"], arrays["out/audio_1"]
  assert (music.channels, music.codec.codebooks) == (2, 8)
  y = music.codec.decode(codes)
  np.testing.assert_allclose(y, want, atol=1e-5 * np.abs(want).max())
  assert np.abs(want[..., 0] - want[..., 1]).max() > 0.1 * np.abs(want).max()
  # In: each side as if it were alone.
  mono = music.codec.mono
  found = music.codec.encode(X, lengths=[80, 43])
  for i, length in enumerate((80, 43)):
    for side in range(2):
      alone = mono.encode(X[i, :length, side])[0]
      np.testing.assert_array_equal(found[i, : len(alone), side::2], alone)
  # One channel stands on both sides; another rate is resampled.
  one = music.codec.encode(X[:1, :, :1])
  np.testing.assert_array_equal(one[..., 0::2], one[..., 1::2])
  assert music.codec.encode(X[:1], rate=800).shape == (1, 5, 8)


def test_streamed_audio_is_that_of_the_whole(music):
  """Catches sides that change places from one block to the next."""
  given = dict(seconds=0.4, seed=1, audio=X[0, :40])
  parts = [c.audio for c in music.stream(None, block=0.1, **given)]
  whole = music.generate(None, **given)
  assert whole.shape == (1, 160, 2)
  np.testing.assert_allclose(np.concatenate(parts, 1), whole, atol=1e-5)


@pytest.mark.slow
def test_a_bundle_of_two_channels(folder, music, tmp_path, dataset, capsys):
  """Catches a stereo bundle that a command takes for another model."""
  assert main(["convert", str(folder), str(tmp_path / "out")]) == 0
  again = bundle.load_codec(tmp_path / "out")
  assert (again.channels, again.hash) == (2, music.codec.hash)
  assert again.hash != music.codec.mono.hash
  capsys.readouterr()
  assert main(["info", str(tmp_path / "out")]) == 0
  shown = capsys.readouterr().out
  assert re.search("channels +2", shown) and re.search("codebooks +8", shown)
  # A data set of tokens, of music that gets resampled and stands on both sides.
  tokenization.tokenize(dataset, tmp_path / "tokens", again)
  record = TokenSource(tmp_path / "tokens")[0]["codes"]
  assert record.shape[1] == 8
  np.testing.assert_array_equal(record[:, 0::2], record[:, 1::2])
  # What it makes, at the command line.
  made = ["generate", "tune", str(tmp_path / "made.flac"), "--seconds", "0.2"]
  assert main([*made, "--model", str(tmp_path / "out")]) == 0
  assert files.read(tmp_path / "made.flac")[0].shape == (80, 2)
  # Files are coded by the codec of a side.
  wav, coded, back = (tmp_path / f"x.{s}" for s in ("wav", "mmdc", "flac"))
  files.write(wav, X[0], rate=400)
  model = ["--model", str(tmp_path / "out")]
  assert main(["encode", str(wav), str(coded), *model]) == 0
  assert main(["decode", str(coded), str(back), *model]) == 0
  assert files.read(back)[0].shape == (80, 1)


@pytest.mark.parametrize(
  "channels, books, words",
  [(2, 4, "8 codebooks|4 codebooks for two sides"), (1, 8, "belong together")],
)
def test_sides_that_do_not_fit(tmp_path, channels, books, words):
  """Catches a guess at stereo, where a config says what it is."""
  config, w, _ = source(STEREO if books == 8 else "musicgen_tiny")
  config["decoder"] |= dict(audio_channels=channels, num_codebooks=books)
  folder = write_folder(tmp_path / "in", config, w, word_tokenizer())
  with pytest.raises(UserError, match=words):
    mmdcodec.load(folder)


def test_what_a_stereo_codec_refuses(music):
  """Catches words of NumPy or Python, where a sentence is due."""
  codec, codes = music.codec, source(STEREO)[2]["out/codes_1"]
  for bad, words in (
    (codes[..., :3], "even number"),
    (codes[:, :0], "at least one frame"),
    (codes[0, 0], "expected"),
    (codes + 0.5, "integers"),
  ):
    with pytest.raises(UserError, match=words):
      codec.decode(bad)
  with pytest.raises(UserError, match="even number"):
    codec.encode(np.zeros((80, 2)), codebooks=3)
  for name in ("streamer", "encode_blocks", "decode_blocks"):
    with pytest.raises(UserError, match="codec.mono"):
      getattr(codec, name)([])
  # The first codebooks of either side.
  np.testing.assert_array_equal(
    codec.encode(X[0], codebooks=4), codec.encode(X[0])[..., :4]
  )
  np.testing.assert_allclose(
    codec.decode(codes[0]), codec.decode(codes)[:1], atol=1e-6
  )
