"""Reconstruction losses: waveform L1, multi-scale mel, multi-scale STFT.

Every loss takes the target x and the reconstruction y, float32
`[batch, samples, channels]`, and an optional mask `[batch, samples]` (True is
signal) and returns a scalar. Samples outside the mask count as zero in both
signals and do not enter the mean, so that a padded clip contributes as much as
it would alone. Channels are treated as separate clips. The scalar is a mean
over all frames of the batch: long clips weigh more than short ones.

Gradients are finite everywhere: the magnitude of a silent bin and the norm of
a zero difference have gradient 0.

Most of the time is memory traffic, because each scale turns a signal into four
times as many windowed samples. To keep it low, framing works on hop-sized
blocks (`transforms.frame`), and bands with empty filters are not computed.
"""

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from mmdcodec import bounds
from mmdcodec.audio import transforms
from mmdcodec.bounds import Check, list_of, whole

SOUNDSTREAM_WINDOWS = (64, 128, 256, 512, 1024, 2048)
ENCODEC_WINDOWS = (32, 64, 128, 256, 512, 1024, 2048)
FORMS = ("soundstream", "encodec")
STFT_WINDOWS = (512, 1024, 2048)

# Added to mel values and magnitudes before the logarithm. It is near the
# spectrum of 16-bit rounding noise, below which no detail is worth matching.
FLOOR = 1e-5

# Samples of the windows of a loss, and numbers of its mel bands.
WINDOWS = list_of(
  Check(
    lambda window: whole(4, 1 << 16).holds(window) and window % 4 == 0,
    "a multiple of 4, up to 65536",  # their hop is a quarter
  ),
  32,
)
MELS = whole(1, 1 << 12)


def waveform_l1(
  x: jax.Array, y: jax.Array, mask: jax.Array | None = None
) -> jax.Array:
  """Mean absolute difference of samples.

  Args:
    x: target `[batch, samples, channels]`.
    y: reconstruction, same shape.
    mask: `[batch, samples]` or None.

  Returns:
    float32 scalar.
  """
  _check(x, y, mask)
  difference = jnp.abs(x.astype(jnp.float32) - y.astype(jnp.float32))
  if mask is None:
    return jnp.mean(difference)
  weight = mask.astype(jnp.float32)[..., None]
  count = jnp.sum(weight) * x.shape[-1]
  return jnp.sum(difference * weight) / jnp.maximum(count, 1)


def multi_scale_mel(
  x: jax.Array,
  y: jax.Array,
  *,
  rate: int,
  windows: Sequence[int] | None = None,
  mels: int = 64,
  form: str = "soundstream",
  mask: jax.Array | None = None,
) -> jax.Array:
  """Multi-scale mel loss in the form of SoundStream or of EnCodec.

  With S_t the magnitudes of frame t summed into mel bands (window s, hop
  s / 4, filters of area 1) and a mean over frames t, channels and clips:

    loss = reduce_s mean_t( |S_t(x) - S_t(y)|_1
                            + alpha_s |log S_t(x) - log S_t(y)|_2 )

  Both norms are over the bands of one frame: |.|_1 is the sum of absolute
  values, |.|_2 the root (not the square) of the sum of squares. The logarithm
  is the natural one, of S + 1e-5. The papers sum over frames; the mean makes
  the loss independent of the length and keeps the balance of the two terms.

  - "soundstream" (arXiv 2107.03312, section III-D): windows 2^6..2^11, plain
    STFT, alpha_s = sqrt(s / 2), sum over scales.
  - "encodec" (arXiv 2210.13438, section 3.4): windows 2^5..2^11, normalised
    STFT, alpha = 1, mean over scales, halved. The paper's formula has no
    logarithm in the second term; the authors' training code has one (base 10,
    squared). It is kept here: without it, quiet parts hardly count.

  Short windows have fewer bins than bands, so some filters are empty
  (`transforms.mel_filters`). S would be 0 there in both signals, so these bands
  are not computed. Every bin is still covered by another filter.

  Args:
    x: target `[batch, samples, channels]`.
    y: reconstruction, same shape.
    rate: Hz.
    windows: samples of each scale, multiples of 4; None means the paper's.
    mels: number of mel bands.
    form: "soundstream" or "encodec".
    mask: `[batch, samples]` or None.

  Returns:
    float32 scalar.

  Raises:
    ValueError: the form is unknown.
  """
  if form not in FORMS:
    raise ValueError(f"form is 'soundstream' or 'encodec', not {form!r}")
  bounds.check("rate of the mel loss", rate, whole(1, 1_000_000))
  bounds.check("mels of the mel loss", mels, MELS)
  soundstream = form == "soundstream"
  if windows is None:
    windows = SOUNDSTREAM_WINDOWS if soundstream else ENCODEC_WINDOWS
  bounds.check("windows of the mel loss", windows, WINDOWS)
  _check(x, y, mask)
  x, y = _as_clips(x, mask), _as_clips(y, mask)
  total = jnp.float32(0.0)
  for window in windows:
    filters = _nonempty_filters(rate, window, mels)
    sx, sy = (
      jnp.matmul(
        _magnitudes(u, window, normalized=not soundstream),
        filters,
        precision="highest",
      )
      for u in (x, y)
    )
    alpha = math.sqrt(window / 2) if soundstream else 1.0
    log_ratio = jnp.log((sx + FLOOR) / (sy + FLOOR))
    per_frame = jnp.sum(jnp.abs(sx - sy), axis=-1)
    per_frame += alpha * transforms.safe_sqrt(jnp.sum(log_ratio**2, axis=-1))
    weight = _frame_weight(mask, per_frame.shape[-1], window // 4)
    total += _frame_mean(per_frame, weight)
  return total if soundstream else total / (2 * len(windows))


def multi_scale_stft(
  x: jax.Array,
  y: jax.Array,
  *,
  windows: Sequence[int] = STFT_WINDOWS,
  mask: jax.Array | None = None,
) -> jax.Array:
  """Multi-resolution STFT loss: spectral convergence and log magnitude.

  The mean over scales of |X - Y|_F / |X|_F (magnitudes of a clip, mean over
  clips) plus the mean of |log X - log Y| over bins and frames (Yamamoto et al.,
  "Parallel WaveGAN", arXiv 1910.11480, section 2.2). The norm is per clip, so
  that a loud clip does not hide the others; that of a silent clip is the norm
  of the floor. The hop is a quarter of the window, and the STFT is normalised.

  Args:
    x: target `[batch, samples, channels]`.
    y: reconstruction, same shape.
    windows: samples of each scale, multiples of 4.
    mask: `[batch, samples]` or None.

  Returns:
    float32 scalar.
  """
  bounds.check("windows of the STFT loss", windows, WINDOWS)
  _check(x, y, mask)
  x, y = _as_clips(x, mask), _as_clips(y, mask)
  total = jnp.float32(0.0)
  for window in windows:
    sx, sy = (_magnitudes(u, window, normalized=True) for u in (x, y))
    weight = _frame_weight(mask, sx.shape[-2], window // 4)
    squares = jnp.sum((sx - sy) ** 2, axis=-1), jnp.sum(sx**2, axis=-1)
    distance, norm = (
      transforms.safe_sqrt(jnp.sum(square * weight, axis=-1))
      for square in squares
    )
    silence = FLOOR * jnp.sqrt(jnp.sum(weight, axis=-1) * sx.shape[-1])
    # At least 1e-9: a clip without frames would be 0 / 0.
    norm = jnp.maximum(jnp.maximum(norm, silence), 1e-9)
    convergence = jnp.mean(distance / norm)
    log_ratio = jnp.abs(jnp.log((sx + FLOOR) / (sy + FLOOR)))
    log_magnitude = _frame_mean(jnp.mean(log_ratio, axis=-1), weight)
    total += convergence + log_magnitude
  return total / len(windows)


def _check(x: jax.Array, y: jax.Array, mask: jax.Array | None) -> None:
  """Checks the shapes of two signals and a mask."""
  bounds.check_shape("x", x, batch=None, samples=None, channels=None)
  batch, samples, channels = x.shape
  bounds.check_shape("y", y, batch=batch, samples=samples, channels=channels)
  if mask is not None:
    bounds.check_shape("mask", mask, batch=batch, samples=samples)


def _as_clips(x: jax.Array, mask: jax.Array | None) -> jax.Array:
  """float32 `[batch, channels, samples]`, zero outside the mask."""
  x = jnp.swapaxes(x.astype(jnp.float32), 1, 2)
  # `where` and not a product: padding may hold NaN.
  return x if mask is None else jnp.where(mask[:, None].astype(bool), x, 0.0)


def _magnitudes(x: jax.Array, window: int, *, normalized: bool) -> jax.Array:
  """Magnitudes `[..., frames, window // 2 + 1]`; hop is window // 4."""
  spectrum = transforms.stft(
    x, window=window, hop=window // 4, normalized=normalized
  )
  return transforms.safe_sqrt(transforms.power(spectrum))


def _nonempty_filters(rate: int, window: int, mels: int) -> np.ndarray:
  """Mel filters `[bins, at most mels]` without the empty ones."""
  filters = transforms.mel_filters(rate, window, mels)
  return filters[:, filters.any(axis=0)]


def _frame_weight(mask: jax.Array | None, frames: int, hop: int) -> jax.Array:
  """1 for the frames that each clip would have alone, 0 for the others.

  [batch, samples] -> float32 [batch, 1, frames]; frame t is centred on sample
  t * hop.
  """
  if mask is None:
    return jnp.ones((1, 1, frames), jnp.float32)
  # A clip of n samples has frames at 0, hop, ... up to n itself: a frame
  # counts if the sample at its centre or the one before it does.
  mask = mask.astype(bool)
  before = jnp.pad(mask, ((0, 0), (1, 0)))[:, ::hop]
  here = jnp.pad(mask, ((0, 0), (0, 1)))[:, ::hop]
  return (before | here).astype(jnp.float32)[:, None]


def _frame_mean(values: jax.Array, weight: jax.Array) -> jax.Array:
  """Weighted mean of `[batch, channels, frames]` over everything."""
  weight = jnp.broadcast_to(weight, values.shape)
  return jnp.sum(values * weight) / jnp.maximum(jnp.sum(weight), 1)
