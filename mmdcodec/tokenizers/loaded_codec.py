"""A codec ready to use: NumPy audio in, codes out, and back."""

import copy
import hashlib
import json
from typing import Any

import flax
import jax
import numpy as np

from mmdcodec.errors import UserError
from mmdcodec.models import codec as codec_model
from mmdcodec.tokenizers import long_clips, piecewise, validation
from mmdcodec.tokenizers.streamer import Streamer

# Audio is padded to one of these lengths before it is encoded, so that a folder
# of files compiles a handful of programs and not one for each length. At most
# a fifth of the work is padding.
_STEPS_PER_OCTAVE = 4


def bucket(frames: int) -> int:
  """The next of four sizes per octave: 1..8, 10, 12, 14, 16, 20, 24, ..."""
  if frames <= 2 * _STEPS_PER_OCTAVE:
    return max(frames, 1)
  unit = 1 << ((frames - 1).bit_length() - 3)
  return -(-frames // unit) * unit


def flatten(variables: dict) -> dict[str, np.ndarray]:
  """Arrays by path, "params/encoder/conv_in/bias", sorted."""
  flat = flax.traverse_util.flatten_dict(variables, sep="/")
  # safetensors writes the buffer as it lies, so it must lie in order.
  return {k: np.asarray(v, order="C") for k, v in sorted(flat.items())}


def fingerprint(config: dict, variables: dict) -> str:
  """Names a model by its settings and weights: 16 hex digits of SHA-256."""
  digest = hashlib.sha256(json.dumps(config["model"], sort_keys=True).encode())
  for name, value in flatten(jax.device_get(variables)).items():
    digest.update(f"{name} {value.shape} {value.dtype}".encode())
    digest.update(value.tobytes())
  return digest.hexdigest()[:16]


class LoadedCodec:
  """A codec with its weights: audio in, codes out, and back.

  Attributes:
    config: dict of the bundle's config.json.
    model: the Linen module.
    variables: its parameters and codebooks.
    rate: Hz. channels: of audio. frame_rate: code frames per second.
    codebooks: number of them. hash: names the weights, 16 hex digits.
  """

  def __init__(self, config: dict, variables: dict, assets: Any = None):
    """Puts a configuration and its variables together.

    Args:
      config: with `model`, the fields of `Codec`.
      variables: `{"params": ..., "codebook": ...}`.
      assets: further files of a bundle, of which a codec needs none.
    """
    del assets
    self.config = config
    self.model = codec_model.from_config(config["model"])
    # Arrays of its own, copied by NumPy: `jnp.array` compiles for every shape,
    # which takes 70 MB, and `device_put` shares memory on CPUs.
    self.variables = jax.device_put(jax.tree.map(np.array, variables))
    self.rate, self.channels = self.model.rate, self.model.channels
    self.frame_rate = self.model.frame_rate
    self.codebooks = self.model.codebooks
    self.hash = fingerprint(config, variables)
    self._encode = jax.jit(
      lambda v, x, lengths, codebooks: self.model.apply(
        v, x, lengths, codebooks=codebooks, method="encode"
      ),
      static_argnums=3,
    )
    self._decode = jax.jit(
      lambda v, codes, scale, lengths: self.model.apply(
        v, codes, scale=scale, lengths=lengths, method="decode"
      )
    )

  def encode(
    self,
    x,
    rate: int | None = None,
    *,
    codebooks: int | None = None,
    lengths=None,
    return_scale: bool = False,
  ):
    """Turns audio into codes.

    Args:
      x: NumPy or JAX float audio in [-1, 1]: [samples], [samples, channels] or
        [batch, samples, channels]. Mixed to the codec's channels.
      rate: of x in Hz; resampled if it is not the codec's. None: it is.
      codebooks: use only the first so many.
      lengths: valid samples of each item [batch], if they differ.
      return_scale: also give the loudness of each item, which a normalised
        codec takes out (None from one that does not).

    Returns:
      NumPy int32 codes [batch, frames, codebooks], ceil(samples / stride)
      frames (more if the codec works in chunks that overlap).

    Raises:
      UserError: x is no audio of one of these shapes, or not finite.
    """
    x, lengths = self.prepare(x, rate, lengths)
    validation.codebooks(self.model, codebooks)
    samples, stride = x.shape[1], self.model.stride
    if samples > long_clips.WHOLE * stride and piecewise.cuttable(self.model):
      codes, scale = long_clips.encode_array(self, x, lengths, codebooks)
      return (codes, scale) if return_scale else codes
    padded = bucket(-(-samples // stride)) * stride
    x = np.pad(x, ((0, 0), (0, padded - samples), (0, 0)))
    out = self._encode(self.variables, x, lengths, codebooks)
    # The codec's own count: chunks that overlap have more frames than the clip.
    # In NumPy: JAX would compile a slice for every length.
    codes = np.asarray(out.codes)[:, : int(out.lengths.max())]
    if not return_scale:
      return codes
    scale = None if out.scale is None else np.asarray(out.scale)
    if scale is not None and self.model.chunk is not None:
      scale = scale[:, : -(-samples // self.model.chunk[1])]
    return codes, scale

  def decode(self, codes, *, scale=None, length: int | None = None):
    """Turns codes into audio.

    Args:
      codes: [batch, frames, codebooks] or [frames, codebooks]; fewer codebooks
        than the codec has give a coarser sound.
      scale: what `encode` gave, for a normalised codec.
      length: samples to return; all of the frames by default.

    Returns:
      NumPy float32 audio [batch, samples, channels] at the codec's rate.

    Raises:
      UserError: codes of another shape, not integers, or not this codec's.
    """
    codes = validation.codes(self.model, codes, batch=True)
    codes = codes[None] if codes.ndim == 2 else codes
    frames = codes.shape[1]
    if frames == 0:
      raise UserError("there are no frames to decode.")
    most = self.model.samples_of(frames)
    samples = most if length is None else length
    if not 0 < samples <= most:
      raise UserError(
        f"length is {length}; {frames} frames hold 1 to {most} samples."
      )
    if frames > long_clips.WHOLE and piecewise.cuttable(self.model):
      return long_clips.decode_array(self, codes, scale, samples)
    padded = np.pad(codes, ((0, 0), (0, bucket(frames) - frames), (0, 0)))
    lengths = np.full(len(codes), samples, np.int32)
    y = self._decode(self.variables, padded, scale, lengths)
    return np.asarray(y)[:, :samples]

  def encode_blocks(self, parts, *, codebooks: int | None = None):
    """Turns audio that arrives in pieces into codes, as `encode` would.

    Args:
      parts: iterable of float32 [samples, channels] at the codec's rate and
        with its channels, of any sizes.
      codebooks: use only the first so many.

    Yields:
      (codes int32 [frames, codebooks], scale): joined, the codes are those of
      the whole clip. `scale` is None, or from a normalised codec [chunks]: the
      loudness of each chunk whose first frame is in these codes.

    Raises:
      UserError: there is no audio, or it is not finite.
    """
    validation.codebooks(self.model, codebooks)
    return long_clips.encode_blocks(self, parts, codebooks)

  def decode_blocks(self, parts, *, length: int | None = None):
    """Turns codes that arrive in pieces into audio, as `decode` would.

    Args:
      parts: iterable of (codes [frames, codebooks], scale), of any sizes, as
        `encode_blocks` gives them.
      length: samples to return; all of the frames by default.

    Yields:
      float32 [samples, channels]: joined, the audio of the whole clip.

    Raises:
      UserError: there are no codes, too few for `length`, or not this codec's.
    """
    return long_clips.decode_blocks(self, parts, length)

  def streamer(
    self, batch: int = 1, *, block: int = 32, codebooks: int | None = None
  ) -> Streamer:
    """Codes audio while it arrives: see `mmdcodec.tokenizers.streamer`.

    Args:
      batch: number of streams, which start and end independently.
      block: frames of the larger step, taken where so much has arrived.
      codebooks: use only the first so many.

    Raises:
      UserError: the codec looks ahead or must see a clip as a whole.
    """
    validation.codebooks(self.model, codebooks)
    return Streamer(
      self.model, self.variables, batch, block=block, codebooks=codebooks
    )

  def on(self, device: jax.Device) -> "LoadedCodec":
    """The same with its weights on a device, where it then computes."""
    other = copy.copy(self)
    other.variables = jax.device_put(self.variables, device)
    return other

  def prepare(self, x, rate: int | None, lengths, channels: int | None = None):
    """Any audio that `encode` accepts, as the codec takes it.

    Args:
      x: see `encode`; `rate` and `lengths` too.
      rate: see there.
      lengths: see there.
      channels: to mix to; None: those of the codec.

    Returns:
      (float32 [batch, samples, channels] at the codec's rate, int32 [batch]
      valid samples).

    Raises:
      UserError: see there.
    """
    channels = self.channels if channels is None else channels
    x = np.asarray(x, np.float32)
    if x.ndim == 1:
      x = x[:, None]
    if x.ndim == 2:
      x = x[None]
    if x.ndim != 3 or x.shape[1] == 0 or not 1 <= x.shape[2] <= 64:
      raise UserError(
        f"audio has shape {x.shape}; expected [samples], [samples, channels]"
        " or [batch, samples, channels], and at least one sample."
      )
    validation.finite(x)
    if lengths is None:
      lengths = np.full(len(x), x.shape[1])
    lengths = np.asarray(lengths, np.int64)
    if (
      lengths.shape != x.shape[:1]
      or not ((lengths > 0) & (lengths <= x.shape[1])).all()
    ):
      raise UserError(
        f"lengths must be [batch] samples from 1 to {x.shape[1]}."
      )
    if x.shape[2] != channels or rate not in (None, self.rate):
      from mmdcodec.audio import files

      clips = [clip[:n] for clip, n in zip(x, lengths, strict=True)]
      clips = [files.mix(clip, channels) for clip in clips]
      if rate not in (None, self.rate):
        clips = [
          files.resample(clip, rate=rate, to=self.rate) for clip in clips
        ]
      lengths = np.array([len(clip) for clip in clips])
      x = np.zeros((len(x), lengths.max(), channels), np.float32)
      for row, clip in zip(x, clips, strict=True):
        row[: len(clip)] = clip
    return x, lengths.astype(np.int32)
