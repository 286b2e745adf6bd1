"""The training loop, for every task; reads from top to bottom.

What is trained is a task's business (`codec_task.py`, `lm_task.py`): its data,
its variables, its loss, its held-out measures. Here is everything that is the
same for all of them: processes, mesh, state, resuming, steps, logging,
evaluation and saving.
"""

import collections
import contextlib
import functools
import pathlib
import time
from collections.abc import Callable, Mapping

import jax

from mmdcodec.errors import UserError
from mmdcodec.parallel import mesh as mesh_lib
from mmdcodec.store import metrics as metrics_lib
from mmdcodec.store.checkpoints import Checkpoints
from mmdcodec.train import settings
from mmdcodec.train.preemption import Preempted, PreemptionNotice
from mmdcodec.train.program import make_program
from mmdcodec.train.reporting import Profiler, Progress
from mmdcodec.train.task import make_task
from mmdcodec.train.warm_start import start_from

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
  config = settings.plain(config)
  settings.check(config)
  workdir = pathlib.Path(workdir)
  chief = jax.process_index() == 0
  say = log if chief else (lambda line: None)
  settings.use_compilation_cache(config["compilation_cache"])

  with contextlib.ExitStack() as stack:
    # First of all: a SIGTERM during start-up is heard as well.
    notice = PreemptionNotice()
    stack.callback(notice.close)

    # -------------------------------------------------------------- mesh, data
    mesh = mesh_lib.make_mesh(config["mesh"])
    mesh_lib.check_batch(config["batch"], mesh)
    stack.enter_context(jax.set_mesh(mesh))
    task = make_task(config)
    data = task.batches(seed=config["seed"])
    stack.callback(data.close)
    # Every process holds all of these few examples, and gives its own rows.
    mine = slice(jax.process_index(), None, jax.process_count())
    held_out = [
      mesh_lib.place({k: v[mine] for k, v in batch.items()}, mesh)
      for batch in task.held_out()
    ]

    # ----------------------------------------------------- state, born sharded
    workdir.mkdir(parents=True, exist_ok=True)
    settings.record_config(config, workdir, task)
    program = make_program(task, config, mesh)
    checkpoints = Checkpoints(
      workdir,
      keep=config["keep"],
      best=task.best_metric,
      best_mode=task.best_mode,
    )
    stack.callback(checkpoints.close)

    # ---------------------------------------- resume, else start from weights
    step = checkpoints.latest or 0
    # Placed batches that a task looks back on, the last one is the newest.
    recent = collections.deque(maxlen=task.history)
    if step >= config["steps"]:
      say(f"{workdir} has done its {step} steps; raise --config.steps to go on")
      return _last_evaluation(workdir)
    if step:
      state, position = checkpoints.restore(program.abstract)
      # Not kept in checkpoints, but read again.
      back = min(task.history - 1, position["index"] // config["batch"])
      data.set_state({"index": position["index"] - back * config["batch"]})
      recent.extend(mesh_lib.place(next(data), mesh) for _ in range(back))
      say(f"resumed {workdir} at step {step}")
    else:
      state = program.init(jax.random.key(config["seed"]))
      if config["init_from"]:
        state = start_from(
          task, state, config["init_from"], program.layout, say
        )
    size = sum(leaf.size for leaf in jax.tree.leaves(program.abstract.params))
    say(
      f"{task.kind}: {size / 1e6:.2f} M parameters, {jax.device_count()} x"
      f" {jax.devices()[0].device_kind}, mesh {dict(mesh.shape)}, batch"
      f" {config['batch']} x {task.audio_seconds:g} s, {config['steps']} steps"
    )

    # ------------------------------------------------------------------- steps
    writer = metrics_lib.MetricWriter(workdir, step=step)
    stack.callback(writer.close)
    progress = Progress(
      step, config["steps"], config["batch"] * task.audio_seconds
    )
    profiler = Profiler(step, config["profile"], workdir / "profile")
    stack.callback(profiler.close)
    pending, evaluation = None, {}

    def report() -> None:
      nonlocal pending
      if pending is None:
        return
      (at, metrics), pending = pending, None
      values = metrics_lib.flatten(jax.device_get(metrics), "train")
      values |= metrics_lib.flatten(progress.measure(at), "train")
      writer.write(at, values)
      say(progress.line(at, values, task.progress_metrics))
      for warning in task.warnings(values):
        say(f"WARNING: {warning}")
      if values["train/skipped_in_a_row"] >= config["max_skipped"]:
        raise UserError(
          f"the loss was not finite for {config['max_skipped']} steps in a row"
          f" (step {at}); lower optimizer.learning_rate, set optimizer.clip, or"
          " check the data (the last checkpoint is good)."
        )

    metrics, compiled = None, set()
    while step < config["steps"]:
      profiler.before(step)
      # The device is still busy with the step before while the host reads.
      recent.append(mesh_lib.place(next(data), mesh))
      before = metrics
      with jax.profiler.StepTraceAnnotation("train", step_num=step):
        if len(recent) == task.history and task.uses_history(step):
          take, given = program.long_step, tuple(recent)
        else:
          take, given = program.step, recent[-1]
        start, phase = time.perf_counter(), task.phase(step)
        state, metrics = take(state, given, phase)
      if (take, phase) not in compiled:
        # Another program, which was compiled now and not when the run began.
        compiled.add((take, phase))
        progress.skip(time.perf_counter() - start)
      # One step may wait while the one before runs. More would keep all their
      # batches in memory, and a run that is to stop would do them first.
      jax.block_until_ready(before)
      step += 1
      last = step == config["steps"]
      profiler.after(step, state)

      # Metrics are fetched one step late: to wait for a step that was just
      # given to the device would leave the device idle afterwards.
      report()
      if step % config["log_every"] == 0 or last:
        pending = (step, metrics)

      stop = notice.reached(step)
      due = not stop and (step % config["eval_every"] == 0 or last)
      if due and task.inspects:
        report()
        start = time.perf_counter()
        writer.write(
          step, metrics_lib.flatten(task.inspect(state, tuple(recent)), "train")
        )
        progress.skip(time.perf_counter() - start)
      evaluated = None
      if held_out and due:
        report()
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
        report()
        checkpoints.save(step, state, data.get_state(), evaluated)
      if stop and not last:
        checkpoints.wait()
        say(f"preempted: saved at step {step}; start again to go on")
        raise Preempted(step)
    checkpoints.wait()
    return evaluation


def _last_evaluation(workdir: pathlib.Path) -> dict:
  """The last held-out measures that a run wrote down."""
  for row in reversed(metrics_lib.read(workdir)):
    if any(name.startswith("valid/") for name in row):
      return {name: value for name, value in row.items() if name != "step"}
  return {}
