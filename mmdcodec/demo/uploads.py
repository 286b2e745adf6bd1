"""Audio that users give, bounded in size and length."""

import dataclasses
import io
import pathlib

import numpy as np

from mmdcodec import formatting
from mmdcodec.audio import files
from mmdcodec.errors import UserError

_KINDS = "wav, flac, ogg, opus, mp3 or aiff"


@dataclasses.dataclass(frozen=True)
class Limits:
  """How much a user may give and ask for.

  Attributes:
    seconds: of the longest clip, and of the longest piece.
    size: bytes of the largest file.
  """

  seconds: float = 120.0
  size: int = 64 << 20


class _Named(io.BytesIO):
  """Bytes whose name is that of the user's file, not of our copy."""

  def __init__(self, contents: bytes, name: str):
    super().__init__(contents)
    self.name = name


def read(path: str | None, limits: Limits) -> tuple[np.ndarray, int] | None:
  """Reads an upload.

  Args:
    path: where it is; None if there is none.
    limits: how much is read.

  Returns:
    (float32 [samples, channels], Hz), or None.

  Raises:
    UserError: it is gone, too large, too long, or no audio.
  """
  if path is None:
    return None
  file = pathlib.Path(path)
  try:
    size = file.stat().st_size
    if size > limits.size:
      raise UserError(
        f"{file.name} has {formatting.file_size(size)}; at most"
        f" {formatting.file_size(limits.size)} are read."
      )
    source = _Named(file.read_bytes(), file.name)
  except OSError:
    raise UserError(
      f"{file.name} is no longer here; give it once more."
    ) from None
  if not size:
    raise UserError(f"{file.name} is empty; give a {_KINDS} file.")
  info = files.info(source)
  if info.seconds > limits.seconds:
    raise UserError(
      f"{file.name} lasts {formatting.duration(info.seconds)}; at most"
      f" {formatting.duration(limits.seconds)} are read, so give a part of it."
    )
  source.seek(0)
  return files.read(source)


def need(path: str | None, limits: Limits) -> tuple[np.ndarray, int]:
  """Reads an upload that has to be there; see `read`.

  Raises:
    UserError: as in `read`, or there is none.
  """
  found = read(path, limits)
  if found is None:
    raise UserError("There is no audio yet: drop a file, or record some.")
  return found
