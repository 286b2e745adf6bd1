"""`mmdcodec cluster`: codebooks fitted to the features of a data set."""

import numpy as np
import pytest
import soundfile
from extension.shape import Shape

import mmdcodec
from mmdcodec import bundle
from mmdcodec.cli import main as cli
from mmdcodec.data import record_encoder, records
from mmdcodec.data.record_source import Source
from mmdcodec.data.token_records import TokenSource
from mmdcodec.errors import Notice
from mmdcodec.workflows import cluster

SECONDS, RECORDS = 4, 5
# The last record is a second shorter.
FRAMES = 10 * SECONDS * RECORDS - 10


@pytest.fixture(scope="module")
def audio(tmp_path_factory):
  """Five records of 40 frames, the last of 30: noise with an offset."""
  folder = tmp_path_factory.mktemp("shape")
  rng = np.random.default_rng(0)
  (folder / "in").mkdir()
  for i in range(RECORDS):
    loud = np.repeat(rng.uniform(0.01, 0.3, SECONDS * 10), 100)
    x = loud * rng.normal(size=loud.size) + np.repeat(loud[::4] - 0.1, 4)
    x = x.clip(-1, 1)[: None if i < RECORDS - 1 else -1000]
    soundfile.write(folder / "in" / f"{i}.wav", x, 1000)
  records.prepare(
    folder / "in", folder / "audio", rate=1000, channels=1, progress=False
  )
  return folder / "audio"


@pytest.fixture
def bare(tmp_path, monkeypatch):
  """A bundle without codebooks."""
  monkeypatch.setitem(bundle.LOADERS, "shape", "extension.shape:Shape")
  variables = {"params": {"weight": np.array([1, 2, 4], np.float32)}}
  bundle.save(tmp_path / "bare", {"kind": "shape", "model": {}}, variables)
  return tmp_path / "bare"


def test_the_commands(bare, audio, tmp_path, capsys, fails):
  """Catches codebooks that the next command cannot use, and silence on them."""
  out = tmp_path / "fitted"
  assert "mmdcodec cluster" in fails(
    "tokenize", audio, tmp_path / "tokens", "--model", bare
  )
  assert not cli.main(["info", str(bare)])
  assert "no codebooks yet" in capsys.readouterr().out
  assert not cli.main(["cluster", str(bare), str(audio), str(out)])
  printed = capsys.readouterr().out
  assert f"2 x 16 codes, fitted to {FRAMES} frames of 5 records" in printed
  assert not cli.main(["info", str(out)])
  assert "2 x 16" in (described := capsys.readouterr().out)
  assert "variance left" in described
  words = ["tokenize", audio, tmp_path / "tokens", "--model", out]
  assert not cli.main([str(word) for word in words])
  codes = [
    record["codes"]
    for record in map(
      TokenSource(tmp_path / "tokens").__getitem__, range(RECORDS)
    )
  ]
  used = np.unique(np.concatenate(codes)[:, 0])
  assert len(used) == 16
  config, variables, *_ = bundle.read(out)
  for name, wrong in (("left", ["a"]), ("rows", None)):
    told = {**config["clusters"], name: wrong}
    bundle.save(tmp_path / name, {**config, "clusters": told}, variables)
    assert f"clusters.{name}" in fails("info", tmp_path / name)
  words = ["cluster", bare, audio, out]
  assert "--force" in fails(*words)
  again = ["--force", "--codes", "8", "--levels", "1", "--seed", "1"]
  assert not cli.main([str(word) for word in [*words, *again]])
  assert mmdcodec.load(out).codebook_sizes == (8,)


def test_the_fit_is_of_standardised_features(bare, audio, tmp_path):
  """Catches statistics of a clip, of padding, or of no effect."""
  fit = cluster.cluster(bare, audio, tmp_path / "out", codes=32, levels=1)
  tokenizer = mmdcodec.load(tmp_path / "out")
  rows, _ = cluster.sample_rows(tokenizer, Source(audio), 10**6, 0)
  assert rows.shape == (FRAMES, 3)
  book = tokenizer.variables["codebook"]
  np.testing.assert_allclose(book["mean"], rows.mean(0), rtol=1e-5)
  scale = 1 / rows[:, :2].std(0)
  np.testing.assert_allclose(book["scale"], [*scale, 0], rtol=1e-5)
  z = (rows - book["mean"]) * book["scale"]
  near = ((z[:, None] - book["embed"][0]) ** 2).sum(-1).min(1)
  np.testing.assert_allclose(near.sum() / (z**2).sum(), fit.left[0], rtol=1e-3)
  assert fit.left[0] < 0.1 and fit.used == [32]
  assert tokenizer.config["clusters"]["rows"] == len(rows)


def test_empty_codes():
  """Catches codebooks that hardly any row uses, and warnings about others."""
  fit = cluster.Fit(2000, 10, [0.5] * 3, [16, 8, 16], [0] * 3, 16)
  assert cluster.warning(fit) is None
  told = cluster.warning(fit._replace(used=[16, 7, 1]))
  assert "only 7 of 16 codes of level 2, 1 of 16 codes of level 3: fit" in told


def test_a_fit_with_empty_codes(bare, audio, tmp_path):
  """Catches a warning that nobody gets."""
  # With nearly as many codes as rows, the second level has nothing to code.
  with pytest.warns(Notice, match="out: the 190 rows .* level 2"):
    cluster.cluster(bare, audio, tmp_path / "out", codes=180, levels=2)


def test_rows_are_sampled_evenly(bare, audio, monkeypatch):
  """Catches rows of the first records alone, and an order of who was first."""
  tokenizer = mmdcodec.load(bare)
  every, _ = cluster.sample_rows(tokenizer, Source(audio), 10**6, 0)
  some, count = cluster.sample_rows(tokenizer, Source(audio), 50, 0)
  assert some.shape == (50, 3) and count == RECORDS
  place = {row.tobytes(): i for i, row in enumerate(every)}
  places = np.array([place[row.tobytes()] for row in some])
  assert (np.diff(places) > 0).all()
  assert (np.bincount(places // (SECONDS * 10), minlength=RECORDS) > 2).all()
  monkeypatch.setattr(cluster, "_BATCH", 1)
  monkeypatch.setattr(record_encoder, "_AT_A_TIME", 1)
  again, _ = cluster.sample_rows(tokenizer, Source(audio), 50, 0)
  np.testing.assert_array_equal(again, some)
  other, _ = cluster.sample_rows(tokenizer, Source(audio), 50, 1)
  assert other.tobytes() != some.tobytes()
  few, count = cluster.sample_rows(tokenizer, Source(audio), 6, 0)
  assert len(few) == 6 and count == 1


def test_what_cannot_be_clustered(
  bare, model, audio, tmp_path, fails, monkeypatch
):
  """Catches a traceback, and an hour of work before a refusal."""
  words = ["cluster", bare, audio, tmp_path / "out"]
  assert "expected at least 1" in fails(*words, "--codes", 0)
  assert "expected at least 1" in fails(*words, "--rows", -1)
  assert f"{FRAMES} rows for 300" in fails(*words, "--codes", 300)
  assert "need at least as many" in fails(*words, "--rows", 3)
  assert "no such folder" in fails("cluster", bare, "none", tmp_path / "out")
  assert "no features" in fails("cluster", model, audio, tmp_path / "out")
  (tmp_path / "other").mkdir()
  (tmp_path / "other" / "file").touch()
  with monkeypatch.context() as patch:
    patch.setattr(Shape, "features", None)
    assert "not a bundle" in fails("cluster", bare, audio, tmp_path / "other")
  assert not (tmp_path / "out").exists()
