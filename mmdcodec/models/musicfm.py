"""MusicFM: a conformer over a log-mel spectrum of music, 25 vectors a second.

Won et al. 2024, arXiv 2311.03318: two residual convolutions reduce time and
bands to a quarter, then come wav2vec 2.0's conformer blocks, whose queries and
keys see rotated hidden states.
"""

from collections.abc import Mapping
from typing import Annotated, Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from mmdcodec import bounds
from mmdcodec.audio import transforms
from mmdcodec.bounds import number, whole
from mmdcodec.models import fields
from mmdcodec.nn.conformer import Conformer
from mmdcodec.nn.conv import frames, length_mask
from mmdcodec.nn.conv_nd import ConvNd
from mmdcodec.nn.reflect_padding import reflect_lengths

# Frames of the spectrum per vector.
REDUCTION = 4
_WINDOW = 2048  # samples


class Residual(nn.Module):
  """Two convolutions beside one, of stride 2 over time and bands.

  The batch norms of the public model are part of its kernels and biases.

  Attributes:
    filters: channels of the output.
    dtype: compute dtype.
  """

  filters: int
  dtype: Any

  @nn.compact
  def __call__(self, x: jax.Array, ends: jax.Array) -> jax.Array:
    """Halves time and bands.

    Args:
      x: [batch, frames, bands, channels], 0 after the end of a clip.
      ends: int [batch], valid frames of the output.

    Returns:
      [batch, ceil(frames / 2), ceil(bands / 2), filters], likewise.
    """

    def conv(x: jax.Array, stride: int, name: str) -> jax.Array:
      y = ConvNd(
        self.filters,
        (3, 3),
        strides=(stride, stride),
        pads=((1, 1), (1, 1)),
        norm="none",
        dtype=self.dtype,
        name=name,
      )(x)
      # The next convolution must find zeros after the end, as it does after a
      # clip that is not padded.
      valid = length_mask(ends, y.shape[1])
      return jnp.where(valid[..., None, None], y, 0)

    y = conv(nn.relu(conv(x, 2, "first")), 1, "second")
    return nn.relu(conv(x, 2, "shortcut") + y)


class MusicFM(bounds.Checked, nn.Module):
  """Features of music, without dropout.

  Attributes:
    hop: samples at 24 kHz between frames of the spectrum.
    mels: mel bands, a multiple of 4.
    mean: mean of all spectra, in decibels.
    deviation: their standard deviation.
    filters: channels of the convolutions.
    layers: number of blocks.
    width: channels of a vector.
    heads: attention heads.
    hidden: width of the feed-forward layers.
    kernel: taps of the conformer's convolutions.
    feature_layer: block, counted from 1, whose output is the features; that of
      the last block is normalised once more.
    dtype: compute dtype, "float32" or "bfloat16".
  """

  called = "MusicFM"

  # `Conformer` has the bounds of its own fields.
  hop: Annotated[int, whole(1, 1 << 16)] = 240
  mels: Annotated[int, whole(4, 1 << 10)] = 128
  mean: Annotated[float, number(-1000, 1000)] = 0.0
  deviation: Annotated[float, number(1e-3, 1000)] = 1.0
  filters: Annotated[int, whole(1, 1 << 12)] = 512
  layers: int = 12
  width: int = 1024
  heads: int = 16
  hidden: int = 4096
  kernel: int = 31
  feature_layer: Annotated[int, whole(1, 256)] = 7
  dtype: Annotated[str, bounds.dtype("float32", "bfloat16")] = "float32"

  rate = 24_000  # Hz

  @property
  def problem(self) -> str | None:
    """See the base class."""
    # Its own checks come first.
    self.conformer(parent=None)
    if self.mels % REDUCTION:
      return f"it has {self.mels} mels; expected a multiple of {REDUCTION}"
    if self.feature_layer > self.layers:
      return (
        f"feature_layer is {self.feature_layer}; it must be at most"
        f" layers, {self.layers}"
      )
    return None

  @property
  def stride(self) -> int:
    """Samples from a vector to the next."""
    return REDUCTION * self.hop

  @property
  def shortest(self) -> int:
    """Samples of the shortest clip with a vector."""
    return self.hop

  @nn.nowrap
  def frames_of(self, samples: Any) -> Any:
    """Number of vectors of so many samples; works for arrays too."""
    return frames(samples // self.hop, REDUCTION)

  @nn.nowrap
  def conformer(self, **more: Any) -> Conformer:
    """Makes the blocks."""
    return Conformer(
      layers=self.layers,
      width=self.width,
      heads=self.heads,
      hidden=self.hidden,
      kernel=self.kernel,
      positions="rotary_input",
      conv_norm="batch",
      final_norm=True,
      dtype=jnp.dtype(self.dtype),
      **more,
    )

  def setup(self) -> None:
    """Builds the network."""
    dtype = jnp.dtype(self.dtype)
    self.reduce = [Residual(self.filters, dtype) for _ in range(2)]
    self.project = nn.Dense(self.width, dtype=dtype)
    self.encoder = self.conformer()

  @nn.nowrap
  def spectra(self, x: jax.Array, lengths: jax.Array) -> jax.Array:
    """Standardised log-mel spectra; a clip is reflected at both its ends.

    Args:
      x: float32 [batch, samples, 1]; samples are a multiple of the stride.
      lengths: int [batch], valid samples.

    Returns:
      float32 [batch, samples / hop, mels], 0 after the end of a clip.
    """
    bounds.check_shape("x", x, batch=..., samples=None, channels=1)
    x = jnp.where(length_mask(lengths, x.shape[1])[..., None], x, 0)
    half = _WINDOW // 2
    right = jnp.full(len(x), half)
    x = reflect_lengths(x, half, right, lengths, half)[..., 0]
    spectrum = transforms.stft(x, window=_WINDOW, hop=self.hop, center=False)
    filters = transforms.htk_filters(self.rate, _WINDOW, self.mels)
    mel = jnp.matmul(transforms.power(spectrum), filters, precision="highest")
    levels = 10 * jnp.log10(jnp.maximum(mel, 1e-10))
    # The last frame is centred on the end; the public model drops it.
    levels = (levels[:, :-1] - self.mean) / self.deviation
    valid = length_mask(lengths // self.hop, levels.shape[1])
    return jnp.where(valid[..., None], levels, 0)

  def features(self, x: jax.Array, lengths: jax.Array) -> jax.Array:
    """Vectors of each frame, to be clustered.

    Args:
      x: float32 [batch, samples, 1]; samples are a multiple of the stride.
      lengths: int [batch], valid samples.

    Returns:
      float32 [batch, samples / stride, width], 0 where an item has no frames.
    """
    y = self.spectra(x, lengths)[..., None]
    ends = lengths // self.hop
    for residual in self.reduce:
      ends = frames(ends, 2)
      y = residual(y, ends)
    y = self.project(y.reshape(*y.shape[:2], -1)).astype(jnp.float32)
    mask = length_mask(ends, y.shape[1])
    if self.feature_layer == self.layers or self.is_initializing():
      return self.encoder(y, mask)
    return self.encoder.hidden_states(y, mask, self.feature_layer)


def from_config(config: Mapping[str, Any]) -> MusicFM:
  """Builds the network from a mapping of its fields.

  Raises:
    UserError: an unknown key, or an invalid value.
  """
  return fields.build(MusicFM, config)
