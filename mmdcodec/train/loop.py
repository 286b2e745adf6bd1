"""The training loop, for every task; reads from top to bottom.

What is trained is a task's business (`codec_task.py`): its variables, its loss,
its held-out measures. Here is everything that is the same for all of them:
processes, mesh, data, state, resuming, steps, logging, evaluation and saving.
"""

import contextlib
import dataclasses
import functools
import importlib
import json
import os
import pathlib
import time
from collections.abc import Callable, Mapping

import jax
import numpy as np

from mmdcodec.data import pipeline
from mmdcodec.errors import UserError
from mmdcodec.parallel import mesh as mesh_lib
from mmdcodec.parallel import rules
from mmdcodec.train import metrics as metrics_lib
from mmdcodec.train import optimizer as optimizer_lib
from mmdcodec.train.checkpoint import Checkpoints
from mmdcodec.train.preemption import Preempted, PreemptionNotice
from mmdcodec.train.state import TrainState, update

TASKS = {"codec": "mmdcodec.train.codec_task:CodecTask"}
CONFIG_FILE = "config.json"


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
    schedule: learning rate by step.
    abstract: TrainState of `jax.ShapeDtypeStruct` with shardings.
    layout: TrainState of shardings.
    init: `key -> TrainState`, born where it will stay.
    step: `(state, batch) -> (state, metrics)`; the state passed in is consumed.
  """

  schedule: Callable
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
    return state, {**metrics, **guard}

  shapes = jax.eval_shape(init, jax.random.key(0))
  layout = rules.shardings(shapes, mesh, task.rules)
  return Program(
    schedule=schedule,
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
      out_shardings=(layout, None),
      donate_argnums=0,
    ),
  )


def parse_datasets(text: str) -> dict[str, float]:
  """`"A"`, `"A,B"` or `"A=0.7,B=0.3"` to paths with weights."""
  found = {}
  for part in filter(None, (part.strip() for part in (text or "").split(","))):
    path, _, weight = part.partition("=")
    try:
      found[path] = float(weight or 1.0)
    except ValueError:
      raise UserError(
        f"{weight!r} is not a weight; data sets are written as PATH,PATH or"
        " PATH=0.7,PATH=0.3."
      ) from None
  return found


def use_compilation_cache(folder: str) -> None:
  """Keeps compiled programs on disk, so that a restart skips minutes of it."""
  if folder == "off":
    return
  cache = os.environ.get("XDG_CACHE_HOME", "~/.cache")
  path = pathlib.Path(folder or f"{cache}/mmdcodec/compiled").expanduser()
  jax.config.update("jax_compilation_cache_dir", str(path))


def _remember_config(config: dict, workdir: pathlib.Path) -> None:
  """Writes config.json; a workdir belongs to one model."""
  path = workdir / CONFIG_FILE
  as_json = json.loads(json.dumps(config))
  if path.exists():
    before = json.loads(path.read_text())
    changed = [
      f"{section}.{key}"
      for section in ("model", "optimizer")
      for key in {**before[section], **as_json[section]}
      if before[section].get(key) != as_json[section].get(key)
    ]
    # The rest (steps, losses, logging) may change from one start to the next.
    structural = [c for c in changed if c.startswith("model.")]
    if "optimizer.name" in changed:
      structural.append("optimizer.name")
    if structural:
      raise UserError(
        f"{workdir} holds a run with another {', '.join(sorted(structural))};"
        " continue it with the same settings, or give another --workdir."
      )
  if jax.process_index() == 0:
    path.write_text(json.dumps(as_json, indent=2) + "\n")


# Flushed: a log that is read while the run goes on must not lag behind it.
_log = functools.partial(print, flush=True)


def train(
  config: Mapping, workdir: str | pathlib.Path, *, log: Callable = _log
) -> dict:
  """Trains until `config["steps"]`, from where the workdir's last run ended.

  Args:
    config: see `configs/common.py` for every key.
    workdir: where checkpoints, metrics and the configuration are kept.
    log: takes one line of text.

  Returns:
    The last evaluation, by name.

  Raises:
    UserError: a setting that can't be, or a loss that stays not finite.
    Preempted: SIGTERM came; the state is saved.
  """
  # A ConfigDict becomes plain dicts: what is traced is what is written down.
  config = config.to_dict() if hasattr(config, "to_dict") else dict(config)
  workdir = pathlib.Path(workdir)
  chief = jax.process_index() == 0
  say = log if chief else (lambda line: None)
  use_compilation_cache(config["compilation_cache"])

  # ---------------------------------------------------------------- mesh, data
  mesh = mesh_lib.make_mesh(config["mesh"])
  if config["batch"] % (mesh.shape["data"] * mesh.shape["fsdp"]):
    raise UserError(
      f"batch is {config['batch']}, but the mesh cuts it into"
      f" {mesh.shape['data'] * mesh.shape['fsdp']} parts; make it a multiple."
    )
  task = make_task(config)
  train_sets = parse_datasets(config["data"]["train"])
  if not train_sets:
    raise UserError(
      "no training data: make a data set with `mmdcodec prepare FOLDER"
      " DATASET` and give --config.data.train=DATASET."
    )
  audio = dict(
    batch=config["batch"],
    seconds=config["data"]["seconds"],
    rate=config["model"]["rate"],
    channels=config["model"]["channels"],
  )
  data = pipeline.batches(
    train_sets,
    **audio,
    seed=config["seed"],
    gain_db=tuple(config["data"]["gain_db"]),
    mix=config["data"]["mix"],
  )
  held_out = []
  if valid_sets := parse_datasets(config["data"]["valid"]):
    held_out = pipeline.fixed_batches(
      valid_sets, **audio, count=config["data"]["valid_batches"]
    )
    # Every process holds all of these few clips, and gives its own rows.
    mine = slice(jax.process_index(), None, jax.process_count())
    held_out = [{k: v[mine] for k, v in batch.items()} for batch in held_out]

  # ------------------------------------------------------- state, born sharded
  workdir.mkdir(parents=True, exist_ok=True)
  _remember_config(config, workdir)
  program = make_program(task, config, mesh)
  checkpoints = Checkpoints(
    workdir, keep=config["keep"], best=task.best, best_mode=task.best_mode
  )

  with contextlib.ExitStack() as stack:
    # Closed in reverse: the last checkpoint is finished before all else.
    stack.callback(data.close)
    stack.callback(checkpoints.close)
    stack.enter_context(jax.set_mesh(mesh))

    # ------------------------------------------ resume, else start from weights
    step = checkpoints.latest or 0
    if step:
      state, position = checkpoints.restore(program.abstract)
      data.set_state(position)
      say(f"resumed {workdir} at step {step}")
    else:
      state = program.init(jax.random.key(config["seed"]))
      if config["init_from"]:
        state = _start_from(state, config["init_from"], program.layout)
    size = sum(leaf.size for leaf in jax.tree.leaves(program.abstract.params))
    say(
      f"{config['task']}: {size / 1e6:.2f} M parameters, {jax.device_count()} x"
      f" {jax.devices()[0].device_kind}, mesh {dict(mesh.shape)}, batch"
      f" {config['batch']} x {task.audio_seconds:g} s, {config['steps']} steps"
    )

    # -------------------------------------------------------------------- steps
    writer = metrics_lib.MetricWriter(workdir, step=step)
    stack.callback(writer.close)
    notice = PreemptionNotice()
    stack.callback(notice.close)
    progress = metrics_lib.Progress(
      step, config["steps"], config["batch"] * task.audio_seconds
    )
    held_out = [mesh_lib.place(batch, mesh) for batch in held_out]
    evaluation, pending, tracing = {}, None, False
    profile = config["profile"]

    def report(at: int, metrics: dict) -> None:
      values = metrics_lib.flatten(jax.device_get(metrics), "train")
      values["train/learning_rate"] = float(program.schedule(at - 1))
      values |= metrics_lib.flatten(progress.measure(at), "train")
      writer.write(at, values)
      say(progress.line(at, values, task.shown))
      if values["train/skipped_in_a_row"] >= config["max_skipped"]:
        raise UserError(
          f"the loss was not finite for {config['max_skipped']} steps in a row"
          f" (step {at}); lower optimizer.rate, set optimizer.clip, or look at"
          " the data. The last checkpoint is sound."
        )

    while step < config["steps"]:
      if profile["steps"] and step == profile["start"]:
        jax.profiler.start_trace(str(workdir / "profile"))
        tracing = True
      # The device is still busy with the step before while the host reads.
      batch = mesh_lib.place(next(data), mesh)
      with jax.profiler.StepTraceAnnotation("train", step_num=step):
        state, metrics = program.step(state, batch)
      step += 1
      last = step == config["steps"]
      if tracing and step == profile["start"] + profile["steps"]:
        jax.block_until_ready(state)
        jax.profiler.stop_trace()
        tracing = False

      # Metrics are fetched one step late: to wait for a step that was just
      # given to the device would leave the device idle afterwards.
      if pending is not None:
        report(*pending)
        pending = None
      if step % config["log_every"] == 0 or last:
        pending = (step, metrics)

      stop = notice.reached(step)
      evaluated = None
      if held_out and not stop and (step % config["eval_every"] == 0 or last):
        if pending is not None:
          report(*pending)
          pending = None
        start = time.perf_counter()
        evaluation = evaluated = metrics_lib.flatten(
          task.evaluate(state.released(), held_out), "valid"
        )
        progress.skip(time.perf_counter() - start)
        writer.write(step, evaluated)
        say(
          "  held out: "
          + "  ".join(
            f"{name.removeprefix('valid/')} {value:.4g}"
            for name, value in evaluated.items()
            if name.count("/") == 1
          )
        )
      # After the evaluation, whose result decides which checkpoint is the best.
      if step % config["save_every"] == 0 or last or stop:
        if pending is not None:
          report(*pending)
          pending = None
        checkpoints.save(step, state, data.get_state(), evaluated)
      if stop and not last:
        checkpoints.wait()
        say(f"preempted: saved at step {step}; start again to go on")
        raise Preempted(step)
    checkpoints.wait()
  return evaluation


def _start_from(state: TrainState, path: str, layout: TrainState) -> TrainState:
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
