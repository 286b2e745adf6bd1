"""Checkpoints of a run's state and data position, written by Orbax.

    WORKDIR/checkpoints/<step>/{state,data,metrics,digest.json}

Saving is asynchronous and atomic: a run that is killed while saving resumes
from the previous checkpoint. A checkpoint that was damaged later is passed over
in favour of the newest intact one. A state is restored directly onto the mesh
of the new run, which may have another number of devices or another layout. All
processes write to one folder, perhaps in an object store.
"""

import contextlib
import functools
import logging
import math
import pathlib
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath
from jax.experimental import multihost_utils
from orbax.checkpoint.checkpoint_managers import preservation_policy

from mmdcodec.errors import UserError
from mmdcodec.store import (
  digests,
  inputs,
  orbax_stores,
  paths,
  renamed,
  replicas,
)
from mmdcodec.store.checkpoint_folder import (
  Steps,
  Unfinished,
  UnfinishedObjects,
)

FOLDER = "checkpoints"

# Orbax's file in each checkpoint: when and how it was saved.
_METADATA = "_CHECKPOINT_METADATA"


def _cut_large_arrays_only() -> None:
  """Makes replicas share the writing of large arrays only.

  Orbax has each replica write its slice of every array. A process that holds
  several replicas compiles a program for every slice, which takes seconds
  before the first checkpoint.
  """
  handler = ocp.type_handlers.ArrayHandler(
    min_slice_bytes_for_replica_parallel=2**20
  )
  logger = logging.getLogger("absl")
  level = logger.level
  logger.setLevel(logging.ERROR)  # Orbax warns of handlers that are replaced.
  ocp.type_handlers.register_type_handler(jax.Array, handler, override=True)
  logger.setLevel(level)


_cut_large_arrays_only()

# Standard output may be a pipe for audio or codes.
_say = functools.partial(print, file=sys.stderr, flush=True)


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
    say: Callable[[str], None] = _say,
  ):
    """Opens the folder, and makes it unless read_only.

    Args:
      workdir: the run's workdir.
      keep: how many of the latest checkpoints to keep.
      best: held-out metric whose best checkpoint is kept as well.
      best_mode: "min" or "max".
      read_only: whether to write nothing.
      say: called with a line of text when a damaged checkpoint is passed over.

    Raises:
      UserError: read_only, and there is no checkpoint; the folder's name is not
        in UTF-8, or it is in a store to which Orbax cannot write.
    """
    inputs.check_name(workdir)
    folder = paths.of(workdir).absolute() / FOLDER
    orbax_stores.prepare(folder)
    remote = isinstance(folder, paths.Url)
    if read_only and not folder.is_dir():
      raise UserError(
        f"{workdir} holds no checkpoints; give the --workdir of a training run."
      )
    self.best, self._best_mode = best, best_mode
    policies = [preservation_policy.LatestN(keep)]
    if best:
      policies.append(
        preservation_policy.BestN(
          get_metric_fn=self._score,
          # BestN keeps the last entries of its sorted list.
          reverse=best_mode == "min",
          n=1,
          keep_checkpoints_without_metrics=False,
        )
      )
    self._read_only, self._say = read_only, say
    self._folder, self._steps = folder, Steps(folder)
    # Checkpoints that were verified or written by this process.
    self._intact: set[int] = set()
    # Damaged ones that others were used for; the next save removes them.
    self._passed: list[int] = []
    metadata_damaged = UserError(
      f"{folder}: a file {_METADATA} is damaged; delete the files of this name,"
      " which tell only when and how checkpoints were saved."
    )
    # Orbax would wait for ever for what a pipe gives.
    if not all(path.is_file() for path in folder.glob(f"*/{_METADATA}")):
      raise metadata_damaged
    try:
      self._manager = ocp.CheckpointManager(
        epath.Path(str(folder)) if remote else folder,
        options=ocp.CheckpointManagerOptions(
          preservation_policy=preservation_policy.AnyPreservationPolicy(
            policies
          ),
          # Makes the manager write metrics; the policies decide what is kept.
          best_fn=(lambda metrics: metrics[best]) if best else None,
          best_mode=best_mode,
          create=not read_only,
          read_only=read_only,
          cleanup_tmp_directories=not read_only,
          # The training loop decides when to save.
          save_interval_steps=1,
          step_name_format=self._steps,
          temporary_path_class=UnfinishedObjects if remote else Unfinished,
        ),
        # Needed to read a folder before anything is saved.
        item_handlers={
          "state": ocp.StandardCheckpointHandler(),
          "data": ocp.JsonCheckpointHandler(),
        },
      )
    except RecursionError:
      raise metadata_damaged from None

  @property
  def latest(self) -> int | None:
    """The last intact checkpoint's step, or None if there is no checkpoint.

    Raises:
      UserError: all checkpoints are damaged.
    """
    return self._first_intact(self._newest_first())

  def best_step(self) -> int | None:
    """Returns the step with the best value of the metric.

    If that checkpoint is damaged, or if none has a value, returns `latest`.

    Raises:
      UserError: all checkpoints are damaged.
    """
    sign, newest = 1 if self._best_mode == "min" else -1, self._newest_first()
    scores: dict[int, float] = {}
    for step in newest:
      score = sign * self._score(self._steps.metrics(step) or {})
      if score < math.inf:
        scores[step] = score
    best = sorted(scores, key=lambda step: (scores[step], step))[:1]
    # One of these may have been the best.
    unknown = [s for s in self._steps.damaged if not self._steps.metrics(s)]
    return self._first_intact([*unknown, *best, *newest])

  def _score(self, metrics: Mapping[str, float]) -> float:
    """The value of the metric; the worst one if it is not finite."""
    value = metrics.get(self.best or "", math.nan)
    worst = math.inf if self._best_mode == "min" else -math.inf
    return value if math.isfinite(value) else worst

  def _newest_first(self) -> list[int]:
    """Returns the steps of all checkpoints, damaged or not."""
    return self._steps.all()[::-1]

  def _first_intact(self, steps: Iterable[int]) -> int | None:
    """Returns the first intact checkpoint, and reports damaged ones before it.

    In a training, the first process decides for all: they must restore the same
    checkpoint.
    """
    steps = list(dict.fromkeys(steps))
    together = not self._read_only and jax.process_count() > 1
    chosen = None
    if not together or jax.process_index() == 0:
      chosen = next((step for step in steps if self._is_intact(step)), None)
    if together:
      number = np.int32(-1 if chosen is None else chosen)
      number = int(multihost_utils.broadcast_one_to_all(number))
      chosen = None if number < 0 else number
    passed = steps if chosen is None else steps[: steps.index(chosen)]
    if chosen is not None:
      self._intact.add(chosen)
    if not passed or (chosen is not None and {*passed} <= {*self._passed}):
      return chosen
    for step in passed:
      self._steps.damaged.setdefault(step, "the first process found it damaged")
    self._passed += passed
    self._manager.reload()
    faults = ", ".join(
      f"{self._folder / str(step)} is damaged ({self._steps.damaged[step]})"
      for step in passed
    )
    if chosen is None:
      raise UserError(
        f"{faults}, and there is no intact checkpoint: copy one back, or start"
        " again in another --workdir."
      )
    self._say(f"{faults}; using checkpoint {chosen} instead")
    return chosen

  def _is_intact(self, step: int) -> bool:
    return step in self._intact or not self._steps.find_damage(step)

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

    Raises:
      UserError: the folder of the step holds something else, or the store of
        the last checkpoint could not be reached.
    """
    if step in self._manager.all_steps():
      return
    for passed in self._passed:
      # Orbax would take later ones for the latest, and this one for a conflict.
      if jax.process_index() == 0:
        paths.remove(self._folder / str(passed))
      self._steps.damaged.pop(passed, None)
    self._passed.clear()
    folder = self._folder / str(step)
    # Orbax would delete it. The first process alone knows what was removed.
    if jax.process_index() == 0 and self._steps.is_left(step):
      paths.remove(folder)
    elif jax.process_index() == 0 and folder.is_dir() and any(folder.iterdir()):
      raise UserError(
        f"{folder} is no checkpoint; move it away and start again, from the"
        " checkpoint before it."
      )
    self._intact.add(step)
    with orbax_stores.errors_of(self._folder):
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

    Raises:
      UserError: there is no such checkpoint, or it is damaged.
    """
    with self._reading(step) as step:
      saved = self._manager.item_metadata(step).state.tree
      # Checkpoints of earlier versions have other names, and lack fields that
      # the run did not use.
      old = {renamed.STATE.get(name, name): name for name in saved}
      fields = {
        old.get(name, name): value
        for name, value in vars(abstract).items()
        if name in old or jax.tree.leaves(value)
      }
      items: dict[str, Any] = {"data": ocp.args.JsonRestore()}
      folder = self._manager.directory / str(step) / "state"
      state = replicas.restore(folder, fields)
      if state is None:
        items["state"] = ocp.args.StandardRestore(fields)
      restored = self._manager.restore(step, args=ocp.args.Composite(**items))
      state = _todays(state or restored.state)
      return abstract.replace(**state), dict(restored.data)

  def restore_arrays(self, step: int | None = None) -> dict[str, Any]:
    """Reads the state of a checkpoint as nested dicts of whole NumPy arrays.

    Args:
      step: step of the checkpoint; the last one by default.

    Raises:
      UserError: there is no such checkpoint, or it is damaged.
    """
    with self._reading(step) as step:
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

  @contextlib.contextmanager
  def _reading(self, step: int | None) -> Iterator[int]:
    """Yields a checkpoint that may be read: this one, or by default the last.

    Raises:
      UserError: there is no such checkpoint, or it is damaged.
    """
    step, there = self.latest if step is None else step, self._newest_first()
    if step is None:
      raise UserError(
        f"{self._folder.parent} has no complete checkpoint yet; continue its"
        " training, or wait for the first one."
      )
    if step not in there:
      raise UserError(
        f"there is no checkpoint of step {step}; expected one of"
        f" {sorted(there)}."
      )
    path = self._folder / str(step)
    if not self._is_intact(step):
      others = [s for s in there if s != step and self._is_intact(s)]
      raise UserError(
        f"{path} is damaged ({self._steps.damaged[step]}); intact checkpoints"
        f" are {sorted(others)}."
      )
    try:
      yield step
    except Exception as error:
      if (path / digests.FILE).exists():
        raise
      reason = (str(error).strip() or repr(error)).splitlines()[0]
      raise UserError(
        f"{path}, of an earlier version, cannot be read ({reason}); if it is"
        " damaged, delete it, and the checkpoint before it is used."
      ) from error

  def set_aside(self, step: int) -> pathlib.Path:
    """Moves a checkpoint out of its folder, so that no run goes on from it.

    Returns:
      Where it is now: WORKDIR/unsound-<step>.
    """
    self.wait()
    target = self._folder.parent / f"unsound-{step}"
    if jax.process_index() == 0:
      paths.remove(target)
      (self._folder / str(step)).rename(target)
    self._manager.reload()
    return target

  def wait(self) -> None:
    """Waits until everything is on disk."""
    with orbax_stores.errors_of(self._folder):
      self._manager.wait_until_finished()

  def close(self) -> None:
    """Finishes saving and closes the folder."""
    with orbax_stores.errors_of(self._folder):
      self._manager.close()


def _todays(state: dict[str, Any]) -> dict[str, Any]:
  """Renames the fields of a checkpoint to today's names."""
  return {renamed.STATE.get(name, name): x for name, x in state.items()}
