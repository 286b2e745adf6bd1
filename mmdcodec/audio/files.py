"""Reads and writes whole audio files or parts of them, and finds them.

Formats: wav, flac, ogg (Vorbis), opus, mp3 and aiff through libsndfile, and
more for reading (`formats.READABLE`); resampling by soxr. Audio is float32
`[samples, channels]`, full scale +-1. `block_io` handles files of any length in
constant memory.
"""

import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import numpy as np
import soxr

from mmdcodec.audio import block_io, formats, levels
from mmdcodec.audio.decoding import Info, name_of, opened
from mmdcodec.audio.formats import READABLE
from mmdcodec.audio.formats import SUFFIXES as SUFFIXES  # for other modules
from mmdcodec.audio.resampling import (
  checked_rate,
  fit_resampled,
  mix,
  resample,
  resampled_length,
)
from mmdcodec.errors import UserError
from mmdcodec.store import inputs, paths

# Source samples (at the lower rate) decoded on each side of a part before it is
# resampled. soxr HQ reaches less far, so a part equals the same part of the
# whole resampled file.
_RESAMPLE_MARGIN = 256


def info(path: str | os.PathLike | IO[bytes]) -> Info:
  """Reads length, rate and channels of a file without decoding it.

  Args:
    path: a path or a seekable binary file object.

  Raises:
    UserError: the file is missing, empty, truncated or not audio.
  """
  with opened(path) as file:
    return file.info


def read(
  path: str | os.PathLike | IO[bytes],
  *,
  rate: int | None = None,
  channels: int | None = None,
  start: float = 0.0,
  seconds: float | None = None,
) -> tuple[np.ndarray, int]:
  """Reads audio, or a part of it, at a given rate and number of channels.

  Parts lie on the output's grid: sample i of the result is sample
  `round(start * rate) + i` of the whole file at that rate. The result has
  `round(seconds * rate)` samples unless the file ends earlier. Only the part
  is decoded. A mix of channels that cancel each other gives a warning.

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
      channels or no samples, holds samples that are not audio (see
      `levels.check`), or ends before `start`; `start` or `seconds` is negative
      or not finite.
  """
  name = name_of(path)
  length = 1.0 if seconds is None else seconds
  if not 0 <= start < math.inf or not 0 < length < math.inf:
    raise UserError(
      f"{name}: start must be at least 0 and seconds more than 0, both finite,"
      f" not start={start}, seconds={seconds}."
    )
  with opened(path) as file:
    total, source, _ = file.info
    rate = source if rate is None else checked_rate(rate)
    first = _round(start * rate)
    last = resampled_length(total, rate=source, to=rate)
    if first >= last:
      raise UserError(
        f"{name}: start={start} s lies past the end of the file"
        f" ({total / source:.3f} s); choose an earlier start."
      )
    if seconds is not None:
      last = min(last, first + max(1, _round(seconds * rate)))
    # The decoded part begins where the grids of both rates meet.
    common = math.gcd(source, rate)
    up, down = rate // common, source // common
    margin = 0 if up == down else _RESAMPLE_MARGIN * max(1, down // up)
    begin = max(0, (first * down // up - margin) // down * down)
    end = min(total, -(-last * down // up) + margin)
    x = file.read(begin, end - begin)
  if channels is not None:
    unmixed, x = x, mix(x, channels)
    measures = levels.Levels()
    measures.add(unmixed, x)
    if measures.cancelled:
      measures.tell(name)
  if up != down:
    offset = first - begin // down * up
    y = soxr.resample(x, source, rate)[offset:]
    x = fit_resampled(y, x, last - first)
  return x, rate


def write(
  path: str | os.PathLike,
  x: np.ndarray,
  *,
  rate: int,
  subtype: str | None = None,
) -> int:
  """Writes audio in the format given by the path's suffix.

  Integer formats clip at full scale, with a warning. Audio at a rate that the
  format does not support is resampled, see `formats.encoding_of`. The file
  replaces an existing one when it is complete; after a failure, the old file is
  unchanged.

  Args:
    path: path of the file; its folder must exist.
    x: `[samples]` or `[samples, channels]`, full scale +-1.
    rate: Hz.
    subtype: libsndfile's name of the coding, such as "PCM_24" or "FLOAT". None
      means 16 bits for wav, flac and aiff; other formats have one coding.

  Returns:
    The rate of the file in Hz.

  Raises:
    UserError: unknown suffix, folder missing, no samples, NaN or infinite
      samples, or a rate, subtype or number of channels that the format cannot
      hold.
  """
  path = paths.of(path)
  *_, to = formats.encoding_of(path, rate=rate, subtype=subtype)
  x = np.asarray(x, np.float32)
  x = x[:, None] if x.ndim == 1 else x
  if x.ndim != 2 or 0 in x.shape or x.shape[0] < 64 < x.shape[1]:
    # The last is time, not channels.
    raise UserError(
      f"{path}: expected audio [samples, channels] with at least one of each,"
      f" not shape {x.shape}; of a batch give one item, and of audio with time"
      " last the transpose."
    )
  block_io.check_finite(x, path)
  x = resample(x, rate=rate, to=to)
  try:
    with block_io.create(
      path, rate=to, channels=x.shape[1], subtype=subtype
    ) as writer:
      writer.write(x)
  except OSError as error:
    raise UserError(f"{path}: cannot be written ({error.strerror}).") from error
  return to


def find(folder: str | os.PathLike) -> list[Path]:
  """Finds audio files by suffix in a folder and its subfolders, sorted.

  Names that begin with a dot are skipped (macOS keeps resource forks named
  `._song.wav` next to the songs).

  Args:
    folder: a folder, or a single file, which is returned unchanged.

  Raises:
    UserError: the folder does not exist.
  """
  folder = paths.of(folder)
  if not folder.exists():
    raise UserError(f"{folder}: no such folder.")
  if not folder.is_dir():
    return [inputs.check(folder)]
  if isinstance(folder, paths.Url):
    names = [name for name in folder.files() if not f"/{name}".count("/.")]
    return [folder / n for n in names if n.lower().endswith(READABLE)]
  return sorted(
    root / name
    for root, _, names in walk(folder)
    for name in names
    if name.lower().endswith(READABLE)
  )


def walk(folder: Path) -> Iterator[tuple[Path, list[str], list[str]]]:
  """`os.walk` that skips hidden names, follows links and visits folders once.

  Yields:
    A folder, the names of its subfolders, and the names of its files.
  """
  seen, linked = set(), [str(folder)]
  while linked:
    # Links come last, so that a file is found under its own path if possible.
    for root, folders, names in os.walk(linked.pop(0)):
      if (place := os.path.realpath(root)) in seen:
        folders.clear()
        continue
      seen.add(place)
      folders[:] = sorted(f for f in folders if not f.startswith("."))
      inside = [os.path.join(root, f) for f in folders]
      linked += [p for p in inside if os.path.islink(p)]
      names = [n for n in names if not n.startswith(".")]
      yield Path(root), list(folders), names


def _round(x: float) -> int:
  return math.floor(x + 0.5)
