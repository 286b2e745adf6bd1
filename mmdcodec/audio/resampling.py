"""Sample rates, lengths and channels of audio arrays."""

import numpy as np
import soxr

from mmdcodec.errors import UserError

MAX_RATE = 768_000


def checked_rate(rate: float) -> int:
  """The rate in Hz as an int.

  Raises:
    UserError: the rate is not a whole number from 1 to 768000.
  """
  if not 1 <= rate <= MAX_RATE or rate != int(rate):
    raise UserError(
      f"the sample rate must be a whole number from 1 to {MAX_RATE} Hz, not"
      f" {rate}."
    )
  return int(rate)


def resampled_length(samples: int, *, rate: int, to: int) -> int:
  """Number of samples of a clip after resampling from `rate` to `to` Hz.

  Rounded to the nearest integer, but at least 1 unless the clip is empty.
  """
  return max(1, (2 * samples * to + rate) // (2 * rate)) if samples else 0


def resample(x: np.ndarray, *, rate: int, to: int) -> np.ndarray:
  """Resamples audio with band limiting (soxr, high quality).

  Args:
    x: float `[samples, channels]`.
    rate: Hz of x.
    to: Hz of the result.

  Returns:
    float32 `[resampled_length(samples), channels]`.

  Raises:
    UserError: a rate is not a whole number from 1 to 768000 Hz.
  """
  rate, to = checked_rate(rate), checked_rate(to)
  x = np.asarray(x, np.float32)
  if rate == to or not len(x):
    return x
  length = resampled_length(len(x), rate=rate, to=to)
  return fit_resampled(soxr.resample(x, rate, to), x, length)


def fit_resampled(y: np.ndarray, x: np.ndarray, length: int) -> np.ndarray:
  """Fits the output of a resampler to its length.

  Args:
    y: `[samples, channels]`, the output; a few samples resampled far down give
      none.
    x: `[samples, channels]`, what it comes from, at least one sample: the last
      one stands for an output without samples.
    length: samples wanted.
  """
  return fit(y if len(y) else x[-1:], length)


def fit(x: np.ndarray, length: int) -> np.ndarray:
  """Cuts x [samples, channels] to a length, or repeats its last sample."""
  if len(x) >= length:
    return x[:length]
  return np.pad(x, ((0, length - len(x)), (0, 0)), mode="edge")


def mix(x: np.ndarray, channels: int) -> np.ndarray:
  """Mixes down or up to a number of channels.

  Mixing to one channel takes the mean, and one channel is copied to many.
  Between other numbers every channel is a copy of the mean, because the layout
  of the source is unknown.

  Args:
    x: `[samples, channels]`.
    channels: number of channels of the result.

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
