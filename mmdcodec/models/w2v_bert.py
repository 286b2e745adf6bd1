"""w2v-BERT 2.0: a conformer over log-mel features of speech.

Chung et al. 2021, arXiv 2108.06209, in the form of Seamless (arXiv 2312.05187,
4.1), with public weights: two frames of Kaldi's features are stacked, so there
are 50 vectors a second.
"""

from collections.abc import Mapping
from typing import Annotated, Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from mmdcodec import bounds
from mmdcodec.audio import kaldi
from mmdcodec.bounds import whole
from mmdcodec.models import fields
from mmdcodec.nn.conformer import Conformer
from mmdcodec.nn.conv import length_mask

# Frames of the spectrum per vector.
STACK = 2


class W2vBert2(bounds.Checked, nn.Module):
  """Features of audio, without dropout.

  Attributes:
    mels: mel bands.
    layers: number of blocks.
    width: channels of a vector.
    heads: attention heads.
    hidden: width of the feed-forward layers.
    kernel: taps of the conformer's convolutions, which are causal.
    positions: see `Conformer`.
    left: see `Conformer`.
    right: see `Conformer`.
    feature_layer: block, counted from 1, whose output is the features.
    dtype: compute dtype, "float32" or "bfloat16".
  """

  called = "w2v-BERT"

  # `Conformer` has the bounds of its own fields.
  mels: Annotated[int, whole(1, 1 << 10)] = 80
  layers: int = 24
  width: int = 1024
  heads: int = 16
  hidden: int = 4096
  kernel: int = 31
  positions: str = "relative_key"
  left: int = 64
  right: int = 8
  feature_layer: Annotated[int, whole(1, 256)] = 7
  dtype: Annotated[str, bounds.dtype("float32", "bfloat16")] = "float32"

  # Samples of audio at 16 kHz.
  rate = kaldi.RATE
  stride = STACK * kaldi.HOP
  # Those of the shortest clip with a vector.
  shortest = kaldi.WINDOW + (STACK - 1) * kaldi.HOP

  @property
  def problem(self) -> str | None:
    """See the base class."""
    # Its own checks come first.
    self.conformer(parent=None)
    if self.feature_layer > self.layers:
      return (
        f"feature_layer is {self.feature_layer}; it must be at most"
        f" layers, {self.layers}"
      )
    return None

  @nn.nowrap
  def conformer(self, **more: Any) -> Conformer:
    """Makes the blocks."""
    return Conformer(
      layers=self.layers,
      width=self.width,
      heads=self.heads,
      hidden=self.hidden,
      kernel=self.kernel,
      positions=self.positions,
      causal_conv=True,
      left=self.left,
      right=self.right,
      dtype=jnp.dtype(self.dtype),
      **more,
    )

  def setup(self) -> None:
    """Builds the network."""
    self.norm = nn.LayerNorm(epsilon=1e-5, use_fast_variance=False)
    self.project = nn.Dense(self.width, dtype=jnp.dtype(self.dtype))
    self.encoder = self.conformer()

  @nn.nowrap
  def frames_of(self, samples: Any) -> Any:
    """Number of vectors of so many samples; works for arrays too."""
    return kaldi.frame_count(samples) // STACK

  @nn.nowrap
  def spectra(self, x: jax.Array, lengths: jax.Array) -> jax.Array:
    """Stacked frames of the standardised spectrum.

    Args:
      x: float32 [batch, samples, 1]; samples are a multiple of the stride.
      lengths: int [batch], valid samples.

    Returns:
      float32 [batch, samples / stride, STACK * mels].
    """
    bounds.check_shape("x", x, batch=..., samples=None, channels=1)
    count = x.shape[1] // self.stride
    # The last frames reach beyond the end.
    x = jnp.pad(x[..., 0], ((0, 0), (0, kaldi.WINDOW)))
    found = kaldi.fbank(x, self.mels)[:, : STACK * count]
    # One frame without a second is heard by the norm, and then dropped.
    ends = kaldi.frame_count(lengths)
    valid = length_mask(ends, found.shape[1])
    return kaldi.standardise(found, valid).reshape(len(x), count, -1)

  def encode(
    self, spectra: jax.Array, mask: jax.Array, layer: int
  ) -> jax.Array:
    """Output of one block for `spectra`, as it returns them.

    Args:
      spectra: float32 [batch, frames, STACK * mels].
      mask: bool [batch, frames], True for valid frames.
      layer: the block, counted from 1.

    Returns:
      float32 [batch, frames, width], 0 where the mask is False.
    """
    x = self.project(self.norm(spectra)).astype(jnp.float32)
    if layer == self.layers or self.is_initializing():
      return self.encoder(x, mask)
    return self.encoder.hidden_states(x, mask, layer)

  def features(self, x: jax.Array, lengths: jax.Array) -> jax.Array:
    """Vectors of each frame, to be clustered.

    Args:
      x: float32 [batch, samples, 1]; samples are a multiple of the stride.
      lengths: int [batch], valid samples.

    Returns:
      float32 [batch, samples / stride, width], 0 where an item has no frames.
    """
    spectra = self.spectra(x, lengths)
    mask = length_mask(self.frames_of(lengths), spectra.shape[1])
    return self.encode(spectra, mask, self.feature_layer)


def from_config(config: Mapping[str, Any]) -> W2vBert2:
  """Builds the network from a mapping of its fields.

  Raises:
    UserError: an unknown key, or an invalid value.
  """
  return fields.build(W2vBert2, config)
