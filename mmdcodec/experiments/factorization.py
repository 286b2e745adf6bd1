"""Compares language models of the same codes under several patterns.

`delay` and `parallel` predict several codes in a step, as if they were
independent given the past. `flatten` predicts one code at a time without this
assumption, but with K codebooks it also takes K steps and K times the compute
per frame. The difference in held-out bits per frame therefore measures compute
as well as factorization. `depth` is `parallel` with a depth transformer, which
needs no independence either, at one step per frame. The speed of generation is
measured as well, for codecs with and without the independence loss
(arXiv 2406.02315, 5).

    WORKDIR/CODEC/tokens/{train,valid}    codes
    WORKDIR/CODEC/PATTERN/seed_N          training workdirs
    WORKDIR/results.json, table.md
"""

import copy
import itertools
import json
import math
import os
import pathlib
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

import mmdcodec
from mmdcodec import bundle
from mmdcodec.data import record_source, tokenization
from mmdcodec.errors import UserError
from mmdcodec.evaluate import code_entropy, likelihood
from mmdcodec.experiments import tables
from mmdcodec.store import atomic, inputs, jobs, paths
from mmdcodec.train import config_checks, loop, settings

FLAT, DEPTH, RESULT = "flatten", "depth", "result.json"
# Layers of the depth transformer, if the config has none.
DEPTH_LAYERS = 2
SPEED_ROUNDS, SPEED_SECONDS = 5, 4.0


def run(
  config: Mapping[str, Any],
  workdir: str | os.PathLike,
  *,
  codecs: Mapping[str, str],
  train: str,
  valid: str,
  patterns: Sequence[str] = ("delay", "parallel", FLAT),
  seeds: int = 1,
  log: Callable[[str], None] = print,
) -> dict[str, dict[str, Any]]:
  """Trains and measures a model for every pattern and codec.

  Args:
    config: config of the language model; codebooks, frame rate, data, codec and
      pattern are set here.
    workdir: folder of the experiment; an interrupted one continues.
    codecs: bundles or workdirs by their names in the table.
    train: data set of audio.
    valid: data set of held-out audio.
    patterns: names from `patterns.MAKERS`, or DEPTH.
    seeds: number of seeds, starting at `config.seed`.
    log: called with one line of text.

  Returns:
    {codec: {"unigram", "bigram": bits per frame, pattern: {"bits_per_frame": of
    each seed, "seconds_per_second", "times_faster", "gap", "closed"}}}; see
    `speeds` and `compare`. Bits are measured on all frames of `valid` at the
    last checkpoint, so nothing was selected on them.

  Raises:
    UserError: a setting is invalid or differs from the workdir's.
  """
  config = json.loads(json.dumps(settings.plain(config)))
  config_checks.check(config)
  if seeds < 1 or not codecs or not patterns:
    raise UserError("expected at least one codec, one pattern and one seed.")
  workdir = paths.on_disk(workdir, "the folder of a job").absolute()
  numbers = range(config["seed"], config["seed"] + seeds)

  def folder_of(codec: str, pattern: str, seed: int) -> pathlib.Path:
    return workdir / codec / pattern / f"seed_{seed}"

  stages = []
  for name, path in codecs.items():
    sets = _token_sets(workdir / name / "tokens", train=train, valid=valid)
    stages.append(_codes_stage(workdir / name / "tokens", path, sets))
    for pattern, seed in itertools.product(patterns, numbers):
      mine = with_pattern(config, pattern)
      mine["seed"] = seed
      run = folder_of(name, pattern, seed)
      stages.append(_run_stage(run, path, mine, sets, log))
  given = dict(config=config, codecs=codecs, train=train, valid=valid)
  jobs.adopt(workdir, given, stages)
  jobs.run_stages(workdir, stages, force=None, log=log)
  found: dict[str, dict[str, Any]] = {}
  for name in codecs:
    sets = _token_sets(workdir / name / "tokens", train=train, valid=valid)
    unigram, bigram = code_entropy.entropies(*map(list, sets.values()))
    found[name] = {"unigram": unigram, "bigram": bigram}
    runs = {p: folder_of(name, p, numbers[0]) for p in patterns}
    for pattern, speed in speeds(runs).items():
      folders = [folder_of(name, pattern, seed) for seed in numbers]
      results = [inputs.read_json(f / RESULT) for f in folders]
      bits = [result["bits_per_frame"] for result in results]
      found[name][pattern] = {"bits_per_frame": bits, **speed}
  compare(found)
  write(workdir, config, found)
  return found


def with_pattern(config: Mapping[str, Any], pattern: str) -> dict[str, Any]:
  """Adapts the config of a language model to a pattern.

  Args:
    config: config of a language model.
    pattern: a name from `patterns.MAKERS`, or DEPTH.
  """
  found: dict[str, Any] = copy.deepcopy(dict(config))
  model, is_deep = found["model"], pattern == DEPTH
  model["pattern"] = {"name": "parallel" if is_deep else pattern}
  depth = dict(model["depth"] or {})
  layers = (depth.get("layers") or DEPTH_LAYERS) if is_deep else 0
  model["depth"] = depth | {"layers": layers}
  return found


def _codes_stage(
  folder: pathlib.Path, codec: str, sets: Mapping[str, Mapping[str, str]]
) -> jobs.Stage:
  """Makes the stage that encodes data sets of audio."""
  datasets = {
    paths.of(path) / record_source.SUMMARY: dataset
    for found in sets.values()
    for path, dataset in found.items()
  }

  def work() -> str:
    loaded = bundle.load_codec(codec)
    folder.mkdir(parents=True, exist_ok=True)
    for summary, dataset in datasets.items():
      if not summary.exists():
        tokenization.tokenize(dataset, summary.parent, loaded)
    return f"in {folder}"

  given = {split: list(found.values()) for split, found in sets.items()}
  return jobs.Stage(
    f"{folder.parent.name}, codes",
    work,
    {"codec": codec, **given},
    [folder, *datasets],
    resumes=True,
    needs=[],
  )


def _run_stage(
  run: pathlib.Path,
  codec: str,
  config: dict[str, Any],
  sets: Mapping[str, Mapping[str, str]],
  log: Callable[[str], None],
) -> jobs.Stage:
  """Makes the stage that trains and measures one language model."""

  def work() -> str:
    # The token data sets exist only now.
    by_split = {split: list(found) for split, found in sets.items()}
    made = with_codes(config, by_split, codec)
    loop.train(made, run, log=lambda line: log("  " + line))
    with tempfile.TemporaryDirectory() as folder:
      bundle.export(run, f"{folder}/bundle", step=made["steps"])
      music = mmdcodec.load(f"{folder}/bundle")
    records = list(code_entropy.read_records(by_split["valid"]))
    bits = likelihood.measure(
      music,
      [record["codes"] for record in records],
      [record["caption"] for record in records],
    ).bits_per_frame
    atomic.write_json(run / RESULT, {"bits_per_frame": bits})
    return f"{bits:.3f} bits per frame"

  name = run.parents[1].name
  return jobs.Stage(
    f"{name}, {run.parent.name}, seed {config['seed']}",
    work,
    {"config": config},
    [run, run / RESULT],
    resumes=True,
    needs=[f"{name}, codes"],
  )


def _token_sets(
  folder: pathlib.Path, **splits: str
) -> dict[str, dict[str, str]]:
  """Returns paths of codes: {split: {token data set: data set}}."""
  return {
    split: {
      str(folder / (f"{split}-{i}" if i else split)): dataset
      for i, dataset in enumerate(settings.parse_datasets(datasets))
    }
    for split, datasets in splits.items()
  }


def with_codes(
  config: Mapping[str, Any],
  sets: Mapping[str, Sequence[str]],
  codec: str | os.PathLike,
) -> dict[str, Any]:
  """Adapts the config of a language model to codes.

  Args:
    config: config of a language model.
    sets: `train` and `valid`, lists of token data sets.
    codec: bundle or workdir of their codec.
  """
  made = copy.deepcopy(dict(config))
  about = record_source.describe(sets["train"][0])
  made["codec"] = str(codec)
  made["model"]["codebooks"] = about["codebooks"]
  made["model"]["codebook_size"] = max(about["codebook_sizes"])
  made["data"] |= {
    "train": sets["train"],
    "valid": sets["valid"],
    "frame_rate": about["frame_rate"],
  }
  return made


def speeds(runs: Mapping[str, pathlib.Path]) -> dict[str, dict]:
  """Times generation, alternating between models so that load affects all.

  Args:
    runs: workdirs by pattern.

  Returns:
    By pattern: `seconds_per_second`, seconds of music per second of work at
    batch 1 without guidance, the median of `SPEED_ROUNDS`. If there is a
    flattened model, also `times_faster`, the median speed relative to it within
    a round.
  """
  models = {name: mmdcodec.load(run) for name, run in runs.items()}
  took = {name: [] for name in models}
  for turn in range(SPEED_ROUNDS + 1):
    for name, music in models.items():
      start = time.perf_counter()
      music.generate_codes(seconds=SPEED_SECONDS, seed=turn, guidance=1.0)
      if turn:  # the first one compiles
        took[name].append(time.perf_counter() - start)
  out = {}
  for name, seconds in took.items():
    out[name] = {
      "seconds_per_second": SPEED_SECONDS / float(np.median(seconds))
    }
    if FLAT in took:
      ratio = np.array(took[FLAT]) / np.array(seconds)
      out[name]["times_faster"] = float(np.median(ratio))
  return out


def compare(found: Mapping) -> None:
  """Adds each pattern's difference from the flattened model to its results.

  Args:
    found: results by codec and pattern; see `run`. If there is a flattened
      model, each pattern gets `gap`, its additional bits per frame over the
      same codes with the same seed. All codecs but the first also get `closed`,
      the share by which the gap is smaller than the first one's.
  """
  first = next(iter(found.values()))
  for results in found.values():
    for pattern in results.keys() - {"unigram", "bigram"}:
      if FLAT not in results:
        continue
      mine, flat = (
        np.array(results[name]["bits_per_frame"]) for name in (pattern, FLAT)
      )
      results[pattern]["gap"] = (mine - flat).tolist()
      widest = np.array(first[pattern]["gap"])
      if results is not first and pattern != FLAT and (widest > 0).all():
        closed = 1 - (mine - flat) / widest
        results[pattern]["closed"] = closed.tolist()


def table(found: Mapping) -> tuple[list[str], list[list]]:
  """Returns columns and rows of the results, one row per codec and pattern.

  Several seeds are shown as mean and standard deviation.
  """
  columns = [
    "codec", "pattern", "seeds", "bits per frame", "gap (bits)", "closed (%)",
    "unigram", "bigram", "music per second (s)", "times faster",
  ]  # fmt: skip
  rows = []
  for codec, results in found.items():
    for pattern, result in results.items():
      if pattern in ("unigram", "bigram"):
        continue
      closed = 100 * np.array(result.get("closed", []))
      rows.append(
        [
          codec,
          pattern,
          str(len(result["bits_per_frame"])),
          tables.spread(result["bits_per_frame"], 3),
          tables.spread(result.get("gap", []), 3),
          tables.spread(closed, 0),
          results["unigram"],
          results["bigram"],
          result["seconds_per_second"],
          result.get("times_faster", math.nan),
        ]
      )
  return columns, rows


def write(workdir: pathlib.Path, config: Mapping, found: Mapping) -> None:
  """Writes results.json and the table in Markdown."""
  atomic.write_json(
    workdir / "results.json", {"config": config, "results": found}
  )
  columns, rows = table(found)
  cells = [
    [cell if isinstance(cell, str) else f"{cell:.3g}" for cell in row]
    for row in rows
  ]
  atomic.write_text(workdir / "table.md", tables.markdown(columns, cells))
