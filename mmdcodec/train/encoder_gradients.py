"""Gradients at the encoder's output: over several batches, and loss by loss."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from mmdcodec.models.codec import Codec
from mmdcodec.nn.conv import frames, length_mask
from mmdcodec.parallel import rules
from mmdcodec.train import gradients
from mmdcodec.train.independence_term import Term


def independence_of_batches(
  codec: Codec,
  term: Term,
  params: Any,
  collections: dict[str, Any],
  batches: tuple[dict[str, jax.Array], ...],
  key: jax.Array,
) -> tuple[jax.Array, Any, jax.Array]:
  """Computes the independence loss over the rows of several batches.

  Args:
    codec: the model.
    term: the loss.
    params: codec parameters.
    collections: `{"codebook": ...}`.
    batches: each has `audio` [batch, samples, channels] and `lengths` [batch].
    key: random key.

  Returns:
    The unweighted loss, and its gradients with respect to params and latents
    [batches, batch, frames, dim]; see `gradients.cached`.
  """
  stacked = jax.tree.map(lambda *arrays: jnp.stack(arrays), *batches)
  ends = frames(stacked["lengths"].reshape(-1), codec.stride)

  def encode(params: Any, batch: dict[str, jax.Array]) -> jax.Array:
    z: Any = codec.apply(
      {"params": params, **collections},
      batch["audio"],
      batch["lengths"],
      method="latents",
    )
    return rules.constrain(z, "batch", None, None)

  def loss(z: jax.Array) -> jax.Array:
    mask = length_mask(ends, z.shape[1])
    q: Any = codec.apply(
      {"params": params, **collections}, z, mask, method="quantize"
    )
    return term.value(z, q.streams, mask, key)

  return gradients.cached(encode, loss, params, stacked)


def loss_norms(
  codec: Codec,
  term: Term,
  reconstruction_losses: Callable[[jax.Array, jax.Array, jax.Array], dict],
  params: Any,
  collections: dict[str, Any],
  batches: tuple[dict[str, jax.Array], ...],
  key: jax.Array,
) -> dict[str, jax.Array]:
  """Computes each unweighted loss's gradient norm at the encoder's output.

  Args:
    codec: the model.
    term: the independence loss.
    reconstruction_losses: (original, reconstruction, mask) -> values by name.
    params: codec parameters.
    collections: `{"codebook": ...}`.
    batches: losses use the last one, except an independence loss over several
      batches, which uses all and is left out if there are too few.
    key: random key.

  Returns:
    Norms by name. The norm of an independence loss over several batches is
    multiplied by the square root of their number, because its gradient per
    frame is smaller by this factor.
  """
  x, lengths = batches[-1]["audio"], batches[-1]["lengths"]
  mask = length_mask(lengths, x.shape[1])
  valid = length_mask(
    frames(lengths, codec.stride), frames(x.shape[1], codec.stride)
  )

  def forward(shift: jax.Array) -> tuple[jax.Array, ...]:
    out: Any = codec.apply(
      {"params": params, **collections},
      x,
      lengths,
      shift=shift,
      own_phases=True,
    )
    return out.audio, out.commitment, out.z, out.streams

  def losses(outputs: tuple[jax.Array, ...]) -> dict[str, jax.Array]:
    audio, commitment, z, streams = outputs
    found = reconstruction_losses(x, audio, mask)
    found["commitment"] = commitment
    if term.history == 1:
      found["independence"] = term.value(z, streams, valid, key)
    return found

  here = jnp.zeros((*valid.shape, codec.dim), jnp.float32)
  found = gradients.norms(forward, losses, here)
  if len(batches) == term.history > 1:
    _, _, pull = independence_of_batches(
      codec, term, params, collections, batches, key
    )
    found["independence"] = term.history**0.5 * jnp.linalg.norm(pull)
  return jax.tree.map(rules.constrain, found)
