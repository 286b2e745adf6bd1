"""Music in chunks, which are decoded while later ones are generated."""

import dataclasses
from collections.abc import Callable, Iterable, Iterator

import numpy as np

from mmdcodec.errors import UserError
from mmdcodec.generation.request import MOST_FRAMES
from mmdcodec.tokenizers.interface import AudioCodec


@dataclasses.dataclass(frozen=True)
class Chunk:
  """A part of the music, delivered while it is generated.

  Attributes:
    codes: int32 [batch, frames, codebooks], the new codes.
    audio: float32 [batch, samples, channels], the new samples. They may come
      later than their codes if the codec looks ahead.
  """

  codes: np.ndarray
  audio: np.ndarray


def frames_of(block: float, frame_rate: float) -> int:
  """Frames of a chunk of `block` seconds.

  Raises:
    UserError: block is not above 0, or not finite.
  """
  if not 0 < block < np.inf:
    raise UserError(f"block is {block} s; it must be above 0.")
  return max(1, round(min(block * frame_rate, MOST_FRAMES)))


def decode(
  codec: AudioCodec,
  parts: Iterable[np.ndarray],
  size: int,
  nothing: np.ndarray,
) -> Iterator[Chunk]:
  """Decodes codes in chunks, as they come.

  Args:
    codec: decodes them.
    parts: int32 [batch, frames, codebooks], one after the other.
    size: frames of a chunk.
    nothing: codes without frames, of audio that comes after its codes.
  """
  made: list[np.ndarray] = []

  def passing() -> Iterator[np.ndarray]:
    for codes in parts:
      made.append(codes)
      yield codes

  for audio in codec.decode_parts(passing(), size):
    codes = np.concatenate(made, axis=1) if made else nothing
    made.clear()
    yield Chunk(codes, audio)


def hear(
  chunks: Iterable[Chunk], callback: Callable[[Chunk], bool | None]
) -> np.ndarray:
  """Gives chunks to a callback until it returns True; returns their audio."""
  heard = []
  for chunk in chunks:
    heard.append(chunk.audio)
    if callback(chunk):
      break
  return np.concatenate(heard, axis=1)
