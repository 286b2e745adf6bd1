"""Kills one process of a training of several, again and again.

    python tests/soak/killed_processes.py --seed 0 --kills 30

Every other kill waits until a checkpoint is being written; the rest are at any
moment, the start included. The other processes must end within a minute, with
one sentence and a code that makes a supervisor start the run again. The end
must equal that of a run without kills to the last bit, see `killed_runs.py`.
"""

import argparse
import collections
import pathlib
import random
import signal
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))

import training_runs as runs  # noqa: E402
from peer_processes import free_port  # noqa: E402
from tunes import prepare_tunes  # noqa: E402

# Seconds within which the others end.
LIMIT = 60
CONFIG = ("--config=codec_small:tiny",)
KINDS = ("params", "codebook", "opt_state", "ema")
# 75, and 2 of those who have not yet met a process that is gone.
CODES = (75, 2)


class Run:
  """The processes of a run, from their start to their end."""

  def __init__(self, workdir, dataset, count):
    """Starts them."""
    port = free_port()
    self.workdir = workdir
    self.processes = [
      subprocess.Popen(
        runs.command(
          workdir,
          dataset,
          "--config.data.valid=",
          f"--coordinator=localhost:{port}",
          f"--num_processes={count}",
          f"--process_id={i}",
          f"--initialization_timeout={LIMIT // 2}",
          config=CONFIG,
        ),
        env={**runs.environment(), "TF_CPP_MIN_LOG_LEVEL": "4"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
      )
      for i in range(count)
    ]

  @property
  def saving(self):
    """Whether a checkpoint is being written."""
    return any((self.workdir / "checkpoints").glob("*tmp*"))

  def wait(self, seconds, ready=lambda: False):
    """Waits so long, until it is ready, or until a process has ended."""
    end = time.monotonic() + seconds
    while time.monotonic() < end and not ready():
      if any(process.poll() is not None for process in self.processes):
        return
      time.sleep(0.01)

  def finish(self):
    """Waits for the end of an undisturbed run."""
    for process in self.processes:
      said = process.communicate(timeout=3600)[1]
      assert process.returncode == 0, said

  def kill(self, victim):
    """Kills one, and waits for the others.

    Returns:
      Seconds until the last one had ended, and their codes with what they said;
      None if the run had ended by itself.
    """
    if any(process.poll() is not None for process in self.processes):
      self.finish()
      return None
    start = time.monotonic()
    self.processes[victim].send_signal(signal.SIGKILL)
    self.processes[victim].communicate()
    found = []
    for process in self.processes:
      if process is self.processes[victim]:
        continue
      left = LIMIT - (time.monotonic() - start)
      said = process.communicate(timeout=max(left, 0.1))[1]
      assert process.returncode in CODES, f"{process.returncode}: {said}"
      lines = [line for line in said.splitlines() if "mmdcodec: " in line]
      assert len(lines) == 1 and "Traceback" not in said, said
      found.append((process.returncode, f"process {victim} " in lines[0]))
    return time.monotonic() - start, found


def main():
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--seed", type=int, default=0, help="of the moments")
  parser.add_argument("--kills", type=int, default=30)
  parser.add_argument("--processes", type=int, default=2)
  parser.add_argument("--steps", type=int, default=150)
  options = parser.parse_args()
  random.seed(options.seed)
  runs.STEPS = options.steps
  with tempfile.TemporaryDirectory() as made:
    folder = pathlib.Path(made)
    dataset = prepare_tunes(folder / "tunes", folder / "dataset")
    begin = lambda name: Run(folder / name, dataset, options.processes)
    start = time.monotonic()
    begin("uninterrupted").finish()  # and compiles
    print(f"uninterrupted: {time.monotonic() - start:.0f} s", flush=True)
    counts, slowest, chain, kills = collections.Counter(), 0.0, 0, 0
    while kills < options.kills:
      run = begin(f"chain{chain}")
      if kills % 2:
        run.wait(600, lambda run=run: run.saving)
        run.wait(random.uniform(0, 0.3))
      else:
        run.wait(random.uniform(0, 30))
      saving = run.saving
      ended = run.kill(random.randrange(options.processes))
      if ended is None:
        runs.assert_same_end(run.workdir, folder / "uninterrupted", KINDS)
        print(f"chain {chain} ended equal", flush=True)
        chain += 1
        continue
      seconds, found = ended
      kills, slowest = kills + 1, max(slowest, seconds)
      counts["while saving"] += saving
      counts.update(f"code {code}" for code, _ in found)
      counts["named"] += sum(named for _, named in found)
      print(
        f"{kills} kills: the others ended after {seconds:.1f} s, at most"
        f" {slowest:.1f} s; {dict(counts)}",
        flush=True,
      )
    run = begin(f"chain{chain}")
    run.finish()
    runs.assert_same_end(run.workdir, folder / "uninterrupted", KINDS)
    print(f"{kills} kills in {chain + 1} runs: all equal", flush=True)


if __name__ == "__main__":
  main()
