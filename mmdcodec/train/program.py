"""What a run compiles: a task's start and step, laid out on a mesh."""

import dataclasses
import importlib
from collections.abc import Callable, Mapping

import jax
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from mmdcodec.errors import UserError
from mmdcodec.parallel import mesh as mesh_lib
from mmdcodec.parallel import rules
from mmdcodec.train import optimizer as optimizer_lib
from mmdcodec.train.state import TrainState, update

TASKS = {"codec": "mmdcodec.train.codec_task:CodecTask"}


def make_task(config: Mapping):
  """The task that `config["task"]` names."""
  name = config["task"]
  if name not in TASKS:
    raise UserError(f"task is {name!r}; it must be one of {sorted(TASKS)}.")
  module, cls = TASKS[name].split(":")
  return getattr(importlib.import_module(module), cls)(config)


@dataclasses.dataclass(frozen=True)
class Program:
  """The two compiled functions of a run, and how its state lies on the mesh.

  Attributes:
    abstract: TrainState of `jax.ShapeDtypeStruct` with shardings.
    layout: TrainState of shardings.
    init: `key -> TrainState`, born where it will stay.
    step: `(state, batch) -> (state, metrics)`; the state passed in is consumed.
  """

  abstract: TrainState
  layout: TrainState
  init: Callable
  step: Callable


def make_program(task, config: Mapping, mesh: jax.sharding.Mesh) -> Program:
  """Jits a task's training for a mesh; nothing is compiled or run yet."""
  optimizer, schedule = optimizer_lib.make_optimizer(
    config["optimizer"], config["steps"]
  )
  seed, ema = config["seed"], config["ema"]

  def init(key: jax.Array) -> TrainState:
    return TrainState.create(task.init(key), optimizer, ema=bool(ema))

  def step(state: TrainState, batch: dict) -> tuple[TrainState, dict]:
    # From the step and not from a chain of splits: a resumed run draws the
    # numbers of the run that was never stopped.
    key = jax.random.fold_in(jax.random.key(seed), state.step)
    (loss, (collections, metrics)), grads = jax.value_and_grad(
      task.loss, has_aux=True
    )(state.params, state.collections, batch, key)
    state, guard = update(
      state, grads, collections, loss, optimizer, ema_decay=ema
    )
    rate = schedule(state.step - 1)
    return state, {**metrics, **guard, "learning_rate": rate}

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
    step=jax.jit(
      step,
      in_shardings=(layout, mesh_lib.batch_sharding(mesh)),
      # Metrics on every device: each process can read them.
      out_shardings=(layout, NamedSharding(mesh, PartitionSpec())),
      donate_argnums=0,
    ),
  )


def start_from(state: TrainState, path: str, layout: TrainState) -> TrainState:
  """The state with parameters and collections of a bundle or another run."""
  from mmdcodec import bundle

  variables = dict(bundle.load_variables(path))

  def put(name: str, old, new, where):
    shapes = [jax.tree.map(np.shape, tree) for tree in (old, new)]
    if shapes[0] != shapes[1]:
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
  return state.replace(**kept)
