"""Bundles and public weights."""

import numpy as np
from trial import REFUSED, RIGHT, Trial, require
from wounds import audio_of, finite, wound_file


def bundle(trial: Trial) -> str:
  """Native bundles: described, and used."""
  name = trial.pick(["codec", "codec", "music"])
  path = trial.copy(name)
  wound_file(trial, trial.pick(sorted(path.iterdir())))
  if trial.chance(0.8):
    return _describe(trial, path)
  out = trial.folder / "out.wav"
  if name == "music":
    run = trial.run("generate", "x", out, "--model", path, "--seconds", "0.02")
  else:
    coded_ = trial.folder / "x.mmdc"
    song = trial.samples / "songs/song0.wav"
    run = trial.run("encode", song, coded_, "--model", path)
    if trial.refused(run, coded_):
      return REFUSED
    require(run.code == 0, f"{run}")
    run = trial.run("decode", coded_, out, "--model", path)
    require(run.code == 0, f"encodes, but: {run.err}")
  if trial.refused(run, out):
    return REFUSED
  x, _ = audio_of(out)
  require(len(x) and np.isfinite(x).all(), f"{x.shape}")
  return RIGHT


def _describe(trial, path):
  import mmdcodec

  run = trial.run("info", path)
  if trial.refused(run):
    return REFUSED
  require(run.code == 0, f"{run}")
  loaded = trial.call(lambda: mmdcodec.load(path))
  require(loaded.code == 0, f"described, but not opened: {loaded.err}")
  finite(loaded.value.variables)
  return RIGHT


def ears(trial: Trial) -> str:
  """Bundles of what hears music, or reads texts, and is no codec."""
  import mmdcodec

  name = trial.pick(sorted((trial.samples / "ears").iterdir())).name
  path = trial.copy(f"ears/{name}", name)
  wound_file(trial, trial.pick(sorted(path.iterdir())))
  if trial.chance(0.7):
    return _describe(trial, path)
  x, rate = audio_of(trial.samples / "songs/song0.wav")

  def use():
    model = mmdcodec.load(path)
    found = []
    if hasattr(model, "encode"):
      codes = model.encode(x, rate=rate)
      sizes = np.array(model.codebook_sizes)
      require(codes.shape[2] == len(sizes), f"{codes.shape}")
      require(((codes >= 0) & (codes < sizes)).all(), "codes out of range")
    if hasattr(model, "embed_text"):
      found.append(model.embed_text(["calm piano", ""]))
    if hasattr(model, "tags"):
      found += [model.tags(x, rate), model.embed(x, rate)]
    return found

  run = trial.call(use)
  if trial.refused(run):
    return REFUSED
  require(run.code == 0, f"{run}")
  finite(run.value)
  return RIGHT


def public(trial: Trial) -> str:
  """Folders of public weights: converted and opened."""
  folder = trial.pick(sorted((trial.samples / "public").iterdir())).name
  path = trial.copy(f"public/{folder}", folder)
  files = [p for p in sorted(path.iterdir())]
  wound_file(trial, trial.pick([*files, path / "config.json"]))
  out = trial.folder / "out"
  if trial.chance(0.3):
    return _describe(trial, path)
  run = trial.run("convert", path, out)
  if trial.refused(run, out):
    return REFUSED
  require(run.code == 0, f"{run}")
  _describe(trial, out)
  return RIGHT
