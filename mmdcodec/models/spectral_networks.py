"""Encoder and decoder of spectral codecs: all layers run at the frame rate.

  encoder: MDCT and MDST -> whitening, compression -> ConvNeXt blocks -> latents
  decoder: latents -> ConvNeXt blocks -> MDCT coefficients -> inverse MDCT

Most layers of a SEANet run at many times the frame rate, and learn something
like a filter bank. Here a fixed transform takes their place
(`mmdcodec.nn.mdct`), as in Vocos (arXiv 2306.00814; STFT, decoder only),
APCodec (arXiv 2402.10533; amplitude and phase), MDCTCodec (arXiv 2411.00464)
and SpectroStream (arXiv 2508.05207), with the ConvNeXt blocks of Vocos.

  whitening    each bin is divided by its usual magnitude in the training music,
               the `profile`; the decoder multiplies by it. Otherwise the much
               louder bass would decide everything.
  compression  magnitudes to the power 0.3, phases kept.
  head         coefficient = profile * 2 exp(m) s, with m and s from one dense
               layer: levels over many orders of magnitude, either sign.
  latents      have mean 0 and variance 1 in each dimension: over the frames of
               the batch in training, by running statistics otherwise. The
               commitment loss cannot shrink them.

With `phase_iterations` the codes hold magnitudes alone, and the decoder finds
phases for them (`mmdcodec.models.spectral_magnitudes`). A steady tone then has
steady codes: its phase, which turns differently in every frame, no longer takes
up most of the codebooks, and a language model has far less to predict. What is
lost is the waveform; such a codec does not stream.

Profile and running statistics are arrays of the collection "codebook": part of
the model, without a gradient. Stereo is coded as middle and side.

Frames overlap, so encoder and decoder of even a causal codec look half a frame
ahead; `mmdcodec.models.spectral_bins` says what that means for streams.
"""

import dataclasses
import math
from typing import Annotated

import flax.linen as nn
import jax
import jax.numpy as jnp

from mmdcodec import bounds
from mmdcodec.bounds import flag, list_of, number, whole
from mmdcodec.models.spectral_bins import (
  LOUDEST,
  STATISTICS,
  Analysis,
  Profile,
  Synthesis,
)
from mmdcodec.models.spectral_magnitudes import (
  MagnitudeAnalysis,
  MagnitudeSynthesis,
)
from mmdcodec.nn import griffin_lim
from mmdcodec.nn.conv import frames, length_mask, mask_after, padding
from mmdcodec.nn.convnext import ConvNeXt
from mmdcodec.parallel import mapped
from mmdcodec.parallel.mapped import AxisName


@dataclasses.dataclass(frozen=True)
class SpectralNetwork(bounds.Checked):
  """The fields of `Codec` that encoder and decoder need, documented there."""

  called = "the codec"

  channels: Annotated[int, whole(1, 64)]
  causal: Annotated[bool, flag()]
  ratios: Annotated[tuple[int, ...], list_of(whole(1, 256), 8)]
  dim: Annotated[int, whole(1, 1 << 14)]
  kernel: Annotated[int, whole(1, 255)]
  width: Annotated[int, whole(1, 1 << 14)]
  expansion: Annotated[int, whole(1, 64)]
  encoder_blocks: Annotated[int, whole(1, 256)]
  decoder_blocks: Annotated[int, whole(1, 256)]
  compression: Annotated[float, number(0.01, 1)]
  dtype: Annotated[str, bounds.dtype("float32", "bfloat16")]
  remat: Annotated[bool, flag()]
  phase_iterations: Annotated[int, whole(0, 1000)]

  @property
  def problem(self) -> str | None:
    """See the base class."""
    if self.phase_iterations and self.hop % 4:
      return (
        f"the product of the ratios {self.ratios} is {self.hop}; without coded"
        " phases it must be a multiple of 4: change ratios, or set"
        " phase_iterations=0"
      )
    if self.phase_iterations and self.causal:
      return (
        "phase_iterations finds phases from later frames too, which a causal"
        " codec cannot: set causal=False, or phase_iterations=0"
      )
    if self.hop % 2 or self.hop > 1 << 14:
      return (
        f"the product of the ratios {self.ratios} is {self.hop}; a spectral"
        " codec needs an even number of samples per frame, at most 16384"
      )
    return None

  @property
  def hop(self) -> int:
    """Samples per frame."""
    return math.prod(self.ratios)

  @property
  def bins(self) -> int:
    """Bins of a spectrum."""
    return griffin_lim.bins(self.hop) if self.phase_iterations else self.hop

  def convnext(self, blocks: int, out: int, out_scale: float = 1.0) -> ConvNeXt:
    """A stack of blocks with the common options."""
    return ConvNeXt(
      width=self.width,
      blocks=blocks,
      out=out,
      kernel_size=self.kernel,
      expansion=self.expansion,
      causal=self.causal,
      out_scale=out_scale,
      dtype=jnp.dtype(self.dtype),
      remat=self.remat,
    )

  @property
  def contexts(self) -> tuple[tuple[int, int], ...]:
    """Frames (before, after) that outputs of encoder and decoder depend on."""
    left, right = padding(self.kernel, 1, 1, self.causal)
    # Windows of the transform overlap with the neighbours of a frame.
    around = (1, 1)
    if self.phase_iterations:
      around = tuple(map(griffin_lim.context, (0, self.phase_iterations)))
    return tuple(
      (blocks * left + more, blocks * right + more)
      for blocks, more in zip(
        (self.encoder_blocks, self.decoder_blocks), around, strict=True
      )
    )


class LatentNorm(nn.Module):
  """Normalises each dimension over frames, without scale or shift.

  Attributes:
    decay: decay of the running statistics.
  """

  decay: float = 0.95

  @nn.compact
  def __call__(
    self,
    z: jax.Array,
    ends: jax.Array | None,
    axis_name: AxisName = None,
  ) -> jax.Array:
    """[batch, frames, dim] -> the same shape."""
    shape = z.shape[-1:]
    mean = self.variable(STATISTICS, "mean", jnp.zeros, shape, jnp.float32)
    variance = self.variable(
      STATISTICS, "variance", jnp.ones, shape, jnp.float32
    )
    if self.is_initializing() or not self.is_mutable_collection(STATISTICS):
      return (z - mean.value) * jax.lax.rsqrt(variance.value + 1e-6)
    valid = (
      jnp.ones(z.shape[:2], jnp.float32)
      if ends is None
      else length_mask(ends, z.shape[1])
    )
    mapped.check_global(
      "the norm of the latents", axis_name, takes_name=True, rows=[z]
    )
    count = mapped.total(valid.sum(), axis_name)
    weight = valid.astype(jnp.float32) / jnp.maximum(count, 1)
    weight = weight[..., None]
    mean_of = lambda x: mapped.total(jnp.sum(weight * x, (0, 1)), axis_name)
    now = mean_of(z)
    spread = mean_of((z - now) ** 2)
    some = count > 0
    for running, value in (mean, now), (variance, spread):
      moved = self.decay * running.value + (1 - self.decay) * value
      moved = jax.lax.stop_gradient(moved)
      running.value = jnp.where(some, moved, running.value)
    return (z - now) * jax.lax.rsqrt(spread + 1e-6)


class SpectralEncoder(nn.Module):
  """Maps audio to latents, one frame for every `hop` samples.

  Attributes:
    network: fields of the codec.
    profile: shared with the decoder.
  """

  network: SpectralNetwork
  profile: Profile

  def setup(self) -> None:
    """Builds the layers."""
    n = self.network
    kind = MagnitudeAnalysis if n.phase_iterations else Analysis
    self.analysis = kind(n.hop, self.profile, n.compression)
    self.blocks = n.convnext(n.encoder_blocks, n.dim)
    self.norm = LatentNorm()

  def __call__(
    self,
    x: jax.Array,
    lengths: jax.Array | None = None,
    axis_name: AxisName = None,
  ) -> jax.Array:
    """[batch, samples, channels] -> [batch, frames, dim] float32.

    In streaming, x is half a hop longer than its frames, see `Analysis`. For
    axis_name see `Codec`.
    """
    ends = None if lengths is None else frames(lengths, self.network.hop)
    z = self.norm(self.blocks(self.analysis(x, ends), ends), ends, axis_name)
    return mask_after(z, ends)


class SpectralDecoder(nn.Module):
  """Maps latents to audio.

  Attributes:
    network: fields of the codec.
    profile: shared with the encoder.
  """

  network: SpectralNetwork
  profile: Profile

  def setup(self) -> None:
    """Builds the layers."""
    n = self.network
    # Half the usual deviation: untrained, the audio is quiet noise, or music
    # of the usual magnitudes.
    self.blocks = n.convnext(n.decoder_blocks, 2 * n.channels * n.bins, 0.5)
    self.synthesis: Synthesis | MagnitudeSynthesis
    if n.phase_iterations:
      self.synthesis = MagnitudeSynthesis(
        n.hop, self.profile, n.phase_iterations
      )
    else:
      self.synthesis = Synthesis(n.hop, self.profile)

  def __call__(
    self,
    z: jax.Array,
    lengths: jax.Array | None = None,
    *,
    phases_of: jax.Array | None = None,
  ) -> jax.Array:
    """[batch, frames, dim] -> [batch, frames * hop, channels] float32.

    In streaming, the audio is half a hop longer, see `Synthesis`. Without coded
    phases, those of `phases_of` [batch, samples, channels] are taken, if given.
    """
    n = self.network
    x = mask_after(self.blocks(z, lengths), lengths)
    x = x.reshape(*x.shape[:2], 2, n.channels, n.bins)
    if isinstance(self.synthesis, MagnitudeSynthesis):
      return self.synthesis(x, lengths, phases_of)
    level, sign = x[:, :, 0], x[:, :, 1]
    bins = 2 * jnp.exp(jnp.minimum(level, LOUDEST)) * sign
    return self.synthesis(bins, lengths)
