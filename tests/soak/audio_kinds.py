"""Audio files and coded files."""

import io
import os

import damage
import numpy as np
from trial import FELL_BACK, REFUSED, RIGHT, Trial, require
from wounds import SAID, audio_of, known, wound_file


def audio(trial: Trial) -> str:
  """Audio files of all containers: read, prepared, encoded."""
  from mmdcodec.audio import files

  name = trial.pick(sorted((trial.samples / "audio").iterdir())).name
  path = trial.copy(f"audio/{name}", name)
  data, only_cut = path.read_bytes(), False
  whole = known(name, lambda: trial.call(lambda: files.read(path)))
  if trial.chance(0.1):
    wound_file(trial, path)
  elif trial.chance(0.3):
    data, words = damage.cut(data, trial.rng)
    path.write_bytes(data)
    trial.words += words
    only_cut = True
  else:
    data, words = damage.some_bytes(data, trial.rng)
    path.write_bytes(data)
    trial.words += words
  trial.words.append(f"in {name}")
  operation = trial.pick([_read] * 6 + [_prepare_one, _encode_one])
  if not os.path.lexists(path):
    operation = _read  # A folder does not tell what is missing.
  return operation(trial, path, whole, only_cut)


def _read(trial, path, whole, only_cut):
  from mmdcodec.audio import block_io, files

  def read():
    return files.info(path), files.read(path)

  def blocks():
    info = files.info(path)
    with block_io.read(path, rate=info.rate, channels=info.channels) as (_, xs):
      return np.concatenate([x for x in xs])

  run = trial.call(read)
  other = trial.call(blocks)
  require(run.code == other.code, f"read: {run.err} blocks: {other.err}")
  if trial.refused(run):
    return REFUSED
  info, (x, rate) = run.value
  require(x.ndim == 2 and len(x) and np.isfinite(x).all(), f"{x.shape}")
  require(np.array_equal(x, other.value), "blocks differ from the whole")
  slack = 4608 if path.name.endswith(("mp3", "mp3.wav")) else 0
  require(abs(info.samples - len(x)) <= slack, f"{info}, {x.shape}")
  require(info.channels == x.shape[1] and info.rate == rate, f"{info}")
  if whole.code == 0:
    _not_cut(trial, len(whole.value[0]), len(x), only_cut, slack)
  return RIGHT


def _not_cut(trial, samples_, found, only_cut, slack):
  if only_cut:
    require(
      found >= samples_ - slack,
      f"cut without a word: {found} of {samples_} samples",
    )


def _prepare_one(trial, path, whole, only_cut):
  from mmdcodec.data.record_source import Source

  folder, out = trial.folder / "in", trial.folder / "out"
  folder.mkdir()
  suffix = path.suffix
  if suffix not in (".wav", ".flac", ".ogg", ".opus", ".mp3", ".aiff"):
    suffix = ".wav"
  path.rename(folder / f"bad{suffix}")
  good = trial.samples / "songs/song0.wav"
  (folder / "good.wav").write_bytes(good.read_bytes())
  argv = ["prepare", folder, out, "--rate", "8000", "--seconds", "1", "--quiet"]
  run = trial.run(*argv, "--workers", "1")
  require(run.code == 0, f"one bad file ended it: {run.err}")
  trial.refused(run)
  source = Source(out)
  found = {}
  for i in range(len(source)):
    record = source[i]
    import soundfile

    x, rate = soundfile.read(io.BytesIO(record["audio"]), dtype="float32")
    require(
      len(x) == record["samples"] and np.isfinite(x).all(), record["path"]
    )
    found[record["path"]] = found.get(record["path"], 0) + len(x)
  require(found.get("good.wav") == 4800, f"{found}")
  if len(found) == 1:
    require(f"bad{suffix}: " in run.out, f"not named:\n{run.out}")
    return FELL_BACK
  if whole.code == 0:
    wanted = len(whole.value[0]) * 8000 / whole.value[1]
    _not_cut(trial, wanted, found[f"bad{suffix}"], only_cut, 2000)
  return RIGHT


def _encode_one(trial, path, whole, only_cut):
  from mmdcodec import bitstream

  out = trial.folder / "out.mmdc"
  run = trial.run("encode", path, out, "--model", trial.samples / "codec")
  if trial.refused(run, out):
    return REFUSED
  with bitstream.opened(out) as reader:
    reader.check()
    found = reader.samples
  if whole.code == 0:
    wanted = len(whole.value[0]) * 8000 / whole.value[1]
    _not_cut(trial, wanted, found, only_cut, 2000)
  return RIGHT


def coded(trial: Trial) -> str:
  """`.mmdc` and `.ecdc` files: described, decoded, made smaller."""
  from damaged_streams import seal, try_reading

  from mmdcodec import bitstream

  path = trial.copy(
    f"coded/{trial.pick(sorted((trial.samples / 'coded').iterdir())).name}",
    "song" + trial.pick([".mmdc", ".ecdc"]),
  )
  # The name says nothing about the contents.
  data = path.read_bytes()
  path.unlink()
  ours = data[:4] == b"MMDC"
  path = path.with_suffix(".mmdc" if ours else ".ecdc")
  path.write_bytes(data)
  sealed = False
  if trial.chance(0.1):
    wound_file(trial, path)
  else:
    hurt, words = damage.some_bytes(data, trial.rng)
    trial.words += words
    if sealed := ours and trial.chance(0.4):
      hurt = seal(hurt)
      trial.words.append("sealed")
    path.write_bytes(hurt)
  trial.words.append(f"in {path.name}")
  model = trial.samples / ("codec" if ours else "codec_24khz")
  if ours and path.is_file() and not path.is_symlink() and trial.chance(0.4):
    original = bitstream.read(io.BytesIO(data))
    hurt = path.read_bytes()
    found = try_reading(hurt, None if sealed else original)
    return {"whole": RIGHT, "refused": REFUSED}.get(found, FELL_BACK)
  out = trial.folder / "out.wav"
  operation = trial.pick(["info", "info", "decode", "recover", "smaller"])
  if not ours and trial.chance(0.9):
    operation = "decode"
  if operation == "info":
    run = trial.run("info", path)
  elif operation == "smaller":
    out = trial.folder / "smaller.mmdc"
    run = trial.run("encode", path, out, "--codebooks", "2")
  else:
    more = ["--recover"] if operation == "recover" else []
    run = trial.run("decode", path, out, "--model", model, *more)
  trial.words.append(operation)
  if trial.refused(run, out):
    return REFUSED
  require(run.code == 0, f"{run}")
  if operation in ("decode", "recover"):
    x, _ = audio_of(out)
    require(len(x) and np.isfinite(x).all(), f"{x.shape}")
    if ours and not sealed:
      whole = known(
        f"decoded {hash(data)}", lambda: _decoded(trial, data, model)
      )
      equal = len(x) == len(whole) and np.array_equal(x, whole)
      if operation == "decode":
        require(equal, "other audio without a word")
      elif not equal:
        require("lost" in run.err or SAID.search(run.err), f"unsaid: {run.err}")
        return FELL_BACK
  return RIGHT


def _decoded(trial, data, model):
  path, out = trial.folder / "whole.mmdc", trial.folder / "whole.wav"
  path.write_bytes(data)
  require(trial.run("decode", path, out, "--model", model).code == 0, "whole")
  return audio_of(out)[0]
