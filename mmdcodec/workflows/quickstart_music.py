"""The second half of `mmdcodec quickstart`: trains a music model and uses it.

Encodes the training music, trains a small language model on the codes, and
generates music from the captions of held-out songs. Each stage is a function
that takes the job and describes its result.

    WORKDIR/tokens/{train,valid}       codes of the data sets
    WORKDIR/lm                         training: checkpoints, metrics
    WORKDIR/music_bundle               codec and language model
    WORKDIR/generated                  audio, and prompts.json
"""

import pathlib
import shutil
from typing import Any

import mmdcodec
from mmdcodec import bundle, formatting, packaged, progress
from mmdcodec.audio import files
from mmdcodec.data import captions, report, tokenization
from mmdcodec.experiments import factorization
from mmdcodec.store import atomic, inputs, jobs
from mmdcodec.train import loop
from mmdcodec.workflows.quickstart_job import Job

PROMPTS_FILE = "prompts.json"


def tokenize(job: Job) -> str:
  """Encodes the training and validation music."""
  codec = mmdcodec.load(job.workdir / "bundle")
  found: dict[str, Any] = {}
  (job.workdir / "tokens").mkdir(exist_ok=True)
  for split in ("train", "valid"):
    found[split] = tokenization.tokenize(
      job.workdir / "data" / split,
      job.workdir / "tokens" / split,
      codec,
      # Short records gain nothing from larger batches.
      batch=4,
      force=True,
      show=progress.counter(f"records ({split})"),
    )
    for line in report.folder_lines(job.workdir / "tokens" / split):
      jobs.note(line)
  train = found["train"]
  return (
    f"{train['frames']} frames of {train['codebooks']} codes to train on, of"
    f" {formatting.duration(train['seconds'])}"
  )


def train(job: Job) -> str:
  """Trains the language model, resuming an interrupted run."""
  last = loop.train(with_data(job), job.workdir / "lm", log=jobs.note)
  return (
    f"{job.lm['steps']} steps; {last['valid/bits_per_frame']:.2f} bits per"
    " frame on music for validation"
  )


def with_data(job: Job) -> dict[str, Any]:
  """Adds codec and codes to the config of the run."""
  # Lists, because paths in text must not contain `,` and `=`.
  folder = job.workdir / "tokens"
  sets = {split: [str(folder / split)] for split in ("train", "valid")}
  config = factorization.with_codes(job.lm, sets, job.workdir / "bundle")
  # The packaged one models only the first codebooks of its codec.
  model, most = config["model"], job.lm["model"]["codebooks"]
  model["codebooks"] = min(model["codebooks"], most)
  return packaged.resolve_start(config)


def export(job: Job) -> str:
  """Exports one bundle with language model and codec."""
  folder = job.workdir / "music_bundle"
  step = bundle.export(job.workdir / "lm", folder, force=True)
  return f"step {step}, in {folder}"


def prompts(job: Job) -> list[dict[str, Any]]:
  """Takes prompts from the captions of held-out songs.

  Returns:
    {"prompt", "song"} of each piece; prompts are empty without captions.
  """
  folder = job.workdir / "music" / "test"
  found = [
    {"prompt": captions.sidecar(path).caption, "song": path.name}
    for path in sorted(files.find(folder))
  ]
  with_caption = [each for each in found if each["prompt"]]
  return (with_caption or found)[: job.pieces]


def generate(job: Job) -> str:
  """Generates a piece of music for each prompt."""
  folder, asked = job.workdir / "generated", prompts(job)
  shutil.rmtree(folder, ignore_errors=True)
  folder.mkdir()
  music = mmdcodec.load(job.workdir / "music_bundle")
  audio = music.generate(
    [each["prompt"] for each in asked], seconds=job.piece_seconds, seed=0
  )
  for i, (each, y) in enumerate(zip(asked, audio, strict=True)):
    each["file"] = f"{i:02d}.flac"
    files.write(folder / each["file"], y, rate=music.rate)
  atomic.write_json(folder / PROMPTS_FILE, asked)
  seconds = formatting.duration(len(asked) * job.piece_seconds)
  return f"{len(asked)} pieces, {seconds}"


def generated(workdir: pathlib.Path) -> list[dict[str, Any]]:
  """Lists the output of `generate`: {"prompt", "song", "file"} per piece."""
  return inputs.read_json(workdir / "generated" / PROMPTS_FILE)
