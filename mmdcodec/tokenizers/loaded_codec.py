"""A codec with its weights: encodes audio and decodes codes."""

import copy
import hashlib
import json
import re
from collections.abc import Iterable, Iterator
from typing import Any

import flax
import jax
import jax.numpy as jnp
import numpy as np

from mmdcodec import precision
from mmdcodec.errors import UserError
from mmdcodec.models import chunks
from mmdcodec.models import codec as codec_model
from mmdcodec.nn.conv import frames
from mmdcodec.platform import bucket
from mmdcodec.tokenizers import long_clips, piecewise, validation
from mmdcodec.tokenizers.interface import AudioCodec
from mmdcodec.tokenizers.streamer import Streamer


def flatten(variables: dict) -> dict[str, np.ndarray]:
  """Returns arrays by path ("params/encoder/conv_in/bias"), sorted."""
  flat = flax.traverse_util.flatten_dict(variables, sep="/")
  # safetensors writes the raw buffer, so it must be contiguous.
  return {k: np.asarray(v, order="C") for k, v in sorted(flat.items())}


def fingerprint(config: dict, variables: dict) -> str:
  """Hashes settings and weights: the first 16 hex digits of SHA-256.

  A codec whose decoder alone was trained further keeps the hash that it had:
  equal hashes mean equal codes. `config["codes"]` has it; see `codes_of`.
  """
  kept = config.get("codes")
  if (
    isinstance(kept, dict)
    and re.fullmatch("[0-9a-f]{16}", str(kept.get("hash")))
    and kept.get("encoder") == _digest(config, _encoder(variables))
  ):
    return kept["hash"]
  return _digest(config, flatten(jax.device_get(variables)))


def codes_of(
  config: dict, variables: dict, further: dict[str, Any]
) -> dict[str, str]:
  """Describes the codes of a codec for one that goes on from it.

  Args:
    config: config of the codec.
    variables: its variables.
    further: "model" of the codec that goes on from it, which may differ in what
      only training uses.

  Returns:
    "hash", that of the codec, and "encoder", by which `fingerprint` knows that
    the other one still makes the same codes.
  """
  return {
    "hash": fingerprint(config, variables),
    "encoder": _digest({"model": further}, _encoder(variables)),
  }


def _encoder(variables: dict) -> dict[str, np.ndarray]:
  """All arrays but the decoder's, in float32 whatever they are stored in."""
  return {
    path: x.astype(np.float32)
    for path, x in flatten(jax.device_get(variables)).items()
    if not path.startswith("params/decoder/")
  }


def _digest(config: dict, arrays: dict[str, np.ndarray]) -> str:
  # Bundles of earlier versions lack this field, and are the same without it.
  fields = dict(config["model"])
  if fields.get("phase_iterations") == 0:
    del fields["phase_iterations"]
  digest = hashlib.sha256(json.dumps(fields, sort_keys=True).encode())
  for name, value in arrays.items():
    digest.update(f"{name} {value.shape} {value.dtype}".encode())
    digest.update(value.tobytes())
  return digest.hexdigest()[:16]


def owned(variables: Any) -> Any:
  """Copies variables to the device, floats of any width as float32."""

  # NumPy makes the copy: `jnp.array` compiles a program for every shape, which
  # takes 70 MB, and on CPUs `device_put` alone does not copy. Weights stored in
  # half precision are computed with in float32, so that codes are those of the
  # numbers that were stored.
  def own(leaf: Any) -> np.ndarray:
    floats = jnp.issubdtype(jnp.result_type(leaf), jnp.floating)
    return np.array(leaf, np.float32 if floats else None)

  return jax.device_put(jax.tree.map(own, variables))


class LoadedCodec(AudioCodec):
  """A codec with its weights; see `AudioCodec` for the other attributes.

  Attributes:
    config: content of the bundle's config.json.
    model: the Linen module.
    variables: its parameters and codebooks.
    hash: 16 hex digits that identify settings and weights, but for a decoder
      that was trained further alone: equal hashes mean equal codes.
  """

  def __init__(self, config: dict, variables: dict, assets: Any = None):
    """Builds the codec from a configuration and its variables.

    Args:
      config: `model` holds the fields of `Codec`.
      variables: `{"params": ..., "codebook": ...}`.
      assets: other files of a bundle; ignored.
    """
    del assets
    self.config = config
    self.model = precision.in_float32(
      codec_model.from_config(config["model"])
    )
    self.variables = owned(variables)
    self.rate, self.channels = self.model.rate, self.model.channels
    self.stride, self.frame_rate = self.model.stride, self.model.frame_rate
    self.codebook_sizes = (self.model.codebook_size,) * self.model.codebooks
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
    x: Any,
    rate: int | None = None,
    *,
    codebooks: int | None = None,
    lengths: Any = None,
    return_scale: bool = False,
  ) -> Any:
    """Turns audio into codes, the same on every backend.

    `mmdcodec.precision` says what that costs, and how to ask for speed.

    Args:
      x: NumPy or JAX float audio in [-1, 1]: [samples], [samples, channels] or
        [batch, samples, channels]. Mixed to the codec's channels.
      rate: sample rate of x in Hz, resampled if necessary; None: the codec's.
      codebooks: number of codebooks to use, from the first; None: all.
      lengths: valid samples of each item [batch], if they differ.
      return_scale: also return the loudness that a normalising codec removed
        from each item (None for other codecs).

    Returns:
      NumPy int32 codes [batch, frames, codebooks] with ceil(samples / stride)
      frames (more if the codec works in overlapping chunks); with
      `return_scale`, (codes, scale).

    Raises:
      UserError: x has another shape or is not finite, or has no codes.
    """
    x, lengths = self.prepare(x, rate, lengths)
    validation.codebooks(self.model, codebooks)
    samples = x.shape[1]
    whole = long_clips.WHOLE * self.stride
    if samples > whole and piecewise.can_cut(self.model):
      codes, scale = long_clips.encode_array(
        self.model, self.variables, x, lengths, codebooks
      )
      validation.made(self.model, codes)
      return (codes, scale) if return_scale else codes
    # Few distinct lengths, so that a folder of files compiles few programs.
    padded = bucket(frames(samples, self.stride)) * self.stride
    x = np.pad(x, ((0, 0), (0, padded - samples), (0, 0)))
    out = self._encode(self.variables, x, lengths, codebooks)
    # Sliced in NumPy because JAX would compile a slice for every length.
    codes = np.asarray(out.codes)[:, : int(out.lengths.max())]
    validation.made(self.model, codes)
    if not return_scale:
      return codes
    scale = None if out.scale is None else np.asarray(out.scale)
    if scale is not None and self.model.chunk is not None:
      scale = scale[:, : frames(samples, self.model.chunk[1])]
    return codes, scale

  def frames_of(self, samples: int) -> int:
    """Returns the number of frames for `samples` samples, in all chunks."""
    if self.model.chunk is None:
      return frames(samples, self.stride)
    return int(chunks.frame_lengths(samples, *self.model.chunk, self.stride))

  def check_codes_suffice(self) -> None:
    """Raises UserError if a language model needs more than the codes."""
    if self.model.normalize:
      raise UserError(
        "the codec normalises: it keeps the loudness beside the codes, where a"
        " language model does not see it; choose a codec that does not."
      )
    if self.model.chunk is not None:
      raise UserError(
        f"the codec codes chunks of {self.model.chunk_seconds:g} s by"
        " themselves, so frames do not follow each other in time; choose a"
        " codec without chunks."
      )

  def decode(
    self, codes: Any, *, scale: Any = None, length: int | None = None
  ) -> np.ndarray:
    """Turns codes into audio.

    Args:
      codes: [batch, frames, codebooks] or [frames, codebooks]; with fewer
        codebooks than the codec has, the audio is coarser.
      scale: the scale from `encode`, if the codec normalises.
      length: number of samples to return; None: those of all frames.

    Returns:
      NumPy float32 audio [batch, samples, channels] at the codec's rate.

    Raises:
      UserError: codes of a wrong shape, not integers, or out of range.
    """
    codes = validation.codes(self.model, codes, batch=True)
    codes = codes[None] if codes.ndim == 2 else codes
    count = codes.shape[1]
    if count == 0:
      raise UserError("there are no frames to decode.")
    most = self.model.samples_of(count)
    samples = most if length is None else length
    if not 0 < samples <= most:
      raise UserError(
        f"length is {length}; {count} frames hold 1 to {most} samples."
      )
    if count > long_clips.WHOLE and piecewise.can_cut(self.model):
      return long_clips.decode_array(
        self.model, self.variables, codes, scale, samples
      )
    padded = np.pad(codes, ((0, 0), (0, bucket(count) - count), (0, 0)))
    lengths = np.full(len(codes), samples, np.int32)
    y = self._decode(self.variables, padded, scale, lengths)
    return np.asarray(y)[:, :samples]

  def decode_parts(
    self, parts: Iterable[np.ndarray], size: int
  ) -> Iterator[np.ndarray]:
    """Decodes codes that arrive in parts; see `AudioCodec`."""
    if not piecewise.can_cut(self.model):
      return super().decode_parts(parts, size)
    coder = piecewise.make_coder(self.model, size)
    return long_clips.decode_parts(coder, self.variables, parts)

  def encode_blocks(
    self, parts: Iterable[np.ndarray], *, codebooks: int | None = None
  ) -> Iterator[tuple[np.ndarray, np.ndarray | None]]:
    """Encodes a clip that arrives in blocks, with the result of `encode`.

    Args:
      parts: float32 [samples, channels] with the codec's rate and channels, in
        blocks of any size.
      codebooks: number of codebooks to use, from the first; None: all.

    Yields:
      (codes int32 [frames, codebooks], scale); concatenated, the codes are
      those of the whole clip. `scale` is [chunks], the loudness of each chunk
      whose first frame is in these codes; None if the codec does not normalise.

    Raises:
      UserError: there is no audio, or it is not finite.
    """
    validation.codebooks(self.model, codebooks)
    return long_clips.encode_blocks(
      self.model, self.variables, parts, codebooks, self.encode
    )

  def decode_blocks(
    self,
    parts: Iterable[tuple[np.ndarray, np.ndarray | None]],
    *,
    length: int | None = None,
  ) -> Iterator[np.ndarray]:
    """Decodes a clip that arrives in blocks, with the result of `decode`.

    Args:
      parts: (codes [frames, codebooks], scale) as from `encode_blocks`, in
        blocks of any size.
      length: number of samples to return; None: those of all frames.

    Yields:
      float32 [samples, channels]; concatenated, the audio of the whole clip.

    Raises:
      UserError: no codes, too few for `length`, or codes of another codec.
    """
    return long_clips.decode_blocks(
      self.model, self.variables, parts, length, self.decode
    )

  def streamer(
    self, batch: int = 1, *, block: int = 32, codebooks: int | None = None
  ) -> Streamer:
    """Creates a `Streamer`, which codes audio as it arrives.

    Args:
      batch: number of streams, which start and end independently.
      block: frames of a large step, taken when that much has arrived.
      codebooks: number of codebooks to use, from the first; None: all.

    Raises:
      UserError: the codec looks ahead or needs the whole clip at once.
    """
    validation.codebooks(self.model, codebooks)
    return Streamer(
      self.model, self.variables, batch, block=block, codebooks=codebooks
    )

  def on(self, device: jax.Device) -> "LoadedCodec":
    """Returns the same codec with its weights on `device`, to run there."""
    other = copy.copy(self)
    other.variables = jax.device_put(self.variables, device)
    return other
