"""Training state, and one guarded update of it."""

from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax


@flax.struct.dataclass
class TrainState:
  """Everything that a resumed run needs besides the position in the data.

  Random keys are not kept: a step's key is folded from the seed and the step.

  Attributes:
    step: int32 scalar, updates attempted so far.
    params: trained parameters.
    collections: other variables that a training step changes, by collection
      (`{"codebook": ...}`).
    extra: what else a task takes from one step to the next and a released
      model does without (discriminators, running gradient norms), or None.
    opt_state: of the optax transformation.
    ema: running average of `params`, or None.
    skipped: int32 scalar, updates left out because they were not finite.
    skipped_in_a_row: int32 scalar, of them, those since the last good one.
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
    cls, variables: dict, optimizer, *, ema: bool, extra: Any = None
  ) -> "TrainState":
    """A state at step 0 from freshly initialised variables."""
    variables = dict(variables)
    params = variables.pop("params")
    zero = jnp.zeros((), jnp.int32)
    return cls(
      step=zero,
      params=params,
      collections=variables,
      extra=extra,
      opt_state=optimizer.init(params),
      # A copy: the step donates its input, and one buffer can't be given twice.
      ema=jax.tree.map(jnp.copy, params) if ema else None,
      skipped=zero,
      skipped_in_a_row=zero,
    )

  def released(self) -> dict:
    """The variables to evaluate and to ship, averaged where they are."""
    params = self.params if self.ema is None else self.ema
    return {"params": params, **self.collections}


def update(
  state: TrainState,
  grads: Any,
  collections: Any,
  loss: jax.Array,
  optimizer: optax.GradientTransformation,
  *,
  extra: Any = None,
  ema_decay: float = 0.0,
) -> tuple[TrainState, dict]:
  """Applies gradients, unless loss or gradient is not finite.

  A step that is left out changes nothing but the counters: not the parameters,
  nor the codebooks, the optimizer or what is extra. The choice is made on the
  device, so the host does not wait for it.

  Args:
    state: before the step.
    grads: of `state.params`.
    collections: as the forward pass left them.
    loss: scalar.
    optimizer: the optax transformation that made `state.opt_state`.
    extra: as the step left it.
    ema_decay: of the average of parameters; the decay is
      min(ema_decay, (1 + step) / (10 + step)), so that a short run is not
      dominated by its random start.

  Returns:
    The new state, and metrics (gradient norm, skipped steps).
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

  new = (params, collections, extra, opt_state, ema)
  old = (
    state.params,
    state.collections,
    state.extra,
    state.opt_state,
    state.ema,
  )
  kept = jax.tree.map(lambda n, o: jnp.where(good, n, o), new, old)
  state = TrainState(
    state.step + 1,
    *kept,
    skipped=state.skipped + ~good,
    skipped_in_a_row=jnp.where(good, 0, state.skipped_in_a_row + 1),
  )
  metrics = {
    "gradient_norm": norm,
    "skipped_steps": state.skipped,
    "skipped_in_a_row": state.skipped_in_a_row,
  }
  return state, metrics
