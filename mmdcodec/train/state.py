"""The training state and its guarded update."""

from collections.abc import Mapping
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax


class TrainState(flax.struct.PyTreeNode):
  """Everything needed to resume a run, except the position in the data.

  It needs no random key, because keys are derived from the seed and the step.

  Attributes:
    step: int32 scalar, updates attempted so far.
    params: trained parameters.
    collections: other variables of the model, such as `{"codebook": ...}`.
    extra: training state that is not part of a released model (discriminators,
      running gradient norms), or None.
    opt_state: state of the optax transformation.
    ema: running average of `params`, or None.
    skipped: int32 scalar, updates skipped because they were not finite.
    skipped_in_a_row: int32 scalar, steps since the last sound one: their
      updates were skipped, or left parameters that are not finite.
  """

  step: jax.Array
  params: Any
  collections: Any
  extra: Any
  opt_state: Any
  ema: Any
  skipped: jax.Array
  skipped_in_a_row: jax.Array

  @classmethod
  def create(
    cls,
    variables: Mapping[str, Any],
    optimizer: optax.GradientTransformation,
    *,
    ema: bool,
    extra: Any = None,
  ) -> "TrainState":
    """Creates a state at step 0.

    Args:
      variables: `params` and other collections.
      optimizer: optimizer of the run.
      ema: whether to keep a running average of the parameters.
      extra: see the attribute.
    """
    variables = dict(variables)
    params = variables.pop("params")
    zero = jnp.zeros((), jnp.int32)
    return cls(
      step=zero,
      params=params,
      collections=variables,
      extra=extra,
      opt_state=optimizer.init(params),
      # A copy: a step donates its input, and no buffer can be donated twice.
      ema=jax.tree.map(jnp.copy, params) if ema else None,
      skipped=zero,
      skipped_in_a_row=zero,
    )

  def released(self) -> dict[str, Any]:
    """Returns the variables to evaluate and release: averages, if kept."""
    params = self.params if self.ema is None else self.ema
    return {"params": params, **self.collections}


def update(
  state: TrainState,
  grads: Any,
  collections: dict[str, Any],
  loss: jax.Array,
  optimizer: optax.GradientTransformation,
  *,
  extra: Any = None,
  ema_decay: float = 0.0,
) -> tuple[TrainState, dict[str, jax.Array]]:
  """Applies gradients, unless the loss or a gradient is not finite.

  A skipped update only changes the counters, not the parameters, codebooks,
  optimizer or extra state. The device decides, so the host need not wait.

  An update that leaves parameters or codebooks that are not finite, or so large
  that their squares are not, is applied, but counts in `skipped_in_a_row` until
  the next sound step. (To take it back, old and new parameters would have to be
  in memory at the same time.)

  Args:
    state: state before the step.
    grads: gradients of `state.params`.
    collections: collections after the forward pass.
    loss: scalar.
    optimizer: the optax transformation that made `state.opt_state`.
    extra: extra state after the step.
    ema_decay: decay of the average of parameters, limited to
      (1 + step) / (10 + step) so that the random initialization does not
      dominate a short run.

  Returns:
    The new state, and metrics: gradient norm and skipped updates.
  """
  norm = optax.tree.norm(grads)
  good = jnp.isfinite(loss) & jnp.isfinite(norm)
  updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
  params = optax.apply_updates(state.params, updates)

  ema = state.ema
  if ema is not None:
    done = state.step.astype(jnp.float32)
    decay = jnp.minimum(ema_decay, (1 + done) / (10 + done))
    ema = jax.tree.map(lambda e, p: e + (1 - decay) * (p - e), ema, params)

  new = dict(
    params=params,
    collections=collections,
    extra=extra,
    opt_state=opt_state,
    ema=ema,
  )
  old = {name: getattr(state, name) for name in new}
  chosen = jax.tree.map(lambda n, o: jnp.where(good, n, o), new, old)
  sound = good & _is_finite((chosen["params"], chosen["collections"]))
  state = TrainState(
    step=state.step + 1,
    **chosen,
    skipped=state.skipped + ~good,
    skipped_in_a_row=jnp.where(sound, 0, state.skipped_in_a_row + 1),
  )
  metrics = {
    "gradient_norm": norm,
    "skipped_steps": state.skipped,
    "skipped_in_a_row": state.skipped_in_a_row,
  }
  return state, metrics


def _is_finite(tree: Any) -> jax.Array:
  """Whether the sum of the squares of all floats in a tree is finite."""
  leaves = jax.tree.leaves(tree)
  floats = [x for x in leaves if jnp.issubdtype(x.dtype, jnp.floating)]
  return jnp.isfinite(
    sum(jnp.sum(jnp.square(x.astype(jnp.float32))) for x in floats)
  )
