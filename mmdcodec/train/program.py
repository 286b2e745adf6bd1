"""What a run compiles: the start and the step of a task, on a mesh."""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec

from mmdcodec.parallel import mesh as mesh_lib
from mmdcodec.parallel import rules
from mmdcodec.train import gradients
from mmdcodec.train import optimizer as optimizer_lib
from mmdcodec.train.state import TrainState, update
from mmdcodec.train.task import Batch, Task


@dataclasses.dataclass(frozen=True)
class Program:
  """The compiled functions of a run, and how its state lies on the mesh.

  Attributes:
    abstract: TrainState of `jax.ShapeDtypeStruct` with shardings.
    layout: TrainState of shardings.
    init: `key -> TrainState`, made on the devices where it stays.
    step: `(state, batch, phase) -> (state, metrics)`; consumes the state.
      `phase` is that of `Task.phase`, passed by position (None by default), and
      each phase has a program of its own.
    long_step: `(state, batches, phase) -> (state, metrics)`, a step that also
      takes `Task.history_gradient` of the last batches, the newest of which is
      the step's own; None if the task has no history.
  """

  abstract: TrainState
  layout: TrainState
  init: jax.stages.Wrapped
  step: jax.stages.Wrapped
  long_step: jax.stages.Wrapped | None


def make_program(
  task: Task, config: Mapping[str, Any], mesh: jax.sharding.Mesh
) -> Program:
  """Jits the training of a task for a mesh; compiles and runs nothing yet.

  Args:
    task: of the config.
    config: of the run.
    mesh: that the run uses.

  Raises:
    UserError: an optimizer setting that is not possible.
  """
  optimizer, schedule = optimizer_lib.make_optimizer(
    config["optimizer"], config["steps"]
  )
  seed, ema = config["seed"], config["ema"]

  def init(key: jax.Array) -> TrainState:
    return TrainState.create(
      task.init(key), optimizer, ema=bool(ema), extra=task.init_extra_state(key)
    )

  def step(
    state: TrainState,
    batch: Batch,
    phase: str | None = None,
    history: tuple[Batch, ...] = (),
  ) -> tuple[TrainState, dict[str, jax.Array]]:
    # The key follows from the step, so that a resumed run has the random
    # numbers of a run that was never stopped.
    key = jax.random.fold_in(jax.random.key(seed), state.step)
    (loss, (collections, extra, metrics)), grads = gradients.in_parts(
      functools.partial(task.loss, step=state.step, phase=phase),
      state.params,
      state.collections,
      state.extra,
      batch,
      key,
      parts=config.get("accumulate", 1),
    )
    if history:
      more, more_grads, found = task.history_gradient(
        state.params, state.collections, history, key, state.step
      )
      loss, grads = loss + more, jax.tree.map(jnp.add, grads, more_grads)
      metrics = {**metrics, **found}
    state, guard = update(
      state,
      grads,
      collections,
      loss,
      optimizer,
      extra=extra,
      ema_decay=ema,
    )
    guard["learning_rate"] = schedule(state.step - 1)
    return state, {**metrics, "loss": loss, **guard}

  def long_step(
    state: TrainState, batches: tuple[Batch, ...], phase: str | None = None
  ) -> tuple[TrainState, dict[str, jax.Array]]:
    return step(state, batches[-1], phase, batches)

  def jit(step: Callable) -> jax.stages.Wrapped:
    return jax.jit(
      step,
      in_shardings=(layout, mesh_lib.batch_sharding(mesh)),
      # Metrics are whole on every device, so that each process can read them.
      out_shardings=(layout, NamedSharding(mesh, PartitionSpec())),
      donate_argnums=0,
      static_argnums=2,
    )

  shapes = jax.eval_shape(init, jax.random.key(0))
  layout = rules.shardings(shapes, mesh, task.rules)
  return Program(
    abstract=jax.tree.map(
      lambda a, s: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=s),
      shapes,
      layout,
    ),
    layout=layout,
    # It runs once, and consists of random draws that take long to compile: a
    # run starts several times as fast if they are not optimized.
    init=jax.jit(
      init,
      out_shardings=layout,
      compiler_options={"xla_backend_optimization_level": 0},
    ),
    step=jit(step),
    long_step=jit(long_step) if task.history > 1 else None,
  )
