"""The experiment of the joint model.

Must catch: patterns that train the same thing, measures that are not those of
the runs, work that is done twice, and entropies that are none.
"""

import json

import numpy as np
import pytest

from mmdcodec.cli.main import main
from mmdcodec.experiments import joint


def test_what_is_finished_is_a_table(
  tmp_path, dataset, model, capsys, monkeypatch, compile_fast
):
  """Catches all of the above, in one small run over music and its copy."""
  monkeypatch.setattr(joint, "SPEED_SECONDS", 0.1)
  monkeypatch.setattr(joint, "SPEED_ROUNDS", 2)
  argv = ["experiment", "joint", "--train", str(dataset), "--workdir"]
  argv += [str(tmp_path / "job"), "--codecs", f"one={model}"]
  argv += ["--patterns", "delay,flatten", "--config=lm_small:tiny"]
  argv += ["--config.steps=10", "--config.compilation_cache=off"]
  assert main([*argv, "--valid", str(dataset)]) == 2
  assert "measure on other music" in capsys.readouterr().err
  other = tmp_path / "other"
  other.mkdir()
  for path in dataset.iterdir():
    (other / path.name).write_bytes(path.read_bytes())
  argv += ["--valid", str(other)]
  assert main(argv) == 0
  shown = capsys.readouterr().out
  found = json.loads((tmp_path / "job" / "results.json").read_text())
  results = found["results"]["one"]
  for pattern in ("delay", "flatten"):
    run = tmp_path / "job" / "one" / pattern / "seed_0"
    bits = [
      row["valid/bits_per_frame"]
      for row in map(json.loads, (run / "metrics.jsonl").open())
      if "valid/bits_per_frame" in row
    ]
    assert results[pattern]["bits_per_frame"] == [min(bits)]
    config = json.loads((run / "config.json").read_text())
    assert config["model"]["pattern"] == {"name": pattern}
    assert results[pattern]["seconds_per_second"] > 0
  assert results["flatten"]["times_faster"] == 1
  gap = results["delay"]["bits_per_frame"][0]
  gap -= results["flatten"]["bits_per_frame"][0]
  assert gap != 0
  row = next(line for line in shown.splitlines() if " delay " in line)
  assert f"{gap:.3f}" in row
  assert f"{gap:.3f}" in (tmp_path / "job" / "table.md").read_text()
  # Again: nothing is trained.
  assert main(argv) == 0
  assert "step" not in capsys.readouterr().out


def test_entropies(tmp_path, monkeypatch):
  """Catches counts of another codebook, or of the music that is asked of."""
  random = np.random.default_rng(0)
  # The second codebook is the first one, a frame before and turned.
  first = random.choice(4, 4000, p=[0.4, 0.3, 0.2, 0.1])
  second = np.cumsum(np.ones(4000, int)) % 4
  codes = {"codes": np.stack([first, second], axis=1)}

  class Source:
    codebooks, codebook_size = 2, 4

    def __init__(self, path):
      part = slice(0, 3000) if path == "train" else slice(3000, None)
      self.record = {"codes": codes["codes"][part]}

    def __len__(self):
      return 1

    def __getitem__(self, index):
      return self.record

  monkeypatch.setattr(joint.tokens, "TokenSource", Source)
  unigram, bigram = joint.entropies(["train"], ["valid"])
  share = np.bincount(first) / len(first)
  own = -(share * np.log2(share)).sum()
  # One of four in turns: 2 bits alone, none after the one before.
  assert unigram == pytest.approx(own + 2, abs=0.06)
  assert bigram == pytest.approx(own, abs=0.06)
