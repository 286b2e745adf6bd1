"""Writes the results of all runs of an experiment: results.json, table, plots.

Seeds differ more than arms do (different initialization and batches), so
changes are computed within a seed: each arm is compared with the run without
the loss, with which it shares its first steps.
"""

import math
import os
from collections.abc import Callable

import numpy as np

from mmdcodec.experiments import arm_plots, tables
from mmdcodec.experiments.arm_run import CURVE, RESULT
from mmdcodec.experiments.arms import ARMS, BASELINE
from mmdcodec.store import atomic, inputs, paths

# {arm: {seed: result}}
Results = dict[str, dict[int, dict]]

# Column -> (value of a result, number of digits).
DEPENDENCE = {
  "TC delay (bits)": (lambda r: r["delay"]["total_correlation"], 3),
  "TC same frame (bits)": (lambda r: r["same_frame"]["total_correlation"], 3),
  "entropy (bits)": (lambda r: r["entropy"], 2),
  "mel distance (dB)": (lambda r: r["mel_distance"], 2),
  "STFT distance": (lambda r: r["stft_distance"], 2),
}
CODES = {
  "weight": (lambda r: r["weight"], 2),
  "SI-SDR (dB)": (lambda r: r["si_sdr"], 2),
  "TC / entropy (%)": (lambda r: 100 * r["delay"]["share"], 2),
  "least used codebook (%)": (lambda r: 100 * min(r["usage"]), 0),
  "perplexity": (lambda r: r["perplexity"], 0),
  "1000 MMD² delay": (lambda r: 1000 * r["delay"]["mmd"], 3),
  "1000 MMD² same frame": (lambda r: 1000 * r["same_frame"]["mmd"], 3),
  "dHSIC delay (%)": (
    lambda r: 100 * (r["delay"]["dhsic"] - r["delay"]["dhsic_null"]),
    2,
  ),
}


def collect(workdir: str | os.PathLike) -> Results:
  """Reads the results of all finished runs, with `curve` if measured.

  Arms are in the order of `arms.ARMS`, followed by others.
  """
  found: Results = {}
  for path in paths.of(workdir).glob(f"*/seed_*/{RESULT}"):
    result = inputs.read_json(path)
    if "use" in result:  # the older name
      result["usage"] = result.pop("use")
    # The first point of a curve is the checkpoint that all arms share.
    shared = path.parents[2] / BASELINE / path.parent.name / CURVE
    curve = path.with_name(CURVE)
    if curve.exists() and shared.exists():
      points = inputs.read_json(shared)[:1] if curve != shared else []
      result["curve"] = points + inputs.read_json(curve)
    seed = int(path.parent.name.removeprefix("seed_"))
    found.setdefault(path.parent.parent.name, {})[seed] = result
  order = {name: i for i, name in enumerate(ARMS)}
  return {
    arm: dict(sorted(found[arm].items()))
    for arm in sorted(found, key=lambda a: (order.get(a, len(order)), a))
  }


def dependence_table(found: Results) -> tuple[list[str], list[list[str]]]:
  """Returns (columns, rows of text): dependence and reconstruction.

  Args:
    found: from `collect`.
  """
  columns = ["arm", "seeds"]
  for name in DEPENDENCE:
    columns += [name, "change (%)"]
  rows = []
  for arm, results in found.items():
    row = [arm, str(len(results))]
    for value, digits in DEPENDENCE.values():
      row.append(tables.spread([value(r) for r in results.values()], digits))
      known = [c for c in changes(found, arm, value) if not math.isnan(c)]
      row.append("" if arm == BASELINE else tables.spread(known, 1, "+"))
    rows.append(row)
  return columns, rows


def codes_table(found: Results) -> tuple[list[str], list[list[str]]]:
  """Returns (columns, rows of text): measures of the codes.

  Args:
    found: from `collect`.
  """
  rows = []
  for arm, results in found.items():
    row = [arm]
    for value, digits in CODES.values():
      values = np.array([value(r) for r in results.values()])
      if values.ndim == 2:  # per codebook: mean over seeds
        row.append(", ".join(f"{v:.{digits}f}" for v in values.mean(0)))
      else:
        row.append(tables.spread(values, digits))
    rows.append(row)
  return ["arm", *CODES], rows


def changes(
  found: Results, arm: str, value: Callable[[dict], float]
) -> list[float]:
  """Computes changes in % from the run without the loss of the same seed.

  Args:
    found: from `collect`.
    arm: name of the arm.
    value: result -> number.

  Returns:
    One for each seed; NaN if the run without the loss has a value of 0 or less,
    which an estimated total correlation may have.
  """
  base = found.get(BASELINE, {})
  pairs = [
    (value(result), value(base[seed]))
    for seed, result in found[arm].items()
    if seed in base
  ]
  return [
    100 * (now / before - 1) if before > 0 else math.nan
    for now, before in pairs
  ]


def write(workdir: str | os.PathLike) -> Results:
  """Writes results.json, table.md and plots of all finished runs.

  Args:
    workdir: folder of the experiment.

  Returns:
    The results, from `collect`.
  """
  workdir = paths.of(workdir)
  found = collect(workdir)
  atomic.write_json(workdir / "results.json", found)
  atomic.write_text(
    workdir / "table.md",
    tables.markdown(*dependence_table(found))
    + "\n"
    + tables.markdown(*codes_table(found)),
  )
  arm_plots.tradeoff(found, path=workdir / "tradeoff.png")
  if any("curve" in r for results in found.values() for r in results.values()):
    arm_plots.training(found, path=workdir / "training.png")
  return found
