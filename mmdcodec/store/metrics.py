"""Logs the metrics of a run: JSON lines, TensorBoard, Weights & Biases.

WORKDIR/metrics.jsonl     lines such as {"step": 100, "train/loss": 2.31}
WORKDIR/tensorboard/      the same, if tensorboardX can be imported
WORKDIR/wandb/            what goes to Weights & Biases, if it is asked for

Nothing can be appended to an object. For an object store, all are written on
this machine. The first two are uploaded before each checkpoint and every
minute, the last one when the run ends. What a run that was killed has left here
is deleted by a later one, unless it goes to Weights & Biases: offline, it is
nowhere else.
"""

import contextlib
import json
import math
import os
import pathlib
import shutil
import stat
import sys
import tempfile
import time
from collections.abc import Mapping
from typing import Any, TextIO

import jax
import numpy as np

from mmdcodec.errors import UserError
from mmdcodec.store import atomic, inputs, locks, paths, weights_and_biases

FILE, BOARD = "metrics.jsonl", "tensorboard"

# Seconds between uploads.
_EVERY = 60.0

# Begins the names of folders for what is uploaded. Seconds after which one that
# nobody has locked is left over, rather than about to be locked.
_PREFIX, _OLD = "mmdcodec-metrics-", 60.0


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
  """Reads the metrics of a run, oldest first: a dict per line of the file.

  Damaged lines are left out, and reported on standard error, except the last
  line of a run that was killed while writing.

  Raises:
    UserError: the file cannot be read.
  """
  path = paths.of(workdir) / FILE
  if not path.exists():
    return []
  with inputs.open_file(path) as file:
    lines = file.read().split(b"\n")
  rows = [_row(line) for line in lines[:-1]]
  if damaged := [i for i, row in enumerate(rows, 1) if row is None]:
    print(
      f"{path}: damaged lines are left out ({len(damaged)} of {len(rows)}, the"
      f" first is line {damaged[0]})",
      file=sys.stderr,
      flush=True,
    )
  return [row for row in [*rows, _row(lines[-1])] if row is not None]


def _row(line: bytes) -> dict[str, Any] | None:
  """Parses a line; None if it is damaged."""
  try:
    row = json.loads(line)
  except (ValueError, RecursionError):
    return None
  if not isinstance(row, dict) or not isinstance(row.get("step"), int):
    return None
  if not all(isinstance(value, int | float | None) for value in row.values()):
    return None
  # Older runs called codebook usage "use".
  return {key.replace("/use/", "/usage/"): x for key, x in row.items()}


class MetricWriter:
  """Appends to the metrics of a run; only process 0 writes."""

  def __init__(
    self,
    workdir: str | pathlib.Path,
    *,
    step: int = 0,
    wandb: Mapping[str, Any] | None = None,
  ):
    """Opens the files.

    Args:
      workdir: the run's workdir.
      step: step from which the run continues. Later lines are removed: they
        were written after the last checkpoint and will be written again.
      wandb: what `weights_and_biases.Board` takes besides a folder, or None.

    Raises:
      UserError: Weights & Biases cannot be used.
    """
    self._wandb: weights_and_biases.Board | None = None
    self._file: TextIO | None = None
    self._board: Any = None
    self._remote: paths.Url | None = None
    self._sent = time.monotonic()
    if jax.process_index() != 0:
      return
    workdir = paths.of(workdir)
    workdir.mkdir(parents=True, exist_ok=True)
    kept = [row for row in read(workdir) if row["step"] <= step]
    if isinstance(workdir, paths.Url):
      self._remote = workdir
      _delete_left()
      workdir = self._folder = pathlib.Path(tempfile.mkdtemp(prefix=_PREFIX))
      self._lock = locks.take(workdir)
    if wandb is not None:
      self._wandb = weights_and_biases.Board(**wandb, folder=workdir)
    path = workdir / FILE
    atomic.write_text(path, "".join(json.dumps(row) + "\n" for row in kept))
    self._file = path.open("a")
    try:
      import tensorboardX
    except ImportError:
      return
    self._board = tensorboardX.SummaryWriter(
      str(workdir / BOARD), purge_step=step + 1
    )

  def write(self, step: int, values: dict[str, float]) -> None:
    """Writes one line, and the same numbers to TensorBoard.

    Args:
      step: number of updates done at the time of measurement.
      values: values by flat name. NaN and infinities, which JSON lacks, become
        null and are not sent elsewhere.
    """
    if self._file is None:
      return
    row = {k: v if math.isfinite(v) else None for k, v in values.items()}
    self._file.write(json.dumps({"step": step, **row}) + "\n")
    self._file.flush()
    finite = {k: v for k, v in row.items() if v is not None}
    if self._board is not None:
      for name, value in finite.items():
        self._board.add_scalar(name, value, step)
    if self._wandb is not None:
      self._wandb.write(step, finite)
    if time.monotonic() > self._sent + _EVERY:
      # A store that cannot be reached for a while ends no training: the next
      # checkpoint finds out whether it is gone.
      with contextlib.suppress(UserError):
        self.sync()

  def sync(self) -> None:
    """Ensures that what was written is in the workdir.

    Raises:
      UserError: it is in a store that cannot be reached, or refuses.
    """
    self._sent = time.monotonic()
    if self._remote is None:
      return
    if self._board is not None:
      self._board.flush()
    self._upload(FILE)
    self._upload(f"{BOARD}/*")

  def _upload(self, pattern: str) -> None:
    """Copies files to a remote workdir, links aside."""
    assert self._remote is not None
    for path in sorted(self._folder.glob(pattern)):
      if path.is_file() and not path.is_symlink():
        (self._remote / path.relative_to(self._folder)).upload(path)

  def close(self) -> None:
    """Closes the files."""
    if self._file is not None:
      self._file.close()
    if self._board is not None:
      self._board.close()
      self._board = None
    if self._wandb is not None:
      self._wandb.close()
    if self._remote is not None:
      try:
        self.sync()
        self._upload(f"{weights_and_biases.FOLDER}/**/*")
      except UserError:
        _delete(self._folder)
        raise
      finally:
        if self._lock is not None:
          self._lock.release()
      shutil.rmtree(self._folder, ignore_errors=True)


def _delete(folder: pathlib.Path) -> None:
  """Deletes what was not uploaded, unless it is nowhere else."""
  if not (folder / weights_and_biases.FOLDER).exists():
    shutil.rmtree(folder, ignore_errors=True)


def _delete_left() -> None:
  """Deletes what runs that were killed have left on this machine."""
  for folder in pathlib.Path(tempfile.gettempdir()).glob(f"{_PREFIX}*"):
    with contextlib.suppress(OSError):
      about = folder.lstat()
      # Everyone may write to this place: a link could lead anywhere.
      mine = not hasattr(os, "getuid") or about.st_uid == os.getuid()
      if not stat.S_ISDIR(about.st_mode) or not mine:
        continue
      if time.time() < about.st_mtime + _OLD:
        continue
      lock = locks.take(folder)
      if lock is None:
        continue
      lock.release()
      _delete(folder)
