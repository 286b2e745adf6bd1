"""The jitted functions of a run: initialization and training step on a mesh."""

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
  """The jitted functions of a run and the layout of its state.

  Attributes:
    abstract: TrainState of `jax.ShapeDtypeStruct` with shardings.
    layout: TrainState of shardings.
    init: `key -> TrainState`, created with its final sharding.
    step: `(state, batch, phase) -> (state, metrics)`; donates the state.
      `phase` (see `Task.phase`) is positional and None by default; each phase
      is compiled separately.
    long_step: `(state, batches, phase) -> (state, metrics)`, a step on the last
      batch that also adds `Task.history_gradient` of all of them; None if the
      task has no history.
  """

  abstract: TrainState
  layout: TrainState
  init: jax.stages.Wrapped
  step: jax.stages.Wrapped
  long_step: jax.stages.Wrapped | None


def make_program(
  task: Task, config: Mapping[str, Any], mesh: jax.sharding.Mesh
) -> Program:
  """Jits the functions of a task for a mesh; compiles and runs nothing yet.

  Args:
    task: the task of the config.
    config: config of the run.
    mesh: mesh of the run.

  Raises:
    UserError: an optimizer setting is invalid, or the sharding rules do not fit
      the model.
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
    # Derived from the step, so that a resumed run gets the same random numbers
    # as an uninterrupted one.
    key = jax.random.fold_in(jax.random.key(seed), state.step)
    (loss, (collections, extra, metrics)), grads = gradients.in_parts(
      functools.partial(task.loss, step=state.step, phase=phase),
      state.params,
      state.collections,
      state.extra,
      batch,
      key,
      parts=config.get("accumulate", 1),
      weigh=task.weigh,
    )
    extra, metrics = task.end_step(extra, metrics, state.step, phase)
    if history:
      more, more_grads, found = task.history_gradient(
        state.params, state.collections, history, key, state.step
      )
      loss, grads = loss + more, jax.tree.map(jnp.add, grads, more_grads)
      metrics = {**metrics, **found}
    # Updates that were skipped do not count for the optimizer.
    rate = schedule(state.step - state.skipped)
    state, guard = update(
      state,
      grads,
      collections,
      loss,
      optimizer,
      extra=extra,
      ema_decay=ema,
    )
    return state, {**metrics, "loss": loss, "learning_rate": rate, **guard}

  def long_step(
    state: TrainState, batches: tuple[Batch, ...], phase: str | None = None
  ) -> tuple[TrainState, dict[str, jax.Array]]:
    return step(state, batches[-1], phase, batches)

  def jit(step: Callable) -> jax.stages.Wrapped:
    return jax.jit(
      step,
      in_shardings=(layout, mesh_lib.batch_sharding(mesh)),
      # Metrics are replicated, so that each process can read them.
      out_shardings=(layout, NamedSharding(mesh, PartitionSpec())),
      donate_argnums=0,
      static_argnums=2,
    )

  shapes = jax.eval_shape(init, jax.random.key(0))
  layout = rules.shardings(shapes, mesh, task.rules)
  rules.check(shapes, layout, task.rules)
  return Program(
    abstract=jax.tree.map(
      lambda a, s: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=s),
      shapes,
      layout,
    ),
    layout=layout,
    # Runs once, and its random draws take long to compile: without optimization
    # a run starts several times as fast.
    init=jax.jit(
      init,
      out_shardings=layout,
      compiler_options={"xla_backend_optimization_level": 0},
    ),
    step=jit(step),
    long_step=jit(long_step) if task.history > 1 else None,
  )
