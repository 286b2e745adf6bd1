"""Loss balancer whose weights are shares of the gradient.

EnCodec, arXiv 2210.13438, section 3.4 and equation 5. Each loss i has a
gradient g_i with respect to the decoder's output. Instead of sum_i w_i g_i, the
model gets

  sum_i  total_norm * w_i / sum_j w_j * g_i / <|g_i|>

where <.> is a running mean over steps. So a weight is the loss's share of the
gradient, whatever the scale of the loss. Losses that are not on the decoder's
output (commitment, independence) are not balanced.

The norm of a loss is the mean of the norms of the examples in the batch. So
each example of the result has a norm of about `total_norm`, and the gradient of
the parameters, a sum over examples, grows with the batch. That does not affect
Adam, but it affects clipping by the norm and losses outside the balancer:
divide `total_norm` by the batch size where this matters.

If a loss has a gradient of exactly zero in a step (a discriminator that has not
started, a hinge that no example reaches), it is left out of that step: its
running mean does not change, and the others share the whole norm. A loss that
starts late therefore starts from its own first norm; an average with zeros
would make its first gradients enormous. A non-finite gradient does not change
the running mean either, but it reaches the result, so that training can skip
the update.

All sums are plain reductions over the global arrays, so under jit on a mesh
they are those of the global batch. (The released code averages the norms of the
workers' local batches, which is the same up to the order of summation.)
"""

from collections.abc import Iterable, Mapping

import flax.struct
import jax
import jax.numpy as jnp

from mmdcodec.parallel import mapped


@flax.struct.dataclass
class BalancerState:
  """Running means of gradient norms, `norms[name] / weight[name]`.

  Both decay at the same rate and start at 0, so the quotient is a weighted mean
  of the norms so far, from the first step on.

  Attributes:
    norms: decayed sum of the norms of each loss, float32 scalars.
    weight: decayed number of steps of each loss, float32 scalars.
  """

  norms: dict[str, jax.Array]
  weight: dict[str, jax.Array]


def init(names: Iterable[str]) -> BalancerState:
  """Returns the state before the first step, for losses of these names."""
  names = sorted(names)
  zeros = lambda: {name: jnp.zeros((), jnp.float32) for name in names}
  return BalancerState(norms=zeros(), weight=zeros())


def gradient_norm(
  gradient: jax.Array, per_batch_item: bool = True
) -> jax.Array:
  """L2 norm of a gradient [batch, ...]: float32 scalar.

  Args:
    gradient: with respect to a batch of outputs.
    per_batch_item: take the mean over the batch of the norm of each example.
      False takes the norm of the whole array.
  """
  squares = jnp.square(gradient.astype(jnp.float32))
  if not per_batch_item:
    return jnp.sqrt(jnp.sum(squares))
  return jnp.mean(jnp.sqrt(jnp.sum(squares, tuple(range(1, gradient.ndim)))))


def balance(
  state: BalancerState,
  grads: Mapping[str, jax.Array],
  weights: Mapping[str, float],
  *,
  decay: float = 0.999,
  total_norm: float = 1.0,
  per_batch_item: bool = True,
  rescale: bool = True,
  epsilon: float = 1e-12,
) -> tuple[jax.Array, BalancerState, dict[str, jax.Array]]:
  """Balances the gradients of several losses into one.

  Args:
    state: running means; may contain losses that this step does not have.
    grads: unweighted gradient of each loss, [batch, samples, channels].
    weights: weight of each loss in `grads`, not negative; other weights have no
      effect.
    decay: decay of the running means per step in which the loss has a gradient;
      1 makes them plain means.
    total_norm: approximate norm of the result.
    per_batch_item: how to take norms, as in `gradient_norm`.
    rescale: False returns the plain sum of weight times gradient.
    epsilon: added to the running means before dividing.

  Returns:
    gradient: float32 [batch, samples, channels].
    state: after this step.
    norms: `gradient_norm` of each loss in this step.

  Raises:
    ValueError: there are no gradients, or a loss has no state or no weight.
    UserError: called inside `jax.shard_map` or `jax.pmap`.
  """
  mapped.check_global("the balancer")
  missing = [n for n in grads if n not in weights or n not in state.norms]
  if missing or not grads:
    raise ValueError(
      f"no state or no weight for losses {missing}"
      if missing
      else "there are no gradients to balance"
    )
  names = sorted(grads)
  norms = {name: gradient_norm(grads[name], per_batch_item) for name in names}
  sums, seen = dict(state.norms), dict(state.weight)
  for name, norm in norms.items():
    valid = jnp.isfinite(norm) & (norm > 0)
    new = jnp.where(valid, norm, 0.0)
    sums[name], seen[name] = (
      jnp.where(valid, decay * old + value, old)
      for old, value in ((sums[name], new), (seen[name], 1.0))
    )
  if rescale:
    # A non-finite gradient counts, so that the other shares do not change.
    active = {n: jnp.where(norms[n] == 0, 0.0, weights[n]) for n in names}
    whole = sum(active.values())
    share = {n: w / jnp.where(whole > 0, whole, 1.0) for n, w in active.items()}
    mean = {n: sums[n] / jnp.where(seen[n] > 0, seen[n], 1.0) for n in names}
    scale = {n: total_norm * share[n] / (epsilon + mean[n]) for n in names}
  else:
    scale = {n: jnp.float32(weights[n]) for n in names}
  gradient = jnp.asarray(
    sum(scale[n] * grads[n].astype(jnp.float32) for n in names)
  )
  return gradient, BalancerState(norms=sums, weight=seen), norms


def scales(
  state: BalancerState,
  weights: Mapping[str, float],
  *,
  total_norm: float = 1.0,
  epsilon: float = 1e-12,
) -> dict[str, jax.Array]:
  """Factor of each loss's gradient in `balance`, from the running means.

  Args:
    state: running means.
    weights: weight of each loss; the factor is 0 before its first gradient.
    total_norm: as in `balance`.
    epsilon: as in `balance`.
  """
  active = {
    n: jnp.where(state.weight[n] > 0, w, 0.0) for n, w in weights.items()
  }
  whole = jnp.maximum(sum(active.values()), epsilon)
  mean = {
    n: state.norms[n] / jnp.maximum(state.weight[n], epsilon) for n in active
  }
  return {
    n: total_norm * w / whole / (epsilon + mean[n]) for n, w in active.items()
  }
