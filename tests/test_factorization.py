"""The experiment of the joint model.

Must catch: patterns that train the same thing, measures that are not those of
the runs, work that is done twice, and entropies that are none.
"""

import functools
import json

import jax
import numpy as np
import pytest
from mmdcodec.configs import lm_small

import mmdcodec
from mmdcodec import bundle
from mmdcodec.cli.main import main
from mmdcodec.data.token_records import TokenSource
from mmdcodec.evaluate import code_entropy
from mmdcodec.experiments import factorization
from mmdcodec.models import token_lm
from mmdcodec.models.code_likelihood import nats_of_codes


def by_hand(music, folder):
  """Bits per frame of all validation music, window by window."""
  source, nats, frames = TokenSource(folder / "tokens" / "valid"), 0.0, 0
  size = music.model.frames
  run = jax.jit(functools.partial(nats_of_codes, music.model))
  for record in (source[i] for i in range(len(source))):
    text = np.array([[*record["caption"].encode(), 256]])
    lengths, given = np.array([text.shape[1]]), np.ones(1, bool)
    inputs = {"text": dict(tokens=text, lengths=lengths, given=given)}
    for start in range(0, len(record["codes"]), size):
      part = record["codes"][start : start + size]
      codes = np.pad(part, ((0, size - len(part)), (0, 0)))[None]
      given = music.variables["params"], codes, np.array([len(part)]), inputs
      nats += float(run(*given)[0].sum())
      frames += len(part)
  return nats / frames / np.log(2)


@pytest.mark.soak
def test_what_is_finished_is_a_table(
  tmp_path, dataset, model, capsys, monkeypatch, compile_fast
):
  """Catches all of the above, in one small run over music and its copy."""
  monkeypatch.setattr(factorization, "SPEED_SECONDS", 0.1)
  monkeypatch.setattr(factorization, "SPEED_ROUNDS", 2)
  argv = ["experiment", "factorization", "--train", str(dataset), "--workdir"]
  argv += [str(tmp_path / "job"), "--codecs", f"one={model}"]
  argv += ["--patterns", "delay,flatten", "--config=lm_small:tiny"]
  argv += ["--config.steps=10"]
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
    bundle.export(run, tmp_path / pattern, step=10)
    want = by_hand(mmdcodec.load(tmp_path / pattern), run.parents[1])
    assert results[pattern]["bits_per_frame"] == [pytest.approx(want, rel=1e-4)]
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
  # What is there is of these settings and of no others.
  assert main([*argv, "--config.steps=11"]) == 2
  assert "other settings" in capsys.readouterr().err


def test_the_arm_with_a_depth_transformer():
  """Catches an arm that has none, and others that have one."""
  base = lm_small.get_config("tiny").to_dict()
  made = {
    name: token_lm.from_config(factorization.with_pattern(base, name)["model"])
    for name in ("depth", "flatten")
  }
  assert made["depth"].depth["layers"] == 2 and made["flatten"].depth is None
  assert len(made["depth"].pattern_of(5).steps) == 5
  assert len(made["flatten"].pattern_of(5).steps) == 20
  base["model"]["depth"]["layers"] = 3
  again = factorization.with_pattern(base, "depth")["model"]
  assert again["depth"]["layers"] == 3
  plain = factorization.with_pattern(base, "delay")["model"]
  assert token_lm.from_config(plain).depth is None


def test_what_is_closed():
  """Catches a share of another codec's gap, or of no gap."""
  speed = dict(seconds_per_second=2.0, times_faster=1.0)
  made = lambda delay, flat: {
    "unigram": 9.0,
    "bigram": 8.0,
    "delay": {"bits_per_frame": delay, **speed},
    "flatten": {"bits_per_frame": flat, **speed},
  }
  found = {
    "plain": made([7.0, 7.4], [6.0, 6.2]),
    "independent": made([7.5, 7.56], [7.0, 7.2]),
  }
  factorization.compare(found)
  plain, independent = found.values()
  np.testing.assert_allclose(plain["delay"]["gap"], [1.0, 1.2])
  np.testing.assert_allclose(independent["delay"]["gap"], [0.5, 0.36])
  # Each seed beside its own.
  np.testing.assert_allclose(independent["delay"]["closed"], [0.5, 0.7])
  assert "closed" not in plain["delay"] and plain["flatten"]["gap"] == [0, 0]
  columns, rows = factorization.table(found)
  at = {name: i for i, name in enumerate(columns)}
  assert rows[0][at["gap (bits)"]] == "1.100 ± 0.141"
  assert [row[at["closed (%)"]] for row in rows] == ["", "", "60 ± 14", ""]
  # Nothing is closed where there was no gap.
  found = {"a": made([6.0], [6.5]), "b": made([6.0], [6.0])}
  factorization.compare(found)
  assert "closed" not in found["b"]["delay"]


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

  monkeypatch.setattr(code_entropy.token_records, "TokenSource", Source)
  unigram, bigram = code_entropy.entropies(["train"], ["valid"])
  share = np.bincount(first) / len(first)
  own = -(share * np.log2(share)).sum()
  # One of four in turns: 2 bits alone, none after the one before.
  assert unigram == pytest.approx(own + 2, abs=0.06)
  assert bigram == pytest.approx(own, abs=0.06)


def test_the_earlier_name_of_the_command(tmp_path, dataset, fails):
  """Catches scripts that stop working because the experiment was renamed."""
  argv = ["--train", dataset, "--valid", dataset, "--codecs", "a=b"]
  argv += ["--workdir", tmp_path / "job"]
  for name in ("joint", "factorization"):
    assert "measure on other music" in fails("experiment", name, *argv)
