"""Trains the parts of `mmdcodec quickstart --system musiclm`.

Three tokenizers beside the codec, then the stages on tokens of all four, then
one bundle. Each function takes the job and describes its result.
"""

import copy
import functools
import math
import shutil
from typing import Any

from mmdcodec import bundle, packaged
from mmdcodec.data import record_source
from mmdcodec.train import loop
from mmdcodec.workflows import assemble as assemble_lib
from mmdcodec.workflows import cluster as cluster_lib
from mmdcodec.workflows import stage_training
from mmdcodec.workflows.quickstart_musiclm_job import MusicLMJob

_log = functools.partial(print, flush=True)
# Folder of each tokenizer's data set of tokens, and the tokenizer that each
# condition of a stage is made by.
_SETS = {
  "semantic": "semantic",
  "joint": "mulan",
  "melody": "melody_embedding",
  "coarse": "codec",
}
# What the result of a training is measured by, its name and its digits.
_MEASURES = {
  "semantic": ("valid/prediction", "loss of hidden frames", ".2f"),
  "joint": (
    "valid/r10",
    "music found by its caption among the first 10",
    ".0%",
  ),
  "melody": ("valid/r1", "melodies found first", ".0%"),
}


def train_tokenizer(job: MusicLMJob, *, name: str) -> str:
  """Trains a tokenizer's network, resuming an interrupted run."""
  config = copy.deepcopy(job.configs[name])
  if name != "melody":  # which renders its own music
    for split in ("train", "valid"):
      # A mapping, because paths in text must not contain `,` and `=`.
      config["data"][split] = {str(job.workdir / "data" / split): 1.0}
  last = _train(job, config, f"{name}_run")
  key, words, form = _MEASURES[name]
  told = f"; {words}: {format(last[key], form)}" if key in last else ""
  return f"{config['steps']} steps{told}"


def take(job: MusicLMJob, *, name: str) -> str:
  """Copies a packaged tokenizer."""
  model = job.packaged[name]
  folder = job.folder / name
  folder.mkdir(parents=True, exist_ok=True)
  for path in (packaged.FOLDER / model).iterdir():
    shutil.copyfile(path, folder / path.name)
  return f"the packaged {model!r}"


def cluster(job: MusicLMJob, *, name: str) -> str:
  """Fits a tokenizer's codebooks to the training music."""
  fit = cluster_lib.cluster(
    job.folder / f"{name}_run",
    job.workdir / "data" / "train",
    job.folder / name,
    levels=job.codebooks[name]["levels"],
    codes=job.codebooks[name]["codes"],
    rows=job.codebooks[name]["rows"],
    force=True,
  )
  used = f"{sum(fit.used)} of {len(fit.used) * fit.codes}"
  return f"{used} codes used by {fit.rows} rows"


def tokenize(job: MusicLMJob) -> str:
  """Encodes the music with all four tokenizers, each record read once."""
  paths = [job.workdir / "bundle"]
  paths += [job.folder / name for name in ("semantic", "joint", "melody")]
  return stage_training.tokenize(
    job.workdir / "data",
    job.folder / "tokens",
    [bundle.load_tokenizer(path) for path in paths],
  )


def train_stage(job: MusicLMJob, *, name: str) -> str:
  """Trains a stage on the tokens, resuming an interrupted run."""
  config = packaged.resolve_start(fitted(job, name))
  return stage_training.train(config, job.folder / f"{name}_lm")


def fitted(job: MusicLMJob, name: str) -> dict[str, Any]:
  """Adapts the config of a stage to the tokens that there are.

  The coarse stage makes the first half of the codec's codebooks, the fine stage
  the rest. Crops keep their length in seconds.

  Args:
    job: the job.
    name: the stage.
  """
  config = copy.deepcopy(job.configs[f"{name}_lm"])
  model, data, tokens = config["model"], config["data"], job.folder / "tokens"
  target = "semantic" if name == "semantic" else "codec"
  streams = {key: _SETS[key] for key in model["conditions"] if key in _SETS}
  about = {
    kind: record_source.describe(tokens / "train" / kind)
    for kind in {target, *streams.values()}
  }
  half = max(1, about["codec"]["codebooks"] // 2) if "codec" in about else 1
  seconds = model["frames"] / data["frame_rate"]
  rate = about[target]["frame_rate"]
  model["frames"] = max(1, round(seconds * rate))
  model["codebook_size"] = max(about[target]["codebook_sizes"])
  model["codebooks"] = about[target]["codebooks"]
  if name == "coarse":
    model["codebooks"] = half
  elif name == "fine":
    model["codebooks"], model["first_codebook"] = (
      model["codebooks"] - half,
      half,
    )
  for key, condition in model["conditions"].items():
    if key not in streams:  # Pitch classes have the rate that they are given.
      condition["frames"], condition["frame_rate"] = model["frames"], rate
      continue
    given = about[_SETS[key]]
    condition["codebooks"] = half if key == "coarse" else given["codebooks"]
    condition["size"] = max(given["codebook_sizes"])
    if key != "joint":
      condition["frame_rate"] = given["frame_rate"]
    if key in ("semantic", "coarse"):
      condition["frames"] = max(1, round(seconds * given["frame_rate"]))
    if condition.get("added_to"):
      ratio = rate / given["frame_rate"]
      whole = math.isclose(ratio, round(ratio))
      condition["added_to"] = round(ratio) if whole else 0
  stage_training.set_data(config, tokens, target, streams)
  data["frame_rate"] = rate
  return config


def assemble(job: MusicLMJob) -> str:
  """Makes one bundle of all parts."""
  folder = job.folder / "bundle"
  parts = assemble_lib.assemble(
    folder,
    codec=job.workdir / "bundle",
    semantic=job.folder / "semantic",
    joint=job.folder / "joint",
    melody=job.folder / "melody",
    stages=[
      job.folder / f"{name}_lm" for name in ("semantic", "coarse", "fine")
    ],
    force=True,
  )
  return f"{len(parts.stages)} stages and 4 tokenizers, in {folder}"


def _train(
  job: MusicLMJob, config: dict[str, Any], name: str
) -> dict[str, float]:
  """Trains a model in a folder of the job."""
  return loop.train(
    config, job.folder / name, log=lambda line: _log("  " + line)
  )
