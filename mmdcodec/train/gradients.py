"""Gradients by several backward passes: in parts, cached, or per loss."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from mmdcodec import platform


def in_parts(
  loss: Callable,
  params: Any,
  collections: Any,
  extra: Any,
  batch: Any,
  key: jax.Array,
  *,
  parts: int,
  weigh: Callable[[Any], jax.Array] = lambda part: jnp.float32(1.0),
) -> tuple[tuple, Any]:
  """Computes a loss and its gradient one part of the batch at a time.

  This needs only the memory of a part. Values, metrics and gradients are means
  over the parts, so a loss that depends on all rows sees only those of one
  part.

  Args:
    loss: (params, collections, extra, batch, key) -> (loss, (collections,
      extra, metrics)).
    params: parameters to differentiate with respect to.
    collections: passed on from part to part.
    extra: passed on from part to part.
    batch: tree of arrays [batch, ...].
    key: random key.
    parts: number of parts.
    weigh: part of the batch -> its weight in the means, above 0. Where the loss
      is a mean over what is no padding, that is how much of it there is.

  Returns:
    The same as `jax.value_and_grad(loss, has_aux=True)`.
  """
  take = jax.value_and_grad(loss, has_aux=True)
  if parts == 1:
    return take(params, collections, extra, batch, key)
  # Every part takes rows from all devices.
  cut = jax.tree.map(
    lambda x: x.reshape(-1, parts, *x.shape[1:]).swapaxes(0, 1), batch
  )

  weights = jax.vmap(weigh)(cut)
  shares = weights / weights.sum()

  def step(held: tuple, inputs: tuple) -> tuple[tuple, tuple]:
    part, key, share = inputs
    (value, (collections, extra, metrics)), grads = take(
      params, *held, part, key
    )
    found = jax.tree.map(lambda x: share * x, (value, metrics, grads))
    return (collections, extra), found

  def add(state: tuple, inputs: tuple) -> tuple[tuple, None]:
    held, sums = state
    held, found = step(held, inputs)
    return (held, jax.tree.map(jnp.add, sums, found)), None

  keys = jax.random.split(key, parts)
  held = (collections, extra)
  first = jax.tree.map(lambda x: x[0], cut)
  zeros = jax.tree.map(
    lambda s: jnp.zeros(s.shape, s.dtype),
    jax.eval_shape(step, held, (first, keys[0], shares[0]))[1],
  )
  (held, (value, metrics, grads)), _ = _scan(
    add, (held, zeros), (cut, keys, shares)
  )
  return (value, (*held, metrics)), grads


def cached(
  encode: Callable, loss: Callable, params: Any, batches: Any
) -> tuple[jax.Array, Any, jax.Array]:
  """Computes the gradient of a loss over several batches in memory for one.

  Gradient caching (Gao et al. 2021, "Scaling deep contrastive learning batch
  size under memory limited setup", arXiv 2101.06983): encode all batches and
  keep only z, compute the loss and its gradient with respect to z, then encode
  each batch again and backpropagate its part. This costs one more encoding.
  (On CPUs all batches are kept in memory for speed; see `_scan`.)

  Args:
    encode: (params, batch) -> z [batch, frames, dim]; examples are independent.
    loss: z [batches * batch, frames, dim] -> scalar.
    params: parameters to differentiate with respect to.
    batches: tree of arrays [batches, batch, ...].

  Returns:
    The loss, and its gradients with respect to params and
    z [batches, batch, frames, dim].
  """
  z = _scan(lambda _, batch: (None, encode(params, batch)), None, batches)[1]
  value, pull = jax.value_and_grad(loss)(z.reshape(-1, *z.shape[2:]))
  pull = pull.reshape(z.shape)

  def add(grads: Any, inputs: tuple) -> tuple[Any, None]:
    batch, pull = inputs
    _, back = jax.vjp(lambda params: encode(params, batch), params)
    return jax.tree.map(jnp.add, grads, back(pull)[0]), None

  zeros = jax.tree.map(jnp.zeros_like, params)
  grads, _ = _scan(add, zeros, (batches, pull))
  return value, grads, pull


def _scan(step: Callable, carry: Any, inputs: Any) -> tuple[Any, Any]:
  """Runs `jax.lax.scan`, unrolled on CPUs.

  XLA's CPU backend runs gradients of convolutions about ten times slower in a
  loop or a branch: unrolled, `cached` over 3 batches of 4 x 1 s through the
  encoder of `codec_small` takes 0.11 of the time, and 330 instead of 113 MiB.
  """
  unroll = platform.traced_for() == "cpu"
  return jax.lax.scan(step, carry, inputs, unroll=unroll)


def each(
  losses: Callable[[Any], dict[str, jax.Array]], at: Any
) -> tuple[dict[str, jax.Array], dict[str, Any]]:
  """Computes values and gradients of several losses.

  Args:
    losses: at -> dict of scalars; a function without side effects.
    at: tree of float arrays.

  Returns:
    (values, gradients with respect to `at`), by name. Under jit, work that the
    losses share is done once.
  """
  # Traced and linearized once, not once for each of them.
  traced = jax.jit(losses)
  values, pulls = {}, {}
  for name in sorted(jax.eval_shape(traced, at)):
    one = lambda at, name=name: traced(at)[name]
    values[name], pulls[name] = jax.value_and_grad(one)(at)
  return values, pulls


def norms(
  forward: Callable, losses: Callable, at: jax.Array
) -> dict[str, jax.Array]:
  """Computes the gradient norms of several losses, one after the other.

  Args:
    forward: at -> outputs, a tree of float arrays.
    losses: outputs -> dict of scalars.
    at: array to differentiate with respect to.

  Returns:
    Euclidean norms by name.
  """
  outputs, back = jax.vjp(forward, at)
  _, pulls = each(losses, outputs)
  stacked = jax.tree.map(lambda *pull: jnp.stack(pull), *pulls.values())
  norm = lambda _, pull: (None, jnp.linalg.norm(back(pull)[0]))
  found = _scan(norm, None, stacked)[1]
  return dict(zip(pulls, found, strict=True))
