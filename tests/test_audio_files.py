"""Audio files: must catch wrong lengths, shifted cuts and silent damage.

A cut that is off by a sample, resampling that changes pitch or length,
integers that wrap, a broken file that passes for a shorter one, and an error
that is not a `UserError`.
"""

import io
import struct
from pathlib import Path

import numpy as np
import pytest
import soundfile

from mmdcodec.audio import containers, decoding, files, formats, mp3_frames
from mmdcodec.data import file_pieces
from mmdcodec.errors import UserError

RATE = 24000


def tone(seconds=1.0, rate=RATE, channels=2, hz=440.0):
  t = np.arange(int(seconds * rate)) / rate
  left = 0.5 * np.sin(2 * np.pi * hz * t) + 0.1 * np.sin(7000 * t * t)
  return np.stack([left, 0.3 * left][:channels], -1).astype(np.float32)


@pytest.fixture
def wav(tmp_path):
  path = tmp_path / "tone.wav"
  files.write(path, tone(), rate=RATE)
  return path


@pytest.mark.parametrize(
  "suffix, error",
  [(".wav", 1e-4), (".flac", 1e-4), (".aiff", 1e-4), (".ogg", 0.15)]
  + [(".opus", 0.15), (".mp3", 0.15)],
)
def test_every_format_returns_what_was_written(tmp_path, suffix, error):
  x = tone()
  path = tmp_path / ("x" + suffix.upper())
  files.write(path, x, rate=RATE)
  y, rate = files.read(path)
  assert (y.dtype, rate, y.shape) == (np.float32, RATE, x.shape)
  # Away from the ends and in energy: lossy coders round corners.
  inner = slice(2000, -2000)
  assert np.std((y - x)[inner]) < error * np.std(x)
  assert files.info(path) == (len(x), RATE, 2)
  part, _ = files.read(path, start=0.3, seconds=0.25)
  np.testing.assert_allclose(part, y[7200:13200], atol=1e-4)
  stream, _ = files.read(io.BytesIO(path.read_bytes()))
  np.testing.assert_array_equal(stream, y)


@pytest.mark.parametrize("rate", [8000, 16000, 22050, 44100, 48000])
@pytest.mark.parametrize("start, seconds", [(0.0, 0.5), (0.333, 0.2), (0.9, 2)])
def test_cut_at_another_rate_is_the_cut_of_the_whole(wav, rate, start, seconds):
  whole, _ = files.read(wav, rate=rate)
  assert len(whole) == rate
  first = int(start * rate + 0.5)
  want = whole[first : first + int(seconds * rate + 0.5)]
  part, got_rate = files.read(wav, rate=rate, start=start, seconds=seconds)
  assert got_rate == rate and part.shape == want.shape
  np.testing.assert_allclose(part, want, atol=2e-4)


@pytest.mark.parametrize("to", [16000, 44100])
def test_resampling_keeps_pitch_level_and_length(to):
  t = np.arange(RATE) / RATE
  x = np.sin(2 * np.pi * 1000 * t)[:, None]
  y = files.resample(x, rate=RATE, to=to)
  assert y.shape == (to, 1) and y.dtype == np.float32
  want = np.sin(2 * np.pi * 1000 * np.arange(to) / to)
  np.testing.assert_allclose(y[500:-500, 0], want[500:-500], atol=1e-3)
  # No images or aliases: a tone above the new band must vanish.
  high = np.sin(2 * np.pi * 10500 * t)[:, None]
  low = files.resample(high, rate=RATE, to=16000)
  assert np.abs(low[500:-500]).max() < 1e-3


def test_mixing(wav):
  x = np.array([[1.0, 0.0], [0.5, -0.5]], np.float32)
  np.testing.assert_array_equal(files.mix(x, 1), [[0.5], [0.0]])
  np.testing.assert_array_equal(files.mix(x[:, :1], 2), x[:, [0, 0]])
  np.testing.assert_array_equal(files.mix(x, 3), [[0.5] * 3, [0.0] * 3])
  assert files.mix(x, 2) is x
  mono, _ = files.read(wav, channels=1)
  stereo, _ = files.read(wav)
  np.testing.assert_allclose(mono[:, 0], stereo.mean(1), atol=1e-6)


@pytest.mark.parametrize("suffix", [".wav", ".flac", ".aiff"])
def test_integers_clip_and_do_not_wrap(tmp_path, suffix):
  path = tmp_path / ("loud" + suffix)
  files.write(path, np.array([1.5, -1.5, 1.0, -1.0, 0.5]), rate=RATE)
  y, _ = files.read(path)
  np.testing.assert_allclose(y[:, 0], [1, -1, 1, -1, 0.5], atol=1e-4)


@pytest.mark.parametrize("suffix", [".mp3", ".ogg", ".flac"])
def test_blocks_join_without_a_seam(tmp_path, monkeypatch, suffix):
  """Libsndfile loses MP3's bit reservoir, hence audio, at every seek."""
  path = tmp_path / ("x" + suffix)
  files.write(path, tone(2.0), rate=RATE)
  whole, _ = files.read(path)
  monkeypatch.setattr(decoding, "_READ_BLOCK", 20000)
  np.testing.assert_allclose(files.read(path)[0], whole, atol=1e-5)


@pytest.mark.parametrize("subtype", ["FLOAT", "float"])
def test_float_wave_keeps_overshoot(tmp_path, subtype):
  path = tmp_path / "loud.wav"
  files.write(path, np.array([1.5, -2.0]), rate=RATE, subtype=subtype)
  np.testing.assert_array_equal(files.read(path)[0][:, 0], [1.5, -2.0])


def test_coders_get_a_rate_they_know(tmp_path):
  for suffix, rate in ((".opus", 48000), (".mp3", 44100)):
    path = tmp_path / ("x" + suffix)
    files.write(path, tone(rate=37800), rate=37800)
    y, got = files.read(path)
    assert got == rate and abs(len(y) - rate) < 2000


def test_find_is_sorted_recursive_and_by_suffix(tmp_path):
  for name in ["b.WAV", "a/z.flac", "a/._z.flac", ".git/x.wav", "c.txt"]:
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_bytes(b"")
  want = [tmp_path / "a/z.flac", tmp_path / "b.WAV"]
  assert files.find(tmp_path) == want
  assert files.find(str(tmp_path / "b.WAV")) == [tmp_path / "b.WAV"]
  with pytest.raises(UserError, match="no such folder"):
    files.find(tmp_path / "nowhere")


@pytest.mark.parametrize(
  "suffix, container",
  [
    *((".aifc", "AIFF"), (".au", "AU"), (".caf", "CAF"), (".rf64", "RF64")),
    *((".snd", "AU"), (".w64", "W64"), (".wave", "WAV")),
  ],
)
def test_what_is_read_is_found(tmp_path, suffix, container):
  """Catches music that `prepare` leaves out as not supported."""
  path = tmp_path / ("x" + suffix.upper())
  soundfile.write(path, tone(), RATE, format=container)
  assert files.find(tmp_path) == [path]
  np.testing.assert_allclose(files.read(path)[0], tone(), atol=1e-4)
  assert suffix in formats.READABLE
  assert not {*formats.READABLE} & {*formats.UNSUPPORTED}


def damaged(folder: Path) -> dict[str, bytes]:
  """Name -> content of files that must be refused."""
  out = {"empty.wav": b"", "text.mp3": b"This is a letter, not music.\n" * 99}
  out["noise.flac"] = np.random.default_rng(0).bytes(5000)
  for suffix in (".wav", ".flac", ".ogg", ".opus", ".mp3", ".aiff"):
    path = folder / ("whole" + suffix)
    files.write(path, tone(2.0), rate=RATE)
    data = path.read_bytes()
    out["cut" + suffix] = data[: len(data) // 2 + 7]
    out["stub" + suffix] = data[:30]
  out["almost.wav"] = (folder / "whole.wav").read_bytes()[:-1000]
  nan = np.zeros((100, 1), np.float32)
  nan[7] = np.nan
  soundfile.write(folder / "nan.wav", nan, RATE, subtype="FLOAT")
  out["nan.wav"] = (folder / "nan.wav").read_bytes()
  soundfile.write(folder / "none.wav", nan[:0], RATE)
  out["none.wav"] = (folder / "none.wav").read_bytes()
  header = bytearray((folder / "whole.wav").read_bytes())
  out["no_channels.wav"] = bytes(header[:22] + b"\0\0" + header[24:])
  rate = struct.pack("<I", 0xFFFFFFF0)
  out["absurd_rate.wav"] = bytes(header[:24] + rate + header[28:])
  flac = bytearray((folder / "whole.flac").read_bytes())
  # STREAMINFO's 36 bits of total samples: claims 2^36 - 1 of them.
  flac[21] |= 0x0F
  flac[22:26] = b"\xff" * 4
  out["absurd_length.flac"] = bytes(flac)
  return out


def test_damage_is_one_clear_error(tmp_path):
  cases = damaged(tmp_path)
  assert len(cases) >= 20
  for name, data in cases.items():
    path = tmp_path / name
    path.write_bytes(data)
    for source in (path, io.BytesIO(data)):
      with pytest.raises(UserError) as caught:
        files.read(source)
      message = str(caught.value)
      assert "\n" not in message and len(message) < 300
      assert (str(path) if source is path else "audio data") in message
    reason = str(caught.value)
    if name.startswith(("cut", "almost", "absurd_length")):
      assert "truncated" in reason, (name, reason)
    for word in ("NaN", "empty", "no samples"):
      if name == {"NaN": "nan.wav", "empty": "empty.wav"}.get(word, "none.wav"):
        assert word in reason


def test_missing_folder_raw_and_bad_arguments(wav, tmp_path):
  (tmp_path / "x.raw").write_bytes(b"\0" * 100)
  for path, word in [
    (tmp_path / "nothing.wav", "no such file"),
    (tmp_path, "folder"),
    (tmp_path / "x.raw", "known format"),
  ]:
    with pytest.raises(UserError, match=word):
      files.read(path)
  for bad in (
    *({"start": 1.5}, {"start": -1}, {"start": np.nan}, {"start": np.inf}),
    *({"seconds": 0}, {"seconds": np.nan}, {"seconds": np.inf}),
    *({"rate": 0}, {"rate": np.nan}, {"rate": np.inf}),
  ):
    with pytest.raises(UserError):
      files.read(wav, **bad)
  for path, x in [
    (tmp_path / "x.m4a", tone()),
    (tmp_path / "x", tone()),
    (tmp_path / "no" / "x.wav", tone()),
    (tmp_path / "x.wav", np.zeros((0, 1))),
    (tmp_path / "x.wav", np.zeros((10, 0))),
    (tmp_path / "x.wav", np.full(10, np.nan)),
    (tmp_path / "x.mp3", np.zeros((10, 5))),
  ]:
    with pytest.raises(UserError):
      files.write(path, x, rate=RATE)
  with pytest.raises(UserError):
    files.write(tmp_path / "x.flac", tone(), rate=RATE, subtype="FLOAT")


@pytest.mark.parametrize("length", [0, 2**31 - 1, 2**32 - 1])
def test_streamed_wave_of_unknown_length_is_whole(wav, length):
  """Such length fields mean "until the end", not "empty" or "truncated"."""
  data = bytearray(wav.read_bytes())
  at = data.index(b"data") + 4
  data[4:8] = data[at : at + 4] = length.to_bytes(4, "little")
  assert len(files.read(io.BytesIO(bytes(data)))[0]) == RATE
  with pytest.raises(UserError, match="holds no samples"):
    files.read(io.BytesIO(bytes(data[: at + 4])))


def mp3(path, *, variable, tagged, id3, seconds=9, rate=44100):
  """Writes an MP3, with or without Xing's tag; returns what it holds."""
  rng = np.random.default_rng(0)
  # Silence first: of few bits a second, it makes the rest look longer or not.
  x = 0.3 * rng.standard_normal((seconds * rate, 2))
  x[: len(x) // 3] = 0
  x[-len(x) // 3 :, :] *= 0.01
  mode = "VARIABLE" if variable else "CONSTANT"
  with soundfile.SoundFile(
    path, "w", rate, 2, "MPEG_LAYER_III", format="MP3", bitrate_mode=mode
  ) as sound:
    for block in np.split(x, seconds * 10):
      sound.write(block)
  whole, _ = soundfile.read(path, dtype="float32")
  data = path.read_bytes()
  if not tagged:
    # The first frame holds nothing but the tag; the second looks like it.
    data = data[data.index(b"\xff\xfb", 4) :]
  if id3:
    data = b"ID3\x04\0\0" + bytes([0, 0, 78, 16]) + bytes(10000) + data
  path.write_bytes(data)
  return whole


def test_an_mp3_that_is_only_its_tag(tmp_path):
  """An IndexError where the first frame of audio should be."""
  path = tmp_path / "x.mp3"
  mp3(path, variable=False, tagged=True, id3=False, seconds=1)
  data = path.read_bytes()
  path.write_bytes(data[: data.index(b"\xff\xfb", 4)])
  for look in (files.read, files.info):
    with pytest.raises(UserError):
      look(path)


@pytest.mark.parametrize("variable", [False, True])
@pytest.mark.parametrize("tagged", [False, True])
@pytest.mark.parametrize("id3", [False, True])
def test_an_mp3_is_read_to_its_end(tmp_path, variable, tagged, id3):
  """Without Xing's tag libsndfile guesses the length, and stops there."""
  path = tmp_path / "x.mp3"
  whole = mp3(path, variable=variable, tagged=tagged, id3=id3)
  x, rate = files.read(path)
  # What the tag says of the coder's delay and padding is not known.
  delay = 0 if tagged else 576
  assert rate == 44100 and 0 <= len(x) - len(whole) - delay < 2 * 1152
  assert (len(x) == len(whole)) == tagged
  same = x[delay : delay + len(whole)]
  np.testing.assert_allclose(same[5000:], whole[5000:], atol=1e-4)
  assert files.info(path).samples == len(x)
  part, _ = files.read(path, start=8.5, seconds=0.3)
  np.testing.assert_allclose(part, x[374850:388080], atol=1e-4)
  np.testing.assert_array_equal(files.read(io.BytesIO(path.read_bytes()))[0], x)
  pieces = list(file_pieces.pieces(path, rate=44100, channels=2, seconds=2.0))
  assert sum(map(len, pieces)) == len(x)
  # And one that is cut is refused, by both.
  data = path.read_bytes()
  path.write_bytes(data[: len(data) * 2 // 3 + 5])
  with pytest.raises(UserError, match="truncated"):
    files.read(path)
  with pytest.raises(file_pieces.Damaged, match="truncated"):
    list(file_pieces.pieces(path, rate=44100, channels=2, seconds=2.0))


@pytest.mark.parametrize("variable", [False, True])
@pytest.mark.parametrize("lost, whole", [(1, True), (90, True), (5000, False)])
def test_an_mp3_may_lack_a_part_of_its_last_frame(
  tmp_path, variable, lost, whole
):
  """Recorders and old cutters write such files, and players play them."""
  path = tmp_path / "x.mp3"
  samples = len(mp3(path, variable=variable, tagged=True, id3=False))
  path.write_bytes(path.read_bytes()[:-lost])
  if not whole:
    with pytest.raises(UserError, match="truncated"):
      files.read(path)
    return
  x, _ = files.read(path)
  assert abs(len(x) - samples) <= 2 * 1152
  pieces = file_pieces.pieces(path, rate=44100, channels=2, seconds=2.0)
  assert sum(map(len, pieces)) == len(x) == files.info(path).samples


def test_an_mp3_out_of_the_middle_of_another_is_whole(tmp_path):
  """Its first frames need bits of frames that are not there."""
  path = tmp_path / "x.mp3"
  mp3(path, variable=True, tagged=True, id3=False)
  data = path.read_bytes()
  half = mp3_frames.layout(io.BytesIO(data), len(data)).begin + len(data) // 2
  path.write_bytes(data[half:])
  frames = mp3_frames.layout(io.BytesIO(data[half:]), len(data) - half).frames
  x, _ = files.read(path)
  assert 0 <= frames * 1152 - len(x) <= 4 * 1152 + 529
  pieces = file_pieces.pieces(path, rate=44100, channels=2, seconds=2.0)
  assert sum(map(len, pieces)) == len(x)


@pytest.mark.parametrize(
  "name, channels, rate",
  [("x.flac", 12, RATE), ("x.mp3", 5, RATE), ("x.opus", 300, RATE)],
)
def test_a_write_that_fails_leaves_the_file_there_was(
  tmp_path, name, channels, rate
):
  path = tmp_path / name
  files.write(path, tone(0.1), rate=RATE)
  before = path.read_bytes()
  with pytest.raises(UserError, match="cannot be written"):
    files.write(path, np.zeros((1000, channels)), rate=rate)
  assert path.read_bytes() == before
  assert [p.name for p in tmp_path.iterdir()] == [name]


def test_an_interrupted_write_leaves_the_file_there_was(wav, monkeypatch):
  before = wav.read_bytes()

  def interrupted(*_):
    raise KeyboardInterrupt

  monkeypatch.setattr(soundfile.SoundFile, "write", interrupted)
  with pytest.raises(KeyboardInterrupt):
    files.write(wav, tone(), rate=RATE)
  assert wav.read_bytes() == before and len(list(wav.parent.iterdir())) == 1


@pytest.mark.parametrize(
  "name, rate, written",
  [("x.wav", 37800, 37800), ("x.opus", 37800, 48000), ("x.mp3", 96000, 48000)]
  + [("x.ogg", 37800, 37800), ("x.ogg", 500_000, 192_000)],
)
def test_write_returns_the_rate_written(tmp_path, name, rate, written):
  """Libvorbis ends the process at 500 kHz."""
  got = files.write(tmp_path / name, tone(0.2, rate=rate), rate=rate)
  assert got == written == files.info(tmp_path / name).rate


def test_a_wave_of_zeros_is_not_searched_to_its_end():
  class Counting(io.BytesIO):
    reads = 0

    def read(self, *args):
      self.reads += 1
      return super().read(*args)

  stream = Counting(b"RIFF\xff\xff\xff\x7fWAVE" + bytes(1 << 20))
  with pytest.raises(UserError, match="truncated"):
    containers.contents(stream, "zeros")
  assert stream.reads < 2000


def test_linked_folders_are_searched_once(tmp_path):
  songs = tmp_path / "in"
  for name in ("in/b/x.wav", "other/y.wav", "other/in/z.wav"):
    (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / name).write_bytes(b"")
  (songs / "a").symlink_to(songs / "b")  # seen already
  (songs / "c").symlink_to(tmp_path / "other")
  (songs / "b" / "loop").symlink_to(songs)
  want = [songs / "b/x.wav", songs / "c/in/z.wav", songs / "c/y.wav"]
  assert files.find(songs) == want
