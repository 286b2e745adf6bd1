"""Containers: must catch every way in which half a file passes for all of it.

Chains of streams of which the first is read alone, lengths that overflowed or
are unknown, containers inside others, and files whose end is missing: refused
or read whole, and alike by every reader.
"""

import io
import os
import struct
from pathlib import Path

import numpy as np
import pytest
import soundfile

from mmdcodec.audio import block_io, files, flac_frames, mp3_frames
from mmdcodec.data import file_pieces
from mmdcodec.errors import UserError

RATE = 24000


def tone(seconds=1.0, rate=RATE, channels=1, hz=300.0):
  t = np.arange(int(seconds * rate)) / rate
  x = 0.3 * np.sin(2 * np.pi * hz * t)
  x += np.random.default_rng(0).normal(0, 0.01, len(x))
  return np.repeat(x[:, None], channels, 1).astype(np.float32)


def coded(x, container, coding=None, rate=RATE, endian=None):
  stream = io.BytesIO()
  soundfile.write(stream, x, rate, coding, endian, container)
  return stream.getvalue()


def lengths(path: Path) -> set:
  """What every reader says of a file: its samples, or why it is refused."""

  def blocks():
    info = files.info(path)
    with block_io.read(path, rate=info.rate, channels=1) as (_, parts):
      return sum(map(len, parts))

  def pieces():
    rate = files.info(path).rate
    parts = file_pieces.pieces(path, rate=rate, channels=1, seconds=1)
    return sum(map(len, parts))

  found = set()
  for look in (
    lambda: files.info(path).samples,
    lambda: len(files.read(path)[0]),
    lambda: len(files.read(io.BytesIO(path.read_bytes()))[0]),
    blocks,
    pieces,
  ):
    try:
      found.add(look())
    except (UserError, file_pieces.Damaged) as error:
      words = str(error).removeprefix(f"{path}: ")
      found.add(words.removeprefix("audio data: ").rstrip("."))
  return found


def pages(data: bytes) -> list[bytes]:
  """Cuts an Ogg file into its pages."""
  found = []
  while data:
    size = 27 + data[26] + sum(data[27 : 27 + data[26]])
    found.append(data[:size])
    data = data[size:]
  return found


@pytest.mark.parametrize("coding", ["VORBIS", "OPUS"])
def test_all_links_of_a_chain_are_read(tmp_path, coding):
  """A recording of radio: all that followed its first song is lost."""
  x = [tone(2.0, hz=hz) for hz in (300, 900, 500)]
  links = [coded(y, "OGG", coding) for y in x]
  path = tmp_path / "a.ogg"
  path.write_bytes(b"".join(links))
  assert lengths(path) == {3 * 2 * RATE}
  y, _ = files.read(path)
  wanted = [files.read(io.BytesIO(link))[0] for link in links]
  np.testing.assert_array_equal(y, np.concatenate(wanted))
  # A part that spans two links, backwards from the end of the last.
  part, _ = files.read(path, start=3.5, seconds=1.0)
  np.testing.assert_allclose(part, y[int(3.5 * RATE) :][:RATE], atol=0.05)
  # A tag between links and after them is passed over.
  path.write_bytes(b"junk".join([*links, b""]))
  assert lengths(path) == {3 * 2 * RATE}


@pytest.mark.parametrize(
  "other", [{"rate": 2 * RATE}, {"channels": 2}, {"rate": 8000}]
)
def test_links_that_differ_are_refused(tmp_path, other):
  """The second song at half its speed."""
  path = tmp_path / "a.ogg"
  rate = other.get("rate", RATE)
  second = coded(tone(1.0, **other), "OGG", "VORBIS", rate=rate)
  path.write_bytes(coded(tone(), "OGG", "VORBIS") + second)
  (found,) = lengths(path)
  assert "one after the other" in found and f"{rate} Hz" in found


def test_an_ogg_file_without_its_end(tmp_path):
  """A file cut between two pages ends well and is shorter."""
  path = tmp_path / "a.ogg"
  parts = pages(coded(tone(4.0), "OGG", "VORBIS"))
  assert len(parts) > 6
  for data, words in (
    (b"".join(parts[:-2]), "no end mark"),
    (b"".join(parts)[:-50], "truncated"),
    (b"".join(parts[:-1]) + parts[-1][:20], "truncated"),
    (b"".join(parts) + b"".join(parts[:4]), "no end mark"),
    (b"".join(parts[:5])[:-900] + b"".join(parts), "truncated"),
    (b"".join(parts[:4] + parts[5:]), "truncated"),
    (b"".join([*parts[:2], parts[2][:-1] + b"?", *parts[3:]]), "damaged"),
    (b"".join([*parts[:-1], parts[-1][:-1] + b"?"]), "damaged"),
    (b"".join(parts[1:]), "damaged"),
  ):
    path.write_bytes(data)
    said = [w for w in lengths(path) if isinstance(w, str)]
    assert said and all(words in w for w in said), (words, said)


def unknown_flac(data: bytes, total: int = 0) -> bytes:
  """A FLAC with another number of samples in its header."""
  head = bytearray(data[:42])
  head[21] = head[21] & 0xF0
  head[22:26] = total.to_bytes(4, "big")
  head[26:42] = bytes(16)  # the sum of the samples, unknown too
  return bytes(head) + data[42:]


@pytest.mark.parametrize("samples", [1, 4096, 4097, 60_000])
@pytest.mark.parametrize("channels", [1, 2])
def test_a_flac_of_unknown_length(tmp_path, samples, channels):
  """Programs that write to pipes leave the length open."""
  path = tmp_path / "a.flac"
  x = tone(3.0, channels=channels)[:samples]
  data = coded(x, "FLAC")
  path.write_bytes(unknown_flac(data))
  assert lengths(path) == {samples}
  # With a tag before it, and others after it.
  start = b"ID3\4\0\0\0\0\0\x0a" + bytes(10)
  id3, items = b"TAG" + bytes(125), b"\x04\0\0\0\0\0\0\0Year\x002026"
  for flags in (0, 1 << 31):
    numbers = (2000, len(items) + 32, 1, flags)
    foot = b"APETAGEX" + struct.pack("<4I8x", *numbers)
    ape = (foot if flags else b"") + items + foot
    for end in (id3, ape, ape + id3):
      path.write_bytes(start + unknown_flac(data) + end)
      assert lengths(path) == {samples}
  want, _ = soundfile.read(io.BytesIO(data), dtype="float32", always_2d=True)
  np.testing.assert_array_equal(files.read(path)[0], want)


def test_a_flac_whose_header_and_frames_differ(tmp_path):
  """Frames that are missing, or that no reader would reach."""
  path = tmp_path / "a.flac"
  data = coded(tone(2.0), "FLAC")
  for damaged, words in (
    (unknown_flac(data)[:-3], "truncated"),
    (unknown_flac(data)[: len(data) // 2], "truncated"),
    (unknown_flac(data, 3 * RATE), "truncated"),
    (unknown_flac(data, RATE), "its header says 24000"),
    (coded(tone(), "FLAC") + data, "several files"),
    (data[:60], "truncated"),
  ):
    path.write_bytes(damaged)
    (found,) = lengths(path)
    assert words in found, (words, found)


def test_the_last_frame_of_a_flac_in_blocks_of_other_sizes():
  """Positions that count blocks, not samples, and blocks of odd sizes."""
  for rate, samples in ((8000, 700), (44100, 192), (96000, 20_000)):
    data = coded(tone(1.0)[:samples], "FLAC", "PCM_24", rate=rate)
    found = flac_frames.layout(io.BytesIO(data), len(data))
    assert found == (samples, samples, False)


def riff(fmt: bytes, data: bytes, *, length=None, form=b"RIFF") -> bytes:
  """A WAV with a given length of its data."""
  length = len(data) if length is None else length
  body = b"fmt " + struct.pack("<I", len(fmt)) + fmt
  body += b"data" + struct.pack("<I", length) + data
  return form + struct.pack("<I", 4 + len(body)) + b"WAVE" + body


def frames_of_an_mp3(rate, channels):
  """MP3 frames as in a WAV, without a tag; and their samples."""
  data = coded(tone(1.5, rate, channels), "MP3", rate=rate)
  found = mp3_frames.layout(io.BytesIO(data), len(data))
  return data[found.begin :], found.frames * found.samples


@pytest.mark.parametrize("rate, channels", [(44100, 2), (48000, 1), (22050, 1)])
@pytest.mark.parametrize("extensible", [False, True])
@pytest.mark.parametrize("name", ["a.wav", "a.mp3"])
def test_an_mp3_in_a_wave(tmp_path, rate, channels, extensible, name):
  """Decoded for as long as its bit rate suggests, or called truncated."""
  data, samples = frames_of_an_mp3(rate, channels)
  tag = 0xFFFE if extensible else 0x55
  fmt = struct.pack("<HHIIHHH", tag, channels, rate, 8000, 1, 0, 12)
  fmt += struct.pack("<HIH", 0, 0, 0x55) + bytes(14)
  path = tmp_path / name
  for length in (None, 0xFFFFFFFF):
    path.write_bytes(riff(fmt, data, length=length))
    (found,) = lengths(path)
    # The frames that the first ones refer to are missing.
    assert 0 <= samples - found <= 4 * 1152
  path.write_bytes(riff(fmt, data)[:-1000])
  assert lengths(path) == {"is truncated; get a whole copy"}


@pytest.mark.parametrize(
  "container, coding",
  [("WAV", c) for c in ("GSM610", "G721_32", "IMA_ADPCM", "MS_ADPCM", "ULAW")]
  + [("AIFF", "GSM610"), ("AIFF", "IMA_ADPCM"), ("W64", "GSM610")]
  + [("AU", "G723_24"), ("AU", "PCM_16"), ("CAF", "ALAC_16"), ("CAF", "FLOAT")]
  + [("RF64", "PCM_16"), ("W64", "PCM_24"), ("WAVEX", "PCM_16")]
  + [
    ("AIFF", "PCM_16"),
    ("NIST", "PCM_16"),
    ("NIST", "ULAW"),
    ("MP3", None),
    ("OGG", "OPUS"),
    ("FLAC", None),
  ],
)
def test_every_container_is_whole_or_refused(tmp_path, container, coding):
  """Half a file that is read as a shorter one; readers that disagree."""
  x = tone(4.0, rate=8000)
  data = coded(x, container, coding, rate=8000)
  if container == "MP3":  # may lack four frames; a frame that is cut shows
    x, data = tone(4.0, 48000), coded(tone(4.0, 48000), "MP3", rate=48000)
  path = tmp_path / "a.wav"
  path.write_bytes(data)
  (found,) = lengths(path)
  assert len(x) <= found < len(x) + 2000
  whole, _ = files.read(path)
  part, rate = files.read(path, start=1.5, seconds=0.5)
  np.testing.assert_allclose(
    part, whole[int(1.5 * rate) :][: rate // 2], atol=0.02
  )
  for end in (len(data) // 2, len(data) * 9 // 10):
    path.write_bytes(data[:end])
    said = lengths(path)
    wrong = {w for w in said if not isinstance(w, str) or "truncated" not in w}
    # Nothing but decoding finds a FLAC's end missing.
    assert not wrong or (container == "FLAC" and wrong == {len(x)}), said


@pytest.mark.parametrize("endian", ["LITTLE", "BIG"])
def test_a_wave_in_either_order_of_bytes(tmp_path, endian):
  """RIFX, half of which was read as all of it."""
  data = coded(tone(), "WAV", "PCM_16", endian=endian)
  assert data[:4] == {"LITTLE": b"RIFF", "BIG": b"RIFX"}[endian]
  path = tmp_path / "a.wav"
  path.write_bytes(data)
  assert lengths(path) == {RATE}
  path.write_bytes(data[: len(data) // 2])
  assert lengths(path) == {"is truncated; get a whole copy"}


PCM = struct.pack("<HHIIHH", 1, 1, 8000, 16000, 2, 16)
LARGE = (1 << 32) + 100_000


@pytest.mark.parametrize(
  "length", [100_000, 0, 0x7FFFF000, 0x80000000, 0xFFFFFFFF]
)
def test_a_wave_past_4_gib(tmp_path, length):
  """A length that lost its upper bits: 5 s of 7 hours are read."""
  path = tmp_path / "a.wav"
  head = riff(PCM, b"", length=length)
  with path.open("wb") as file:
    file.write(head)
    file.seek(len(head) + LARGE - 2)
    file.write(struct.pack("<h", 8192))  # the rest is a hole
  assert os.path.getsize(path) == len(head) + LARGE
  assert files.info(path) == (LARGE // 2, 8000, 1)
  x, _ = files.read(path, start=(LARGE // 2 - 8) / 8000)
  np.testing.assert_array_equal(x[:, 0], [0, 0, 0, 0, 0, 0, 0, 0.25])


def test_lengths_that_a_wave_does_not_know(tmp_path):
  """Unknown lengths, 64-bit ones, and what follows the sound."""
  path = tmp_path / "a.wav"
  data = np.arange(1000, dtype="<i2").tobytes()
  notes = b"LIST" + struct.pack("<I", 4) + b"INFO"
  ds64 = struct.pack("<QQQI", 0, len(data), 1000, 0)
  chunk = b"ds64" + struct.pack("<I", len(ds64)) + ds64
  for whole, samples in (
    (riff(PCM, data) + notes, 1000),
    (riff(PCM, data, length=0), 1000),
    (riff(PCM, data, length=0x7FFFF000), 1000),
    (riff(PCM, data, length=0xFFFFFFFF), 1000),
    (riff(PCM, data, length=1 << 20), "is truncated; get a whole copy"),
    (riff(PCM, data, length=3 << 30), "is truncated; get a whole copy"),
    (
      coded(tone(), "CAF")[:12] + b"\x7f" * 400,
      "is truncated; get a whole copy",
    ),
  ):
    path.write_bytes(whole)
    assert lengths(path) == {samples}
  for form in (b"RF64", b"BW64"):
    large = riff(PCM, data, length=0xFFFFFFFF, form=form)
    large = large[:12] + chunk + large[12:]
    path.write_bytes(large + notes)
    assert lengths(path) == {1000}, form
    path.write_bytes(large[:-500])
    assert lengths(path) == {"is truncated; get a whole copy"}


@pytest.mark.parametrize("coding", ["PCM_24", "GSM610", "MS_ADPCM", "G721_32"])
@pytest.mark.parametrize("length", [0, 0x7FFFF000, 0xFFFFFFFF])
def test_a_wave_of_unknown_length_in_any_coding(tmp_path, coding, length):
  """Telephones write GSM and ADPCM to pipes."""
  whole = coded(tone(), "WAV", coding)
  path = tmp_path / "a.wav"
  path.write_bytes(whole)
  expected, _ = files.read(path)
  at = whole.index(b"data") + 4
  path.write_bytes(whole[:at] + struct.pack("<I", length) + whole[at + 4 :])
  np.testing.assert_array_equal(files.read(path)[0], expected)


@pytest.mark.parametrize("coding", ["PCM_16", "ALAC_16"])
def test_a_caf_of_unknown_length(tmp_path, coding):
  whole = coded(tone(), "CAF", coding)
  path = tmp_path / "a.caf"
  path.write_bytes(whole)
  expected, _ = files.read(path)
  at = whole.index(b"data") + 4
  path.write_bytes(whole[:at] + b"\xff" * 8 + whole[at + 8 :])
  np.testing.assert_array_equal(files.read(path)[0], expected)


def test_chunks_after_the_sound_of_a_w64_are_not_played(tmp_path):
  whole = coded(tone(), "W64", "PCM_16")
  path = tmp_path / "a.w64"
  path.write_bytes(whole)
  expected = lengths(path)
  path.write_bytes(whole + b"list" + bytes(12) + struct.pack("<Q", 40 + 24))
  with path.open("ab") as file:
    file.write(bytes(40))
  assert lengths(path) == expected


@pytest.mark.parametrize("parts", [(1, 1), (1, 0.5), (0.5, 1)])
@pytest.mark.parametrize(
  "container", ["WAV", "RF64", "AIFF", "W64", "CAF", "AU", "NIST", "FLAC"]
)
def test_files_joined_to_one(tmp_path, container, parts):
  """`cat a.wav b.wav`: the second is lost."""
  path = tmp_path / "a.wav"
  path.write_bytes(
    b"".join(coded(tone(part), container, "PCM_16") for part in parts)
  )
  (found,) = lengths(path)
  assert "several files" in found


@pytest.mark.parametrize(
  "container, coding",
  [("W64", "PCM_16"), ("CAF", "ALAC_16"), ("WAV", "PCM_U8")],
)
@pytest.mark.parametrize("missing", range(1, 8))
def test_files_joined_at_any_byte(tmp_path, container, coding, missing):
  """Catches a second file that begins between the places for chunks."""
  path = tmp_path / "a.wav"
  path.write_bytes(2 * coded(tone()[missing:], container, coding))
  (found,) = lengths(path)
  assert "several files" in found


@pytest.mark.parametrize(
  "data, words",
  [
    (b"<!DOCTYPE html><html><body>Not found</body></html>" * 9, "web page"),
    (b"\xef\xbb\xbf\n <html></html>", "web page"),
    (b'{"error": "not found"}', "JSON"),
    (b"\0\0\0\x20ftypM4A " + bytes(3000), "M4A"),
    (b"PK\3\4" + bytes(100), "ZIP"),
    (b"\x1aE\xdf\xa3" + bytes(100), "WebM"),
    (b"NIST_1A\n   1024\n" + bytes(3000), "damaged"),
    (b"NIST_1A\n", "damaged"),
    (
      b"NIST_1A\n   1024\nsample_coding -s26 pcm,embedded-shorten-v2.00\n",
      "shorten",
    ),
    (b"FORM\0\0\0\x608SVX" + bytes(300), "known format"),
    (b"ID3\4\0\0\0\0\0\x0a" + bytes(10), "known format"),
  ],
)
@pytest.mark.parametrize("name", ["a.mp3", "a.raw"])
def test_what_is_not_audio_is_named(tmp_path, data, words, name):
  """A web page that "does not exist or is not a regular file"."""
  path = tmp_path / name
  path.write_bytes(data)
  (found,) = lengths(path)
  assert words in found and "\n" not in found


def test_a_stream_that_does_not_begin_at_its_beginning():
  """Offsets that are relative to the wrong place."""
  for container, coding in (("WAV", None), ("OGG", "OPUS"), ("MP3", None)):
    data = coded(tone(), container, coding)
    stream = io.BytesIO(b"x" * 33 + data)
    stream.seek(33)
    x, _ = files.read(stream)
    np.testing.assert_array_equal(x, files.read(io.BytesIO(data))[0])


@pytest.mark.parametrize(
  "head, size, samples",
  [("fffda400", 576, 1152), ("ffff6400", 192, 384), ("fff54400", 192, 1152)],
)
def test_mpeg_audio_of_other_layers(tmp_path, head, size, samples):
  """Files of layer 2 are called .mp3 as well."""
  frame = bytes.fromhex(head) + bytes(size - 4)
  path = tmp_path / "a.mp3"
  path.write_bytes(60 * frame)
  assert lengths(path) == {60 * samples}
  path.write_bytes(60 * frame[:-1])
  assert all(isinstance(words, str) for words in lengths(path))
  path.write_bytes((60 * frame)[:-9])
  assert lengths(path) == {"is truncated; get a whole copy"}
  # Libsndfile would stop early or run on: frames of two sizes.
  louder = bytearray(frame)
  louder[2] += 0x20
  both = 40 * frame + 40 * (bytes(louder) + bytes(2 * size))
  path.write_bytes(both)
  assert all(isinstance(words, str) for words in lengths(path))
