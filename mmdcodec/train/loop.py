"""The training loop of all tasks, to be read from top to bottom.

A task (`task.py`) defines data, variables, loss and evaluation. This file has
what all tasks share: mesh, state, resuming, steps, evaluation and saving.
`reporting.py` prints and logs.
"""

import collections
import contextlib
import functools
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import jax
from ml_collections import ConfigDict

from mmdcodec.parallel import agreement
from mmdcodec.parallel import mesh as mesh_lib
from mmdcodec.store import disk, starts, urls
from mmdcodec.store import metrics as metrics_lib
from mmdcodec.store.checkpoints import Checkpoints
from mmdcodec.train import opening, same_data, settings
from mmdcodec.train.goodput import Goodput
from mmdcodec.train.hosts import Hosts
from mmdcodec.train.preemption import PreemptionNotice
from mmdcodec.train.profiling import Profiler
from mmdcodec.train.program import make_program
from mmdcodec.train.reporting import Report
from mmdcodec.train.saving import Saver
from mmdcodec.train.speed import Speed
from mmdcodec.train.task import Batch
from mmdcodec.train.warm_start import start_from
from mmdcodec.train.watchdog import DEFAULT, Watchdog

# Flushed, so that the log can be followed during the run.
_log = functools.partial(print, flush=True)


def train(
  config: Mapping[str, Any] | ConfigDict,
  workdir: str | pathlib.Path,
  *,
  log: Callable[[str], None] = _log,
  on_evaluation: Callable[[int, Any], None] | None = None,
) -> dict[str, float]:
  """Trains up to `config["steps"]`, resuming from the last checkpoint.

  Args:
    config: see `configs/common.py` for every key.
    workdir: folder for checkpoints, metrics and the configuration.
    log: called with one line of text.
    on_evaluation: called after each evaluation with the step and the variables
      that were evaluated, which the next step overwrites; its time does not
      count as training.

  Returns:
    The metrics of the last evaluation.

  Raises:
    UserError: a setting is invalid, or loss or parameters were not finite for
      too many steps, or after the last one.
    StoreGone: the store of the workdir or of a data set does not answer.
    Preempted: a SIGTERM ended the run; the state was saved.
    KeyboardInterrupt: the same for a SIGINT (Ctrl-C); a second one ends the
      command at once, or raises this error without saving.
  """
  goodput = Goodput()
  config, workdir, say = opening.open_run(config, workdir, log)
  with contextlib.ExitStack() as stack:
    stack.enter_context(disk.named(workdir))
    stack.enter_context(goodput.restarting())
    # First, so that a signal during start-up is not missed.
    notice = PreemptionNotice()
    stack.callback(notice.close)
    limit = config.get("hang_timeout", DEFAULT)
    dog = Watchdog(goodput, limit, workdir)
    stack.callback(dog.close)
    # A run that a supervisor starts again may meet the same outage.
    stores = [workdir, *same_data.stored(config)]
    urls.wait_for(stores, say, lambda: _stop_if_asked(notice, 0))
    profiler = Profiler(config["profile"], workdir, say)
    stack.callback(profiler.close)

    # -------------------------------------------------------------- mesh, data
    agreement.check_shared(workdir)
    task, mesh = opening.open_task(config, workdir, say)
    stack.enter_context(jax.set_mesh(mesh))
    data = task.batches(seed=config["seed"])
    stack.callback(data.close)
    # Every process reads all of these few examples and places its own rows.
    mine = slice(jax.process_index(), None, jax.process_count())
    held_out = [
      mesh_lib.place(jax.tree.map(lambda x: x[mine], batch), mesh)
      for batch in task.held_out()
    ]

    # ----------------------------------------------------- state, made sharded
    workdir.mkdir(parents=True, exist_ok=True)
    stack.enter_context(mesh_lib.exclusive(workdir))
    settings.record_config(config, workdir, task)
    program = make_program(task, config, mesh)
    checkpoints = Checkpoints(
      workdir,
      keep=config["keep"],
      best=task.best_metric,
      best_mode=task.best_mode,
      say=say,
    )
    stack.callback(checkpoints.close)

    # ------------------------------- resume, or start (perhaps from weights)
    step = checkpoints.latest or 0
    if step >= config["steps"]:
      say(
        f"{workdir} has done its {step} steps; raise --config.steps to continue"
      )
      _stop_if_asked(notice, step)
      return _last_evaluation(workdir)
    stack.enter_context(goodput.kept(workdir, step, say))
    run = starts.append(workdir, step) if jax.process_index() == 0 else ""
    # The most recent batches, the newest last.
    recent: collections.deque[Batch] = collections.deque(maxlen=task.history)
    if step:
      state, position = checkpoints.restore(program.abstract, step)
      # Checkpoints hold no batches, so earlier ones are read again.
      back = min(task.history - 1, position["index"] // config["batch"])
      data.set_state({"index": position["index"] - back * config["batch"]})
      recent.extend(mesh_lib.place(next(data), mesh) for _ in range(back))
      say(f"resumed {workdir} at step {step}")
    else:
      with goodput.on("compile"):  # it runs once
        state = program.init(jax.random.key(config["seed"]))
      whole = False
      if path := config["init_from"]:
        state, whole = start_from(task, state, path, program.layout, say)
      if task.measures_data and not whole:
        start = data.get_state()
        batches = iter(lambda: mesh_lib.place(next(data), mesh), None)
        found = task.measure_data(state.collections, batches, say)
        state = state.replace(collections=found)
        data.set_state(start)  # Measuring does not change what is trained on.
    size = sum(leaf.size for leaf in jax.tree.leaves(program.abstract.params))
    say(
      f"{task.kind}: {size / 1e6:.2f} M parameters, {jax.device_count()} x"
      f" {jax.devices()[0].device_kind}, mesh {dict(mesh.shape)}, batch"
      f" {config['batch']} x {task.audio_seconds:g} s, {config['steps']} steps"
    )

    # ------------------------------------------------------------------- steps
    saver = Saver(checkpoints, config, step=step or None)
    speed = Speed(task, config, program, mesh)
    report = Report(
      task,
      config,
      workdir,
      step=step,
      run=run,
      goodput=goodput,
      speed=speed,
      hosts=Hosts(mesh, goodput, step) if jax.process_count() > 1 else None,
      say=say,
      check=saver.check,
    )
    stack.callback(report.close)
    profiler.begin(step)
    metrics, evaluation = None, {}
    compiled: set[tuple[Any, str | None]] = set()
    # Closing what is open is no step, however long it takes.
    stack.callback(dog.close)
    goodput.begin()
    while step < config["steps"]:
      profiler.before(step)
      # The device is still computing the previous step while the host reads.
      with goodput.reading():
        recent.append(mesh_lib.place(next(data), mesh))
      before, phase = metrics, task.phase(step)
      full = len(recent) == task.history
      if program.long_step and full and task.uses_history(step):
        take, given = program.long_step, tuple(recent)
      else:
        take, given = program.step, recent[-1]
      with contextlib.ExitStack() as around:
        around.enter_context(
          jax.profiler.StepTraceAnnotation("train", step_num=step)
        )
        if (take, phase) not in compiled:
          # The first call compiles, which must not count as training time.
          compiled.add((take, phase))
          count = len(given) if take is program.long_step else 1
          around.enter_context(report.compiling(phase, count))
        else:
          # Where devices are CPUs, sums over processes end in this call.
          around.enter_context(goodput.waiting())
        state, metrics = take(state, given, phase)
        speed.add(given, phase)
      goodput.dispatched(metrics["loss"])
      # Only one step is queued while another runs: more would keep their
      # batches in memory and would have to finish before the run could stop.
      with goodput.waiting():
        jax.block_until_ready(before)
      saver.watch(step, before)
      step += 1
      last = step == config["steps"]
      profiler.after(step, state)

      # Metrics are fetched one step late: waiting for the step just dispatched
      # would leave the device idle afterwards.
      report.flush()
      if step % config["log_every"] == 0 or last:
        report.later(step, metrics)

      stop = notice.reached(step)
      due = not stop and (step % config["eval_every"] == 0 or last)
      saves = saver.due(step) or last or stop
      if saves or (due and (held_out or task.inspects)):
        # The step ends before anything else begins, so that its time counts.
        report.flush()
        jax.block_until_ready(state.step)

      # --------------------------------------------------------------- evaluate
      evaluated = None
      if due and task.inspects:
        with report.paused("evaluation"):
          report.write(step, {"train": task.inspect(state, tuple(recent))})
      if due and held_out:
        with report.paused("evaluation"):
          found = task.evaluate(state.released(), held_out)
        evaluation = evaluated = report.write(step, {"valid": found})
        report.say_evaluation(evaluated)
        if on_evaluation is not None:
          with report.paused("evaluation"):
            on_evaluation(step, task.whole(state.released()))

      # ------------------------------------------------------------------- save
      # After the evaluation, which decides whether this is the best checkpoint.
      if saves:
        with report.paused("saving"):
          report.sync()
          saver.save(step, state, metrics, data.get_state(), evaluated)
        if not saver.owed:
          goodput.checkpoint(step)
      if stop and not last:
        with goodput.on("saving"):
          checkpoints.wait()
        cause = "interrupted" if notice.interrupted else "preempted"
        say(f"{cause}: {saver.outcome(step)}")
        raise notice.error(step)
    saver.finish(step)
    with goodput.on("saving"):
      checkpoints.wait()
    _stop_if_asked(notice, step)
    return evaluation


def _stop_if_asked(notice: PreemptionNotice, step: int) -> None:
  """Raises before or after the steps: what would follow must not begin."""
  if notice.asked:
    raise notice.error(step)


def _last_evaluation(workdir: pathlib.Path) -> dict[str, float]:
  """Reads the last evaluation of a run."""
  for row in reversed(metrics_lib.read(workdir)):
    if any(name.startswith("valid/") for name in row):
      return {name: value for name, value in row.items() if name != "step"}
  return {}
