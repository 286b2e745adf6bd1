"""Trains the joint embedding that ships with the package, in given minutes.

    python -m mmdcodec.workflows.packaged_joint WORKDIR --minutes 45

It learns from built-in songs and their captions and tags. A job that was
interrupted goes on with the same command; a later one, in another workdir, goes
on from the packaged weights (`--from-scratch`: from nothing).

    WORKDIR/music/{train,valid,test}   songs
    WORKDIR/data/{train,valid}         data sets
    WORKDIR/training                   training
    WORKDIR/network                    the network, with parameters of 8 bits
    WORKDIR/small_joint                the model: that with codebooks and a card
    WORKDIR/measures.json              what the card says

With --install, WORKDIR/small_joint takes the place of the packaged model.
"""

import json
from typing import Any

from mmdcodec import bundle, packaged, progress
from mmdcodec.audio import song_files
from mmdcodec.configs import small_joint
from mmdcodec.data import records
from mmdcodec.evaluate import clips as clips_lib
from mmdcodec.evaluate import joint
from mmdcodec.store import atomic, jobs
from mmdcodec.workflows import (
  cluster,
  packaged_command,
  packaged_joint_card,
  packaged_training,
)

NAME = "small_joint"
# Songs of each split, their length, and seeds used nowhere else.
SONGS, SECONDS = {"train": 900, "valid": 32, "test": 200}, 30.0
TINY_SONGS, TINY_SECONDS = {"train": 16, "valid": 8, "test": 8}, 3.0
SEEDS = {"train": 7100, "valid": 7101, "test": 7102}
# The codebooks, and the rows of embeddings that they are fitted to, at most.
CODEBOOKS = {"levels": 12, "codes": 64, "rows": 10_000}
TINY_CODEBOOKS = {"levels": 2, "codes": 4, "rows": 1000}


class Job(packaged_command.Job):
  """What the stages depend on, and what follows from it."""

  def config(self) -> dict[str, Any]:
    """Makes the config of the training."""
    config = json.loads(
      small_joint.get_config("tiny" if self.tiny else "").to_json_best_effort()
    )
    config["init_from"] = self.start
    for split in ("train", "valid"):
      config["data"][split] = [str(self.workdir / "data" / split)]
    return config


def make_songs(job: Job) -> str:
  """Renders songs with captions and tags, and cuts them into records."""
  songs = TINY_SONGS if job.tiny else SONGS
  seconds = TINY_SECONDS if job.tiny else SECONDS
  for split, count in songs.items():
    folder = job.workdir / "music" / split
    song_files.write_songs(
      folder, songs=count, seconds=seconds, seed=SEEDS[split],
      progress=progress.counter(f"songs ({split})"),
    )  # fmt: skip
    if split != "test":
      out = job.workdir / "data" / split
      records.prepare(folder, out, progress=False, force=True)
  return f"{songs['train']} songs of {seconds:g} s to learn from"


def train(job: Job) -> str:
  """Trains the network; resumes."""
  config = packaged.resolve_start(job.config())
  return packaged_training.train(job, NAME, config, "training")


def export(job: Job) -> str:
  """Exports the network with parameters of 8 bits, and fits codebooks."""
  network, folder = job.workdir / "network", job.workdir / NAME
  step = bundle.export(
    job.workdir / "training", network, dtype="int8", force=True
  )
  books = TINY_CODEBOOKS if job.tiny else CODEBOOKS
  fit = cluster.cluster(
    network, job.workdir / "data" / "train", folder, levels=books["levels"],
    codes=books["codes"], rows=books["rows"], force=True,
  )  # fmt: skip
  # As in the network: clustering reads and writes 32 bits.
  packaged_training.save(job, folder, bundle.read(folder))
  return f"step {step}; {sum(fit.used)} codes used"


def measure(job: Job) -> str:
  """Measures the model on songs that it was not trained on; writes the card."""
  model: Any = bundle.load(job.workdir / NAME)
  clips = clips_lib.collect(
    job.workdir / "music" / "test", rate=model.rate, channels=1,
    seconds=TINY_SECONDS if job.tiny else model.window,
    count=SONGS["test"],
  )  # fmt: skip
  found = joint.measure(model, clips)
  atomic.write_json(job.workdir / "measures.json", joint.as_json(found, {}))
  card = packaged_joint_card.write(job.workdir, NAME, found)
  return packaged_training.add_card(job.workdir / NAME, card)


def make_stages(job: Job) -> list[jobs.Stage]:
  """Makes the stages of the job, in order."""
  folder, about = job.workdir, {"minutes": job.minutes, "start": job.start}
  return [
    jobs.Stage(
      "songs", lambda: make_songs(job), {"tiny": job.tiny},
      [folder / "music", folder / "data"], resumes=True,
    ),
    jobs.Stage(
      "train", lambda: train(job), about, [folder / "training"], resumes=True
    ),
    jobs.Stage(
      "export", lambda: export(job), {}, [folder / "network", folder / NAME]
    ),
    jobs.Stage(
      "measure", lambda: measure(job), {}, [folder / "measures.json"]
    ),
  ]  # fmt: skip


def main(argv: list[str] | None = None) -> None:
  """Runs the job; see the module's description."""
  args = packaged_command.make_parser(__doc__, minutes=45).parse_args(argv)
  begun = packaged_command.start(args, NAME)
  job = Job(args.workdir.absolute(), args.minutes, begun, args.tiny)
  packaged_command.run(args, NAME, make_stages(job))


if __name__ == "__main__":
  main()
