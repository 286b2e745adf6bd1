"""What a user hands to a codec, checked before anything is computed."""

from typing import Any

import numpy as np

from mmdcodec.errors import UserError
from mmdcodec.models.codec import Codec


def audio(model: Codec, x: Any) -> np.ndarray:
  """A block of audio as float32 [samples, channels].

  Raises:
    UserError: it has another shape, or is not finite.
  """
  x = np.asarray(x, np.float32)
  x = x[:, None] if x.ndim == 1 else x
  if x.ndim != 2 or x.shape[1] != model.channels:
    raise UserError(
      f"a block of audio has shape {x.shape}; expected [samples,"
      f" {model.channels}]."
    )
  finite(x)
  return x


def finite(x: np.ndarray) -> None:
  """Raises a UserError if audio holds NaN or infinite samples."""
  if not np.isfinite(x).all():
    raise UserError("the audio holds NaN or infinite samples.")


def codes(model: Codec, codes: Any, *, batch: bool = False) -> np.ndarray:
  """Codes as int32, of the shape that they have.

  Args:
    model: the codec.
    codes: [frames, k] with k from 1 to the codec's codebooks.
    batch: they may be [batch, frames, k] as well.

  Raises:
    UserError: they have another shape, are no integers, or none that the codec
      has.
  """
  codes = np.asarray(codes)
  ranks = (2, 3) if batch else (2,)
  if codes.ndim not in ranks or not 1 <= codes.shape[-1] <= model.codebooks:
    raise UserError(
      f"codes have shape {codes.shape}; expected [frames, codebooks]"
      + (" or [batch, frames, codebooks]" if batch else "")
      + f" with 1 to {model.codebooks} codebooks."
    )
  if codes.size == 0:
    return codes.astype(np.int32)
  if not np.issubdtype(codes.dtype, np.integer):
    raise UserError(f"codes are {codes.dtype}; expected integers.")
  if codes.min() < 0 or codes.max() >= model.codebook_size:
    raise UserError(
      f"codes lie in {codes.min()}..{codes.max()}; this codec's go from 0 to"
      f" {model.codebook_size - 1}."
    )
  return codes.astype(np.int32)


def codebooks(model: Codec, count: int | None) -> None:
  """Raises a UserError unless a codec has so many codebooks (None: all)."""
  if count is not None and not 1 <= count <= model.codebooks:
    raise UserError(
      f"codebooks is {count}; this codec has 1 to {model.codebooks}."
    )


def codes_alone(model: Codec) -> None:
  """Raises a UserError unless codes alone are what a codec makes of audio."""
  if model.normalize:
    raise UserError(
      "the codec normalises: it keeps the loudness beside the codes, where a"
      " language model cannot tell it; take a codec without."
    )
  if model.chunk is not None:
    raise UserError(
      f"the codec codes chunks of {model.chunk_seconds:g} s by themselves, so"
      " frames do not follow each other in time; take a codec without."
    )
