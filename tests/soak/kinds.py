"""What is damaged, what a user then does with it, and what must come of it.

A kind is a function of a `Trial`. It returns one of the three outcomes, or
raises a `Fault`. Where damage cannot be told from other contents, a rule says
what is right:

- Audio, weights and values of configs without a checksum may be any other
  audio, weights and values within the bounds. The results must be finite, and
  as long and of the shape that the file says in all places.
- Audio that was cut is refused, unless nothing but padding is missing.
- Everything with a checksum (`.mmdc`, shards, checkpoints) must come out as it
  was, or not at all.
- Files that are not read do not matter.
"""

import contextlib
import io
import json
import os
import re

import damage
import numpy as np
import samples
from trial import FELL_BACK, REFUSED, RIGHT, Fault, Trial, require

# Results from undamaged samples, by name.
_known: dict[str, object] = {}

_SAID = re.compile(
  r"damage|instead|earlier|skipp|cannot be|can't be|not read|no row|left out"
  r"|unread|without",
  re.I,
)


def known(name, make):
  """Returns what an undamaged sample gives; computed once in a process."""
  if name not in _known:
    _known[name] = make()
  return _known[name]


def finite(tree):
  """Requires that all arrays of a tree are finite."""
  import jax

  for path, x in jax.tree_util.tree_leaves_with_path(tree):
    x = np.asarray(x)
    if x.dtype.kind in "fV":
      good = np.isfinite(x.astype(np.float32)).all()
      require(good, f"{jax.tree_util.keystr(path)} is not finite")


def same(one, other) -> bool:
  """Whether two trees have equal arrays."""
  import jax

  a, b = jax.tree.flatten(one), jax.tree.flatten(other)
  return a[1] == b[1] and all(map(np.array_equal, a[0], b[0]))


def wound_file(trial: Trial, path, *, json_too=True) -> bool:
  """Damages a file or replaces it; returns whether it still is a file."""
  if trial.chance(0.15):
    others = [p for p in (trial.samples / "audio").iterdir()]
    trial.words += damage.replace(path, trial.rng, others)
  elif path.name.endswith(".safetensors"):
    data, words = damage.safetensors(path.read_bytes(), trial.rng)
    path.write_bytes(data)
    trial.words += words
  elif json_too and path.suffix == ".json":
    trial.words += damage.json_file(path, trial.rng)
  else:
    trial.words += damage.bytes_of(path, trial.rng)
  trial.words.append(f"in {path.name}")
  return path.is_file() and not path.is_symlink()


# ----------------------------------------------------------------------- audio


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


# ----------------------------------------------------------------- coded files


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
    x, _ = _audio_of(out)
    require(len(x) and np.isfinite(x).all(), f"{x.shape}")
    if ours and not sealed:
      whole = known(
        f"decoded {hash(data)}", lambda: _decoded(trial, data, model)
      )
      equal = len(x) == len(whole) and np.array_equal(x, whole)
      if operation == "decode":
        require(equal, "other audio without a word")
      elif not equal:
        require(
          "lost" in run.err or _SAID.search(run.err), f"unsaid: {run.err}"
        )
        return FELL_BACK
  return RIGHT


def _audio_of(path):
  import soundfile

  return soundfile.read(path, dtype="float32", always_2d=True)


def _decoded(trial, data, model):
  path, out = trial.folder / "whole.mmdc", trial.folder / "whole.wav"
  path.write_bytes(data)
  require(trial.run("decode", path, out, "--model", model).code == 0, "whole")
  return _audio_of(out)[0]


# ---------------------------------------------------------------------- models


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
  x, _ = _audio_of(out)
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


# ------------------------------------------------------------------- data sets


def dataset(trial: Trial) -> str:
  """Data sets of audio: described, read, tokenized."""
  from mmdcodec.data.record_source import Source

  path = trial.copy("set")
  wound_file(trial, _one_of_set(trial, path))
  operation = trial.pick(["info", "read", "read", "read", "tokenize"])
  trial.words.append(operation)
  if operation == "info":
    return _info(trial, path)
  if operation == "tokenize":
    out = trial.folder / "out"
    argv = ("tokenize", path, out, "--quiet", "--model")
    run = trial.run(*argv, trial.samples / "codec")
    if trial.refused(run, out):
      return REFUSED
    require(run.code == 0, f"{run}")
    wanted = known("tokens", lambda: _tokens(trial.samples / "tokens"))
    require(_tokens(out) == wanted, "other codes without a word")
    return RIGHT
  read = lambda folder: _records(Source(folder))
  return _reads_alike(trial, read, path, "set")


def tokens(trial: Trial) -> str:
  """Token sets: described and read."""
  path = trial.copy("tokens")
  wound_file(trial, _one_of_set(trial, path))
  if trial.chance(0.3):
    return _info(trial, path)
  return _reads_alike(trial, _tokens, path, "tokens")


def _one_of_set(trial, path):
  shard = next(path.glob("*array_record*"))
  return trial.pick([*sorted(path.iterdir()), path / "mmdcodec.json", shard])


def _reads_alike(trial, read, path, name):
  wanted = known(name, lambda: read(trial.samples / name))
  run = trial.call(lambda: read(path))
  if trial.refused(run):
    return REFUSED
  require(run.value == wanted, "other records without a word")
  return RIGHT


def _info(trial, path):
  run = trial.run("info", path)
  if trial.refused(run):
    return REFUSED
  require(run.code == 0, f"{run}")
  return RIGHT


def _records(source):
  return [repr(source[i]) for i in range(len(source))]


def _tokens(path):
  from mmdcodec.data.token_records import TokenSource

  source = TokenSource(path)
  return [
    {k: v.tolist() if hasattr(v, "tolist") else v for k, v in source[i].items()}
    for i in range(len(source))
  ]


# -------------------------------------------------------------------- captions


def captions(trial: Trial) -> str:
  """Tables of captions and sidecars beside the audio: prepared."""
  layout = trial.pick(["songs"] * 4 + ["fma", "musiccaps"])
  folder = trial.copy(layout)
  argv = []
  if layout != "songs":
    (hurt,) = folder.glob("*.csv")
    argv = ["--captions", hurt]
  elif trial.chance(0.6):
    for path in folder.rglob("*.txt"):
      path.unlink()
    name = trial.pick(sorted((trial.samples / "tables").iterdir())).name
    hurt = trial.copy(f"tables/{name}", f"songs/{name}")
    argv = ["--captions", hurt]
  else:
    hurt = trial.pick(sorted(folder.rglob("*.txt")))
    if trial.chance(0.5):
      text = json.dumps({"caption": hurt.read_text(), "tags": {"a": ["b", 1]}})
      hurt.unlink()
      hurt = hurt.with_suffix(".json")
      hurt.write_text(text)
  wanted = _captions_of(trial, hurt, folder, argv)
  wound_file(trial, hurt)
  run, found = _prepared(trial, folder, argv, trial.folder / "out")
  if trial.refused(run, trial.folder / "out"):
    return REFUSED
  require(run.code == 0, f"{run}")
  # FMA has no captions.
  missing = [p for p, words in wanted.items() if words and not found.get(p)]
  require(set(found) == set(wanted), f"audio is missing: {sorted(found)}")
  if missing:
    named = sum(not words for words in found.values())
    require(
      f"{len(found) - named} with" in run.out and _SAID.search(run.out),
      f"captions of {missing} are gone without a word:\n{run.out}{run.err}",
    )
    return FELL_BACK
  with contextlib.suppress(OSError, UnicodeDecodeError):
    text = hurt.read_text("utf-8-sig")
    for path, words in found.items():
      # Another caption must be what somebody wrote, to the last letter.
      parts = words.split()
      require(
        words == wanted[path] or all(_within(p, text) for p in parts),
        f"{path}: {words!r} for {wanted[path]!r}",
      )
  return RIGHT


def _within(word, text):
  escaped = json.dumps(word)[1:-1]
  return word in text or escaped in text or word.replace('"', '""') in text


def _captions_of(trial, hurt, folder, argv):
  name = f"captions {hurt.name}"
  make = lambda: _prepared(trial, folder, argv, trial.folder / "whole")[1]
  return known(name, make)


def _prepared(trial, folder, argv, out):
  from mmdcodec.data.record_source import Source

  more = ["--rate", "8000", "--seconds", "1", "--quiet", "--workers", "1"]
  run = trial.run("prepare", folder, out, *more, *argv)
  if run.code:
    return run, {}
  source = Source(out)
  records = [source[i] for i in range(len(source))]
  return run, {record["path"]: record["caption"] for record in records}


# ------------------------------------------------------------------- trainings


def config(trial: Trial) -> str:
  """Trainings with one or two settings that make no sense."""
  from mmdcodec import bundle as bundle_lib
  from mmdcodec.store import metrics

  workdir = trial.folder / "run"
  argv = samples.train_command(trial.samples, workdir)
  keys = known("keys", lambda: _keys(argv))
  more = ["--config.steps=2", "--config.save_every=2", "--config.eval_every=2"]
  if trial.chance(0.7):  # the evaluation compiles for as long as a step
    more.append("--config.data.valid=")
  for _ in range(trial.rng.integers(1, 3)):
    key = trial.pick(sorted(keys))
    value = _setting(trial, key, keys[key])
    if key == "steps" and value.strip().isdigit() and int(value) > 3:
      value = "nan"
    more.append(f"--config.{key}={value}")
    trial.words.append(more[-1])
  if trial.chance(0.05):
    more.append("--config.no.such.key=1")
  if trial.chance(0.9):
    # The step is traced; to compile it would take most of the time.
    run = trial.call(lambda: _traced([str(a) for a in (*argv, *more)]))
    return REFUSED if trial.refused(run) else RIGHT
  run = trial.run(*argv, *more)
  if trial.refused(run):
    return REFUSED
  require(run.code == 0, f"{run}")
  rows = metrics.read(workdir)
  if not rows:
    require(run.out.strip() or run.err.strip(), "nothing was done or said")
    return RIGHT
  found = trial.call(lambda: bundle_lib.read(workdir))
  require(found.code == 0, f"trained, but not opened: {found.err}")
  finite(found.value.variables)
  return RIGHT


class _Enough(Exception):
  """The first step was traced."""


def _traced(argv):
  """Starts a training and traces its first step, but compiles nothing."""
  import dataclasses

  import jax

  from mmdcodec.cli import main
  from mmdcodec.train import loop

  make = loop.make_program

  def short(*args):
    program = make(*args)

    def trace(state, batch, phase=None):
      jax.eval_shape(lambda *xs: program.step(*xs, phase), state, batch)
      raise _Enough

    zeros = lambda x: np.zeros(x.shape, x.dtype) if x.size < 1e8 else x
    init = lambda key: jax.tree.map(zeros, program.abstract)
    return dataclasses.replace(
      program, init=init, step=trace, long_step=program.long_step and trace
    )

  loop.make_program = short
  try:
    code = main.main(argv)
  except _Enough:
    return None
  finally:
    loop.make_program = make
  if code:
    raise SystemExit(code)


def _keys(argv):
  from mmdcodec.train import config_files, settings

  plain = settings.plain(
    config_files.parse([a for a in argv[1:] if a.startswith("--config")])
  )

  def walk(value, path):
    for key, inside in value.items():
      yield f"{path}{key}", inside
      if isinstance(inside, dict):
        yield from walk(inside, f"{path}{key}.")

  # Paths are no settings of the arithmetic, and caches are shared.
  left_out = ("compilation_cache", "profile", "task")
  # A group cannot follow one of its keys on the command line.
  groups = [a.split("=")[0].removeprefix("--config.") for a in argv]
  return {
    k: v
    for k, v in walk(plain, "")
    if not k.startswith(left_out)
    and not any(group.startswith(f"{k}.") for group in groups)
  }


def _setting(trial, key, old):
  if isinstance(old, int | float) and trial.chance(0.4):
    by = trial.pick([0, -1, 0.5, 2, 10, 1000, 1e6, 1e30, 1e-30])
    value = old * by if trial.chance(0.7) else by
    return str(
      int(value) if isinstance(old, int) and abs(value) < 1e18 else value
    )
  value = damage.VALUES[trial.rng.integers(len(damage.VALUES))]
  text = value if isinstance(value, str) else repr(value)
  return text.encode("utf-8", "replace").decode().replace("\0", "?")


def checkpoint(trial: Trial) -> str:
  """Workdirs with a damaged file: exported, described, trained further."""
  from mmdcodec import bundle as bundle_lib

  path = trial.copy("run")
  steps = path / "checkpoints"
  every = sorted(p for p in path.rglob("*") if p.is_file())
  newest = [p for p in every if p.is_relative_to(steps / "6")]
  if trial.chance(0.1):
    made = steps / trial.pick(["7", "99999", "6.orbax-checkpoint-tmp", "x"])
    made.mkdir()
    trial.words.append(f"an empty folder {made.name}")
  else:
    wound_file(trial, trial.pick(newest if trial.chance(0.6) else every))
  operation = trial.pick(["export"] * 3 + ["info", "resume"])
  trial.words.append(operation)
  if operation == "info":
    run = trial.run("info", path)
    if trial.refused(run):
      return REFUSED
    return FELL_BACK if _SAID.search(run.err + run.out) else RIGHT
  if operation == "export":
    out = trial.folder / "out"
    run = trial.run("export", path, out)
    if trial.refused(run, out):
      return REFUSED
    require(run.code == 0, f"{run}")
    wanted = known(
      "exported", lambda: bundle_lib.read(trial.samples / "exported")
    )
    found = bundle_lib.read(out)
    finite(found.variables)
    if same(found.variables, wanted.variables):
      return FELL_BACK if _SAID.search(run.err) else RIGHT
    require(
      found.config["training"]["step"] != 6 and _SAID.search(run.err + run.out),
      f"other weights without a word: {run.out}{run.err}",
    )
    return FELL_BACK
  argv = samples.train_command(trial.samples, path)
  more = ["--config.steps=8", "--config.save_every=2", "--config.eval_every=2"]
  more.append("--config.log_every=1")

  def whole():
    workdir = trial.folder / "whole"
    trial.copy("run", "whole")
    again = samples.train_command(trial.samples, workdir)
    require(trial.run(*again, *more).code == 0, "whole")
    return _last_state(workdir)

  wanted = known("resumed", whole)
  run = trial.run(*argv, *more)
  if trial.refused(run):
    return REFUSED
  require(run.code == 0, f"{run}")
  require(same(_last_state(path), wanted), f"another end:\n{run.out}{run.err}")
  return FELL_BACK if _SAID.search(run.err + run.out) else RIGHT


def _last_state(workdir):
  from mmdcodec.store.checkpoints import Checkpoints

  checkpoints = Checkpoints(workdir, read_only=True)
  try:
    require(checkpoints.latest == 8, f"ended at step {checkpoints.latest}")
    return checkpoints.restore_arrays()
  finally:
    checkpoints.close()


# The share of each in a run of all, and the seconds after which one hangs.
KINDS = {
  "audio": (audio, 30, 30),
  "coded": (coded, 25, 30),
  "bundle": (bundle, 10, 60),
  "public": (public, 6, 60),
  "dataset": (dataset, 7, 60),
  "tokens": (tokens, 7, 30),
  "captions": (captions, 7, 30),
  "config": (config, 4, 120),
  "checkpoint": (checkpoint, 4, 120),
}

__all__ = ["KINDS", "Fault"]
