"""Trains the codec that ships with the package, within given minutes.

    python -m mmdcodec.workflows.packaged_models MUSIC WORKDIR --minutes 90

MUSIC has a manifest.csv with the columns split, file, seconds, licence, title,
artist and caption; only files whose licence allows any use with attribution are
taken (LICENCES). Half of what is trained on is built-in music. A job that was
interrupted goes on with the same command; a later one, in another workdir,
goes on from the packaged weights (`--from-scratch`: from nothing).

    WORKDIR/music/{songs,real}/{train,valid,test}    audio, by kind and use
    WORKDIR/data/                                    data sets
    WORKDIR/codec, twin                              training
    WORKDIR/small, twin_bundle                       models
    WORKDIR/measures.json                            what the card says
    WORKDIR/small/README.md                          the card

The twin is trained without the independence loss and not shipped: the card
compares their codes.

With --decoder, the decoder alone is trained further: the codes stay, so the
packaged music model goes on with the new codec.

With --install, WORKDIR/small takes the place of the packaged model.
"""

import copy
import csv
import dataclasses
import json
import pathlib
from typing import Any

from mmdcodec import bundle, packaged, progress
from mmdcodec.audio import song_files
from mmdcodec.configs import small
from mmdcodec.data import records
from mmdcodec.errors import UserError
from mmdcodec.store import atomic, inputs, jobs
from mmdcodec.workflows import (
  packaged_card,
  packaged_command,
  packaged_measures,
  packaged_training,
)

NAME = "small"
# Licences under which weights may be trained and shared, with attribution and
# without the duty to share alike.
LICENCES = (
  "CC0-1.0", "Public domain", "CC-BY", "CC-BY-3.0", "CC-BY-4.0", "OGA-BY-3.0",
)  # fmt: skip
SPLITS = ("train", "valid", "test")
KINDS = ("songs", "real")
# Built-in songs of each split, their length, and seeds used nowhere else.
SONGS, SONG_SECONDS, SEEDS = (600, 16, 64), 30.0, (1000, 1001, 1002)
TINY_SONGS, TINY_SONG_SECONDS = (3, 1, 2), 3.0
# Shares of the minutes, of the codec and of its twin.
SHARES = {"codec": 0.5, "twin": 0.5}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Job(packaged_command.Job):
  """What the stages depend on, and what follows from it.

  Attributes:
    music: folder with manifest.csv.
    twin: whether to train the codec's twin too, for the card.
    decoder: whether to train the decoder of the start alone.
  """

  music: pathlib.Path
  twin: bool = True
  decoder: bool = False

  def config(self, name: str) -> dict[str, Any]:
    """Makes the config of a training: "codec" or "twin"."""
    made = small.get_config("tiny" if self.tiny else "")
    if self.start:
      small.go_on(made)
    if self.decoder:
      made.freeze = "encoder"
    config = json.loads(made.to_json_best_effort())
    if name == "twin":
      config["losses"]["independence"]["weight"] = 0.0
    return config


def rows_of(music: pathlib.Path) -> list[dict[str, str]]:
  """Reads the rows of manifest.csv whose licence allows the use.

  Raises:
    UserError: there is no manifest, or no row may be used.
  """
  path = music / "manifest.csv"
  with inputs.open_file(path) as file:
    found = csv.DictReader(file.read().decode().splitlines())
  rows = [row for row in found if row.get("licence") in LICENCES]
  if not rows:
    raise UserError(
      f"{path} has no file with one of the licences {', '.join(LICENCES)}."
    )
  return rows


def make_music(job: Job) -> str:
  """Renders songs, and links the real music with captions beside it."""
  count = TINY_SONGS if job.tiny else SONGS
  seconds = TINY_SONG_SECONDS if job.tiny else SONG_SECONDS
  for split, songs, seed in zip(SPLITS, count, SEEDS, strict=True):
    song_files.write_songs(
      job.workdir / "music" / "songs" / split,
      songs=songs, seconds=seconds, seed=seed,
      progress=progress.counter(f"songs ({split})"),
    )  # fmt: skip
  rows = rows_of(job.music)
  for row in rows:
    folder = job.workdir / "music" / "real" / row["split"]
    folder.mkdir(parents=True, exist_ok=True)
    link = folder / pathlib.PurePath(row["file"]).name
    link.unlink(missing_ok=True)
    link.symlink_to((job.music / row["file"]).resolve())
    link.with_suffix(".txt").write_text(row["caption"])
  return f"{sum(count)} songs and {len(rows)} files of {job.music}"


def prepare(job: Job) -> str:
  """Cuts the music into records."""
  total = 0.0
  for kind in KINDS:
    for split in SPLITS[:2]:
      folder = job.workdir / "music" / kind / split
      out = job.workdir / "data" / f"{kind}_{split}"
      total += records.prepare(folder, out, progress=False, force=True).seconds
  return f"{total / 3600:.1f} h"


def train(job: Job, name: str) -> str:
  """Trains the codec or its twin; resumes."""
  config = packaged.resolve_start(job.config(name))
  found = {
    split: [str(job.workdir / "data" / f"{kind}_{split}") for kind in KINDS]
    for split in SPLITS[:2]
  }
  # As much of each kind, however much there is of it.
  half = {path: 0.5 for path in found["train"]}
  config["data"] |= {"train": half, "valid": found["valid"]}
  probe = copy.deepcopy(config)
  probe["quantizer_start"] = 0
  probe["losses"]["independence"] |= {"start": 0, "ramp": 0}
  return packaged_training.train(
    job, name, config, name, share=SHARES[name], probe=probe
  )


def export(job: Job, name: str) -> str:
  """Exports a model, with parameters of 8 bits; 16 in the encoder."""
  folder = job.workdir / {"codec": NAME, "twin": "twin_bundle"}[name]
  step = bundle.export(job.workdir / name, folder, force=True)
  packaged_training.save(job, folder, bundle.read(folder))
  return f"step {step}"


def measure(job: Job) -> str:
  """Measures the codec on the test music, and writes the card."""
  music = {kind: job.workdir / "music" / kind / "test" for kind in KINDS}
  found = packaged_measures.measure(
    job.workdir / NAME, job.workdir / "twin_bundle", music, tiny=job.tiny
  )  # fmt: skip
  rows = rows_of(job.music)
  atomic.write_json(job.workdir / "measures.json", found)
  card = packaged_card.write(job.workdir, NAME, found, rows)
  return packaged_training.add_card(job.workdir / NAME, card)


def make_stages(job: Job) -> list[jobs.Stage]:
  """Makes the stages of the job, in order."""
  folder = job.workdir
  about = {"start": job.start, "tiny": job.tiny, "minutes": job.minutes}
  about |= {"decoder": True} if job.decoder else {}

  def training(name: str) -> jobs.Stage:
    return jobs.Stage(
      name, lambda: train(job, name), about, [folder / name], resumes=True
    )

  def exporting(name: str, output: str) -> jobs.Stage:
    return jobs.Stage(
      f"export {name}", lambda: export(job, name), {}, [folder / output]
    )

  return [
    jobs.Stage(
      "music", lambda: make_music(job), {"tiny": job.tiny},
      [folder / "music"], resumes=True,
    ),
    jobs.Stage("prepare", lambda: prepare(job), {}, [folder / "data"]),
    training("codec"),
    exporting("codec", NAME),
    *([training("twin"), exporting("twin", "twin_bundle")] if job.twin else []),
    jobs.Stage(
      "measure", lambda: measure(job), {}, [folder / "measures.json"]
    ),
  ]  # fmt: skip


def main(argv: list[str] | None = None) -> None:
  """Runs the job; see the module's description."""
  parser = packaged_command.make_parser(__doc__, minutes=90, first=["music"])
  parser.add_argument("--without-twin", action="store_true")
  parser.add_argument("--decoder", action="store_true")
  args = parser.parse_args(argv)
  begun = packaged_command.start(args, NAME)
  if args.decoder and not begun:
    parser.error("--decoder goes on from the packaged codec")
  job = Job(
    args.workdir.absolute(), args.minutes, begun, args.tiny, music=args.music,
    twin=not (args.without_twin or args.decoder), decoder=args.decoder,
  )  # fmt: skip
  packaged_command.run(args, NAME, make_stages(job))


if __name__ == "__main__":
  main()
