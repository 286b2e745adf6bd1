"""What a run leaves in its workdir: metrics and checkpoints."""

import json

import numpy as np

from mmdcodec.store import metrics
from mmdcodec.store.checkpoints import Checkpoints


def test_lines_of_lost_steps_are_written_once(tmp_path):
  """Catches a curve that doubles back after a killed run."""
  writer = metrics.MetricWriter(tmp_path)
  for step in range(1, 6):
    writer.write(step, {"train/loss": float(step)})
  writer.close()
  with (tmp_path / metrics.FILE).open("a") as file:
    file.write('{"step": 6, "tr')  # killed while it wrote
  writer = metrics.MetricWriter(tmp_path, step=3)
  writer.write(4, {"train/loss": float("nan")})
  writer.close()
  rows = metrics.read(tmp_path)
  assert [row["step"] for row in rows] == [1, 2, 3, 4]
  assert rows[-1]["train/loss"] is None


def test_the_best_and_the_latest_checkpoints_stay(tmp_path):
  """Catches a best checkpoint that is deleted when it is no longer recent."""
  checkpoints = Checkpoints(tmp_path, keep=2, best="valid/d")
  for step, score in enumerate([5.0, 1.0, 3.0, None, 4.0], start=1):
    scores = None if score is None else {"valid/d": score}
    checkpoints.save(step, {"w": np.full(3, step)}, {"index": step}, scores)
  checkpoints.wait()
  assert checkpoints.best_step() == 2 and checkpoints.latest == 5
  checkpoints.close()
  kept = {int(p.name) for p in (tmp_path / "checkpoints").iterdir()}
  assert kept == {2, 4, 5}
  again = Checkpoints(tmp_path, best="valid/d", read_only=True)
  assert again.best_step() == 2
  np.testing.assert_array_equal(again.restore_arrays(2)["w"], np.full(3, 2))
  again.close()


def test_old_names_of_metrics(tmp_path):
  """Older runs logged codebook usage as `use`; their curves must still show."""
  row = {"step": 5, "train/use/0": 0.5, "train/loss": 1.0}
  (tmp_path / "metrics.jsonl").write_text(json.dumps(row) + "\n")
  assert metrics.read(tmp_path) == [
    {"step": 5, "train/usage/0": 0.5, "train/loss": 1.0}
  ]
