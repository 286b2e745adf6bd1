"""Checkpoints of a run's state and data position, written by Orbax.

    WORKDIR/checkpoints/<step>/{state,data,metrics}

Saving is asynchronous and atomic: a run that is killed while saving resumes
from the previous checkpoint. A state is restored directly onto the mesh of the
new run, which may have another number of devices or another layout.
"""

import math
import pathlib
from typing import Any

import jax
import orbax.checkpoint as ocp
from orbax.checkpoint.checkpoint_managers import preservation_policy

from mmdcodec.errors import UserError
from mmdcodec.store import renamed

FOLDER = "checkpoints"


class Checkpoints:
  """The checkpoints of one workdir: the last `keep`, and the best one."""

  def __init__(
    self,
    workdir: str | pathlib.Path,
    *,
    keep: int = 3,
    best: str | None = None,
    best_mode: str = "min",
    read_only: bool = False,
  ):
    """Opens the folder, and makes it unless read_only.

    Args:
      workdir: the run's workdir.
      keep: how many of the latest checkpoints to keep.
      best: held-out metric whose best checkpoint is kept as well.
      best_mode: "min" or "max".
      read_only: whether to write nothing.

    Raises:
      UserError: read_only, and there is no checkpoint.
    """
    folder = pathlib.Path(workdir).absolute() / FOLDER
    if read_only and not folder.is_dir():
      raise UserError(
        f"{workdir} holds no checkpoints; give the --workdir of a training run."
      )
    self.best = best
    policies = [preservation_policy.LatestN(keep)]
    if best:
      policies.append(
        preservation_policy.BestN(
          get_metric_fn=lambda metrics: metrics[best],
          # BestN keeps the last entries of its sorted list.
          reverse=best_mode == "min",
          n=1,
          keep_checkpoints_without_metrics=False,
        )
      )
    self._best_mode = best_mode
    self._manager = ocp.CheckpointManager(
      folder,
      options=ocp.CheckpointManagerOptions(
        preservation_policy=preservation_policy.AnyPreservationPolicy(policies),
        # Makes the manager write metrics; the policies decide what is kept.
        best_fn=(lambda metrics: metrics[best]) if best else None,
        best_mode=best_mode,
        create=not read_only,
        read_only=read_only,
        cleanup_tmp_directories=not read_only,
        # The training loop decides when to save.
        save_interval_steps=1,
      ),
      # Needed to read a folder before anything is saved.
      item_handlers={
        "state": ocp.StandardCheckpointHandler(),
        "data": ocp.JsonCheckpointHandler(),
      },
    )

  @property
  def latest(self) -> int | None:
    """The last saved step, or None."""
    return self._manager.latest_step()

  def best_step(self) -> int | None:
    """Returns the saved step with the best value of the metric, or None."""
    scores: dict[int, float] = {}
    for step in self._manager.all_steps():
      metrics = self._manager.metrics(step)
      if metrics and math.isfinite(metrics.get(self.best, math.nan)):
        scores[step] = metrics[self.best]
    if not scores:
      return None
    choose = min if self._best_mode == "min" else max
    return choose(scores, key=lambda step: scores[step])

  def save(
    self,
    step: int,
    state: Any,
    data: dict[str, int],
    metrics: dict[str, float] | None = None,
  ) -> None:
    """Starts saving a checkpoint; does nothing if the step has one.

    Args:
      step: number of updates done.
      state: tree of arrays. They are copied from the device before this
        returns, so the next step may overwrite them.
      data: position in the data, JSON-compatible.
      metrics: metrics of the evaluation at this step, for the best checkpoint.
    """
    if step in self._manager.all_steps():
      return
    self._manager.save(
      step,
      args=ocp.args.Composite(
        state=ocp.args.StandardSave(state), data=ocp.args.JsonSave(data)
      ),
      metrics=metrics,
      force=True,
    )

  def restore(
    self, abstract: Any, step: int | None = None
  ) -> tuple[Any, dict[str, int]]:
    """Reads a checkpoint.

    Args:
      abstract: a `TrainState` of `jax.ShapeDtypeStruct` with shardings. Shapes
        must match the checkpoint; shardings may differ.
      step: step of the checkpoint; the last one by default.

    Returns:
      The state on the given shardings, and the position in the data.
    """
    step = self.latest if step is None else step
    saved = self._manager.item_metadata(step).state.tree
    # Checkpoints of earlier versions have other names, and lack fields that the
    # run did not use.
    old = {renamed.STATE.get(name, name): name for name in saved}
    fields = {
      old.get(name, name): value
      for name, value in vars(abstract).items()
      if name in old or jax.tree.leaves(value)
    }
    restored = self._manager.restore(
      step,
      args=ocp.args.Composite(
        state=ocp.args.StandardRestore(fields), data=ocp.args.JsonRestore()
      ),
    )
    return abstract.replace(**_todays(restored.state)), restored.data

  def restore_arrays(self, step: int | None = None) -> dict[str, Any]:
    """Reads the state of a checkpoint as nested dicts of whole NumPy arrays.

    Args:
      step: step of the checkpoint; the last one by default.

    Raises:
      UserError: there is no such checkpoint.
    """
    step = self.latest if step is None else step
    if step is None:
      raise UserError(
        f"{self._manager.directory.parent} has no complete checkpoint yet;"
        " continue its training, or wait for the first one."
      )
    if step not in self._manager.all_steps():
      raise UserError(
        f"there is no checkpoint of step {step}; expected one of"
        f" {sorted(self._manager.all_steps())}."
      )
    item = self._manager.item_metadata(step).state.tree
    abstract = jax.tree.map(
      lambda leaf: jax.ShapeDtypeStruct(
        leaf.shape,
        leaf.dtype,
        sharding=jax.sharding.SingleDeviceSharding(jax.local_devices()[0]),
      ),
      item,
    )
    restored = self._manager.restore(
      step,
      args=ocp.args.Composite(state=ocp.args.StandardRestore(abstract)),
    )
    return _todays(jax.device_get(restored.state))

  def wait(self) -> None:
    """Waits until everything is on disk."""
    self._manager.wait_until_finished()

  def close(self) -> None:
    """Finishes saving and closes the folder."""
    self._manager.close()


def _todays(state: dict[str, Any]) -> dict[str, Any]:
  """Renames the fields of a checkpoint to today's names."""
  return {renamed.STATE.get(name, name): x for name, x in state.items()}
