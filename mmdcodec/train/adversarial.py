"""Discriminators in codec training: their updates, and their codec losses.

The networks are in `models/discriminators.py`, the losses in
`losses/adversarial.py`. Discriminators and codec are updated at the same time,
from one forward pass over the original and one over the reconstruction. Both
passes give gradients for the discriminators' parameters; the second also gives
the gradient of each codec loss with respect to the reconstruction. Neither side
gets gradients from the other's loss. (Released PyTorch trainers make two more
passes, so that the codec's losses come from the updated discriminators.)

  start    steps before the discriminators are used; they cost nothing
  warmup   steps in which they learn without affecting the codec
  every    steps per discriminator update: 1.5 means two updates in three
           steps, the average of EnCodec (arXiv 2210.13438, section 3.4)

Warm-up and schedule of their optimizer count their updates, not steps.

`judge` computes gradients, perhaps for one part of a batch after the other
(`accumulate`), and `learn` updates the discriminators once a step, with the
mean of these gradients.

Clips are not masked: the padding of both audios is silence.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax

from mmdcodec import platform
from mmdcodec.errors import UserError
from mmdcodec.losses import adversarial
from mmdcodec.models import discriminators as discriminators_lib
from mmdcodec.train import gradients
from mmdcodec.train import optimizer as optimizer_lib

# The losses of the codec that come from discriminators.
NAMES = ("adversarial", "features")
# Below this loss the discriminators have nothing left to learn.
SILENT_LOSS = 1e-3
SILENT_STEPS = 100


class AdversaryState(flax.struct.PyTreeNode):
  """The state of the discriminators.

  Attributes:
    params: parameters of all discriminators.
    opt_state: state of their optimizer.
    silent: int32, consecutive steps with a loss below SILENT_LOSS.
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
    config: Mapping[str, Any],
    *,
    names: Sequence[str],
    steps: int,
    channels: int,
  ):
    """Builds the discriminators and their optimizer.

    Args:
      config: `config.adversarial` of configs/common.py.
      names: the codec's adversarial losses, from NAMES.
      steps: length of the run.
      channels: audio channels.

    Raises:
      UserError: a setting that is not possible.
    """
    if config["loss"] not in adversarial.KINDS:
      raise UserError(
        f"adversarial.loss is {config['loss']!r}; it must be one of"
        f" {', '.join(adversarial.KINDS)}."
      )
    self.model = discriminators_lib.from_config(
      config["discriminators"], config["dtype"]
    )
    self._names = [name for name in NAMES if name in names]
    self._config, self._channels = config, channels
    optimizer = config["optimizer"]
    if optimizer["warmup"] >= steps:
      raise UserError(
        f"adversarial.optimizer.warmup is {optimizer['warmup']} updates, but"
        f" the run has only {steps} steps."
      )
    # Its schedule counts updates, and must have come to its end at the last.
    # There may be fewer than the warm-up has: a run may end before `start`.
    updates = math.ceil((steps - config["start"]) / config["every"])
    self._optimizer, _ = optimizer_lib.make_optimizer(
      optimizer, max(updates, optimizer["warmup"] + 1)
    )

  def init(self, key: jax.Array, samples: int) -> AdversaryState:
    """Initializes the discriminators.

    Args:
      key: random key.
      samples: length of a clip.
    """
    x = jnp.zeros((1, samples, self._channels), jnp.float32)
    params = self.model.init(key, x)["params"]
    return AdversaryState(
      params=params,
      opt_state=self._optimizer.init(params),
      silent=jnp.zeros((), jnp.int32),
    )

  def losses(
    self, params: Any, x: jax.Array, y: jax.Array
  ) -> dict[str, jax.Array]:
    """Computes the codec's losses, unweighted.

    Args:
      params: discriminator parameters.
      x: original [batch, samples, channels].
      y: reconstruction, same shape.

    Returns:
      Scalars by name.
    """
    return self._heard(self._judge(params, x), self._judge(params, y))

  def acts(self, step: int) -> bool:
    """Whether the discriminators are used after `step` updates."""
    return step >= self._config["start"]

  def heard(self, step: int | jax.Array) -> bool | jax.Array:
    """Whether the discriminators affect the codec after `step` updates."""
    return step >= self._config["start"] + self._config["warmup"]

  def absent(self, y: jax.Array) -> tuple[dict, dict, dict]:
    """Replaces `judge` and `learn` before the discriminators are used.

    Args:
      y: reconstruction.

    Returns:
      Losses and gradients, all zero, and metrics, as of `judge`.
    """
    values = {name: jnp.zeros((), jnp.float32) for name in self._names}
    pulls = {name: jnp.zeros_like(y) for name in self._names}
    # NaN for "not measured": 0 would trigger a warning.
    names = ("loss", "ratio", "real", "fake", "gradient_norm")
    metrics = dict.fromkeys(names, jnp.float32(jnp.nan))
    return values, pulls, _named({**metrics, "silent_steps": jnp.int32(0)})

  def _judge(self, params: Any, x: jax.Array) -> tuple[list, list]:
    """Returns lists of logits and features, one entry per sub-discriminator."""
    judged = self.model.apply({"params": params}, x)
    return [logits for logits, _ in judged], [found for _, found in judged]

  def _heard(
    self, real: tuple[list, list], fake: tuple[list, list]
  ) -> dict[str, jax.Array]:
    """Computes the codec's losses from the results of `_judge`."""
    losses = {
      "adversarial": adversarial.generator_loss(fake[0], self._config["loss"]),
      "features": adversarial.feature_matching(
        real[1], fake[1], relative=self._config["relative"]
      ),
    }
    return {name: losses[name] for name in self._names}

  def judge(
    self, params: Any, x: jax.Array, y: jax.Array, step: jax.Array
  ) -> tuple[dict, dict, dict, Any]:
    """Computes the codec's losses and the discriminators' gradient.

    Args:
      params: discriminator parameters.
      x: original [batch, samples, channels].
      y: reconstruction, same shape, without a gradient.
      step: int32, updates done.

    Returns:
      The codec's losses, their gradients with respect to y (all zero before the
      end of the warm-up), metrics, and the gradient of the discriminators' own
      loss (zero in steps in which they do not learn).
    """
    config, heard = self._config, self.heard(step)
    # Two passes instead of one batch: the codec's losses only need gradients
    # through one of them (a quarter of the time), and splitting a batch would
    # copy every feature on TPUs.
    real, back_real = jax.vjp(lambda p: self._judge(p, x), params)
    fake, back_fake = jax.vjp(self._judge, params, y)
    values, pulls = gradients.each(lambda fake: self._heard(real, fake), fake)
    pulls = {name: back_fake(pull)[1] for name, pull in pulls.items()}
    values, pulls = jax.tree.map(
      lambda found: jnp.where(heard, found, 0.0), (values, pulls)
    )

    def judge_loss(real: tuple, fake: tuple) -> jax.Array:
      return adversarial.discriminator_loss(real[0], fake[0], config["loss"])

    loss, (pull_real, pull_fake) = jax.value_and_grad(judge_loss, (0, 1))(
      real, fake
    )

    def gradient() -> Any:
      return jax.tree.map(
        jnp.add, back_real(pull_real)[0], back_fake(pull_fake)[0]
      )

    nothing = lambda: jax.tree.map(jnp.zeros_like, params)
    grads = self._if_learning(step, gradient, nothing)
    metrics = {
      "loss": loss,
      "ratio": _ratio(fake[0], loss, config["loss"]),
      "real": _mean(real[0]),
      "fake": _mean(fake[0]),
    }
    return values, pulls, _named(metrics), grads

  def learn(
    self,
    state: AdversaryState,
    grads: Any,
    loss: jax.Array,
    step: jax.Array,
  ) -> tuple[AdversaryState, dict[str, jax.Array]]:
    """Updates the discriminators, if they learn in this step.

    Args:
      state: discriminator state.
      grads: gradient of their loss.
      loss: their loss.
      step: int32, updates done.

    Returns:
      The new state, and metrics.
    """
    norm, learns = optax.tree.norm(grads), self._learns(step)
    # The codec's gradient may be finite when this one is not.
    good = jnp.isfinite(norm) & jnp.isfinite(loss)

    def update() -> AdversaryState:
      updates, opt_state = self._optimizer.update(
        grads, state.opt_state, state.params
      )
      new = state.replace(
        params=optax.apply_updates(state.params, updates), opt_state=opt_state
      )
      return _choose(good, new, state)

    new = self._if_learning(step, update, lambda: state)
    silent = jnp.where(loss < SILENT_LOSS, state.silent + 1, 0)
    metrics = {
      "gradient_norm": jnp.where(learns, norm, jnp.nan),
      "silent_steps": silent,
    }
    return new.replace(silent=silent), _named(metrics)

  def _if_learning(
    self, step: jax.Array, learn: Callable[[], Any], rest: Callable[[], Any]
  ) -> Any:
    """Returns the result of `learn`, or of `rest` where they do not learn."""
    if self._config["every"] == 1:
      return learn()
    # Not a phase (see `Task.phase`): another program would take minutes to
    # compile for TPUs. On CPUs a branch would take ten times as long.
    if platform.traced_for() == "cpu":
      return _choose(self._learns(step), learn(), rest())
    return jax.lax.cond(self._learns(step), learn, rest)

  def _learns(self, step: jax.Array) -> bool | jax.Array:
    """Whether the discriminators are updated in the step after `step`."""
    config = self._config
    if config["every"] == 1:
      return True
    # A clock that ticks once every `every` steps.
    ticks = lambda at: jnp.floor((at - config["start"]) / config["every"])
    return ticks(step + 1) > ticks(step)


def warnings(values: Mapping[str, float]) -> list[str]:
  """Returns warnings about the metrics of a step.

  Args:
    values: metrics by full name, as logged.
  """
  silent = values.get("train/discriminator/silent_steps", 0)
  if silent < SILENT_STEPS:
    return []
  return [
    f"the discriminators' loss has been below {SILENT_LOSS:g} for"
    f" {silent:.0f} steps: they tell every reconstruction from its original"
    " and have stopped learning; lower adversarial.optimizer.learning_rate,"
    " raise adversarial.every, or raise adversarial.start."
  ]


def _choose(first: bool | jax.Array, one: Any, other: Any) -> Any:
  """Chooses one of two trees."""
  return jax.tree.map(lambda a, b: jnp.where(first, a, b), one, other)


def _named(metrics: dict[str, jax.Array]) -> dict[str, jax.Array]:
  return {f"discriminator/{name}": value for name, value in metrics.items()}


def _mean(logits: list[jax.Array]) -> jax.Array:
  """Averages all logits, giving each network the same weight."""
  return jnp.mean(jnp.stack([jnp.mean(one) for one in logits]))


def _ratio(fake: list[jax.Array], loss: jax.Array, kind: str) -> jax.Array:
  """Divides the codec's adversarial loss by the discriminators' loss.

  Both are in their non-negative form. If the ratio is far above 1, the
  discriminators win; near 0, they are fooled. At the start, when all logits are
  0, it is 1 / 2 for hinge losses and 1 for least squares.
  """
  clamped = "least_squares" if kind == "least_squares" else "hinge_clamped"
  passing = adversarial.generator_loss(fake, clamped)
  return passing / jnp.maximum(loss, SILENT_LOSS)
