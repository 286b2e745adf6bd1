"""Data sets, token sets and captions."""

import contextlib
import json

from trial import FELL_BACK, REFUSED, RIGHT, Trial, require
from wounds import SAID, known, wound_file


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
      f"{len(found) - named} with" in run.out and SAID.search(run.out),
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
