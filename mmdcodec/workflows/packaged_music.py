"""Trains the language model that ships with the package, within given minutes.

    python -m mmdcodec.workflows.packaged_music WORKDIR --minutes 60

It learns the codes of the packaged codec from built-in music alone: short
songs, many of them, because a text encoder learns from captions, and each trait
as often with as without. A job that was interrupted goes on with the same
command; a later one, in another workdir, goes on from the packaged weights
(`--from-scratch`: from nothing).

    WORKDIR/music/{train,valid}      songs
    WORKDIR/data/, tokens/           data sets
    WORKDIR/begin                    its text encoder knows words, nothing else
    WORKDIR/training                 training
    WORKDIR/small_music              the model, with its card, README.md
    WORKDIR/prompts/                 whether it follows prompts
    WORKDIR/measures.json            what the card says

The model's codec is the packaged one and is not stored a second time, see
`mmdcodec.packaged`. With --install, WORKDIR/small_music takes the place of the
packaged model.
"""

import json
import pathlib
from typing import Any

import jax
import librosa
import numpy as np

from mmdcodec import bundle, packaged, progress
from mmdcodec.audio import files, song_files, song_plan
from mmdcodec.configs import small_music
from mmdcodec.data import records, tokenization
from mmdcodec.experiments import prompts
from mmdcodec.store import atomic, jobs
from mmdcodec.train.task import make_task
from mmdcodec.workflows import (
  packaged_command,
  packaged_music_card,
  packaged_text,
  packaged_training,
)

NAME, CODEC = "small_music", "small"
# Songs of each split, their length, and seeds used nowhere else.
SONGS, SECONDS = {"train": 5000, "valid": 64}, 10.0
SEEDS = {"train": 7000, "valid": 7001}
TINY_SONGS, TINY_SECONDS = {"train": 12, "valid": 2}, 2.0
# Steps of the text encoder by itself.
TEXT_STEPS, TINY_TEXT_STEPS = 400, 2
# What `experiment prompts` is told.
JUDGED: dict[str, Any] = {"songs": 300, "pieces": 384, "seconds": 8.0}
TINY_JUDGED: dict[str, Any] = {"songs": 10, "pieces": 2, "seconds": 2.0}


class Job(packaged_command.Job):
  """What the stages depend on, and what follows from it."""

  def config(self) -> dict[str, Any]:
    """Makes the config of the training."""
    config = json.loads(
      small_music.get_config("tiny" if self.tiny else "").to_json_best_effort()
    )
    config["init_from"] = self.start
    config["codec"] = str(packaged.FOLDER / CODEC)
    for split in SONGS:
      config["data"][split] = [str(self.workdir / "tokens" / split)]
    return config


def make_songs(job: Job) -> str:
  """Renders songs, each value of a trait as often as the others."""
  songs, seconds = SONGS, SECONDS
  if job.tiny:
    songs, seconds = TINY_SONGS, TINY_SECONDS
  for split, count in songs.items():
    song_files.write_songs(
      job.workdir / "music" / split, songs=count, seconds=seconds,
      seed=SEEDS[split], each=song_plan.balanced(SEEDS[split], count),
      progress=progress.counter(f"songs ({split})"),
    )  # fmt: skip
  return f"{songs['train']} songs of {seconds:g} s to learn from"


def tokenize(job: Job) -> str:
  """Cuts the songs into records and encodes them with the packaged codec."""
  codec = bundle.load_codec(packaged.FOLDER / CODEC)
  for split in SONGS:
    audio, data = job.workdir / "music" / split, job.workdir / "data" / split
    records.prepare(audio, data, rate=codec.rate, progress=False, force=True)
    tokenization.tokenize(
      data, job.workdir / "tokens" / split, codec, force=True,
      show=progress.counter(f"records ({split})"),
    )  # fmt: skip
  return f"codes of {CODEC!r}"


def teach(job: Job) -> str:
  """Makes the model that the training begins from; see `packaged_text`."""
  config = job.config()
  task: Any = make_task(config)
  params = jax.device_get(task.init(jax.random.key(config["seed"]))["params"])
  (condition,) = task.model.make_conditions({})
  params["conditioner"]["text_encoder"] = packaged_text.learn(
    condition, TINY_TEXT_STEPS if job.tiny else TEXT_STEPS, jobs.note
  )
  codec, variables = bundle.read_codec(packaged.FOLDER / CODEC)
  about = {"kind": "lm", "model": config["model"], "codec": codec}
  bundle.save(
    job.workdir / "begin", about, {"params": params, "codec": variables},
    force=True,
  )  # fmt: skip
  return "a text encoder that names what captions say"


def train(job: Job) -> str:
  """Trains the language model; resumes."""
  config = packaged.resolve_start(job.config())
  if not job.start:
    config["init_from"] = str(job.workdir / "begin")
  return packaged_training.train(job, NAME, config, "training")


def export(job: Job) -> str:
  """Exports the model with parameters of 8 bits, and without its codec."""
  folder = job.workdir / NAME
  step = bundle.export(job.workdir / "training", folder, force=True)
  found = bundle.read(folder)
  found.config["codec"] = {"packaged": CODEC}
  del found.variables["codec"]
  packaged_training.save(job, folder, found)
  return f"step {step}"


def measure(job: Job) -> str:
  """Measures whether the model follows prompts, and writes the card."""
  music = bundle.load(job.workdir / NAME)
  count = TINY_JUDGED if job.tiny else JUDGED
  found = {
    "prompts": prompts.run(
      music, job.workdir / "prompts", songs=count["songs"],
      pieces=count["pieces"], seconds=count["seconds"], balanced=True,
      show=progress.counter,
    ),
    "flatness": {
      name: flatness(job.workdir / "prompts" / folder)
      for name, folder in {"songs": "songs/asked", "made": "made"}.items()
    },
  }  # fmt: skip
  atomic.write_json(job.workdir / "measures.json", found)
  card = packaged_music_card.write(job.workdir, NAME, found)
  return packaged_training.add_card(job.workdir / NAME, card)


def flatness(folder: pathlib.Path) -> list[float]:
  """Measures how noise-like recordings are.

  Returns:
    Quantiles of their mean spectral flatness (1 for white noise): the least,
    5, 50 and 95 percent, and the largest.
  """
  found = []
  for path in sorted(folder.glob("*.flac")):
    x, _ = files.read(path)
    found.append(librosa.feature.spectral_flatness(y=x.mean(-1)).mean())
  return [float(q) for q in np.quantile(found, (0, 0.05, 0.5, 0.95, 1))]


def make_stages(job: Job) -> list[jobs.Stage]:
  """Makes the stages of the job, in order."""
  folder = job.workdir
  about = {"tiny": job.tiny}
  codec = {"codec": bundle.load_codec(packaged.FOLDER / CODEC).hash}
  taught = jobs.Stage("text", lambda: teach(job), {}, [folder / "begin"])
  length = {"minutes": job.minutes, "start": job.start}
  return [
    jobs.Stage(
      "songs", lambda: make_songs(job), about, [folder / "music"], resumes=True
    ),
    jobs.Stage(
      "tokens", lambda: tokenize(job), codec,
      [folder / "data", folder / "tokens"],
    ),
    *([] if job.start else [taught]),
    jobs.Stage(
      "train", lambda: train(job), length,
      [folder / "training"], resumes=True,
    ),
    jobs.Stage("export", lambda: export(job), {}, [folder / NAME]),
    jobs.Stage(
      "measure", lambda: measure(job), {},
      [folder / "prompts", folder / "measures.json"], resumes=True,
    ),
  ]  # fmt: skip


def main(argv: list[str] | None = None) -> None:
  """Runs the job; see the module's description."""
  args = packaged_command.make_parser(__doc__, minutes=60).parse_args(argv)
  begun = packaged_command.start(args, NAME)
  job = Job(args.workdir.absolute(), args.minutes, begun, args.tiny)
  packaged_command.run(args, NAME, make_stages(job))


if __name__ == "__main__":
  main()
