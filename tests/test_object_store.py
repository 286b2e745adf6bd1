"""Runs, data sets and bundles in object stores, served on this machine."""

import importlib.util
import os
import secrets
import subprocess
import sys

import jax
import numpy as np
import object_stores
import pytest
from random_codec import write_random_codec
from toy_task import Toy, toy_config
from tunes import prepare_tunes

from mmdcodec.audio import files
from mmdcodec.cli.main import main
from mmdcodec.errors import UserError
from mmdcodec.store import metrics, paths
from mmdcodec.store.checkpoints import Checkpoints
from mmdcodec.train import loop, opening

pytestmark = pytest.mark.slow


@pytest.fixture(scope="session")
def servers(tmp_path_factory):
  # Not imported: users' processes do that later, by `paths.of`.
  if not all(map(importlib.util.find_spec, ("gcsfs", "s3fs", "moto"))):
    pytest.skip("needs pip install -e '.[test]'")
  with object_stores.served(
    tmp_path_factory.mktemp("servers") / "log"
  ) as variables:
    yield variables


@pytest.fixture(params=object_stores.SCHEMES)
def url(request, servers, tmp_path, monkeypatch):
  """A folder in a store, and a cache of its own."""
  monkeypatch.setenv("MMDCODEC_CACHE", str(tmp_path / "cache"))
  return paths.of(
    f"{request.param}://{object_stores.BUCKET}/{secrets.token_hex(4)}"
  )


@pytest.fixture
def toy(monkeypatch):
  monkeypatch.setattr(opening, "make_task", Toy)


def state_of(step):
  return {"params": {"w": np.arange(3000.0) + step, "b": np.full((3, 4), step)}}


def test_checkpoints(url):
  """Keeps the newest and the best, restores each, and passes over damage."""
  said = []
  with_best = dict(keep=2, best="valid/d", say=said.append)
  checkpoints = Checkpoints(url, **with_best)
  for step in (5, 10, 15, 20):
    checkpoints.save(
      step, state_of(step), {"index": step}, {"valid/d": abs(step - 10.0)}
    )
    checkpoints.wait()
  checkpoints.close()
  again = Checkpoints(url, read_only=True, **with_best)
  assert (again.latest, again.best_step()) == (20, 10)
  for step in (10, 15, 20):
    found = again.restore_arrays(step)["params"]
    for name, array in state_of(step)["params"].items():
      np.testing.assert_array_equal(found[name], array)
  again.close()
  # What a killed run left: no digest, or no mark of Orbax.
  (url / "checkpoints/25/state/x").write_text("1")
  (url / "checkpoints/notes/x").write_text("1")
  (url / "checkpoints/20/digest.json").rename(url / "d.json")
  assert Checkpoints(url, read_only=True).latest == 15
  (url / "d.json").rename(url / "checkpoints/20/digest.json")
  data = next((url / "checkpoints/20").glob("state/d/*"))
  content = data.read_bytes()
  data.write_bytes(bytes([content[0] ^ 1]) + content[1:])
  after = Checkpoints(url, **with_best)
  assert after.latest == 15 and "20 is damaged" in said[0]
  assert not (url / "checkpoints/25").exists()
  assert (url / "checkpoints/notes").exists()
  after.save(20, state_of(20), {"index": 20})
  after.wait()
  assert after.set_aside(20) == url / "unsound-20"
  assert (after.latest, (url / "unsound-20").is_dir()) == (15, True)
  # Sent by the killed run, and there only now.
  (url / "checkpoints/30/state/x").write_text("1")
  after.save(30, state_of(30), {"index": 30})
  after.wait()
  assert not (url / "checkpoints/30/state/x").exists()
  (url / "checkpoints/35/notes").write_text("1")
  with pytest.raises(UserError, match="35 is no checkpoint; move it away"):
    after.save(35, state_of(35), {"index": 35})
  assert after.latest == 30
  after.close()


def test_a_run_resumes(url, toy):
  """Settings, metrics and state of a run are all in the store."""
  loop.train(toy_config(), url)
  loop.train(toy_config(steps=10), str(url))
  assert [row["step"] for row in metrics.read(url) if "train/loss" in row] == [
    *range(1, 11)
  ]
  assert {p.name for p in url.iterdir()} >= {
    "config.json", "run.json", "metrics.jsonl", "checkpoints", "goodput.json",
    "starts.json",
  }  # fmt: skip
  assert not (url / ".lock").exists()


def test_one_run_at_a_time(url, toy):
  """A workdir in a store has a lock, too."""
  from mmdcodec.store import locks

  held = locks.take(url)
  with pytest.raises(UserError, match=f"another process .* writes to {url}"):
    loop.train(toy_config(), url)
  held.release()
  loop.train(toy_config(), url)


TOY = """
import sys
from toy_task import Toy, toy_config
from mmdcodec.train import loop, opening
opening.make_task = Toy
every = dict(save_every=1, eval_every=100, keep=2)
loop.train(toy_config(steps=12, **every), sys.argv[1])
"""


def test_killed_runs_end_alike(servers, tmp_path):
  """Killed while it saves, the next run goes on from a whole checkpoint.

  `soak/killed_runs.py --store` does this many times, with a codec.
  """
  root = paths.of(f"gs://{object_stores.BUCKET}/{secrets.token_hex(4)}")
  start = lambda name: subprocess.Popen(
    [sys.executable, "-c", TOY, str(root / name)],
    cwd=object_stores.HERE,
    env={**os.environ, "JAX_PLATFORMS": "cpu"},
  )
  whole = start("whole")
  process = start("killed")
  while not (root / "killed/checkpoints/4").exists():
    assert process.poll() is None
  process.kill()
  process.wait()
  for process in (whole, start("killed")):
    assert process.wait() == 0
  ends = []
  for name in ("whole", "killed"):
    rows = metrics.read(root / name)
    checkpoints = Checkpoints(root / name, read_only=True)
    ends.append(
      (
        [(row["step"], row.get("train/loss")) for row in rows],
        checkpoints.latest,
        checkpoints.restore_arrays()["params"]["w"].tolist(),
      )
    )
    checkpoints.close()
  assert ends[0] == ends[1] and ends[0][1] == 12


def run(*words, code=0):
  assert main([str(word) for word in words]) == code


def test_several_commands_prepare_a_data_set(url, tmp_path, capsys):
  """Its files are those that one command makes on a disk."""
  one = prepare_tunes(tmp_path / "tunes", tmp_path / "one")
  prepare = ("prepare", tmp_path / "tunes", url / "audio", "--seconds=10")
  run(*prepare, "--quiet", "--shards=2/2")
  assert "missing: those of --shards 1/2" in capsys.readouterr().out
  run(*prepare, "--quiet", "--shards=1/2")
  made = {
    n: (url / "audio" / n).read_bytes() for n in paths.sizes(url / "audio")
  }
  assert made == {n: (one / n).read_bytes() for n in paths.sizes(one)}
  assert not [name for name in url.files() if not name.startswith("audio/")]


def test_from_music_to_music(url, tmp_path, compile_fast, capsys):
  """Every step of a music model, with all that it reads and writes in a store.

  Catches a step that makes a folder of this machine of a URL, or that cannot
  read what the one before wrote.
  """
  prepare_tunes(tmp_path / "tunes", url / "audio")
  write_random_codec(url / "codec", 0)
  run("prepare", tmp_path / "tunes", url / "audio", "--force", "--quiet")
  tokenize = ("tokenize", url / "audio", url / "tokens", "--quiet")
  run(*tokenize, "--model", url / "codec")
  train = (
    "train", "--config=lm_small:tiny", f"--workdir={url / 'run'}",
    f"--config.data.train={url / 'tokens'}",
    f"--config.data.valid={url / 'tokens'}", f"--config.codec={url / 'codec'}",
    "--config.model.codebook_size=32", "--config.data.frame_rate=400",
    "--config.save_every=3", "--config.eval_every=3", "--config.log_every=1",
  )  # fmt: skip
  run(*train, "--config.steps=3")
  run(*train, "--config.steps=6")
  assert "resumed" in capsys.readouterr().out
  run("export", url / "run", url / "bundle")
  run("info", url / "bundle")
  run("info", url / "run")
  run("info", url / "tokens")
  run(
    "generate", "calm", url / "calm.wav", "--model", url / "bundle",
    "--seconds", "0.1",
  )  # fmt: skip
  evaluate = (
    "evaluate", "reconstruction", "--model", url / "codec", "--seconds", 0.5,
    "--audio", url / "calm.wav", "--out", url / "results",
  )  # fmt: skip
  run(*evaluate)
  assert {"results.json", "report.html", "audio/000-original.flac"} <= {
    *(url / "results").files()
  }
  run("encode", url / "calm.wav", url / "calm.mmdc", "--model", url / "codec")
  run("info", url / "calm.mmdc")
  run("decode", url / "calm.mmdc", url / "b.wav", "--model", url / "codec")
  samples, rate = files.read(url / "b.wav")
  assert rate == 8000 and len(samples) == len(files.read(url / "calm.wav")[0])


def test_other_stores_have_no_checkpoints(toy):
  """Orbax cannot write there, which is said before anything is made."""
  with pytest.raises(UserError, match="to gs:// or to s3://, not to memory"):
    loop.train(toy_config(), "memory://bucket/run")
  assert not paths.of("memory://bucket/run").exists()
  assert jax.process_count() == 1
