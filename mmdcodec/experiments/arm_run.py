"""One run of the independence experiment, in its own process.

    python -m mmdcodec.experiments.arm_run RUN [--curve]

Reads RUN/job.json, copies the checkpoint that all arms of a seed share,
computes the weight of the loss, trains, and measures the last checkpoint on
held-out music (RUN/result.json). With --curve it measures earlier checkpoints
instead (RUN/curve.json). An interrupted run continues. If stdin is a pipe, the
run saves and stops when that is closed.
"""

import faulthandler
import pathlib
import shutil
import sys
import tempfile
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

import mmdcodec
from mmdcodec import bundle, memory, patterns, platform
from mmdcodec.data import pipeline
from mmdcodec.errors import UserError
from mmdcodec.evaluate import (
  code_rows,
  codebooks,
  kernel_dependence,
  reconstruction,
  total_correlation,
)
from mmdcodec.parallel import mesh as mesh_lib
from mmdcodec.store import atomic, inputs, metrics
from mmdcodec.store import workdir as run_files
from mmdcodec.store.checkpoints import FOLDER, Checkpoints
from mmdcodec.train import loop, program, settings
from mmdcodec.train.task import make_task

JOB, RESULT, CURVE = "job.json", "result.json", "curve.json"
CALIBRATION = 20  # batches that the weight is computed from
POINTS = 4  # of a curve, besides the last checkpoint


def main(arguments: list[str]) -> None:
  """Does the job described in the run's folder."""
  run = pathlib.Path(arguments[0])
  job = inputs.read_json(run / JOB)
  if "--curve" in arguments:
    clips = held_out(job)
    # The first checkpoint belongs to the shared run.
    steps = curve_steps(job["config"])[1 if job["shared"] else 0 :]
    found = [measure(run, step, clips, both=False) for step in steps]
    return atomic.write_json(run / CURVE, found)
  config = job["config"]
  take_over(run, job)
  config["losses"]["independence"]["weight"] = weight(run, job)
  loop.train(config, run)
  result = measure(run, config["steps"], held_out(job))
  result["weight"] = config["losses"]["independence"]["weight"]
  return atomic.write_json(run / RESULT, result)


def take_over(run: pathlib.Path, job: Mapping[str, Any]) -> None:
  """Copies the checkpoint that all arms of the seed share.

  The loss has no effect before step `start`, so the arms are identical so far.

  Args:
    run: folder of the run.
    job: with `shared`, the folder of the seed's run without the loss.
  """
  if not job["shared"]:
    return
  shared, step = pathlib.Path(job["shared"]), str(start_of(job["config"]))
  if (run / FOLDER / step).exists():
    return
  shutil.copy(shared / metrics.FILE, run / metrics.FILE)
  with atomic.folder(run / FOLDER / step) as part:
    shutil.copytree(shared / FOLDER / step, part, dirs_exist_ok=True)


def start_of(config: Mapping[str, Any]) -> int:
  """Returns the step at which the arms begin to differ."""
  return config["losses"]["independence"]["start"]


def curve_steps(config: Mapping[str, Any]) -> list[int]:
  """Returns steps of up to `POINTS` checkpoints from `start`, but the last."""
  steps = range(start_of(config), config["steps"], config["save_every"])
  return list(steps[:: -(-len(steps) // POINTS)])


def weight(run: pathlib.Path, job: Mapping[str, Any]) -> float:
  """Computes the weight of the loss that gives the desired gradient ratio.

  Weights of different kernels and estimators cannot be compared, but their
  gradients at the encoder's output can, relative to the reconstruction losses.
  They are measured once, at step `start` of the first seed, and used for all
  seeds: separate measurements differed by a factor of 1.7 over three seeds,
  which would make them different experiments.

  Args:
    run: folder of the run.
    job: `gradient_ratio` is the norm of the weighted loss's gradient over the
      root sum of squares of those of the reconstruction losses, 0 for no loss;
      `calibrate` is the folder of the first seed's run without the loss, with
      the checkpoint of step `start`.

  Returns:
    The weight; that of config.json if the run has already started.

  Raises:
    UserError: the gradient of the loss is 0 or not finite.
  """
  if not job["gradient_ratio"]:
    return 0.0
  if (run / run_files.CONFIG_FILE).exists():
    return run_files.read_config(run)["losses"]["independence"]["weight"]
  first = pathlib.Path(job["calibrate"])
  config = run_files.read_config(first)
  seed = config["seed"] + 1  # other crops than those of the first steps
  config["losses"]["independence"] = {
    **job["config"]["losses"]["independence"], "weight": 1.0
  }  # fmt: skip
  norms = gradient_norms(first, config, batches=CALIBRATION, seed=seed)
  own, other = np.mean(norms, 0)
  if not own > 0 or not np.isfinite(own):
    raise UserError(
      f"{run.parent.name}: the gradient of the loss has norm {own}, so no"
      " weight makes it larger; choose radii nearer to the distances of the"
      " vectors."
    )
  return float(job["gradient_ratio"] * other / own)


def gradient_norms(
  run: pathlib.Path, config: dict[str, Any], *, batches: int, seed: int
) -> list[tuple[float, float]]:
  """Measures gradients at the encoder's output at step `start`.

  Args:
    run: folder with the checkpoint of that step.
    config: config of the run, with a weight of the loss.
    batches: number of batches.
    seed: seed of their order and crops.

  Returns:
    For each batch: (norm of the weighted loss's gradient, root sum of squares
    of those of the reconstruction losses).
  """
  task: Any = make_task(config)
  names = task.reconstruction.weights
  one = mesh_lib.make_mesh(devices=jax.devices()[:1])
  abstract = program.make_program(task, config, one).abstract
  checkpoints = Checkpoints(run, read_only=True)
  state, _ = checkpoints.restore(abstract, start_of(config))
  checkpoints.close()
  found = []
  with task.batches(seed=seed) as data:
    for _ in range(batches):
      seen = task.inspect(state, tuple(next(data) for _ in range(task.history)))
      others = [seen.get(f"gradient/{name}", 0.0) for name in names]
      found.append(
        (seen["gradient/independence"], float(np.linalg.norm(others)))
      )
  return found


def held_out(job: Mapping[str, Any]) -> list[dict]:
  """Returns clips to measure on, the same ones each time, in batches of one.

  At most one per record, to avoid measuring the same music twice.
  """
  model = job["config"]["model"]
  return pipeline.fixed_batches(
    settings.parse_datasets(job["held_out"]),
    batch=1,
    seconds=job["clip_seconds"],
    rate=model["rate"],
    channels=model["channels"],
    count=job["clips"],
    distinct=True,
  )


def measure(
  run: pathlib.Path, step: int, clips: list[dict], *, both: bool = True
) -> dict:
  """Measures dependence and reconstruction of a checkpoint's released weights.

  Args:
    run: folder of a training run.
    step: step of a checkpoint.
    clips: from `held_out`.
    both: whether to also measure codes of the same frame and reconstruction.

  Returns:
    Results for JSON; bits are per frame.
  """
  with tempfile.TemporaryDirectory() as folder:
    bundle.export(run, f"{folder}/bundle", step=step)
    codec = mmdcodec.load(f"{folder}/bundle")
  coded, rows = [], []
  compare = jax.jit(reconstruction.compare, static_argnums=2)
  for clip in clips:
    x, lengths = clip["audio"], clip["lengths"]
    codes = codec.encode(x, lengths=lengths)
    coded.append(codes[0, : codec.frames_of(int(lengths[0]))])
    if both:
      y = codec.decode(codes, length=x.shape[1])
      rows.append(compare(x, y, codec.rate, lengths))
  codes, mask = code_rows.pad(coded)
  size = codec.codebook_size
  pieces = [clip["source"][0] for clip in clips]
  vectors = codebooks.vectors(codec)
  counts = codebooks.histogram(codes, size, mask)
  found: dict[str, Any] = {
    "step": step,
    **{
      k: np.asarray(v).tolist() for k, v in codebooks.statistics(counts).items()
    },
  }
  for name in rows[0] if rows else ():
    found[name] = float(np.mean([row[name] for row in rows]))
  kinds: dict[str, Any] = {"delay": patterns.delay(codec.codebooks)}
  if both:
    kinds["same_frame"] = None
  for name, pattern in kinds.items():
    given: dict[str, Any] = dict(pattern=pattern, mask=mask, pieces=pieces)
    total = total_correlation.total_correlation(codes, size, **given)
    kernel = kernel_dependence.kernel_dependence(
      vectors, code_rows.gather(codes, size, **given)[0]
    )
    found[name] = {
      "total_correlation": total.bits,
      "error": total.error,
      "per_codebook": total.per_codebook.tolist(),
      "share": total.share,
      "rows": total.rows,
      "mmd": kernel.loss,
      "dhsic": kernel.normalised,
      "dhsic_null": kernel.null,
    }
    found["entropy"] = float(total.entropy.sum())
  return found


if __name__ == "__main__":
  # As `mmdcodec` does: a crash in C++ then says in the log where Python was.
  faulthandler.enable(2)
  platform.end_with_parent()
  memory.keep_freed()
  try:
    main(sys.argv[1:])
  except UserError as error:
    sys.exit(f"mmdcodec: {error}")
