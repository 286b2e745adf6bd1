"""Neural audio codecs: encoder, residual quantizer, decoder.

`preset` returns the fields of a published codec (`mmdcodec.models.codec_fields`
has them all), `from_config` the model:

  model = from_config(preset("encodec_24khz", filters=16))
  variables = model.init(key, x)
  encoded = model.apply(variables, x, method="encode")
  y = model.apply(variables, encoded.codes, method="decode")

Encoder and decoder are in `mmdcodec.models.seanet` or, for the topology
"spectral", in `mmdcodec.models.spectral_networks`; the quantizer is in
`mmdcodec.quantize.residual`, coding in chunks in `mmdcodec.models.chunks`.
SoundStream is arXiv 2107.03312, EnCodec arXiv 2210.13438.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from mmdcodec import bounds, precision
from mmdcodec.errors import UserError
from mmdcodec.models import chunks, fields
from mmdcodec.models.codec_fields import CodecFields, network_kind
from mmdcodec.models.codec_outputs import Encoded, Output, loudness
from mmdcodec.models.codec_presets import PRESETS
from mmdcodec.models.seanet import Decoder, Encoder, Network
from mmdcodec.models.spectral_bins import Profile
from mmdcodec.models.spectral_networks import (
  SpectralDecoder,
  SpectralEncoder,
  SpectralNetwork,
)
from mmdcodec.nn.conv import frames, length_mask, mask_after
from mmdcodec.parallel.mapped import AxisName
from mmdcodec.quantize.residual import Quantized, ResidualVectorQuantizer

NO_SCALE = (
  "this codec divides its input by its loudness: give decode the scale that"
  " encode returned."
)


class Codec(CodecFields):
  """A neural audio codec; the defaults are those of a 24 kHz EnCodec.

  Variables: collections "params" and "codebook". Random keys: "params" at
  init, "quantize" in training. Use: `codec.apply(variables, x,
  method="encode")`. Every method takes `lengths` [batch]; each example then
  gives the same result as alone, and zeros after its end.

  Attributes: see `CodecFields`.
  """

  def setup(self) -> None:
    """Builds encoder, quantizer and decoder."""
    n = self.network
    self.encoder: Encoder | SpectralEncoder
    self.decoder: Decoder | SpectralDecoder
    if isinstance(n, SpectralNetwork):
      self.profile = Profile(n.channels, n.bins)
      self.encoder = SpectralEncoder(n, self.profile)
      self.decoder = SpectralDecoder(n, self.profile)
    else:
      self.encoder, self.decoder = Encoder(n), Decoder(n)
    self.quantizer = ResidualVectorQuantizer(**self.quantizer_fields)

  def __call__(
    self,
    x: jax.Array,
    lengths: jax.Array | None = None,
    *,
    train: bool = False,
    quantize: bool = True,
    shift: jax.Array | None = None,
    own_phases: bool | None = None,
    axis_name: AxisName = None,
  ) -> Output:
    """Encodes, quantizes and decodes.

    Args:
      x: [batch, samples, channels] float32.
      lengths: [batch] valid samples, or None.
      train: update the codebooks; needs `mutable=["codebook"]` and the random
        key "quantize".
      quantize: False decodes the latents as they are and leaves the codebooks
        alone, for the first steps of training; `quantized` is z then, and the
        codes are those of the codebooks as they are.
      shift: [batch, frames, dim] to add to the latents; its gradient is that of
        the encoder's output.
      own_phases: where codes hold no phases, take those of x, so that only
        magnitudes differ and no gradient goes through the search for phases.
        None means in training.
      axis_name: mapped axes that divide the batch, for codebooks and other
        statistics; see `ResidualVectorQuantizer`.

    Returns:
      Output.
    """
    self._check_audio(x, None)
    z, scale = self.analyse(x, lengths, axis_name)
    if shift is not None:
      z = z + shift
    if lengths is None:
      ends = mask = None
    else:
      ends = frames(lengths, self.stride)
      mask = length_mask(ends, z.shape[1])
    q = self.quantizer(z, mask, train=train and quantize, axis_name=axis_name)
    heard = q.z if quantize else z
    own_phases = train if own_phases is None else own_phases
    phases_of = mask_after(x, lengths) if own_phases else None
    audio = self.synthesize_frames(heard, ends, scale, phases_of)
    audio = audio[:, : x.shape[1]]
    return Output(
      audio=mask_after(audio, lengths),
      z=z,
      quantized=heard,
      codes=q.codes,
      streams=q.streams,
      commitment=q.commitment,
      metrics=q.metrics,
      frame_mask=jnp.ones(z.shape[:2], bool) if mask is None else mask,
    )

  def latents(
    self, x: jax.Array, lengths: jax.Array | None = None
  ) -> jax.Array:
    """Latents before quantization, without chunks.

    Args:
      x: [batch, samples, channels].
      lengths: [batch] valid samples, or None.

    Returns:
      [batch, ceil(samples / stride), dim] float32.
    """
    return self.analyse(x, lengths)[0]

  def quantize(self, z: jax.Array, mask: jax.Array | None = None) -> Quantized:
    """Quantizes latents without updating the codebooks.

    Args:
      z: [batch, frames, dim].
      mask: bool [batch, frames], False in padding; None means all valid.
    """
    return self.quantizer(z, mask)

  def synthesize(
    self,
    z: jax.Array,
    lengths: jax.Array | None = None,
    *,
    scale: jax.Array | None = None,
    phases_of: jax.Array | None = None,
  ) -> jax.Array:
    """Decodes latents to audio, without chunks.

    Args:
      z: [batch, frames, dim].
      lengths: [batch] valid samples, or None.
      scale: [batch, 1] loudness to multiply by, or None.
      phases_of: [batch, samples, channels], audio whose phases are taken where
        codes hold none; None means that they are found.

    Returns:
      [batch, frames * stride, channels] float32.
    """
    ends = None if lengths is None else frames(lengths, self.stride)
    audio = self.synthesize_frames(z, ends, scale, phases_of)
    return mask_after(audio, lengths)

  @precision.exactly
  def encode(
    self,
    x: jax.Array,
    lengths: jax.Array | None = None,
    *,
    codebooks: int | None = None,
  ) -> Encoded:
    """Encodes audio to codes, see `mmdcodec.precision`.

    Args:
      x: [batch, samples, channels].
      lengths: [batch] valid samples, or None.
      codebooks: number of codebooks to use, from the first on; None means all.

    Returns:
      Encoded, with ceil(samples / stride) frames; with chunks, the frames of
      all chunks in order (`mmdcodec.models.chunks`).
    """
    self._check_audio(x)
    batch, samples, _ = x.shape
    if self.chunk is not None and samples > self.chunk[1]:
      return Encoded(*chunks.encode(self, x, lengths, codebooks))
    z, scale = self.analyse(x, lengths)
    codes = self.quantizer.encode(z, codebooks)
    if lengths is None:
      ends = jnp.full((batch,), z.shape[1], jnp.int32)
    else:
      ends = frames(lengths, self.stride).astype(jnp.int32)
      codes = mask_after(codes, ends)
    return Encoded(codes, ends, scale)

  def decode(
    self,
    codes: jax.Array,
    *,
    scale: jax.Array | None = None,
    lengths: jax.Array | None = None,
  ) -> jax.Array:
    """Decodes codes to audio.

    Args:
      codes: int32 [batch, frames, k], k <= codebooks.
      scale: as in Encoded; needed if the codec normalises.
      lengths: [batch] valid samples; None means whole frames. A codec with
        chunks needs them where a clip ends inside an overlap.

    Returns:
      [batch, frames * stride, channels] float32; with chunks, frames of an
      overlap count once.

    Raises:
      UserError: the codec normalises and there is no scale.
      ValueError: the codes have another shape, or are not integers.
    """
    bounds.check_integers("codes", codes)
    bounds.check_shape("codes", codes, batch=..., frames=..., codebooks=None)
    if self.normalize and scale is None:
      raise UserError(NO_SCALE)
    if self.chunk is not None and codes.shape[1] > self.frames_per_chunk:
      return chunks.decode(self, codes, scale, lengths)
    return self.synthesize(self.quantizer.decode(codes), lengths, scale=scale)

  def analyse(
    self,
    x: jax.Array,
    lengths: jax.Array | None,
    axis_name: AxisName = None,
  ) -> tuple[jax.Array, jax.Array | None]:
    """Latents before quantization and the removed loudness, without chunks.

    Args:
      x: [batch, samples, channels].
      lengths: [batch] valid samples, or None.
      axis_name: see `__call__`.

    Returns:
      (z [batch, frames, dim], scale [batch, 1] or None).
    """
    self._check_audio(x)
    x = mask_after(x, lengths)
    scale = None
    if self.normalize:
      scale = loudness(x, lengths)
      x = x / scale[..., None]
    if isinstance(self.encoder, SpectralEncoder):
      return self.encoder(x, lengths, axis_name), scale
    return self.encoder(x, lengths), scale

  def synthesize_frames(
    self,
    z: jax.Array,
    ends: jax.Array | None,
    scale: jax.Array | None,
    phases_of: jax.Array | None = None,
  ) -> jax.Array:
    """`synthesize`, for `ends` [batch] valid frames, not cut inside a frame."""
    bounds.check_shape("z", z, batch=..., frames=..., dim=self.dim)
    z = mask_after(z, ends)
    if isinstance(self.decoder, SpectralDecoder):
      x = self.decoder(z, ends, phases_of=phases_of)
    else:
      x = self.decoder(z, ends)
    return x if scale is None else x * scale[..., None]

  def _check_audio(self, x: jax.Array, size: Any = ...) -> None:
    """Checks the shape of audio; without `size=None` it may be empty."""
    bounds.check_shape("x", x, batch=size, samples=size, channels=self.channels)


def preset(name: str, **changes: Any) -> dict[str, Any]:
  """All fields of a published or tiny codec.

  Args:
    name: one of PRESETS.
    **changes: fields to change.

  Returns:
    dict for `from_config`, ready for JSON, without the fields of other
    topologies.

  Raises:
    UserError: there is no such preset or field.
  """
  found = fields.preset(Codec, PRESETS, name, changes)
  names = lambda kind: {field.name for field in dataclasses.fields(kind)}
  kind = network_kind(found["topology"])
  unused = (names(Network) | names(SpectralNetwork)) - names(kind)
  unused -= {"topology"}
  for key in unused & changes.keys():
    raise UserError(
      f"the codec preset {name!r} has the topology {found['topology']!r}, which"
      f" has no field {key!r}."
    )
  return {key: value for key, value in found.items() if key not in unused}


def from_config(config: Any) -> Codec:
  """Builds a Codec from a mapping of its fields; lists become tuples.

  Raises:
    UserError: an unknown key, or an invalid value.
  """
  return fields.build(Codec, config)
