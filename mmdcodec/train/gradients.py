"""Gradients that one backward pass does not give: cached, and per loss."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp


def cached(
  encode: Callable, loss: Callable, params: Any, batches: Any
) -> tuple[jax.Array, Any, jax.Array]:
  """Gradient of one loss over several batches, one batch in memory at a time.

  Gradient caching (Gao et al. 2021, "Scaling deep contrastive learning batch
  size under memory limited setup", arXiv 2101.06983): encode all and keep only
  z, take the loss and its gradient in z, then encode one batch after the other
  again and back-propagate its part. The cost is one more encoding.

  Args:
    encode: (params, batch) -> z [batch, frames, dim], each example by itself.
    loss: z [batches * batch, frames, dim] -> scalar.
    params: to differentiate.
    batches: tree of arrays [batches, batch, ...].

  Returns:
    The loss, its gradient in params, and in z [batches, batch, frames, dim].
  """
  z = jax.lax.map(lambda batch: encode(params, batch), batches)
  value, pull = jax.value_and_grad(loss)(z.reshape(-1, *z.shape[2:]))
  pull = pull.reshape(z.shape)

  def add(grads, inputs):
    batch, pull = inputs
    _, back = jax.vjp(lambda params: encode(params, batch), params)
    return jax.tree.map(jnp.add, grads, back(pull)[0]), None

  zeros = jax.tree.map(jnp.zeros_like, params)
  grads, _ = jax.lax.scan(add, zeros, (batches, pull))
  return value, grads, pull


def norms(
  forward: Callable, losses: Callable, at: jax.Array
) -> dict[str, jax.Array]:
  """Norm of the gradient of each of several losses at one place.

  One loss after the other goes back through `forward`, which is compiled once.

  Args:
    forward: at -> outputs, a tree of float arrays.
    losses: outputs -> dict of scalars.
    at: the place.

  Returns:
    The Euclidean norm for each loss, by name.
  """
  outputs, back = jax.vjp(forward, at)
  names = sorted(jax.eval_shape(losses, outputs))
  pulls = [jax.grad(lambda o, n=name: losses(o)[n])(outputs) for name in names]
  pulls = jax.tree.map(lambda *pull: jnp.stack(pull), *pulls)
  found = jax.lax.map(lambda pull: jnp.linalg.norm(back(pull)[0]), pulls)
  return dict(zip(names, found, strict=True))
