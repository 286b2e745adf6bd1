"""Trains packaged models within given minutes, and leaves them to ship."""

import copy
import pathlib
import tempfile
from collections.abc import Mapping
from typing import Any

from mmdcodec import bundle, packaged
from mmdcodec.store import atomic, inputs, jobs, metrics
from mmdcodec.train import loop
from mmdcodec.workflows.packaged_command import Job

# Steps that tell the speed of a training. The first half compiles.
PROBE = 40


def train(
  job: Job,
  name: str,
  config: dict[str, Any],
  folder: str,
  *,
  share: float = 1.0,
  probe: dict[str, Any] | None = None,
) -> str:
  """Trains a model, resuming an interrupted run.

  Args:
    job: the job.
    name: name of the training.
    config: its config; a tiny job trains for as many steps as it says.
    folder: folder of the run in the job's.
    share: share of the job's minutes.
    probe: the config with every loss active from step 0 on; None: as it is.

  Returns:
    A description of the result.
  """
  steps = config["steps"]
  if not job.tiny:
    seconds = 60 * job.minutes * share
    steps = choose_steps(job.workdir, name, probe or config, seconds)
  loop.train({**config, "steps": steps}, job.workdir / folder, log=jobs.note)
  return f"{steps} steps"


def choose_steps(
  workdir: pathlib.Path, name: str, config: dict[str, Any], seconds: float
) -> int:
  """Returns how many steps of a training fit into a time.

  They are chosen once, because the schedule of the learning rate depends on
  them, and kept in WORKDIR/steps.json.

  Args:
    workdir: folder of the job.
    name: name of the training.
    config: its config, with every loss active from step 0 on.
    seconds: the time.
  """
  path = workdir / "steps.json"
  read = lambda: inputs.read_object(path) if path.exists() else {}
  if name in (known := read()):
    return known[name]
  probe = copy.deepcopy(config)
  probe |= {"steps": PROBE, "log_every": PROBE // 2}
  probe |= {"eval_every": 2 * PROBE, "save_every": 2 * PROBE}
  probe["optimizer"]["warmup"] = 1
  with tempfile.TemporaryDirectory() as folder:
    loop.train(probe, folder, log=lambda line: None)
    rows = metrics.read(folder)
  key = "train/steps_per_second"
  speed = [row[key] for row in rows if key in row][-1]
  steps = max(PROBE, round(seconds * speed))
  # Read again: other trainings may have been probed in the meantime.
  atomic.write_json(path, {**read(), name: steps})
  return steps


def save(job: Job, folder: pathlib.Path, found: bundle.Contents) -> None:
  """Writes a model with parameters of 8 bits and without paths of this machine.

  Args:
    job: the job.
    folder: where to write the bundle; one that is there is replaced.
    found: the model.
  """
  variables = bundle.stored_as("int8", found.variables)
  config = without_paths(found.config, job)
  bundle.save(folder, config, variables, force=True)


def without_paths(value: Any, job: Job) -> Any:
  """Makes the paths in a config relative to the folder of a job.

  Those of packaged models become their names. What a training went on from is
  the packaged model, also where the job made a part of it by itself.
  """
  if isinstance(value, Mapping):
    found = {
      without_paths(key, job): without_paths(each, job)
      for key, each in value.items()
    }
    begun = value.get("init_from")
    if isinstance(begun, str) and begun.startswith(f"{job.workdir}/"):
      found["init_from"] = job.start
    return found
  if isinstance(value, list | tuple):
    return [without_paths(each, job) for each in value]
  if isinstance(value, str):
    for root in (job.workdir, packaged.FOLDER):
      value = value.removeprefix(f"{root}/")
  return value


def add_card(folder: pathlib.Path, card: str) -> str:
  """Adds the card to a bundle; returns a description of both."""
  (folder / "README.md").write_text(card)
  size = (folder / bundle.WEIGHTS_FILE).stat().st_size
  return f"{size / 1e6:.1f} MB of weights, with a card"
