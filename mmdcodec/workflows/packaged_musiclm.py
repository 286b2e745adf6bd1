"""Trains the MusicLM that ships with the package, within given minutes.

    python -m mmdcodec.workflows.packaged_musiclm WORKDIR --minutes 90

It learns from built-in songs. Codec and joint embedding are the packaged ones,
which it names and does not contain. There is no fine stage, so its music is
that of the first half of the codec's codebooks. A job that was interrupted goes
on with the same command; a later one, in another workdir, takes the packaged
tokenizers and goes on from the packaged stages (`--from-scratch`: from
nothing).

    WORKDIR/music/{train,valid}        songs
    WORKDIR/data/{train,valid}         data sets
    WORKDIR/{semantic,melody}_run      training of the tokenizers
    WORKDIR/networks                   these with parameters of 8 bits
    WORKDIR/parts/{semantic,melody}    these with codebooks
    WORKDIR/begin                      packaged stages to go on from
    WORKDIR/tokens/{train,valid}       token data sets of all four tokenizers
    WORKDIR/{semantic,coarse}_lm       training of the stages
    WORKDIR/parts/{semantic,coarse}_lm the stages
    WORKDIR/small_musiclm              all of it, with its card, README.md
    WORKDIR/measures.json              what the card says

With --install, WORKDIR/small_musiclm takes the place of the packaged model.
"""

import functools
import json
from typing import Any

import mmdcodec
from mmdcodec import bundle, packaged, progress
from mmdcodec.audio import song_files, song_plan
from mmdcodec.configs import small_musiclm
from mmdcodec.data import records
from mmdcodec.evaluate import musiclm
from mmdcodec.store import atomic, jobs
from mmdcodec.workflows import (
  assemble,
  cluster,
  packaged_command,
  packaged_musiclm_card,
  packaged_training,
  stage_training,
)

NAME = "small_musiclm"
# The packaged parts that it names.
CODEC, JOINT = "small", "small_joint"
TOKENIZERS, STAGES = ("semantic", "melody"), ("semantic", "coarse")
# Songs of each split, their length, and seeds used nowhere else.
SONGS, SECONDS = {"train": 3000, "valid": 64}, 20.0
TINY_SONGS, TINY_SECONDS = {"train": 8, "valid": 2}, 4.0
SEEDS = {"train": 7200, "valid": 7201}
# The codebooks, and the rows of features that they are fitted to, at most.
CODEBOOKS = {
  "semantic": {"levels": 1, "codes": 512, "rows": 50_000},
  "melody": {"levels": 8, "codes": 64, "rows": 10_000},
}
TINY_CODEBOOKS = {
  "semantic": {"levels": 1, "codes": 16, "rows": 1000},
  "melody": {"levels": 2, "codes": 4, "rows": 1000},
}
# Share of the minutes that each training gets.
SHARES = {
  "semantic": 0.2,
  "melody": 0.05,
  "semantic_lm": 0.3,
  "coarse_lm": 0.45,
}
# What the learning rate of packaged stages is divided by, as in the quickstart.
FURTHER = 4
# Pieces that are measured, their length, and the weight of their prompts.
PIECES, TINY_PIECES, LENGTH, TINY_LENGTH, GUIDANCE = 64, 2, 10.0, 0.5, 3.0


class Job(packaged_command.Job):
  """What the stages depend on, and what follows from it."""

  def config(self, name: str) -> dict[str, Any]:
    """Makes the config of a training; see `small_musiclm`."""
    made = small_musiclm.get_config(f"{name}_tiny" if self.tiny else name)
    if self.start:
      made.optimizer.learning_rate /= FURTHER
    return json.loads(made.to_json_best_effort())


def make_songs(job: Job) -> str:
  """Renders songs, each value of a trait as often as the others."""
  songs, seconds = SONGS, SECONDS
  if job.tiny:
    songs, seconds = TINY_SONGS, TINY_SECONDS
  for split, count in songs.items():
    audio = job.workdir / "music" / split
    song_files.write_songs(
      audio, songs=count, seconds=seconds, seed=SEEDS[split],
      each=song_plan.balanced(SEEDS[split], count),
      progress=progress.counter(f"songs ({split})"),
    )  # fmt: skip
    out = job.workdir / "data" / split
    records.prepare(audio, out, progress=False, force=True)
  return f"{songs['train']} songs of {seconds:g} s to learn from"


def make_tokenizer(job: Job, name: str) -> str:
  """Trains a tokenizer; resumes. Fits codebooks, and stores it in 8 bits."""
  config, data = job.config(name), job.workdir / "data"
  if name != "melody":  # which renders its own music
    config["data"] |= {split: [str(data / split)] for split in SONGS}
  said = packaged_training.train(
    job, name, config, f"{name}_run", share=SHARES[name]
  )
  # Codebooks are those of the network as it is stored.
  network, folder = (
    job.workdir / "networks" / name,
    job.workdir / "parts" / name,
  )
  bundle.export(job.workdir / f"{name}_run", network, dtype="int8", force=True)
  books = (TINY_CODEBOOKS if job.tiny else CODEBOOKS)[name]
  fit = cluster.cluster(
    network, data / "train", folder, levels=books["levels"],
    codes=books["codes"], rows=books["rows"], force=True,
  )  # fmt: skip
  # As in the network: clustering reads and writes 32 bits.
  found = bundle.read(folder)
  variables = bundle.stored_as("int8", found.variables)
  bundle.save(folder, found.config, variables, force=True)
  return f"{said}; {sum(fit.used)} codes used"


def take(job: Job) -> str:
  """Takes tokenizers, and stages to go on from, of the packaged model."""
  folders = {name: job.workdir / "parts" / name for name in TOKENIZERS}
  keys = [f"{name}_lm" for name in STAGES]
  folders |= {key: job.workdir / "begin" / key for key in keys}
  assemble.take_apart(packaged.FOLDER / job.start, folders)
  return f"those of {job.start!r}"


def tokenize(job: Job) -> str:
  """Encodes the songs with all four tokenizers."""
  paths = [packaged.FOLDER / CODEC, packaged.FOLDER / JOINT]
  paths += [job.workdir / "parts" / name for name in TOKENIZERS]
  return stage_training.tokenize(
    job.workdir / "data",
    job.workdir / "tokens",
    [bundle.load_tokenizer(path) for path in paths],
  )


def train_stage(job: Job, name: str) -> str:
  """Trains a stage; resumes."""
  key = f"{name}_lm"
  config = job.config(key)
  config = stage_training.fit(config, name, job.workdir / "tokens")
  if job.start:
    config["init_from"] = str(job.workdir / "begin" / key)
  else:
    config = packaged.resolve_start(config)
  said = packaged_training.train(job, key, config, key, share=SHARES[key])
  folder = job.workdir / "parts" / key
  bundle.export(job.workdir / key, folder, dtype="int8", force=True)
  return said


def put_together(job: Job) -> str:
  """Makes one bundle, which names the parts that ship by themselves."""
  folder, parts = job.workdir / NAME, job.workdir / "parts"
  assemble.assemble(
    folder, codec=packaged.FOLDER / CODEC, joint=packaged.FOLDER / JOINT,
    semantic=parts / "semantic", melody=parts / "melody",
    stages=[parts / f"{name}_lm" for name in STAGES], force=True,
  )  # fmt: skip
  found = bundle.read(folder)
  for key, name in (("codec", CODEC), ("joint", JOINT)):
    found.config["parts"][key] = {"packaged": name}
    del found.variables[key]
  packaged_training.save(job, folder, found)
  return ", ".join(found.config["parts"])


def measure(job: Job) -> str:
  """Measures whether pieces follow prompts and melodies; writes the card."""
  of = musiclm.Setting(
    mmdcodec.load(job.workdir / NAME),
    pieces=TINY_PIECES if job.tiny else PIECES,
    seconds=TINY_LENGTH if job.tiny else LENGTH,
    guidance=GUIDANCE,
    show=progress.counter,
  )
  found = {
    "consistency": musiclm.consistency(of).values["pieces"],
    "melody": musiclm.melody(of).values["pieces"],
  }
  atomic.write_json(job.workdir / "measures.json", found)
  card = packaged_musiclm_card.write(
    job.workdir, NAME, found, guidance=GUIDANCE, start=job.start
  )
  return packaged_training.add_card(job.workdir / NAME, card)


def make_stages(job: Job) -> list[jobs.Stage]:
  """Makes the stages of the job, in order."""
  folder, about = job.workdir, {"minutes": job.minutes, "start": job.start}
  found = [
    jobs.Stage(
      "songs", lambda: make_songs(job),
      {"tiny": job.tiny, "start": job.start},
      [folder / "music", folder / "data"], resumes=True,
    )
  ]  # fmt: skip
  if job.start:
    taken = [folder / "begin", *(folder / "parts" / x for x in TOKENIZERS)]
    found.append(jobs.Stage("parts", lambda: take(job), about, taken))
  for name in () if job.start else TOKENIZERS:
    make = functools.partial(make_tokenizer, job, name)
    made = [folder / f"{name}_run"]
    made += [folder / where / name for where in ("networks", "parts")]
    found.append(jobs.Stage(name, make, about, made, resumes=True))
  tokens = functools.partial(tokenize, job)
  found.append(
    jobs.Stage("tokens", tokens, {}, [folder / "tokens"], resumes=True)
  )
  for name in STAGES:
    train = functools.partial(train_stage, job, name)
    made = [folder / f"{name}_lm", folder / "parts" / f"{name}_lm"]
    found.append(jobs.Stage(f"{name} stage", train, about, made, resumes=True))
  return [
    *found,
    jobs.Stage("assemble", lambda: put_together(job), {}, [folder / NAME]),
    jobs.Stage(
      "measure", lambda: measure(job), {}, [folder / "measures.json"]
    ),
  ]  # fmt: skip


def main(argv: list[str] | None = None) -> None:
  """Runs the job; see the module's description."""
  args = packaged_command.make_parser(__doc__, minutes=90).parse_args(argv)
  begun = packaged_command.start(args, NAME)
  job = Job(args.workdir.absolute(), args.minutes, begun, args.tiny)
  packaged_command.run(args, NAME, make_stages(job))


if __name__ == "__main__":
  main()
