"""Discriminators in codec training: when they learn, and what the codec hears.

`models/discriminators.py` has the networks and `losses/adversarial.py` the
losses; here is one step of both sides. Discriminators and codec move at the
same time, from one forward pass over original and reconstruction: it is pulled
back once for the discriminators' parameters, and once for each loss of the
codec, whose gradient ends at the reconstruction. Neither side's gradient can
reach the other's parameters. (Released PyTorch trainers take two passes, and
let the codec hear the discriminators of after this step.)

  start    updates before there are any discriminators: nothing is computed
  warmup   updates in which they learn but are not heard
  every    they learn in one of so many steps: 1.5 is two of three, as
           EnCodec's (arXiv 2210.13438, section 3.4) do in the mean

They judge whole arrays: where a clip ends early, silence against silence.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax

from mmdcodec.errors import UserError
from mmdcodec.losses import adversarial
from mmdcodec.models import discriminators as discriminators_lib
from mmdcodec.train import gradients
from mmdcodec.train import optimizer as optimizer_lib

# The losses of the codec that come from discriminators.
NAMES = ("adversarial", "features")
# A loss below this is as good as none: the discriminators have nothing left to
# learn.
SILENT_LOSS = 1e-3
SILENT_STEPS = 100


@flax.struct.dataclass
class AdversaryState:
  """What is kept of the discriminators.

  Attributes:
    params: of all of them.
    opt_state: of their own optimizer.
    silent: int32, steps in a row in which their loss was nothing.
  """

  params: Any
  opt_state: Any
  silent: jax.Array


class Adversary:
  """The discriminators of a run.

  Attributes:
    model: the Linen module `Discriminators`.
  """

  def __init__(
    self,
    config: Mapping,
    *,
    names: Sequence[str],
    steps: int,
    channels: int,
  ):
    """Builds the discriminators and their optimizer.

    Args:
      config: `config.adversarial` of configs/common.py.
      names: of NAMES, those that the codec hears.
      steps: of the run.
      channels: of the audio.

    Raises:
      UserError: a setting that can't be.
    """
    if config["loss"] not in adversarial.KINDS:
      raise UserError(
        f"adversarial.loss is {config['loss']!r}; it must be one of"
        f" {', '.join(adversarial.KINDS)}."
      )
    for name, least in (("start", 0), ("warmup", 0), ("every", 1)):
      if not config[name] >= least:
        raise UserError(
          f"adversarial.{name} is {config[name]}; it must be at least {least}."
        )
    self.model = discriminators_lib.from_config(
      config["discriminators"], config["dtype"]
    )
    self._names = [name for name in NAMES if name in names]
    self._config, self._channels = config, channels
    self._optimizer, _ = optimizer_lib.make_optimizer(
      config["optimizer"], steps
    )

  def init(self, key: jax.Array, samples: int) -> AdversaryState:
    """Fresh discriminators.

    Args:
      key: random key.
      samples: of a clip.
    """
    x = jnp.zeros((1, samples, self._channels))
    params = self.model.init(key, x)["params"]
    return AdversaryState(
      params, self._optimizer.init(params), jnp.zeros((), jnp.int32)
    )

  def losses(self, params: Any, x: jax.Array, y: jax.Array) -> dict:
    """What the codec hears of them, unweighted.

    Args:
      params: of the discriminators.
      x: original [batch, samples, channels].
      y: reconstruction, same shape.

    Returns:
      Scalars by name.
    """
    return self._heard(self._judge(params, x, y))

  def heard(self, step: int | jax.Array) -> bool | jax.Array:
    """Whether the codec hears of them after `step` updates."""
    return step >= self._config["start"] + self._config["warmup"]

  def step(
    self, state: AdversaryState, x: jax.Array, y: jax.Array, step: jax.Array
  ) -> tuple[AdversaryState, dict, dict, dict]:
    """One step of both sides.

    Args:
      state: of the discriminators.
      x: original [batch, samples, channels].
      y: reconstruction, same shape, without a gradient.
      step: int32, updates done.

    Returns:
      The new state; value and gradient in y of the losses of the codec, by
      name, zero while they are not heard; metrics.
    """

    def act(state):
      return self._act(state, x, y, step)

    if not self._config["start"]:
      return act(state)
    shapes = jax.eval_shape(act, state)[1:]
    nothing = jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), shapes)
    # No measure is not a measure of 0, which would be an alarm.
    nothing[-1].update(
      {
        k: jnp.full_like(v, jnp.nan)
        for k, v in nothing[-1].items()
        if jnp.issubdtype(v.dtype, jnp.floating)
      }
    )
    return jax.lax.cond(
      step >= self._config["start"],
      act,
      lambda state: (state, *nothing),
      state,
    )

  def _judge(self, params, x, y):
    """(logits, features) of each, original and reconstruction in turn."""
    # One beside the other, so that both halves of a pair are where a mesh has
    # the clip.
    pairs = jnp.stack([x, y], 1).reshape(-1, *x.shape[1:])
    return self.model.apply({"params": params}, pairs)

  def _heard(self, judged) -> dict:
    """Losses of the codec on what `_judge` gave."""
    (real, fake), (real_features, fake_features) = _halves(judged)
    losses = {
      "adversarial": adversarial.generator_loss(fake, self._config["loss"]),
      "features": adversarial.feature_matching(
        real_features, fake_features, relative=self._config["relative"]
      ),
    }
    return {name: losses[name] for name in self._names}

  def _act(self, state, x, y, step):
    config, heard = self._config, self.heard(step)
    judged, back = jax.vjp(
      lambda params, y: self._judge(params, x, y), state.params, y
    )
    values, pulls = gradients.each(self._heard, judged)
    pulls = {name: back(pull)[1] for name, pull in pulls.items()}
    values, pulls = jax.tree.map(
      lambda found: jnp.where(heard, found, 0.0), (values, pulls)
    )

    def judge_loss(judged):
      (real, fake), _ = _halves(judged)
      return adversarial.discriminator_loss(real, fake, config["loss"])

    loss, pull = jax.value_and_grad(judge_loss)(judged)

    def learn(state):
      grads = back(pull)[0]
      updates, opt_state = self._optimizer.update(
        grads, state.opt_state, state.params
      )
      params = optax.apply_updates(state.params, updates)
      norm = optax.tree.norm(grads)
      # The codec's gradient may be sound where this one is not.
      good = jnp.isfinite(norm) & jnp.isfinite(loss)
      new, old = (params, opt_state), (state.params, state.opt_state)
      kept = jax.tree.map(lambda n, o: jnp.where(good, n, o), new, old)
      return AdversaryState(*kept, state.silent), norm

    if config["every"] == 1:
      state, norm = learn(state)
    else:
      # Whole steps of a clock that ticks once in `every` steps.
      ticks = lambda at: jnp.floor((at - config["start"]) / config["every"])
      state, norm = jax.lax.cond(
        ticks(step + 1) > ticks(step),
        learn,
        lambda state: (state, jnp.float32(jnp.nan)),
        state,
      )
    silent = jnp.where(loss < SILENT_LOSS, state.silent + 1, 0)
    (real, fake), _ = _halves(judged)
    metrics = {
      "loss": loss,
      "ratio": _ratio(fake, loss, config["loss"]),
      "real": _mean(real),
      "fake": _mean(fake),
      "gradient_norm": norm,
      "silent_steps": silent,
    }
    return (
      state.replace(silent=silent),
      values,
      pulls,
      {f"discriminator/{name}": value for name, value in metrics.items()},
    )


def warnings(values: Mapping[str, float]) -> list[str]:
  """What is to be said loudly of a step's metrics.

  Args:
    values: flat, as they are logged.
  """
  silent = values.get("train/discriminator/silent_steps", 0)
  if silent < SILENT_STEPS:
    return []
  return [
    f"the discriminators' loss has been below {SILENT_LOSS:g} for"
    f" {silent:.0f} steps: they tell every reconstruction from its original"
    " and have stopped learning. Lower adversarial.optimizer.rate, raise"
    " adversarial.every, or start them later (adversarial.start)."
  ]


def _halves(judged):
  """((real, fake) logits, (real, fake) features), lists over networks."""

  def half(tree, at):
    return jax.tree.map(lambda a: a.reshape(-1, 2, *a.shape[1:])[:, at], tree)

  logits = [one for one, _ in judged]
  features = [many for _, many in judged]
  return tuple((half(tree, 0), half(tree, 1)) for tree in (logits, features))


def _mean(logits: list) -> jax.Array:
  """Mean over everything, each network counting the same."""
  return jnp.mean(jnp.stack([jnp.mean(one) for one in logits]))


def _ratio(fake: list, loss: jax.Array, kind: str) -> jax.Array:
  """How far the codec is from passing, over how far they are from telling.

  Both sides in the form that is never negative: well above 1, the
  discriminators win; near 0 they are deceived. At the start, when all logits
  are 0, it is 1 / 2 for hinge losses and 1 for least squares.
  """
  clamped = "least_squares" if kind == "least_squares" else "hinge_clamped"
  passing = adversarial.generator_loss(fake, clamped)
  return passing / jnp.maximum(loss, SILENT_LOSS)
