"""Checks the arguments of a tokenizer before anything is computed."""

from typing import Any

import numpy as np

from mmdcodec.audio import files, levels
from mmdcodec.errors import UserError
from mmdcodec.models.codec import Codec

# A longer last axis is time, as PyTorch has it.
_MOST_CHANNELS = 64


def audio(model: Codec, x: Any) -> np.ndarray:
  """Checks a block of audio; returns it as float32 [samples, channels].

  Raises:
    UserError: it has a wrong shape, or is not audio (see `levels.check`).
  """
  x = levels.as_floats(x, "the audio")
  x = x[:, None] if x.ndim == 1 else x
  if x.ndim != 2 or x.shape[1] != model.channels:
    raise UserError(
      f"a block of audio has shape {x.shape}; expected [samples,"
      f" {model.channels}]."
    )
  levels.check(x, "the audio")
  return x


def audio_batch(
  x: Any, rate: int | None, lengths: Any, *, to: int, channels: int
) -> tuple[np.ndarray, np.ndarray]:
  """Checks audio and converts it to the rate and channels of a tokenizer.

  Args:
    x: float audio: [samples], [samples, channels] or [batch, samples,
      channels].
    rate: sample rate of x in Hz; None means `to`.
    lengths: valid samples of each item [batch]; None: all.
    to: target rate in Hz.
    channels: target channels; see `mmdcodec.audio.files.mix`.

  Returns:
    (float32 [batch, samples, channels], int32 [batch] valid samples).

  Raises:
    UserError: x has a wrong shape or is not audio (see `levels.check`), or
      lengths do not fit x.
  """
  x = levels.as_floats(x, "the audio")
  given = x.shape
  if x.ndim == 1:
    x = x[:, None]
  if x.ndim == 2:
    x = x[None]
  if x.ndim != 3 or not x.size or x.shape[2] > _MOST_CHANNELS:
    raise UserError(
      f"audio has shape {given}; expected [samples], [samples, channels]"
      " or [batch, samples, channels], and at least one sample of 1 to"
      f" {_MOST_CHANNELS} channels{_time_last(given, _MOST_CHANNELS)}."
    )
  levels.check(x, "the audio")
  if lengths is None:
    lengths = np.full(len(x), x.shape[1])
  lengths = np.asarray(lengths, np.int64)
  if (
    lengths.shape != x.shape[:1]
    or not ((lengths > 0) & (lengths <= x.shape[1])).all()
  ):
    raise UserError(f"lengths must be [batch] samples from 1 to {x.shape[1]}.")
  if x.shape[2] != channels or rate not in (None, to):
    clips = [clip[:n] for clip, n in zip(x, lengths, strict=True)]
    clips = [files.mix(clip, channels) for clip in clips]
    if rate not in (None, to):
      clips = [files.resample(clip, rate=rate, to=to) for clip in clips]
    lengths = np.array([len(clip) for clip in clips])
    x = np.zeros((len(x), lengths.max(), channels), np.float32)
    for row, clip in zip(x, clips, strict=True):
      row[: len(clip)] = clip
  return x, lengths.astype(np.int32)


def codes(model: Codec, codes: Any, *, batch: bool = False) -> np.ndarray:
  """Checks codes and returns them as int32 of the same shape.

  Args:
    model: the codec.
    codes: [frames, k] with k from 1 to the codec's codebooks.
    batch: also allow [batch, frames, k].

  Raises:
    UserError: they have a wrong shape, are not integers, or are out of range.
  """
  codes = np.asarray(codes)
  ranks = (2, 3) if batch else (2,)
  if codes.ndim not in ranks or not 1 <= codes.shape[-1] <= model.codebooks:
    raise UserError(
      f"codes have shape {codes.shape}; expected [frames, codebooks]"
      + (" or [batch, frames, codebooks]" if batch else "")
      + f" with 1 to {model.codebooks} codebooks"
      + f"{_time_last(codes.shape, model.codebooks)}."
    )
  if codes.size == 0:
    return codes.astype(np.int32)
  if not np.issubdtype(codes.dtype, np.integer):
    raise UserError(f"codes are {codes.dtype}; expected integers.")
  if codes.min() < 0 or codes.max() >= model.codebook_size:
    raise UserError(
      f"codes lie in {codes.min()}..{codes.max()}; this codec's range from 0 to"
      f" {model.codebook_size - 1}."
    )
  return codes.astype(np.int32)


def made(model: Codec, codes: np.ndarray) -> np.ndarray:
  """Checks codes that a codec has made, and returns them.

  Raises:
    UserError: a frame has none, because the encoder's output is not finite.
  """
  if codes.size and codes.max() >= model.codebook_size:
    raise UserError(
      "the codec's encoder gives values that are not finite for this audio, so"
      " it has no codes; use weights from an earlier step of the training."
    )
  return codes


def codebooks(model: Codec, count: int | None) -> None:
  """Raises UserError if a codec has fewer codebooks than `count`."""
  if count is not None and not 1 <= count <= model.codebooks:
    raise UserError(
      f"codebooks is {count}; this codec has 1 to {model.codebooks}."
    )


def text_vectors(x: np.ndarray) -> np.ndarray:
  """Returns embeddings of texts, if all are finite.

  A token beyond the table of a text encoder has no vector.

  Raises:
    UserError: some are not.
  """
  if not np.isfinite(x).all():
    raise UserError(
      "the embedding of a text is not finite: tokenizer.json must be that of"
      " the weights, and the weights must be finite."
    )
  return x


def _time_last(shape: tuple[int, ...], most: int) -> str:
  """What to do about an array whose last axis is time, as in PyTorch.

  Args:
    shape: of the array.
    most: largest size of the axis that should be last.
  """
  if len(shape) < 2 or not shape[-2] <= most < shape[-1]:
    return ""
  return "; if time is its last axis, give np.swapaxes(x, -1, -2)"
