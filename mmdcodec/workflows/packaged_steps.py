"""How many steps of a training fit into given minutes."""

import copy
import pathlib
import tempfile
from typing import Any

from mmdcodec.store import atomic, inputs, metrics
from mmdcodec.train import loop

# Steps that tell the speed of a training. The first half compiles.
PROBE = 40


def choose(
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
  known = inputs.read_object(path) if path.exists() else {}
  if name not in known:
    probe = copy.deepcopy(config)
    probe |= {"steps": PROBE, "log_every": PROBE // 2}
    probe |= {"eval_every": 2 * PROBE, "save_every": 2 * PROBE}
    probe["optimizer"]["warmup"] = 1
    with tempfile.TemporaryDirectory() as folder:
      loop.train(probe, folder, log=lambda line: None)
      rows = metrics.read(folder)
    key = "train/steps_per_second"
    speed = [row[key] for row in rows if key in row][-1]
    known[name] = max(PROBE, round(seconds * speed))
    atomic.write_json(path, known)
  return known[name]
