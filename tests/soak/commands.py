"""The commands that `killed_commands.py` kills, in their smallest settings."""

import dataclasses
import hashlib
import importlib
import json
from collections.abc import Callable

import samples as samples_lib

import mmdcodec.bundle as bundle_lib
import mmdcodec.data.records
import mmdcodec.evaluate.reconstruction
import mmdcodec.experiments.factorization
import mmdcodec.generation.musicgen
import mmdcodec.store.checkpoints
import mmdcodec.train.loop
import mmdcodec.workflows.finetune
import mmdcodec.workflows.quickstart
import mmdcodec.workflows.quickstart_report  # noqa: F401
from mmdcodec.cli import main as cli
from mmdcodec.errors import UserError

# Here, not in each run.
for verb in cli.VERBS:
  importlib.import_module(f"mmdcodec.cli.{verb}")


def either(found, before, new) -> bool:
  """Whether contents are the old ones or the new ones."""
  return found in (before, new)


def each(found, before, new) -> bool:
  """Whether every file is the old one or the new one."""
  allowed = {name: {None, new.get(name)} for name in new}
  for name, digest in (before or {}).items():
    allowed.setdefault(name, set()).add(digest)
    allowed[name].discard(None)
  return set(found) <= set(allowed) and all(
    found.get(name) in digests for name, digests in allowed.items()
  )


def anything(found, before, new) -> bool:
  """For workdirs that resume: what is there can be read, or is not there."""
  return True


@dataclasses.dataclass(frozen=True)
class Command:
  """A command that writes into a folder.

  Attributes:
    name: of it.
    argv: (samples, folder) -> its arguments.
    contents: folder -> what it has written, comparable; fails if half of it is
      there.
    old: arguments of the command that made what it replaces, or None.
    between: (found, before, new) -> whether contents may be found after a kill.
    prepare: called before it, in its process.
  """

  name: str
  argv: Callable
  contents: Callable
  old: Callable | None = None
  between: Callable = either
  prepare: Callable | None = None


def digest(data: bytes) -> str:
  return hashlib.sha256(data).hexdigest()[:12]


def digest_tree(tree) -> str:
  import jax
  import numpy as np

  parts = [
    jax.tree_util.keystr(path).encode() + np.asarray(x).tobytes()
    for path, x in jax.tree_util.tree_leaves_with_path(tree)
  ]
  return digest(b"".join(parts))


def files_in(folder):
  """Digests of all files by name, but those that are hidden."""
  return {
    str(path.relative_to(folder)): digest(path.read_bytes())
    for path in sorted(folder.rglob("*"))
    if path.is_file() and "/." not in f"/{path.relative_to(folder)}"
  }


def a_bundle(path):
  """Digest of a bundle, or None."""
  if not path.exists():
    return None
  found = bundle_lib.read(path)
  return found.config["kind"], digest_tree(found.variables)


def a_set(path):
  """Digest of the records of a data set, or None."""
  from mmdcodec.data import record_source, token_records

  if not path.exists():
    return None
  kind = record_source.describe(path)["kind"]
  made = {"audio": record_source.Source, "tokens": token_records.TokenSource}
  source = made[kind](path)
  records = [repr(source[i]) for i in range(len(source))]
  return kind, digest("".join(records).encode())


def a_run(path):
  """Step and digest of the last checkpoint of a workdir, or None."""
  from mmdcodec.store.checkpoints import Checkpoints

  try:
    checkpoints = Checkpoints(path, read_only=True)
  except UserError:
    return None
  try:
    if checkpoints.latest is None:
      return None
    return checkpoints.latest, digest_tree(checkpoints.restore_arrays())
  finally:
    checkpoints.close()


def some_steps(found, before, new) -> bool:
  """Whether a training is at some step, and its end is the right one."""
  return found is None or found[0] < new[0] or found == new


def smallest_quickstart():
  """Codec and language model that compile in seconds."""
  from mmdcodec.configs import common, quickstart, quickstart_lm

  def codec(arg):
    changes = dict(dilations=(1,), ratios=(8,), filters=2, codebooks=2)
    config = common.codec_config("soundstream_tiny", **changes)
    config = common.shrink(config)
    config.losses.mel.windows = (256,)
    return config

  make = quickstart_lm.get_config

  def music(arg):
    config = make(arg)
    config.model.layers = 1
    return config

  quickstart.get_config, quickstart_lm.get_config = codec, music


def quickstart_results(where):
  workdir = where / "job"
  found = [a_bundle(workdir / name) for name in ("bundle", "music_bundle")]
  report = workdir / "report.html"
  if report.exists():
    assert report.read_text().rstrip().endswith("</html>")
  return (*found, report.exists())


def stage_by_stage(found, before, new) -> bool:
  """Whether each result of a job is absent or whole."""
  pairs = zip(found, new, strict=True)
  return all(value in (None, False, wanted) for value, wanted in pairs)


def factorization_results(where):
  """Runs of language models, and whether there are results."""
  job = where / "job"
  runs = [a_run(job / "one" / "delay" / "seed_0")]
  results = job / "results.json"
  if results.exists():
    json.loads(results.read_text())
  return (*runs, results.exists())


def factorization_between(found, before, new) -> bool:
  return some_steps(found[0], None, new[0])


def independence_results(where):
  """Runs of codecs, and whether there are results."""
  job = where / "job"
  runs = [a_run(job / arm / "seed_0") for arm in ("none", "mmd_delay")]
  results = job / "results.json"
  if results.exists():
    json.loads(results.read_text())
  return (*runs, results.exists())


def independence_between(found, before, new) -> bool:
  pairs = zip(found[:2], new[:2], strict=True)
  return all(some_steps(one, None, wanted) for one, wanted in pairs)


def _convert(name):
  return lambda s, w: ["convert", s / "public" / name, w / "out", "--force"]


def _prepare(rate):
  return lambda s, w: [
    "prepare", s / "songs", w / "out", "--rate", rate, "--seconds=0.5",
    "--quiet", "--workers", "2", "--force",
  ]  # fmt: skip


COMMANDS = {
  command.name: command
  for command in (
    Command(
      "prepare",
      _prepare(8000),
      lambda w: a_set(w / "out"),
      _prepare(4000),
    ),
    Command(
      "tokenize",
      lambda s, w: [
        "tokenize", s / "set", w / "out", "--model", s / "codec", "--force",
      ],
      lambda w: a_set(w / "out"),
      lambda s, w: [
        "tokenize", s / "set", w / "out", "--model", s / "other_codec",
      ],
    ),
    Command(
      "train",
      lambda s, w: [
        *samples_lib.train_command(s, w / "out"), "--config.steps=6",
        "--config.save_every=2", "--config.eval_every=2",
        "--config.log_every=1", "--config.data.valid=",
      ],
      lambda w: a_run(w / "out"),
      between=some_steps,
    ),
    Command(
      "finetune",
      lambda s, w: [
        "finetune", s / "songs", w / "job", "--model", s / "music",
        "--steps", "1", "--lora", "2",
      ],
      lambda w: (a_bundle(w / "job" / "bundle"),),
      between=stage_by_stage,
    ),
    Command(
      "export",
      lambda s, w: ["export", s / "run", w / "out", "--force"],
      lambda w: a_bundle(w / "out"),
      lambda s, w: ["export", s / "run", w / "out", "--step", "4"],
    ),
    Command(
      "convert",
      _convert("encodec24_tiny"),
      lambda w: a_bundle(w / "out"),
      _convert("encodec32_tiny"),
    ),
    Command(
      "encode",
      lambda s, w: [
        "encode", s / "songs", w / "out", "--model", s / "codec", "--force",
      ],
      lambda w: files_in(w / "out"),
      lambda s, w: [
        "encode", s / "songs", w / "out", "--model", s / "codec",
        "--codebooks", "2",
      ],
      between=each,
    ),
    Command(
      "quickstart",
      lambda s, w: [
        "quickstart", "--tiny", "--steps", "2", "--workdir", w / "job",
      ],
      quickstart_results,
      between=stage_by_stage,
      prepare=smallest_quickstart,
    ),
    Command(
      "experiment",
      lambda s, w: [
        "experiment", "factorization", "--train", s / "set", "--valid",
        s / "held_out", "--workdir", w / "job",
        "--codecs", f"one={s / 'codec'}",
        "--patterns", "delay", "--config=factorization:tiny",
        "--config.steps=2", "--config.model.layers=1",
        "--config.optimizer.warmup=1",
      ],
      factorization_results,
      between=factorization_between,
    ),
    # Its runs are processes of their own.
    Command(
      "independence",
      lambda s, w: [
        "experiment", "independence", "--train", s / "set", "--valid",
        s / "held_out", "--workdir", w / "job", "--arms", "mmd_delay",
        "--seeds", "1", "--clips", "1", "--clip_seconds", "0.5", "--jobs", "1",
        "--no_curves", "--config=independence:tiny",
      ],
      independence_results,
      between=independence_between,
    ),
  )
}  # fmt: skip
