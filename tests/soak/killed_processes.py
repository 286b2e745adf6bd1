"""Kills one process of a training of several, again and again.

    python tests/soak/killed_processes.py --seed 0 --kills 30

Every other kill waits until a checkpoint is being written; the rest are at any
moment, the start included. The other processes must end within a minute, with
one sentence and a code that makes a supervisor start the run again. The end
must equal that of a run without kills to the last bit, see `killed_runs.py`.

The smallest model, three numbers that follow the loudness of the audio, shows
what saving and resuming do; it takes seconds where a codec takes minutes.

The processes are forks of one that has imported everything, which takes longer
than all else that they do. So this one computes nothing.
"""

import argparse
import atexit
import collections
import os
import pathlib
import random
import shutil
import signal
import sys
import tempfile
import threading
import time
import traceback

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import known_tokens  # noqa: E402
import training_runs as runs  # noqa: E402
from peer_processes import free_port  # noqa: E402
from toy_task import Toy  # noqa: E402
from tunes import prepare_tunes  # noqa: E402

from mmdcodec.cli import main as cli  # noqa: E402
from mmdcodec.data import pipeline  # noqa: E402
from mmdcodec.train import opening  # noqa: E402

# Seconds within which the others end.
LIMIT = 60
# Configs, and what their states hold.
MODELS = {
  "toy": ("encodec_24khz:tiny", ("params", "opt_state", "ema")),
  "codec": ("codec_small:tiny", ("params", "codebook", "opt_state", "ema")),
  "lm": ("lm_small:tiny", ("params", "opt_state", "ema")),
}
# Makes a supervisor start the run again.
CODE = 75


class Loudness(Toy):
  """A task whose losses depend on which audio comes when."""

  def batches(self, *, seed):
    """Crops of the data set."""
    return pipeline.batches(
      self.config["data"]["train"],
      batch=self.config["batch"],
      seconds=0.01,
      rate=24_000,
      seed=seed,
    )

  def batch_shapes(self, batch):
    """240 samples each."""
    return {
      "audio": jax.ShapeDtypeStruct((batch, 240, 1), jnp.float32),
      "lengths": jax.ShapeDtypeStruct((batch,), jnp.int32),
    }

  def loss(self, params, collections, extra, batch, key, step, phase=None):
    """How far the numbers are from multiples of the loudness."""
    level = jnp.mean(jnp.abs(batch["audio"]))
    value = jnp.sum((params["w"] - level * jnp.arange(3)) ** 2)
    return value, (collections, extra, {})


class Fork:
  """A process that calls a function; its code is what that returns."""

  def __init__(self, function, output=os.devnull):
    """Starts it; what it says goes to a file."""
    self.output, self.returncode = pathlib.Path(output), None
    self.pid = os.fork()
    if self.pid:
      return
    code = 1
    try:
      file = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
      os.dup2(file, 1)
      os.dup2(file, 2)
      code = function()
      threading._shutdown()
      atexit._run_exitfuncs()
    except BaseException:
      traceback.print_exc()
    finally:
      os._exit(code)

  def poll(self):
    """Returns its code, once it has ended."""
    if self.returncode is None:
      pid, status = os.waitpid(self.pid, os.WNOHANG)
      if pid:
        self.returncode = os.waitstatus_to_exitcode(status)
    return self.returncode

  def wait(self, seconds):
    """Waits for the end; returns the code and what it said."""
    end = time.monotonic() + seconds
    while self.poll() is None:
      assert time.monotonic() < end, self.output.read_text(errors="replace")
      time.sleep(0.02)
    return self.returncode, self.output.read_text(errors="replace")


class Run:
  """The processes of a run, from their start to their end."""

  def __init__(self, workdir, dataset, config, count):
    """Starts them."""
    self.workdir = workdir
    argv = runs.command(
      workdir,
      dataset,
      "--config.data.valid=",
      "--config.eval_every=1000",
      f"--coordinator=localhost:{free_port()}",
      f"--num-processes={count}",
      f"--initialization-timeout={LIMIT // 2}",
      config=(f"--config={config}",),
    )[3:]
    if config == MODELS["lm"][0]:
      argv = [word for word in argv if ".adversarial." not in word]
    self.processes = [
      Fork(
        lambda i=i: cli.main([*argv, f"--process-id={i}"]),
        f"{workdir}.{i}.txt",
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
      code, said = process.wait(3600)
      assert code == 0, said

  def kill(self, victim):
    """Kills one, and waits for the others.

    Returns:
      Seconds until the last one had ended, and of each the code, and whether it
      named the dead one; None if the run had ended by itself, or the others
      had nothing left to do but to end.
    """
    if any(process.poll() is not None for process in self.processes):
      self.finish()
      return None
    start, found, done = time.monotonic(), [], 0
    os.kill(self.processes[victim].pid, signal.SIGKILL)
    for i, process in enumerate(self.processes):
      code, said = process.wait(LIMIT - (time.monotonic() - start))
      if i != victim and code == 0:
        done += 1
      elif i != victim:
        lines = [x for x in said.splitlines() if x.startswith("mmdcodec: ")]
        assert code == CODE and "Traceback" not in said, f"{code}: {said}"
        assert len(lines) == 1, said
        found.append((code, f"process {victim} " in lines[0]))
    assert not (done and found), "some had reached the end, some had not"
    return None if done else (time.monotonic() - start, found)


def prepare(folder, model):
  """Makes the data set of a model, in a process of its own."""
  out = folder / "data" / model

  def make():
    if model != "lm":
      prepare_tunes(folder / "tunes", out)
    else:
      (folder / "songs").mkdir()
      songs = known_tokens.songs(folder / "songs")
      tokenizer = known_tokens.Known("lm", 50.0, (32,) * 4)
      known_tokens.write(songs, out.parent, tokenizer)
    return 0

  code, said = Fork(make, folder / "prepared.txt").wait(600)
  assert code == 0, said
  return out


def equal(one, other, kinds):
  """Compares two ends, in a process of its own."""
  code, said = Fork(
    lambda: runs.assert_same_end(one, other, kinds) or 0, f"{one}.compared.txt"
  ).wait(600)
  assert code == 0, said


def main():
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--seed", type=int, default=0, help="of the moments")
  parser.add_argument("--kills", type=int, default=30)
  parser.add_argument("--processes", type=int, default=2)
  parser.add_argument("--model", choices=MODELS, default="toy")
  parser.add_argument("--steps", type=int, default=40)
  options = parser.parse_args()
  random.seed(options.seed)
  runs.STEPS = options.steps
  # A `TemporaryDirectory` would go with the first fork that ends.
  folder = pathlib.Path(tempfile.mkdtemp())
  os.environ.update(runs.environment(), TF_CPP_MIN_LOG_LEVEL="4")
  dataset = prepare(folder, options.model)
  config, kinds = MODELS[options.model]
  if options.model == "toy":
    opening.make_task = Loudness
  begin = lambda name: Run(folder / name, dataset, config, options.processes)
  start = time.monotonic()
  begin("uninterrupted").finish()  # and compiles
  print(f"compiled: {time.monotonic() - start:.0f} s", flush=True)
  start = time.monotonic()
  begin("again").finish()
  equal(folder / "again", folder / "uninterrupted", kinds)
  duration = time.monotonic() - start
  print(f"uninterrupted: {duration:.0f} s", flush=True)
  counts, slowest, chain, kills = collections.Counter(), 0.0, 0, 0
  while kills < options.kills:
    run = begin(f"chain{chain}")
    if kills % 2:
      run.wait(600, lambda run=run: run.saving)
      run.wait(random.uniform(0, 0.3))
    else:
      run.wait(random.uniform(0, duration))
    saving = run.saving
    ended = run.kill(random.randrange(options.processes))
    if ended is None:
      equal(run.workdir, folder / "uninterrupted", kinds)
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
  equal(run.workdir, folder / "uninterrupted", kinds)
  print(f"{kills} kills in {chain + 1} runs: all equal", flush=True)
  shutil.rmtree(folder)


if __name__ == "__main__":
  main()
