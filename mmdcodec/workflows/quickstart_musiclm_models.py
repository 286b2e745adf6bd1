"""Trains the parts of `mmdcodec quickstart --system musiclm`.

Three tokenizers beside the codec, or those of the packaged MusicLM, then the
stages on tokens of all four, then one bundle. Each function takes the job and
describes its result.
"""

import copy
import hashlib
from typing import Any

from mmdcodec import bundle, packaged
from mmdcodec.configs.quickstart_musiclm import STAGES, TOKENIZERS
from mmdcodec.store import jobs
from mmdcodec.train import loop
from mmdcodec.workflows import assemble as assemble_lib
from mmdcodec.workflows import cluster as cluster_lib
from mmdcodec.workflows import stage_training
from mmdcodec.workflows.quickstart_musiclm_job import MusicLMJob

# Folder of what is taken from the packaged MusicLM.
PARTS = "parts"
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
  last = loop.train(config, job.folder / f"{name}_run", log=jobs.note)
  key, words, form = _MEASURES[name]
  told = f"; {words}: {format(last[key], form)}" if key in last else ""
  return f"{config['steps']} steps{told}"


def take(job: MusicLMJob) -> str:
  """Copies the tokenizers and stages of the packaged MusicLM.

  Its weights may be others in another version of the package, so the result
  says which ones they were.
  """
  keys = [*TOKENIZERS, *(f"{name}_lm" for name in job.begun)]
  folders = {key: job.folder / PARTS / key for key in keys}
  source = packaged.FOLDER / job.packaged
  assemble_lib.take_apart(source, folders)
  with (source / bundle.WEIGHTS_FILE).open("rb") as file:
    digest = hashlib.file_digest(file, "sha256").hexdigest()
  return (
    f"{len(TOKENIZERS)} tokenizers and {len(job.begun)} stages of"
    f" {job.packaged!r} (SHA-256 of its weights: {digest[:16]})"
  )


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
  paths = [job.workdir / "bundle", *_tokenizers(job).values()]
  return stage_training.tokenize(
    job.workdir / "data",
    job.folder / "tokens",
    [bundle.load_tokenizer(path) for path in paths],
  )


def train_stage(job: MusicLMJob, *, name: str) -> str:
  """Trains a stage on the tokens, resuming an interrupted run."""
  tokens = job.folder / "tokens"
  config = stage_training.fit(job.configs[f"{name}_lm"], name, tokens)
  if name in job.begun:
    config["init_from"] = str(job.folder / PARTS / f"{name}_lm")
  return stage_training.train(config, job.folder / f"{name}_lm")


def assemble(job: MusicLMJob) -> str:
  """Makes one bundle of all parts."""
  folder = job.folder / "bundle"
  parts = assemble_lib.assemble(
    folder,
    codec=job.workdir / "bundle",
    stages=[job.folder / f"{name}_lm" for name in STAGES],
    force=True,
    **_tokenizers(job),
  )
  return f"{len(parts.stages)} stages and 4 tokenizers, in {folder}"


def _tokenizers(job: MusicLMJob) -> dict[str, Any]:
  """Folders of the tokenizers beside the codec."""
  folder = job.folder / PARTS if job.packaged else job.folder
  return {name: folder / name for name in TOKENIZERS}
