"""`mmdcodec evaluate`, and what verbs make of a workdir, through `main(argv)`.

Catches: measures of other audio or codes than the library's, results that do
not say what was run, or are left over from another run, and mistakes that end
in a traceback, an exit code other than 2 or no advice.
"""

import csv
import json
import re

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import soundfile
from mmdcodec.configs import common as configs
from random_codec import each_topology

import mmdcodec
from mmdcodec import bundle, formatting
from mmdcodec.cli.main import main
from mmdcodec.evaluate import clips as clips_lib
from mmdcodec.evaluate import codebooks, reconstruction
from mmdcodec.train import loop


@pytest.fixture
def folder(tmp_path):
  """Three clips of 0.4, 0.3 and 0.1 s, and a file that is no audio."""
  rng = np.random.default_rng(0)
  folder = tmp_path / "folder"
  folder.mkdir()
  for name, seconds in (("a", 0.4), ("b", 0.3), ("c", 0.1)):
    x = 0.1 * rng.normal(size=round(8000 * seconds))
    soundfile.write(folder / f"{name}.wav", x, 8000, subtype="FLOAT")
  (folder / "d.wav").write_text("not audio")
  return folder


@each_topology
def test_evaluate_a_folder(tmp_path, model, folder, capsys):
  out = tmp_path / "results"
  argv = ["evaluate", "--model", model, "--audio", str(folder)]
  assert main([*argv, "--seconds", "0.2", "--out", str(out)]) == 0
  shown = capsys.readouterr().out
  assert "left out: " in shown and "d.wav" in shown
  results = json.loads((out / "results.json").read_text())
  rows = list(csv.DictReader(open(out / "clips.csv")))
  assert [row["clip"] for row in rows] == ["a.wav", "b.wav", "c.wav"]
  assert [float(row["seconds"]) for row in rows] == [0.2, 0.2, 0.1]

  # The middle of each clip, by the library.
  codec = mmdcodec.load(model)
  sdr, counts = [], np.zeros((codec.codebooks, codec.model.codebook_size))
  for name, start, stop in (("a", 800, 2400), ("b", 400, 2000), ("c", 0, 800)):
    x = soundfile.read(folder / f"{name}.wav", dtype="float32")[0]
    x = x[None, start:stop, None]
    codes = np.asarray(codec.encode(x))
    y = codec.decode(codes, length=x.shape[1])
    sdr.append(float(reconstruction.si_sdr(x, y)[0]))
    for level in range(codec.codebooks):
      np.add.at(counts[level], codes[0, :, level], 1)
  found = [float(row["si_sdr"]) for row in rows]
  np.testing.assert_allclose(found, sdr, atol=1e-3)
  assert results["si_sdr"]["mean"] == pytest.approx(np.mean(sdr), abs=1e-3)
  assert results["si_sdr"]["std"] == pytest.approx(np.std(sdr), abs=1e-3)
  np.testing.assert_array_equal(results["counts"], counts)
  np.testing.assert_allclose(results["usage"], (counts > 0).mean(1))
  bits = 5 * codec.codebooks * codec.frame_rate
  assert results["bits_per_second"] == pytest.approx(bits)
  assert f"{np.mean(sdr):.2f}" in shown and f"{bits / 1000:.2f} kbps" in shown

  assert results["artefacts"].keys() == {
    "comb",
    "pre_echo",
    "silence",
    "sweep_level",
    "sweep_rest",
  }
  assert formatting.cell(results["artefacts"]["pre_echo"]) in shown
  for name in (
    "spectrogram-000-original.png",
    "spectrogram-000-reconstruction.png",
    "codebook_usage.png",
  ):
    assert (out / name).read_bytes().startswith(b"\x89PNG")
  page = (out / "report.html").read_text()
  assert page.count("<audio ") == 6 and "b.wav" in page
  assert page.count("<img ") == 6 + 1 + 2 and "decoded silence" in page
  back, rate = soundfile.read(out / "audio" / "002-reconstruction.flac")
  assert (len(back), rate) == (800, 8000)


def test_evaluate_a_data_set_with_fewer_codebooks(
  tmp_path, model, folder, capsys
):
  data = str(tmp_path / "data")
  assert main(["prepare", str(folder), data, "--rate", "8000"]) == 0
  assert main(["info", data]) == 0
  assert "0.80 s" in capsys.readouterr().out
  argv = ["evaluate", "reconstruction", "--model", model, "--audio", data]
  argv += ["--seconds", "0.1", "--clips", "2", "--codebooks", "1"]
  assert main(argv) == 0
  shown = capsys.readouterr().out
  assert "2 clips, 0.20 s, 2.00 kbps" in shown
  # More clips than records would be duplicates.
  argv[argv.index("--clips") + 1] = "99"
  assert main(argv) == 0
  assert "3 clips, 0.30 s" in capsys.readouterr().out


def test_evaluate_mistakes(tmp_path, model, folder, fails):
  for path in folder.glob("[abc].wav"):
    path.unlink()
  evaluate = ["evaluate", "--model", model, "--audio"]
  assert "no file could be read" in fails(*evaluate, folder)
  (folder / "d.wav").unlink()
  assert "no audio files" in fails(*evaluate, folder)
  assert "no such" in fails(*evaluate, tmp_path / "missing")
  assert "more than 0" in fails(*evaluate, folder, "--clips", "0")


@pytest.fixture(scope="module")
def workdir(tmp_path_factory, dataset):
  """A training run of two steps."""
  changes = dict(dilations=(1,), ratios=(8,), filters=2, codebooks=2)
  config = configs.shrink(configs.codec_config("soundstream_tiny", **changes))
  config.losses.mel.windows = (256,)
  config.data.train = config.data.valid = str(dataset)
  config.steps = config.log_every = config.eval_every = config.save_every = 2
  folder = tmp_path_factory.mktemp("runs") / "tiny"
  loop.train(config, folder, log=lambda line: None)
  return str(folder)


@pytest.mark.slow
def test_export_and_info_of_a_workdir(tmp_path, workdir, fails, capsys):
  target = str(tmp_path / "bundle")
  assert main(["export", workdir, target]) == 0
  assert f"{target}: step 2 of {workdir}" in capsys.readouterr().out
  codec = mmdcodec.load(target)
  assert codec.hash == mmdcodec.load(workdir).hash
  for path, kind in ((workdir, "workdir"), (target, "bundle")):
    assert main(["info", path]) == 0
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert rows[0][0] == kind
    assert ["model", codec.hash] in rows and ["training", "steps", "2"] in rows
  assert "--force" in fails("export", workdir, target)
  assert main(["export", workdir, target, "--force", "--step", "2"]) == 0


@pytest.mark.slow
def test_export_in_half_precision(tmp_path, workdir):
  """Catches parameters left as they were, and statistics that lose digits."""
  target = str(tmp_path / "half")
  assert main(["export", workdir, target, "--dtype", "bfloat16"]) == 0
  whole, half = (bundle.read(path).variables for path in (workdir, target))
  chex.assert_trees_all_equal(half["codebook"], whole["codebook"])
  types = {x.dtype for x in jax.tree.leaves(half["params"])}
  assert types == {jnp.dtype("bfloat16")}
  chex.assert_trees_all_close(
    jax.tree.map(np.float32, half["params"]), whole["params"], rtol=2**-8
  )
  assert mmdcodec.load(target).encode(np.zeros(160)).shape == (1, 20, 2)
  argv = ["export", workdir, target, "--dtype", "int8", "--force"]
  assert main(argv) == 0
  least = bundle.read(target).variables
  # Codes depend on the encoder, which keeps 16 bits.
  chex.assert_trees_all_equal(
    least["params"]["encoder"], half["params"]["encoder"]
  )
  chex.assert_trees_all_equal(least["codebook"], whole["codebook"])
  kinds = {x.dtype for x in jax.tree.leaves(least["params"]["decoder"])}
  assert jnp.dtype("float32") in kinds


@pytest.mark.slow
def test_evaluate_a_workdir(tmp_path, workdir, folder, fails, capsys):
  out = tmp_path / "results"
  argv = ["evaluate", "--model", workdir, "--audio", str(folder)]
  argv += ["--seconds", "0.1", "--out", str(out)]
  assert main([*argv, "--codebooks", "1"]) == 0
  assert (out / "curves.png").read_bytes().startswith(b"\x89PNG")
  results = json.loads((out / "results.json").read_text())
  assert results["about"] == {
    "model": workdir,
    "hash": mmdcodec.load(workdir).hash,
    "audio": str(folder),
    "seconds": 0.1,
    "clips": 32,
    "codebooks": 1,
  }
  page = (out / "report.html").read_text()
  assert "--seconds 0.1 --clips 32 --codebooks 1" in page
  p = np.array(results["counts"][0]) / np.sum(results["counts"])
  entropy = -sum(v * np.log2(v) for v in p if v)
  bits = np.log2(len(p))
  expected = results["bits_per_second"] * entropy / bits
  assert results["entropy_bits_per_second"] == pytest.approx(expected)
  shown = capsys.readouterr().out
  rate = re.search(r"entropy-coded \(kbps\) +([\d.]+)", shown)[1]
  assert float(rate) == pytest.approx(expected / 1000, abs=0.006)
  assert "entropy-coded bit rate (kbps)" in page

  (out / "notes.txt").write_text("precious")
  before = (out / "report.html").read_bytes()
  assert "--force" in fails(*argv)
  assert (out / "report.html").read_bytes() == before
  assert (out / "audio" / "002-original.flac").exists()
  assert main([*argv, "--force", "--clips", "1"]) == 0
  assert len(list((out / "audio").iterdir())) == 2
  assert not list(out.glob("spectrogram-001*.png"))
  assert (out / "notes.txt").read_text() == "precious"
  argv[-1] = str(tmp_path / "other")
  (tmp_path / "other").mkdir()
  (tmp_path / "other" / "song.txt").write_text("precious")
  assert "something other" in fails(*argv, "--force")


@each_topology
def test_clips_of_many_lengths_share_programs(model, monkeypatch):
  codec, shapes = mmdcodec.load(model), {}

  def watch(module, name):
    function = getattr(module, name)

    def watched(x, *rest):
      shapes.setdefault(name, set()).add(x.shape)
      return function(x, *rest)

    monkeypatch.setattr(module, name, watched)

  watch(codebooks, "histogram")
  watch(reconstruction, "compare")
  rng = np.random.default_rng(0)
  stride = codec.model.stride
  for lengths in ((70, 75), (78, 79.5)):  # all in the bucket of 80 frames
    noise = [rng.normal(size=(round(stride * n), 1)) for n in lengths]
    found = clips_lib.reconstruct(
      codec, [clips_lib.Clip("noise", x.astype(np.float32)) for x in noise]
    )
    frames = sum(np.ceil(lengths))
    np.testing.assert_array_equal(found.counts.sum(1), frames)
  assert shapes == {
    "histogram": {(1, 80, codec.codebooks)},
    "compare": {(1, 80 * stride, 1)},
  }
