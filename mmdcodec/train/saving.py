"""Saves sound states alone, and ends a run that has become unsound.

A step is sound if its loss and gradient and the parameters after it are finite
(`state.update`). Whether the parameters are good is known one step later, from
their loss: if a run has to be given up and the very first loss after a
checkpoint was not finite, that checkpoint is not good either.
"""

import math
from collections.abc import Mapping
from typing import Any

import jax

from mmdcodec.errors import UserError
from mmdcodec.store.checkpoints import Checkpoints


class Saver:
  """Decides which states of a run are saved.

  Attributes:
    owed: whether a save was put off because its step was not sound.
  """

  def __init__(
    self,
    checkpoints: Checkpoints,
    config: Mapping[str, Any],
    *,
    step: int | None,
  ):
    """Keeps what it needs.

    Args:
      checkpoints: checkpoints of the run.
      config: config of the run; `save_every` and `max_skipped` are used.
      step: the checkpoint that the run goes on from, or None.
    """
    self._checkpoints, self._config = checkpoints, config
    self._newest, self._suspect, self.owed = step, False, False

  def due(self, step: int) -> bool:
    """Whether to save after this step, unless the run ends."""
    return self.owed or step % self._config["save_every"] == 0

  def watch(self, step: int, metrics: Mapping[str, jax.Array] | None) -> None:
    """Reads the first loss after each checkpoint; free in all other steps.

    Args:
      step: number of the step.
      metrics: its metrics, already computed.
    """
    if metrics is not None and step - 1 == self._newest:
      values = jax.device_get([metrics["loss"], metrics["gradient_norm"]])
      self._suspect = not all(map(math.isfinite, values))

  def save(
    self,
    step: int,
    state: Any,
    metrics: Mapping[str, jax.Array],
    position: dict[str, int],
    evaluated: dict[str, float] | None,
  ) -> None:
    """Saves the state if it is sound, and otherwise the next sound one.

    Args:
      step: number of updates done.
      state: training state.
      metrics: metrics of the step.
      position: position in the data.
      evaluated: measures of the evaluation at this step.
    """
    self.owed = bool(metrics["skipped_in_a_row"])
    if not self.owed:
      self._checkpoints.save(step, state, position, evaluated)
      self._newest, self._suspect = step, False

  def check(self, step: int, unsound: int) -> None:
    """Ends the run if too many steps in a row were not sound.

    Args:
      step: number of the step.
      unsound: number of steps since the last sound one.

    Raises:
      UserError: there were `max_skipped`.
    """
    if unsound < self._config["max_skipped"]:
      return
    moved = ""
    if self._suspect and step - unsound == self._newest:
      target = self._checkpoints.set_aside(self._newest)
      moved = f" (checkpoint {self._newest} gives no finite loss: now {target})"
    raise UserError(
      f"loss or parameters were not finite for {unsound} steps in a row (step"
      f" {step}); lower optimizer.learning_rate, set optimizer.clip, or check"
      f" the data, and start again: {self._kept()}{moved}."
    )

  def finish(self, step: int) -> None:
    """Ends a run that could not save its last state.

    Raises:
      UserError: the last step was not sound.
    """
    if self.owed:
      raise UserError(
        f"step {step}, the last one, had a loss or parameters that are not"
        " finite, so it was not saved; lower optimizer.learning_rate, or raise"
        f" steps, and start again: {self._kept()}."
      )

  def outcome(self, step: int) -> str:
    """Says how a run that is stopped after a step can go on."""
    if self.owed:
      return (
        f"step {step} is not finite and was not saved; start again:"
        f" {self._kept()}"
      )
    return f"saved at step {step}; start again to continue"

  def _kept(self) -> str:
    """Says from where the run goes on when it is started again."""
    self._checkpoints.wait()
    latest = self._checkpoints.latest
    if latest is None:
      return "nothing is saved yet, so it begins anew"
    return f"it goes on from its last sound checkpoint, step {latest}"
