"""The second half of `mmdcodec quickstart`: a language model that makes music.

The codes of the music that the codec was trained on, a small language model
over them, and new music from the captions of songs that neither has seen.

    WORKDIR/tokens/{train,valid}       codes of the data sets
    WORKDIR/lm                         training: checkpoints, metrics
    WORKDIR/music_bundle               codec and language model, ready to use
    WORKDIR/generated                  audio, and prompts.json
"""

import json
import pathlib
import shutil

from mmdcodec import formatting
from mmdcodec.cli import common

PROMPTS_FILE = "prompts.json"


def tokenize(job) -> str:
  """Writes the codes of the music for training."""
  import mmdcodec
  from mmdcodec.data import tokenization as tokenize_lib

  codec, found = mmdcodec.load(job.workdir / "bundle"), {}
  (job.workdir / "tokens").mkdir(exist_ok=True)
  for split in ("train", "valid"):
    found[split] = tokenize_lib.tokenize(
      job.workdir / "data" / split,
      job.workdir / "tokens" / split,
      codec,
      # What is short needs no more room than this.
      batch=4,
      force=True,
      show=common.progress_line(f"records ({split})"),
    )
  train = found["train"]
  return (
    f"{train['frames']} frames of {train['codebooks']} codes to train on, of"
    f" {formatting.duration(train['seconds'])}"
  )


def train(job) -> str:
  """Trains the language model, from where an interrupted run ended."""
  from mmdcodec.train import loop

  last = loop.train(
    with_data(job),
    job.workdir / "lm",
    log=lambda line: print("  " + line, flush=True),
  )
  return (
    f"{job.lm['steps']} steps; {last['valid/bits_per_frame']:.2f} bits per"
    " frame on music for validation"
  )


def with_data(job) -> dict:
  """The config of the run, with its codec and its codes."""
  from mmdcodec.experiments import factorization

  # Lists: as text, `,` and `=` would have a meaning.
  folder = job.workdir / "tokens"
  sets = {split: [str(folder / split)] for split in ("train", "valid")}
  return factorization.with_codes(job.lm, sets, job.workdir / "bundle")


def export(job) -> str:
  """Makes the music model: one bundle with language model and codec."""
  from mmdcodec import bundle

  folder = job.workdir / "music_bundle"
  step = bundle.export(job.workdir / "lm", folder, force=True)
  return f"step {step}, in {folder}"


def prompts(job) -> list[dict]:
  """What is asked for: captions of songs held out, and which songs they are.

  Returns:
    {"prompt", "song"} of each piece; without captions, prompts are empty.
  """
  from mmdcodec.audio import files
  from mmdcodec.data import captions

  folder = job.workdir / "music" / "test"
  found = [
    {"prompt": captions.sidecar(path).caption, "song": path.name}
    for path in sorted(files.find(folder))
  ]
  with_caption = [each for each in found if each["prompt"]]
  return (with_caption or found)[: job.pieces]


def generate(job) -> str:
  """Makes a piece of music for each prompt."""
  import mmdcodec
  from mmdcodec.audio import files

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
  (folder / PROMPTS_FILE).write_text(json.dumps(asked, indent=2) + "\n")
  seconds = formatting.duration(len(asked) * job.piece_seconds)
  return f"{len(asked)} pieces, {seconds}"


def generated(workdir: pathlib.Path) -> list[dict]:
  """What `generate` made: {"prompt", "song", "file"} of each piece."""
  return json.loads((workdir / "generated" / PROMPTS_FILE).read_text())
