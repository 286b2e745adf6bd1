"""The melody embedding of MusicLM: equal melodies are near, however played.

Agostinelli et al. 2023, arXiv 2301.11325, 3.4 and appendix: a vision
Transformer over the mel spectrogram of 4 s, trained with a triplet loss on
pairs with the same melody in other acoustics.

With `lags`, the Transformer hears how the pitches move instead of mel bands,
see `intervals`.

  "input"  collection: "mean" and "scale" [mels] of the log-mel spectrogram over
           the training music, measured before the first step; not with `lags`.
"""

from collections.abc import Mapping
from typing import Annotated, Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from mmdcodec import bounds
from mmdcodec.bounds import list_of, null_or, number, one_of, whole
from mmdcodec.models import fields, intervals
from mmdcodec.models.mel_front_end import window_levels
from mmdcodec.models.spectrogram_transformer import SpectrogramTransformer
from mmdcodec.nn.attention import kernel_init
from mmdcodec.nn.norms import unit_vectors
from mmdcodec.nn.stacked import REMAT

PRESETS: dict[str, dict[str, Any]] = {
  # 12 x 512 with FFN 1024 as published. Six heads do not divide 512.
  "base": {},
  "small": dict(
    rate=8000,
    # Semitones from 110 Hz up to 3.3 kHz, and intervals up to an octave.
    mels=60,
    fmin=110.0,
    octave=12,
    window=2048,
    hop=640,
    lags=(1, 2, 3, 4, 6, 8, 12, 16),
    patch=(2, 200),
    layers=2,
    width=128,
    heads=4,
    hidden=256,
  ),
  "tiny": dict(
    rate=8000,
    seconds=1.0,
    mels=16,
    window=512,
    hop=400,
    patch=(4, 16),
    layers=1,
    width=16,
    heads=2,
    hidden=16,
    dim=8,
  ),
}


class MelodyEmbedding(bounds.Checked, nn.Module):
  """Maps windows of music to points of a sphere.

  Attributes:
    rate: Hz of the audio, which has one channel.
    seconds: length of a window.
    mels: bands of the spectrogram, on a mel scale.
    window: samples of a frame. The default of 64 ms separates low notes.
    hop: samples between frames.
    fmin: lower edge of the first band, or its centre with `lags`, Hz.
    fmax: upper edge of the last band, Hz; None means rate / 2. Without effect
      with `lags`.
    lags: frames after which pitches are compared; none: the Transformer hears
      the bands themselves.
    octave: with `lags`, bands in an octave, which is also the largest interval.
      They are equally far apart in pitch.
    patch: frames and bands of a patch; with `lags`, intervals are its bands.
    layers: number of blocks.
    width: channels of a patch.
    heads: attention heads.
    hidden: width of the feed-forward layers.
    dim: dimensions of an embedding.
    dropout: rate in training.
    remat: see `Transformer`.
    dtype: compute dtype; parameters, norms and sums are float32.
  """

  called = "the melody embedding"

  rate: Annotated[int, whole(1000, 384_000)] = 16_000
  seconds: Annotated[float, number(0.01, 600)] = 4.0
  mels: Annotated[int, whole(1, 1 << 10)] = 128
  window: Annotated[int, whole(16, 1 << 16)] = 1024
  hop: Annotated[int, whole(1, 1 << 16)] = 320
  fmin: Annotated[float, number(0, 192_000)] = 60.0
  fmax: Annotated[float | None, null_or(number(1, 192_000))] = None
  lags: Annotated[Any, list_of(whole(0, 1 << 10), 64, 0)] = ()
  octave: Annotated[int, whole(1, 1 << 7)] = 12
  patch: Annotated[Any, list_of(whole(1, 1 << 12), 2, 2)] = (8, 32)
  layers: Annotated[int, whole(1, 256)] = 12
  width: Annotated[int, whole(4, 1 << 14)] = 512
  heads: Annotated[int, whole(1, 256)] = 8
  hidden: Annotated[int, whole(1, 1 << 17)] = 1024
  dim: Annotated[int, whole(1, 1 << 14)] = 192
  dropout: Annotated[float, number(0, 1)] = 0.0
  remat: Annotated[str, one_of(("none", *REMAT))] = "none"
  dtype: Annotated[Any, bounds.dtype(*bounds.FLOATS)] = jnp.float32

  @property
  def problem(self) -> str | None:
    """See the base class."""
    if self.bands % self.patch[1]:
      what = "intervals" if self.lags else "mels"
      return (
        f"its {self.bands} {what} must be a multiple of the {self.patch[1]}"
        " bands of a patch"
      )
    if self.width % self.heads:
      return f"its {self.heads} heads can't share a width of {self.width}"
    if self.lags:
      highest = self.fmin * 2 ** (self.mels / self.octave)
      if not 0 < self.fmin < highest <= self.rate / 2:
        return (
          f"its {self.mels} bands reach from {self.fmin} to {highest:.0f} Hz,"
          " but must lie between 0 and rate / 2"
        )
    elif not self.fmin < (self.fmax or self.rate / 2) <= self.rate / 2:
      return f"fmin {self.fmin} and fmax {self.fmax} must rise up to rate / 2"
    return None

  @property
  def bands(self) -> int:
    """What the Transformer hears of a frame: mels, or intervals."""
    return len(self.lags) * (2 * self.octave + 1) or self.mels

  @property
  def samples(self) -> int:
    """Samples of a window."""
    return round(self.seconds * self.rate)

  def spectrogram(
    self, x: jax.Array, lengths: jax.Array
  ) -> tuple[jax.Array, jax.Array]:
    """Levels before they are standardised; see `window_levels`."""
    return window_levels(
      x,
      lengths,
      rate=self.rate,
      window=self.window,
      hop=self.hop,
      mels=self.mels,
      fmin=self.fmin,
      fmax=self.fmax,
    )

  def _hear(
    self, x: jax.Array, lengths: jax.Array
  ) -> tuple[jax.Array, jax.Array]:
    """What the Transformer hears [batch, frames, bands], and valid frames."""
    if self.lags:
      levels, valid = intervals.pitch_levels(
        x,
        lengths,
        rate=self.rate,
        window=self.window,
        hop=self.hop,
        bands=self.mels,
        fmin=self.fmin,
        octave=self.octave,
      )
      found = intervals.intervals(
        levels, valid, lags=self.lags, most=self.octave
      )
      return nn.LayerNorm(name="norm")(found), valid
    zeros, ones = jnp.zeros, jnp.ones
    mean = self.variable(
      "input", "mean", zeros, (self.mels,), jnp.float32
    ).value
    scale = self.variable(
      "input", "scale", ones, (self.mels,), jnp.float32
    ).value
    levels, valid = self.spectrogram(x, lengths)
    return (levels - mean) * scale, valid

  @nn.compact
  def __call__(
    self, x: jax.Array, lengths: jax.Array, *, train: bool = False
  ) -> jax.Array:
    """Embeds windows; padding and other windows make no difference.

    Args:
      x: float32 [batch, `samples`, 1].
      lengths: int [batch], valid samples from the first on, at least 1.
      train: applies dropout, with the random key "dropout".

    Returns:
      float32 [batch, dim] of norm 1.

    Raises:
      ValueError: x has another shape.
    """
    bounds.check_shape("x", x, batch=..., samples=self.samples, channels=1)
    heard, valid = self._hear(x, lengths)
    y = SpectrogramTransformer(
      patch=self.patch,
      layers=self.layers,
      width=self.width,
      heads=self.heads,
      hidden=self.hidden,
      pooling="mean",
      dropout=self.dropout,
      remat=self.remat,
      dtype=self.dtype,
      name="tower",
    )(heard, valid, train=train)
    y = nn.Dense(
      self.dim, use_bias=False, kernel_init=kernel_init(), name="out"
    )(y)
    return unit_vectors(y)


def preset(name: str, **changes: Any) -> dict[str, Any]:
  """All fields of a preset, ready for JSON and for `from_config`.

  Args:
    name: "base" (the paper's size), "small" (for CPUs) or "tiny" (for tests).
    **changes: fields to change.

  Raises:
    UserError: there is no such preset or field.
  """
  found = fields.preset(MelodyEmbedding, PRESETS, name, changes)
  return found | {"dtype": str(jnp.dtype(found["dtype"]))}


def from_config(config: Mapping[str, Any]) -> MelodyEmbedding:
  """Builds a model from its fields; missing ones keep their defaults.

  Raises:
    UserError: an unknown field, or a value out of its bounds.
  """
  return fields.build(MelodyEmbedding, config)


def initial(model: MelodyEmbedding, key: jax.Array) -> dict[str, Any]:
  """Initializes the variables."""
  lengths = jnp.full(1, model.samples)
  return dict(
    model.init(key, jnp.zeros((1, model.samples, 1), jnp.float32), lengths)
  )


def shapes(config: Mapping[str, Any]) -> dict[str, Any]:
  """Shapes of the variables of a bundle of kind "melody_embedding".

  Raises:
    UserError: as in `from_config`.
  """
  model = from_config(config["model"])
  make: Any = lambda key: initial(model, key)
  return dict(jax.eval_shape(make, jax.random.key(0)))
