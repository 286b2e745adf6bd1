"""Outputs of a codec, and the loudness by which it may divide its input."""

import flax
import jax
import jax.numpy as jnp

from mmdcodec.audio import transforms


@flax.struct.dataclass
class Output:
  """Outputs of a forward pass.

  Attributes:
    audio: [batch, samples, channels] float32 reconstruction.
    z: [batch, frames, dim] float32 latents before quantization.
    quantized: [batch, frames, dim], gradient straight through to z.
    codes: int32 [batch, frames, codebooks].
    streams: [batch, frames, codebooks, dim], one vector per codebook.
    commitment: scalar loss.
    metrics: metrics of the quantizer, each [codebooks].
    frame_mask: bool [batch, frames], False in padding.
  """

  audio: jax.Array
  z: jax.Array
  quantized: jax.Array
  codes: jax.Array
  streams: jax.Array
  commitment: jax.Array
  metrics: dict[str, jax.Array]
  frame_mask: jax.Array


@flax.struct.dataclass
class Encoded:
  """Codes of a batch.

  Attributes:
    codes: int32 [batch, frames, codebooks], 0 in padding.
    lengths: int32 [batch], valid frames.
    scale: [batch, chunks] loudness that was divided out of each chunk (one
      chunk unless the codec codes in chunks), or None.
  """

  codes: jax.Array
  lengths: jax.Array
  scale: jax.Array | None


def loudness(x: jax.Array, lengths: jax.Array | None = None) -> jax.Array:
  """Root mean square [batch, 1] of the mono mix of x, plus 1e-8.

  The gradient of silence is 0.

  Args:
    x: [batch, samples, channels]; zero after `lengths`.
    lengths: [batch] valid samples, or None.
  """
  mono = jnp.mean(x.astype(jnp.float32), -1)
  count = x.shape[1] if lengths is None else jnp.maximum(lengths, 1)
  return (transforms.safe_sqrt(jnp.sum(mono**2, 1) / count) + 1e-8)[:, None]
