"""Compares trainings by several processes with that by one.

    python tests/soak/process_counts.py

A tiny codec and a tiny language model take 50 steps in float32, by 1, 2 and 4
processes, by two and then by one, by one and then by two, and by one process
with two devices: that one adds up in another order, too, and shows how far
rounding alone leads.
Prints the largest relative difference of a loss and that of all parameters,
and fails if several processes are further from one than 1e-4 and 1e-3.
"""

import argparse
import pathlib
import subprocess
import sys
import tempfile

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))

import jax  # noqa: E402
import known_tokens  # noqa: E402
import numpy as np  # noqa: E402
import training_runs as runs  # noqa: E402
from peer_processes import free_port  # noqa: E402
from tunes import prepare_tunes  # noqa: E402

from mmdcodec.store import metrics  # noqa: E402
from mmdcodec.store.checkpoints import Checkpoints  # noqa: E402

CONFIGS = {
  "lm": (
    "--config=lm_small:tiny",
    "--config.model.layers=1",
    "--config.model.width=16",
    "--config.model.hidden=32",
  ),
  "codec": ("--config=codec_small:tiny",),
}
LOSS, PARAMETERS = 1e-4, 1e-3


def train(kind, data, workdir, *, steps, processes, devices=1):
  """Trains to a step; goes on where the workdir is."""
  flags = f"--xla_force_host_platform_device_count={devices}"
  port, started = free_port(), []
  for i in range(processes):
    command = [
      sys.executable, "-m", "mmdcodec", "train", *CONFIGS[kind],
      f"--workdir={workdir}", f"--config.data.train={data}",
      f"--config.steps={steps}", "--config.log_every=1",
      "--config.save_every=1000", "--config.eval_every=1000",
      # The schedule does not depend on where the first part ends.
      "--config.optimizer.schedule=constant",
    ]  # fmt: skip
    if processes > 1:
      command += [f"--coordinator=localhost:{port}", f"--process-id={i}"]
      command.append(f"--num-processes={processes}")
    started.append(
      subprocess.Popen(
        command,
        env={**runs.environment(), "XLA_FLAGS": flags},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
      )
    )
  for process in started:
    said = process.communicate()[1]
    assert process.returncode == 0, said


def results(workdir):
  """Losses [steps], and all parameters in one vector."""
  rows = metrics.read(workdir)
  losses = [row["train/loss"] for row in rows if "train/loss" in row]
  checkpoints = Checkpoints(workdir, read_only=True)
  try:
    params = checkpoints.restore_arrays()["params"]
  finally:
    checkpoints.close()
  flat = [np.ravel(x) for x in jax.tree.leaves(params)]
  return np.float64(losses), np.concatenate(flat).astype(np.float64)


def main():
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--steps", type=int, default=50)
  parser.add_argument("--models", nargs="+", choices=CONFIGS, default=CONFIGS)
  options = parser.parse_args()
  steps = options.steps
  with tempfile.TemporaryDirectory() as made:
    folder = pathlib.Path(made)
    (folder / "songs").mkdir()
    songs = known_tokens.songs(folder / "songs")
    tokenizer = known_tokens.Known("codec", 50.0, (32,) * 4)
    tokens = known_tokens.write(songs, folder / "tokens", tokenizer)["codec"]
    tunes = prepare_tunes(folder / "tunes", folder / "dataset")
    data = {"codec": tunes, "lm": tokens}
    for kind in options.models:
      place = lambda name, kind=kind: folder / f"{kind} {name}"
      go = lambda name, *, to=steps, kind=kind, **how: train(
        kind, data[kind], folder / f"{kind} {name}", steps=to, **how
      )
      go("1 process", processes=1)
      go("1 process, 2 devices", processes=1, devices=2)
      go("2 processes", processes=2)
      go("4 processes", processes=4)
      go("2 processes, then 1", processes=2, to=steps // 2)
      go("2 processes, then 1", processes=1)
      go("1, then 2 processes", processes=1, to=steps // 2)
      go("1, then 2 processes", processes=2)
      losses, params = results(place("1 process"))
      for name in (
        "1 process, 2 devices", "2 processes", "4 processes",
        "2 processes, then 1", "1, then 2 processes",
      ):  # fmt: skip
        others, theirs = results(place(name))
        assert len(losses) == len(others) == steps
        loss = np.max(np.abs(others / losses - 1))
        parameters = np.linalg.norm(theirs - params) / np.linalg.norm(params)
        print(
          f"{kind}, {name}: losses {loss:.1e}, parameters {parameters:.1e}",
          flush=True,
        )
        if "processes" in name:
          assert loss < LOSS and parameters < PARAMETERS


if __name__ == "__main__":
  main()
