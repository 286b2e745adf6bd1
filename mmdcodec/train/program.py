"""What a run compiles: a task's start and step, laid out on a mesh."""

import dataclasses
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec

from mmdcodec.parallel import mesh as mesh_lib
from mmdcodec.parallel import rules
from mmdcodec.train import gradients
from mmdcodec.train import optimizer as optimizer_lib
from mmdcodec.train.state import TrainState, update
from mmdcodec.train.task import Task


@dataclasses.dataclass(frozen=True)
class Program:
  """The compiled functions of a run, and how its state lies on the mesh.

  Attributes:
    abstract: TrainState of `jax.ShapeDtypeStruct` with shardings.
    layout: TrainState of shardings.
    init: `key -> TrainState`, born where it will stay.
    step: `(state, batch, phase) -> (state, metrics)`; the state passed in is
      consumed. `phase` is what `task.phase` says (None by default, by position
      only), and each has a program of its own.
    long_step: `(state, batches, phase) -> (state, metrics)`, the same with what
      the task takes from its last `history` batches together, of which the last
      one is that of the step; None if the task never does.
  """

  abstract: TrainState
  layout: TrainState
  init: Callable
  step: Callable
  long_step: Callable | None


def make_program(
  task: Task, config: Mapping, mesh: jax.sharding.Mesh
) -> Program:
  """Jits a task's training for a mesh; nothing is compiled or run yet."""
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
    batch: dict,
    phase: str | None = None,
    history: tuple[dict, ...] = (),
  ) -> tuple[TrainState, dict]:
    # From the step and not from a chain of splits: a resumed run draws the
    # numbers of the run that was never stopped.
    key = jax.random.fold_in(jax.random.key(seed), state.step)
    (loss, (collections, extra, metrics)), grads = gradients.in_parts(
      lambda *given: task.loss(*given, state.step, phase),
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
    rate = schedule(state.step - 1)
    return state, {**metrics, "loss": loss, **guard, "learning_rate": rate}

  def long_step(
    state: TrainState, batches: tuple[dict, ...], phase: str | None = None
  ) -> tuple[TrainState, dict]:
    return step(state, batches[-1], phase, batches)

  def compiled(step: Callable) -> Callable:
    return jax.jit(
      step,
      in_shardings=(layout, mesh_lib.batch_sharding(mesh)),
      # Metrics on every device: each process can read them.
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
    # It runs once and is mostly random draws, of which each compiles for long:
    # no optimizing makes starting several times as fast.
    init=jax.jit(
      init,
      out_shardings=layout,
      compiler_options={"xla_backend_optimization_level": 0},
    ),
    step=compiled(step),
    long_step=compiled(long_step) if task.history > 1 else None,
  )
