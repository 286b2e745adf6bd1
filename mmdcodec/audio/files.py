"""Audio files in, float32 arrays out, and back.

Formats: wav, flac, ogg (Vorbis), opus, mp3 and aiff through libsndfile;
resampling by soxr. Audio is `[samples, channels]`, float32, full scale +-1.

Libsndfile reads a file whose end is missing as if it were merely shorter.
Training on the ruins of a broken download is worse than an error, so `read`
compares what the container promises with what is there. `write` puts a file
in place when it is complete; a failure leaves what was there before.
"""

import contextlib
import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
import soundfile
import soxr

from mmdcodec.audio import truncation
from mmdcodec.errors import UserError
from mmdcodec.store import atomic

# suffix -> (container, coding) by libsndfile's names
_FORMATS = {
  ".wav": ("WAV", "PCM_16"),
  ".flac": ("FLAC", "PCM_16"),
  ".ogg": ("OGG", "VORBIS"),
  ".oga": ("OGG", "VORBIS"),
  ".opus": ("OGG", "OPUS"),
  ".mp3": ("MP3", "MPEG_LAYER_III"),
  ".aif": ("AIFF", "PCM_16"),
  ".aiff": ("AIFF", "PCM_16"),
}
SUFFIXES = tuple(_FORMATS)

# Audio all the same, but nothing here reads it.
UNSUPPORTED = (
  *(".m4a", ".m4b", ".mp4", ".aac", ".alac", ".wma", ".wv", ".ape", ".caf"),
  *(".webm", ".mka", ".mp2", ".mpc", ".tta", ".tak", ".ac3", ".dts", ".amr"),
  *(".dsf", ".dff", ".ra", ".spx", ".au", ".snd", ".w64", ".rf64", ".aifc"),
)

# What the coders accept; anything else is resampled to the next one above.
_CODER_RATES = {
  "OPUS": (8000, 12000, 16000, 24000, 48000),
  "MPEG_LAYER_III": (
    *(8000, 11025, 12000, 16000, 22050),
    *(24000, 32000, 44100, 48000),
  ),
}

# Libvorbis takes any rate up to here; far above it crashes.
_VORBIS_MAX_RATE = 192_000

MAX_RATE = 768_000
MAX_CHANNELS = 64

# Frames at a time: a header may promise 2^36 frames that are not there, and
# libsndfile's Vorbis and Opus writers overflow the stack on long buffers.
_READ_BLOCK = 1 << 20
_WRITE_BLOCK = 1 << 14

# MP3 frames borrow bits from frames before them, and libsndfile seeks without
# those: it returns silence or noise for the first frames after a seek.
_MP3_WARM_UP = 12 * 1152

# Source samples (at the lower rate) read on each side of a cut before it is
# resampled: soxr HQ reaches less far, so a cut equals the same cut of the
# whole file.
_RESAMPLE_MARGIN = 256


class Info(NamedTuple):
  """What a file's header says."""

  samples: int
  rate: int
  channels: int

  @property
  def seconds(self) -> float:
    """Length in seconds."""
    return self.samples / self.rate


def info(path: str | os.PathLike | BinaryIO) -> Info:
  """Number of samples, rate and channels of a file, without decoding it.

  Args:
    path: a path or a seekable binary file object.

  Raises:
    UserError: the file is missing, empty, truncated or not audio.
  """
  with opened(path) as sound:
    return Info(sound.frames, sound.samplerate, sound.channels)


def read(
  path: str | os.PathLike | BinaryIO,
  *,
  rate: int | None = None,
  channels: int | None = None,
  start: float = 0.0,
  seconds: float | None = None,
) -> tuple[np.ndarray, int]:
  """Reads audio, or a part of it, at the rate and channels asked for.

  A part is cut on the grid of the output: sample i of the result is sample
  `round(start * rate) + i` of the whole file at that rate, and there are
  `round(seconds * rate)` of them unless the file ends before. Only the part
  is decoded.

  Args:
    path: a path or a seekable binary file object.
    rate: Hz of the result; None keeps the file's.
    channels: channels of the result; None keeps the file's. See `mix`.
    start: seconds to skip.
    seconds: length of the part; None reads to the end.

  Returns:
    `(x, rate)`: float32 `[samples, channels]`, and the rate of x in Hz.

  Raises:
    UserError: the file is missing, empty, truncated, not audio, has no
      channels or no samples, holds NaN or infinite values, or ends before
      `start`.
  """
  name = name_of(path)
  if start < 0 or (seconds is not None and seconds <= 0):
    raise UserError(
      f"{name}: start must be at least 0 and seconds more than 0, not"
      f" start={start}, seconds={seconds}."
    )
  with opened(path) as sound:
    source, total = sound.samplerate, sound.frames
    rate = source if rate is None else _checked_rate(rate)
    first = _round(start * rate)
    last = resampled_length(total, rate=source, to=rate)
    if first >= last:
      raise UserError(
        f"{name}: start={start} s lies past the end of the file"
        f" ({total / source:.3f} s); choose an earlier start."
      )
    if seconds is not None:
      last = min(last, first + max(1, _round(seconds * rate)))
    # The cut in the file, begun where the grids of both rates meet.
    common = math.gcd(source, rate)
    up, down = rate // common, source // common
    margin = 0 if up == down else _RESAMPLE_MARGIN * max(1, down // up)
    begin = max(0, (first * down // up - margin) // down * down)
    end = min(total, -(-last * down // up) + margin)
    x = decoded(sound, begin, end - begin, name)
  if not np.isfinite(x).all():
    raise UserError(
      f"{name}: holds NaN or infinite samples; export it again as finite audio."
    )
  if channels is not None:
    x = mix(x, channels)
  if up != down:
    offset = first - begin // down * up
    x = soxr.resample(x, source, rate)[offset:]
    x = fit(x, last - first)
  return x, rate


def write(
  path: str | os.PathLike,
  x: np.ndarray,
  *,
  rate: int,
  subtype: str | None = None,
) -> int:
  """Writes audio in the format that the path's suffix names.

  Integer formats clip at full scale (they never wrap). Opus and MP3 know few
  rates; other ones are resampled to the next rate they know, and Vorbis
  beyond 192 kHz to that.

  Args:
    path: where to; its folder must exist.
    x: `[samples]` or `[samples, channels]`, full scale +-1.
    rate: Hz.
    subtype: libsndfile's name of the coding, such as "PCM_24" or "FLOAT";
      None is 16 bits for wav, flac and aiff, and the only choice for others.

  Returns:
    The rate of the file in Hz.

  Raises:
    UserError: unknown suffix, folder missing, a rate, number of channels or
      subtype the format cannot hold, no samples, NaN or infinite samples.
  """
  path = Path(path)
  container, coding, to = written_as(path, rate=rate, subtype=subtype)
  x = np.asarray(x, np.float32)
  x = x[:, None] if x.ndim == 1 else x
  if x.ndim != 2 or 0 in x.shape:
    raise UserError(
      f"{path}: expected audio [samples, channels] with at least one of each,"
      f" not shape {x.shape}."
    )
  if not np.isfinite(x).all():
    raise UserError(f"{path}: the audio to write holds NaN or infinity.")
  x, rate = resample(x, rate=rate, to=to), to
  if coding not in ("FLOAT", "DOUBLE"):
    x = np.clip(x, -1.0, 1.0)
  try:
    with atomic.file(path) as partial:
      with soundfile.SoundFile(
        os.fsencode(partial), "w", rate, x.shape[1], coding, format=container
      ) as sound:
        for i in range(0, len(x), _WRITE_BLOCK):
          sound.write(x[i : i + _WRITE_BLOCK])
  except (soundfile.LibsndfileError, ValueError, OSError) as error:
    raise UserError(
      f"{path}: cannot be written as {coding} at {rate} Hz with {x.shape[1]}"
      f" channels ({_why(error)})."
    ) from error
  return rate


def written_as(
  path: str | os.PathLike, *, rate: int, subtype: str | None = None
) -> tuple[str, str, int]:
  """How audio of a rate is written to a path: see `write`.

  Returns:
    libsndfile's names of container and coding, and the rate of the file in Hz.

  Raises:
    UserError: unknown suffix, folder missing, or no rate.
  """
  path = Path(path)
  suffix = path.suffix.lower()
  if suffix not in _FORMATS:
    raise UserError(
      f"{path}: cannot write {suffix or 'a file without suffix'}; use one of"
      f" {' '.join(SUFFIXES)}."
    )
  if not path.parent.is_dir():
    raise UserError(f"{path}: the folder {path.parent} does not exist.")
  container, coding = _FORMATS[suffix]
  coding = subtype or coding
  to = rate = _checked_rate(rate)
  if coding == "VORBIS":
    to = min(rate, _VORBIS_MAX_RATE)
  elif rates := _CODER_RATES.get(coding):
    to = min((r for r in rates if r >= rate), default=rates[-1])
  return container, coding, to


def resampled_length(samples: int, *, rate: int, to: int) -> int:
  """Samples of a clip after resampling: nearest integer, at least 1."""
  return max(1, (2 * samples * to + rate) // (2 * rate)) if samples else 0


def resample(x: np.ndarray, *, rate: int, to: int) -> np.ndarray:
  """Band-limited resampling (soxr, high quality).

  Args:
    x: float `[samples, channels]`.
    rate: Hz of x.
    to: Hz wanted.

  Returns:
    float32 `[resampled_length(samples), channels]`.

  Raises:
    UserError: a rate is not a whole number from 1 to 768000 Hz.
  """
  rate, to = _checked_rate(rate), _checked_rate(to)
  x = np.asarray(x, np.float32)
  if rate == to or not len(x):
    return x
  length = resampled_length(len(x), rate=rate, to=to)
  return fit(soxr.resample(x, rate, to), length)


def mix(x: np.ndarray, channels: int) -> np.ndarray:
  """Mixes down or up to a number of channels.

  To one channel: the mean. From one channel: copies. Between other numbers:
  copies of the mean, because the layout of the source is not known.

  Args:
    x: `[samples, channels]`.
    channels: the number wanted.

  Returns:
    `[samples, channels]`.

  Raises:
    UserError: channels is less than 1.
  """
  if channels < 1:
    raise UserError(f"channels must be at least 1, not {channels}.")
  if x.shape[1] == channels:
    return x
  if x.shape[1] > 1:
    x = x.mean(axis=1, keepdims=True, dtype=np.float32)
  return np.repeat(x, channels, axis=1)


def find(folder: str | os.PathLike) -> list[Path]:
  """Audio files by suffix, in a folder and all below it, sorted.

  Names that begin with a dot are left out (macOS keeps resource forks named
  `._song.wav` next to the songs). A path of a file is a list of that file.

  Raises:
    UserError: the folder does not exist.
  """
  folder = Path(folder)
  if folder.is_file():
    return [folder]
  if not folder.is_dir():
    raise UserError(f"{folder}: no such folder.")
  return sorted(
    root / name
    for root, _, names in walk(folder)
    for name in names
    if name.lower().endswith(SUFFIXES)
  )


def walk(folder: Path) -> Iterator[tuple[Path, list[str], list[str]]]:
  """`os.walk` without hidden names; enters linked folders, each folder once.

  Yields:
    A folder, the names of the folders in it, the names of the files in it.
  """
  seen, linked = set(), [str(folder)]
  while linked:
    # Links wait, so that a file goes by its own path where it has one here.
    for root, folders, names in os.walk(linked.pop(0)):
      if (place := os.path.realpath(root)) in seen:
        folders.clear()
        continue
      seen.add(place)
      folders[:] = sorted(f for f in folders if not f.startswith("."))
      paths = [os.path.join(root, f) for f in folders]
      linked += [p for p in paths if os.path.islink(p)]
      names = [n for n in names if not n.startswith(".")]
      yield Path(root), list(folders), names


@contextlib.contextmanager
def opened(path: str | os.PathLike | BinaryIO) -> Iterator[soundfile.SoundFile]:
  """Opens for reading, once everything a header can show has been checked.

  Raises:
    UserError: the file is missing, empty, truncated or not audio.
  """
  with contextlib.ExitStack() as stack:
    yield _open(path, stack)


def _open(path, stack: contextlib.ExitStack) -> soundfile.SoundFile:
  name = name_of(path)
  if isinstance(path, str | os.PathLike):
    path = Path(path)
    if path.is_dir():
      raise UserError(f"{name}: is a folder; expected an audio file.")
    if not path.exists():
      raise UserError(f"{name}: no such file.")
    try:
      stream = stack.enter_context(path.open("rb"))
      source = truncation.checked(stream, name)
    except OSError as error:
      raise UserError(f"{name}: cannot be read ({error}).") from error
    # By its path libsndfile reads faster; as bytes, for names not in UTF-8.
    source = os.fsencode(path) if source is stream else source
  else:
    source = truncation.checked(path, name)
  try:
    # Without `format`, soundfile takes a path that ends in .raw for headerless.
    if isinstance(source, bytes) and source.lower().endswith(b".raw"):
      raise ValueError("raw samples have no header")
    sound = stack.enter_context(soundfile.SoundFile(source))
  except (soundfile.SoundFileError, ValueError, TypeError) as error:
    raise UserError(
      f"{name}: is not audio in a known format ({_why(error)}); expected one of"
      f" {' '.join(SUFFIXES)}."
    ) from error
  problem = None
  if not 1 <= sound.channels <= MAX_CHANNELS:
    problem = f"claims {sound.channels} channels"
  elif not 1 <= sound.samplerate <= MAX_RATE:
    problem = f"claims a rate of {sound.samplerate} Hz"
  elif sound.frames < 1:
    problem = "holds no samples"
  if problem:
    raise UserError(f"{name}: {problem}; the file is damaged or empty.")
  return sound


def decoded(sound, begin: int, count: int, name: str) -> np.ndarray:
  """A part of an open file.

  Args:
    sound: what `opened` gives.
    begin: first sample.
    count: of samples; they must be there.
    name: of the file, for messages.

  Returns:
    float32 `[count, channels]`; the last few samples of an MP3 may lack.

  Raises:
    UserError: the file is cut off or damaged.
  """
  blocks, left = [], count
  try:
    while left > 0:
      want = min(left, _READ_BLOCK)
      warm_up = min(begin, _MP3_WARM_UP) if sound.format == "MP3" else 0
      if sound.tell() != begin - warm_up:
        sound.seek(begin - warm_up)
      # In one call: soundfile itself seeks at the end of every read.
      block = sound.read(warm_up + want, dtype="float32", always_2d=True)
      blocks.append(block[warm_up:])
      begin += want
      left -= len(blocks[-1])
      if len(blocks[-1]) < want:
        break
  except (soundfile.SoundFileError, RuntimeError) as error:
    raise UserError(
      f"{name}: is truncated or damaged ({_why(error)}); get a whole copy."
    ) from error
  if left > (truncation.MP3_SLACK if sound.format == "MP3" else 0):
    raise UserError(
      f"{name}: is truncated: {left} of {count} samples are missing; get a"
      " whole copy."
    )
  return blocks[0] if len(blocks) == 1 else np.concatenate(blocks)


def fit(x: np.ndarray, length: int) -> np.ndarray:
  """Cuts x [samples, channels], or pads with its last sample, to a length."""
  if len(x) >= length:
    return x[:length]
  return np.pad(x, ((0, length - len(x)), (0, 0)), mode="edge")


def _round(x: float) -> int:
  return math.floor(x + 0.5)


def _checked_rate(rate: int) -> int:
  if rate != int(rate) or not 1 <= rate <= MAX_RATE:
    raise UserError(
      f"the sample rate must be a whole number from 1 to {MAX_RATE} Hz, not"
      f" {rate}."
    )
  return int(rate)


def _why(error: Exception) -> str:
  return str(error).rpartition(": ")[2].rstrip(". ")


def name_of(path) -> str:
  """A path or file object in a message."""
  if isinstance(path, str | os.PathLike):
    return str(path)
  name = getattr(path, "name", None)
  return name if isinstance(name, str) else "audio data"
