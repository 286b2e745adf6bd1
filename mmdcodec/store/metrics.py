"""Logs the metrics of a run: JSON lines, and TensorBoard if it is installed.

WORKDIR/metrics.jsonl     lines such as {"step": 100, "train/loss": 2.31}
WORKDIR/tensorboard/      the same, if tensorboardX can be imported
"""

import json
import math
import pathlib
from collections.abc import Mapping
from typing import Any, TextIO

import jax
import numpy as np

from mmdcodec.store import atomic

FILE = "metrics.jsonl"


def flatten(metrics: Mapping[str, Any], prefix: str) -> dict[str, float]:
  """Flattens `{"usage": [a, b]}` to `{"train/usage/0": a, ...}`."""
  flat = {}
  for name, value in metrics.items():
    value = np.asarray(value)
    if value.ndim == 0:
      flat[f"{prefix}/{name}"] = float(value)
    else:
      for i, item in enumerate(value.reshape(-1)):
        flat[f"{prefix}/{name}/{i}"] = float(item)
  return flat


def read(workdir: str | pathlib.Path) -> list[dict[str, Any]]:
  """Reads the metrics of a run, oldest first: a dict per line of the file."""
  path = pathlib.Path(workdir) / FILE
  if not path.exists():
    return []
  rows = []
  for line in path.read_text().splitlines():
    try:
      row = json.loads(line)
    except json.JSONDecodeError:
      # The last line of a run that was killed while writing.
      continue
    # Older runs called codebook usage "use".
    rows.append({k.replace("/use/", "/usage/"): v for k, v in row.items()})
  return rows


class MetricWriter:
  """Appends to the metrics of a run; only process 0 writes."""

  def __init__(self, workdir: str | pathlib.Path, *, step: int = 0):
    """Opens the files.

    Args:
      workdir: the run's workdir.
      step: step from which the run continues. Later lines are removed: they
        were written after the last checkpoint and will be written again.
    """
    self._file: TextIO | None = None
    self._board: Any = None
    if jax.process_index() != 0:
      return
    workdir = pathlib.Path(workdir)
    workdir.mkdir(parents=True, exist_ok=True)
    path = workdir / FILE
    kept = [row for row in read(workdir) if row["step"] <= step]
    atomic.write_text(path, "".join(json.dumps(row) + "\n" for row in kept))
    self._file = path.open("a")
    try:
      import tensorboardX
    except ImportError:
      return
    self._board = tensorboardX.SummaryWriter(
      str(workdir / "tensorboard"), purge_step=step + 1
    )

  def write(self, step: int, values: dict[str, float]) -> None:
    """Writes one line, and the same numbers to TensorBoard.

    Args:
      step: number of updates done at the time of measurement.
      values: values by flat name. NaN and infinities, which JSON lacks, become
        null and are not sent to TensorBoard.
    """
    if self._file is None:
      return
    row = {k: v if math.isfinite(v) else None for k, v in values.items()}
    self._file.write(json.dumps({"step": step, **row}) + "\n")
    self._file.flush()
    if self._board is not None:
      for name, value in row.items():
        if value is not None:
          self._board.add_scalar(name, value, step)

  def close(self) -> None:
    """Closes the files."""
    if self._file is not None:
      self._file.close()
    if self._board is not None:
      self._board.close()
