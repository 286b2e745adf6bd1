"""The experiment of the joint model against those that factorise.

The same codes, the same size of model, the same clips, under several patterns:
`flatten` predicts one code at a time and is exact; `delay` and `parallel`
predict several at once, as if they were independent given the past. What that
costs is the language model's own measure of what independence is worth, in bits
per frame on held-out music; beside it, how fast each one generates. Over codecs
with and without the independence loss (arXiv 2406.02315, 5).

    WORKDIR/CODEC/tokens/{train,valid}    codes
    WORKDIR/CODEC/PATTERN/seed_N          runs, as `mmdcodec train` makes them
    WORKDIR/results.json, table.md
"""

import copy
import itertools
import json
import math
import pathlib
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np

import mmdcodec
from mmdcodec import bundle
from mmdcodec.data import record_source, token_records, tokenization
from mmdcodec.errors import UserError
from mmdcodec.evaluate import likelihood
from mmdcodec.experiments import arm_report, arm_run
from mmdcodec.train import loop, settings

JOINT, RESULT = "flatten", "result.json"
SPEED_ROUNDS, SPEED_SECONDS = 5, 4.0


def run(
  config: Mapping,
  workdir: pathlib.Path,
  *,
  codecs: Mapping[str, str],
  train: str,
  valid: str,
  patterns: Sequence[str] = ("delay", "parallel", JOINT),
  seeds: int = 1,
  log: Callable[[str], None] = print,
) -> dict:
  """Trains and measures a model of every pattern over every codec.

  Args:
    config: of the language model; its codebooks, frame rate, data, codec and
      pattern are set here.
    workdir: of the experiment; what is finished there is not done again.
    codecs: bundles or workdirs by the name that the table gives them.
    train: data set of audio.
    valid: data set of audio that is not trained on.
    patterns: names of `generation.patterns.MAKERS`.
    seeds: so many, from `config.seed` on.
    log: takes one line of text.

  Returns:
    {codec: {"unigram", "bigram": bits per frame, pattern: {"bits_per_frame": of
    each seed, "seconds_per_second", "times_faster", "gap", "closed"}}}, see
    `compare`. All bits are of all frames of `valid`, under the last checkpoint:
    nothing was chosen on them.

  Raises:
    UserError: a setting that can't be, or other than those of the workdir.
  """
  config = json.loads(
    json.dumps(config.to_dict() if hasattr(config, "to_dict") else config)
  )
  if seeds < 1 or not codecs or not patterns:
    raise UserError("expected at least one codec, one pattern and one seed.")
  workdir, found = pathlib.Path(workdir).absolute(), {}
  workdir.mkdir(parents=True, exist_ok=True)
  settings_now = dict(config=config, codecs=dict(codecs))
  arm_run.remember(
    workdir / "experiment.json", settings_now | dict(train=train, valid=valid)
  )
  for name, path in codecs.items():
    folder = workdir / name
    log(f"{name}: codes")
    sets = make_tokens(folder / "tokens", path, train=train, valid=valid)
    unigram, bigram = entropies(sets["train"], sets["valid"])
    found[name] = {"unigram": unigram, "bigram": bigram}
    base = with_codes(config, sets, path)
    runs = {}
    for pattern, seed in itertools.product(patterns, range(seeds)):
      log(f"{name}, {pattern}, seed {seed}")
      mine = copy.deepcopy(base)
      mine["seed"] = config["seed"] + seed
      mine["model"]["pattern"] = {"name": pattern}
      result = train_one(mine, folder / pattern / f"seed_{mine['seed']}", log)
      found[name].setdefault(pattern, {"bits_per_frame": []})
      found[name][pattern]["bits_per_frame"].append(result)
      runs.setdefault(pattern, folder / pattern / f"seed_{mine['seed']}")
    for pattern, speed in speeds(runs).items():
      found[name][pattern] |= speed
  compare(found)
  write(workdir, config, found)
  return found


def make_tokens(folder: pathlib.Path, codec: str, **splits: str) -> dict:
  """Codes of data sets of audio, where they are not there yet.

  Args:
    folder: where they are made.
    codec: bundle or workdir.
    **splits: data sets by what they are for, as `config.data.train`.

  Returns:
    {split: paths of token data sets}.
  """
  sets, loaded = {}, None
  for split, datasets in splits.items():
    sets[split] = []
    for i, dataset in enumerate(settings.parse_datasets(datasets)):
      path = folder / (f"{split}-{i}" if i else split)
      sets[split].append(str(path))
      if not (path / record_source.SUMMARY).exists():
        folder.mkdir(parents=True, exist_ok=True)
        loaded = loaded or bundle.load_codec(codec)
        tokenization.tokenize(dataset, path, loaded)
  return sets


def with_codes(config: dict, sets: Mapping[str, str], codec: str) -> dict:
  """The config of a language model over these codes.

  Args:
    config: of a language model.
    sets: `train` and `valid`, lists of token data sets.
    codec: bundle or workdir that they are of.
  """
  config, about = (
    copy.deepcopy(config),
    record_source.describe(sets["train"][0]),
  )
  config["codec"] = str(codec)
  config["model"]["codebooks"] = about["codebooks"]
  config["model"]["codebook_size"] = max(about["codebook_sizes"])
  config["data"] |= {
    "train": sets["train"],
    "valid": sets["valid"],
    "frame_rate": about["frame_rate"],
  }
  return config


def train_one(config: dict, run: pathlib.Path, log: Callable) -> float:
  """Trains one run to its end; bits per frame of all held-out music."""
  path = run / RESULT
  if not path.exists():
    loop.train(config, run, log=lambda line: log("  " + line))
    with tempfile.TemporaryDirectory() as folder:
      bundle.export(run, f"{folder}/bundle", step=config["steps"])
      music = mmdcodec.load(f"{folder}/bundle")
    records = list(_records(config["data"]["valid"]))
    found = likelihood.measure(
      music,
      [record["codes"] for record in records],
      [record["caption"] for record in records],
    )
    arm_run.write(path, {"bits_per_frame": found.bits_per_frame})
  return json.loads(path.read_text())["bits_per_frame"]


def entropies(
  train: Sequence[str], valid: Sequence[str]
) -> tuple[float, float]:
  """What the codes cost without a language model, in bits per frame.

  Args:
    train: token data sets that the probabilities are counted on.
    valid: those that they are asked of.

  Returns:
    Cross-entropy of each codebook's own distribution, summed; and of each code
    given the one before it in the same codebook. Where the latter has hardly
    been seen, it leans on the former.
  """
  about = token_records.TokenSource(train[0])
  size, books = about.codebook_size, about.codebooks
  one, two = np.ones((books, size)), np.zeros((books, size, size))
  for codes in (record["codes"] for record in _records(train)):
    for k in range(books):
      np.add.at(one[k], codes[:, k], 1)
      np.add.at(two[k], (codes[:-1, k], codes[1:, k]), 1)
  one /= one.sum(1, keepdims=True)
  # As many invented counts as there are codes seen after a code (Witten-Bell).
  kinds = (two > 0).sum(2, keepdims=True)
  total = two.sum(2, keepdims=True)
  seen = total > 0
  share = np.where(
    seen,
    (two + kinds * one[:, None]) / np.where(seen, total + kinds, 1),
    one[:, None],
  )
  bits, count = np.zeros(2), 0
  for codes in (record["codes"] for record in _records(valid)):
    count += len(codes)
    for k in range(books):
      alone = np.log2(one[k, codes[:, k]])
      bits[0] -= alone.sum()
      # Nothing is before the first one.
      bits[1] -= alone[0] + np.log2(share[k, codes[:-1, k], codes[1:, k]]).sum()
  return float(bits[0] / count), float(bits[1] / count)


def _records(datasets: Sequence[str]) -> Iterator[dict]:
  """The records of token data sets, one after the other."""
  for path in datasets:
    opened = token_records.TokenSource(path)
    yield from (opened[i] for i in range(len(opened)))


def speeds(runs: Mapping[str, pathlib.Path]) -> dict[str, dict]:
  """How fast models generate, measured in turns so that a machine's moods are
  shared.

  Args:
    runs: workdirs by pattern.

  Returns:
    By pattern `seconds_per_second`, of music for one of work: batch 1, without
    guidance, the median of `SPEED_ROUNDS`; and `times_faster` than the joint
    model, the median of the ratios within a round, where there is one.
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
    if JOINT in took:
      ratio = np.array(took[JOINT]) / np.array(seconds)
      out[name]["times_faster"] = float(np.median(ratio))
  return out


def compare(found: Mapping) -> None:
  """Adds to each pattern's result what it loses against the joint model.

  Args:
    found: results by codec and pattern, see `run`. Where there is a joint
      model, each gets `gap`, what it costs more over the same codes with the
      same seed, in bits per frame; and where there are several codecs `closed`,
      the share of the first codec's gap that is not there any more.
  """
  first = next(iter(found.values()))
  for results in found.values():
    for pattern in results.keys() - {"unigram", "bigram"}:
      if JOINT not in results:
        continue
      mine, joint = (
        np.array(results[name]["bits_per_frame"]) for name in (pattern, JOINT)
      )
      results[pattern]["gap"] = (mine - joint).tolist()
      widest = np.array(first[pattern]["gap"])
      if results is not first and pattern != JOINT and (widest > 0).all():
        closed = 1 - (mine - joint) / widest
        results[pattern]["closed"] = closed.tolist()


def table(found: Mapping) -> tuple[list[str], list[list]]:
  """Columns and rows of the results, one row per codec and pattern.

  Of several seeds mean and standard deviation; of one, what it gave.
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
          arm_report.spread(result["bits_per_frame"], 3),
          arm_report.spread(result.get("gap", []), 3),
          arm_report.spread(closed, 0),
          results["unigram"],
          results["bigram"],
          result["seconds_per_second"],
          result.get("times_faster", math.nan),
        ]
      )
  return columns, rows


def write(workdir: pathlib.Path, config: Mapping, found: Mapping) -> None:
  """results.json, and the table in Markdown."""
  (workdir / "results.json").write_text(
    json.dumps({"config": config, "results": found}, indent=2) + "\n"
  )
  columns, rows = table(found)
  cells = [
    [cell if isinstance(cell, str) else f"{cell:.3g}" for cell in row]
    for row in rows
  ]
  (workdir / "table.md").write_text(arm_report.markdown(columns, cells))
