"""What a run compiles: a task's start and step, laid out on a mesh."""

import dataclasses
import importlib
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from mmdcodec.errors import UserError
from mmdcodec.parallel import mesh as mesh_lib
from mmdcodec.parallel import rules
from mmdcodec.train import gradients
from mmdcodec.train import optimizer as optimizer_lib
from mmdcodec.train.state import TrainState, update

TASKS = {
  "codec": "mmdcodec.train.codec_task:CodecTask",
  "lm": "mmdcodec.train.lm_task:LMTask",
}


def make_task(config: Mapping):
  """The task that `config["task"]` names."""
  name = config["task"]
  if name not in TASKS:
    raise UserError(f"task is {name!r}; it must be one of {sorted(TASKS)}.")
  module, cls = TASKS[name].split(":")
  return getattr(importlib.import_module(module), cls)(config)


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


def make_program(task, config: Mapping, mesh: jax.sharding.Mesh) -> Program:
  """Jits a task's training for a mesh; nothing is compiled or run yet."""
  optimizer, schedule = optimizer_lib.make_optimizer(
    config["optimizer"], config["steps"]
  )
  seed, ema = config["seed"], config["ema"]

  def init(key: jax.Array) -> TrainState:
    return TrainState.create(
      task.init(key), optimizer, ema=bool(ema), carried=task.carry(key)
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
    (loss, (collections, carried, metrics)), grads = gradients.in_parts(
      lambda *given: task.loss(*given, state.step, phase),
      state.params,
      state.collections,
      state.carried,
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
      carried=carried,
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


def start_from(
  task, state: TrainState, path: str, program: Program, say: Callable
) -> TrainState:
  """The state with what a bundle or another run has.

  Parameters, collections, and the parameters of discriminators where both have
  the same ones; or a part of the model, where a task takes one. `say` takes a
  line of text.
  """
  from mmdcodec import bundle

  key, layout = jax.random.key(task.config["seed"]), program.layout
  begun = task.begin_with(path, state, layout)
  if begun is not None:
    return begun
  variables, discriminators = bundle.load_variables(path)
  variables = dict(task.take(variables, key))

  def same(old, new) -> bool:
    return jax.tree.map(np.shape, old) == jax.tree.map(np.shape, new)

  def put(name: str, old, new, where):
    if not same(old, new):
      raise UserError(
        f"init_from: the {name} of {path} do not fit this model; the model"
        " settings must be the same."
      )
    return jax.tree.map(
      lambda a, o, s: jax.device_put(np.asarray(a, o.dtype), s), new, old, where
    )

  params = variables.pop("params")
  kept = {
    "params": put("parameters", state.params, params, layout.params),
    "collections": put(
      "codebooks", state.collections, variables, layout.collections
    ),
  }
  if state.ema is not None:
    kept["ema"] = put("parameters", state.ema, params, layout.ema)
  ours = (state.carried or {}).get("adversary")
  if ours is not None and not same(ours.params, discriminators):
    say(
      f"{path} has "
      + ("no" if discriminators is None else "other")
      + " discriminators: they begin anew (adversarial.warmup lets them learn"
      " before they are heard)"
    )
  elif ours is not None:
    where = layout.carried["adversary"].params
    kept["carried"] = {
      **state.carried,
      "adversary": ours.replace(
        params=put("discriminators", ours.params, discriminators, where)
      ),
    }
  return state.replace(**kept)
