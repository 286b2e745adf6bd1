"""Loss balancer: weights that are shares of the gradient (EnCodec 3.4).

Each loss i gives its gradient g_i with respect to the decoder's output. Instead
of sum_i w_i g_i, what goes back into the model is

  sum_i  total_norm * w_i / sum_j w_j * g_i / <|g_i|>

with <.> a running mean over steps, so that a weight says which share of the
gradient a loss gets, whatever the scale of the loss (arXiv 2210.13438, equation
5). Losses of something else than the output (commitment, independence) stay
outside.

The norm of one loss is the mean over the batch of each example's norm, so every
example of the result has a norm of about `total_norm`, and the gradient of the
parameters, a sum over examples, grows with the batch. Adam does not see that,
but clipping by the norm and losses outside of the balancer do: divide
`total_norm` by the batch where this matters.

A loss whose gradient is exactly zero in a step (a discriminator that is not
switched on, a hinge that no example reaches) is treated as if it did not exist
in that step: its running mean stays as it is, and the others share the whole
norm. So a loss that begins late starts from its own first norm, not from an
average with zeros that would make its first gradients enormous. A gradient that
is not finite leaves the running mean as it is too, but comes out in the result,
where the guard against such updates sees it.

All sums are plain reductions over the global arrays: under jit on a mesh they
are those of the global batch. (The released code averages the norms of the
workers' local batches, which is the same up to the order of summation.)
"""

from collections.abc import Iterable, Mapping

import flax.struct
import jax
import jax.numpy as jnp


@flax.struct.dataclass
class BalancerState:
  """Running means of gradient norms; `norms[name] / weight[name]` is one.

  Both decay alike and start at 0, so that the quotient is a weighted mean of
  what was seen, from the first step on.

  Attributes:
    norms: decayed sum of the norms of each loss, float32 scalars.
    weight: decayed number of steps of each loss, float32 scalars.
  """

  norms: dict[str, jax.Array]
  weight: dict[str, jax.Array]


def init(names: Iterable[str]) -> BalancerState:
  """A state that has seen nothing, for losses of these names."""
  names = sorted(names)
  zeros = lambda: {name: jnp.zeros((), jnp.float32) for name in names}
  return BalancerState(norms=zeros(), weight=zeros())


def gradient_norm(
  gradient: jax.Array, per_batch_item: bool = True
) -> jax.Array:
  """L2 norm of a gradient [batch, ...]: float32 scalar.

  Args:
    gradient: with respect to a batch of outputs.
    per_batch_item: the mean over the batch of the norm of each example, else
      the norm of everything.
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
  """One gradient out of those of several losses.

  Args:
    state: running means; may know of more losses than this step has.
    grads: of each loss, not weighted, [batch, samples, channels].
    weights: of each loss in `grads`, none negative; those of others have no
      effect.
    decay: of the running means, per step in which the loss has a gradient; 1
      makes them plain means.
    total_norm: of the result, approximately.
    per_batch_item: see `gradient_norm`.
    rescale: False makes it the plain sum of weight times gradient.
    epsilon: added to the running means before dividing.

  Returns:
    gradient: float32 [batch, samples, channels].
    state: the next one.
    norms: `gradient_norm` of each loss in this step.

  Raises:
    ValueError: no gradients, one that the state does not know, or one without
      a weight.
  """
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
    # What is not finite counts as there, so that the others are as usual.
    there = {n: jnp.where(norms[n] == 0, 0.0, weights[n]) for n in names}
    whole = sum(there.values())
    share = {n: w / jnp.where(whole > 0, whole, 1.0) for n, w in there.items()}
    mean = {n: sums[n] / jnp.where(seen[n] > 0, seen[n], 1.0) for n in names}
    scale = {n: total_norm * share[n] / (epsilon + mean[n]) for n in names}
  else:
    scale = {n: weights[n] for n in names}
  gradient = sum(scale[n] * grads[n].astype(jnp.float32) for n in names)
  return gradient, BalancerState(norms=sums, weight=seen), norms


def scales(
  state: BalancerState,
  weights: Mapping[str, float],
  *,
  total_norm: float = 1.0,
  epsilon: float = 1e-12,
) -> dict[str, jax.Array]:
  """What `balance` multiplies each loss's gradient with, by the running means.

  Args:
    state: running means.
    weights: of each loss; one that has not been seen yet gets 0.
    total_norm: as in `balance`.
    epsilon: as in `balance`.
  """
  there = {
    n: jnp.where(state.weight[n] > 0, w, 0.0) for n, w in weights.items()
  }
  whole = jnp.maximum(sum(there.values()), epsilon)
  mean = {
    n: state.norms[n] / jnp.maximum(state.weight[n], epsilon) for n in there
  }
  return {
    n: total_norm * w / whole / (epsilon + mean[n]) for n, w in there.items()
  }
