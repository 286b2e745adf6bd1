"""Measures reconstruction quality: SI-SDR, mel distance, STFT distance.

Each function takes the original x and the reconstruction y, NumPy or JAX arrays
[batch, samples, channels], and returns one finite number per clip, float32
[batch]. With `lengths` [batch], padding has no effect. All can be jitted.
"""

import functools

import jax
import jax.numpy as jnp

from mmdcodec.audio import transforms

WINDOWS = (512, 1024, 2048)
MELS = 80

# Smaller mel values and magnitudes are silence: near 16-bit rounding noise.
FLOOR = 1e-5
# Maximum mean power of silence: that of 16-bit rounding noise.
SILENCE = 1e-10
# SI-SDR is clipped to this many dB on either side of 0.
LIMIT = 100.0


def si_sdr(
  x: jax.Array, y: jax.Array, lengths: jax.Array | None = None
) -> jax.Array:
  """Computes the scale-invariant signal-to-distortion ratio in dB.

  Higher is better. With the mean of each channel removed and all channels in
  one vector, a = <x, y> / <x, x> and SI-SDR = 10 log10(|a x|^2 / |y - a x|^2)
  (Le Roux et al., "SDR - half-baked or well done?", arXiv 1811.02508), clipped
  to +-100 dB. A silent original gives 0 dB; a silent reconstruction of anything
  else gives -100 dB.

  Args:
    x: original [batch, samples, channels].
    y: reconstruction, same shape.
    lengths: valid samples [batch], or None.

  Returns:
    float32 [batch].
  """
  x, y, count = _prepare(x, y, lengths)
  valid = jnp.arange(x.shape[1]) < count[:, None]

  def normalized(u: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Returns u with mean 0 and norm 1 (0 if silent), and whether it sounds."""
    mean = u.sum(1, keepdims=True) / count[:, None, None]
    u = jnp.where(valid[..., None], u - mean, 0.0)
    power = jnp.sum(u**2, (1, 2)) / (count * u.shape[2])
    scale = jnp.where(
      power > SILENCE, 1 / jnp.sqrt(power * count * u.shape[2]), 0.0
    )
    return u * scale[:, None, None], power > SILENCE

  x, x_sounds = normalized(x)
  y, y_sounds = normalized(y)
  # Norms are 1, so a is the cosine. The distortion is not computed as 1 - a^2,
  # which float32 rounds away above 70 dB.
  a = jnp.sum(x * y, (1, 2))
  distortion = jnp.sum((y - a[:, None, None] * x) ** 2, (1, 2))
  ratio = jnp.maximum(a**2, 1e-30) / jnp.maximum(distortion, 1e-30)
  # One perfect or completely wrong clip must not dominate a mean.
  ratio = jnp.clip(10 * jnp.log10(ratio), -LIMIT, LIMIT)
  return jnp.where(x_sounds, jnp.where(y_sounds, ratio, -LIMIT), 0.0)


def mel_distance(
  x: jax.Array, y: jax.Array, rate: int, lengths: jax.Array | None = None
) -> jax.Array:
  """Computes the mean absolute difference of log-mel spectra in dB.

  Lower is better. The mean over windows of 512, 1024 and 2048 samples (hop a
  quarter), channels, frames and 80 bands from 0 to rate / 2, of
  |20 log10 max(S(x), 1e-5) - 20 log10 max(S(y), 1e-5)|, where S sums the
  magnitudes of a Hann STFT with filters of area 1 Hz.

  Args:
    x: original [batch, samples, channels].
    y: reconstruction, same shape.
    rate: Hz.
    lengths: valid samples [batch], or None.

  Returns:
    float32 [batch].
  """
  x, y, count = _prepare(x, y, lengths)
  total = jnp.float32(0.0)
  for window in WINDOWS:
    a, b = (
      transforms.log_mel(
        jnp.moveaxis(u, 2, 1),
        rate=rate,
        window=window,
        hop=window // 4,
        mels=MELS,
        exponent=1.0,
        floor=FLOOR,
      )
      for u in (x, y)
    )
    total += _frame_mean(jnp.abs(a - b), count, window // 4)
  return total / len(WINDOWS)


def stft_distance(
  x: jax.Array, y: jax.Array, rate: int, lengths: jax.Array | None = None
) -> jax.Array:
  """Computes spectral convergence plus log-magnitude distance.

  Lower is better. The mean over windows of 512, 1024 and 2048 samples (hop a
  quarter, Hann, normalised to the energy of the window) of

    | |X| - |Y| |_F / | |X| |_F  +  mean |ln(|X| + 1e-5) - ln(|Y| + 1e-5)|

  with the norms over the whole clip, the mean over frames, bins and channels
  (Yamamoto et al., Parallel WaveGAN, arXiv 1910.11480, section 2.2). For a
  silent original the first term is at most 1.

  Args:
    x: original [batch, samples, channels].
    y: reconstruction, same shape.
    rate: Hz; the same windows are used at any rate.
    lengths: valid samples [batch], or None.

  Returns:
    float32 [batch].
  """
  del rate
  x, y, count = _prepare(x, y, lengths)
  norm = lambda u: jnp.sqrt(jnp.sum(u**2, (1, 2, 3)))
  total = jnp.float32(0.0)
  for window in WINDOWS:
    a, b = (
      jnp.abs(
        transforms.stft(
          jnp.moveaxis(u, 2, 1), window=window, hop=window // 4, normalized=True
        )
      )
      for u in (x, y)
    )
    valid = _valid_frames(a, count, window // 4)
    a, b = jnp.where(valid, a, 0.0), jnp.where(valid, b, 0.0)
    least = FLOOR * jnp.sqrt(valid.sum((1, 2, 3)) * a.shape[1] * a.shape[3])
    convergence = norm(a - b) / jnp.maximum(norm(a), least)
    convergence = jnp.where(
      norm(a) > least, convergence, jnp.minimum(convergence, 1.0)
    )
    log_ratio = jnp.abs(jnp.log((a + FLOOR) / (b + FLOOR)))
    total += convergence + _frame_mean(log_ratio, count, window // 4)
  return total / len(WINDOWS)


@functools.partial(jax.jit, static_argnames="rate")
def compare(
  x: jax.Array, y: jax.Array, rate: int, lengths: jax.Array | None = None
) -> dict[str, jax.Array]:
  """Computes all measures: name -> float32 [batch].

  Args:
    x: original [batch, samples, channels].
    y: reconstruction, same shape.
    rate: Hz.
    lengths: valid samples [batch], or None.

  Returns:
    "si_sdr" and "mel_distance" in dB, "stft_distance".
  """
  return {
    "si_sdr": si_sdr(x, y, lengths),
    "mel_distance": mel_distance(x, y, rate, lengths),
    "stft_distance": stft_distance(x, y, rate, lengths),
  }


def _prepare(
  x: jax.Array, y: jax.Array, lengths: jax.Array | None
) -> tuple[jax.Array, jax.Array, jax.Array]:
  """Returns x and y in float32 with silent padding, and valid sample counts."""
  x, y = jnp.asarray(x, jnp.float32), jnp.asarray(y, jnp.float32)
  if x.ndim != 3 or x.shape != y.shape:
    raise ValueError(
      "original and reconstruction must both be [batch, samples, channels],"
      f" got {x.shape} and {y.shape}"
    )
  if lengths is None:
    lengths = jnp.full(x.shape[:1], x.shape[1])
  valid = jnp.arange(x.shape[1])[:, None] < jnp.asarray(lengths)[:, None, None]
  x, y = jnp.where(valid, x, 0.0), jnp.where(valid, y, 0.0)
  return x, y, jnp.maximum(jnp.asarray(lengths), 1)


def _valid_frames(values: jax.Array, count: jax.Array, hop: int) -> jax.Array:
  """Masks the frames of each clip without padding: [batch, 1, frames, 1]."""
  frames = jnp.arange(values.shape[2]) < (1 + count // hop)[:, None]
  return frames[:, None, :, None]


def _frame_mean(values: jax.Array, count: jax.Array, hop: int) -> jax.Array:
  """Averages [batch, channels, frames, bins] over valid frames: [batch]."""
  valid = _valid_frames(values, count, hop)
  number = valid.sum((1, 2, 3)) * values.shape[1] * values.shape[3]
  return jnp.where(valid, values, 0.0).sum((1, 2, 3)) / number
