"""`mmdcodec finetune`: a music model learns from a folder of audio.

Splits and prepares the files at the rate of the model's codec, encodes them
with it, trains on from the model's weights, and makes a bundle of the result.
The same command again continues where the last one was interrupted.

    WORKDIR/codec                  the model's codec
    WORKDIR/data/{train,valid}     data sets of audio
    WORKDIR/tokens/{train,valid}   their codes
    WORKDIR/run                    training: checkpoints, metrics
    WORKDIR/bundle                 the new music model
    WORKDIR/results.json           what it knows of held-out music, and knew
"""

import dataclasses
import math
import pathlib
import shlex

from mmdcodec.cli import finetune_stages as work
from mmdcodec.errors import UserError
from mmdcodec.store import jobs

HELP = "train a music model further on your own audio and captions"
EXAMPLE = (
  "mmdcodec finetune ~/Music/mine runs/mine --model bundles/music\n"
  "  mmdcodec finetune loops runs/loops --model musicgen_small --lora 16"
  " --captions loops.csv --seconds 10"
)

# Additions start from nothing and take larger steps than what is there.
RATE, LORA_RATE = 3e-5, 3e-4
# Seconds of a record, at least: one crop comes from one record.
RECORD_SECONDS = 20.0


def add_arguments(parser):
  """Adds the verb's arguments."""
  parser.add_argument(
    "folder", metavar="FOLDER", help="audio of any rate; captions beside it"
  )
  parser.add_argument(
    "workdir",
    metavar="WORKDIR",
    help="everything goes here; the new model: WORKDIR/bundle",
  )
  parser.add_argument(
    "--model",
    required=True,
    help="music model: bundle or workdir, or public weights of MusicGen",
  )
  parser.add_argument(
    "--captions",
    metavar="FILE",
    help="a table of captions as for `mmdcodec prepare`; without it, song.txt"
    " or song.json beside song.wav",
  )
  parser.add_argument(
    "--lora",
    type=int,
    default=0,
    metavar="RANK",
    help="train additions of this rank alone, which takes less memory (default:"
    " the whole model)",
  )
  parser.add_argument(
    "--steps", type=int, default=500, metavar="N", help="default: %(default)s"
  )
  parser.add_argument(
    "--rate",
    type=float,
    metavar="LR",
    help=f"learning rate (default: {RATE:g}, with --lora {LORA_RATE:g})",
  )
  parser.add_argument(
    "--batch",
    type=int,
    metavar="N",
    help="clips in a step, over all devices (default: 8, or one for each"
    " device)",
  )
  parser.add_argument(
    "--seconds",
    type=float,
    metavar="S",
    help="of a clip: fewer take less memory, and longer music is then made in"
    " windows of so many (default: those of the model, which are the most)",
  )
  parser.add_argument(
    "--force",
    action="store_true",
    help="do over what was made with other settings",
  )


def run(args):
  """Runs the job; 75 if it was asked to stop and can be continued."""
  from mmdcodec.train import preemption

  job = make_job(args)
  try:
    jobs.run_stages(job.workdir, make_stages(job), force=args.force)
  except preemption.Preempted:
    return preemption.EXIT_CODE
  bundle = shlex.quote(str(job.workdir / "bundle"))
  print(
    f"\nthe new model: {job.workdir / 'bundle'}\n"
    f"try: mmdcodec generate {shlex.quote(work.a_prompt(job))} new.wav --model"
    f" {bundle} --seconds {job.seconds:g}",
    flush=True,
  )


@dataclasses.dataclass(frozen=True)
class Job:
  """What every stage needs to know.

  Attributes:
    folder: the audio.
    workdir: absolute.
    captions: a table of them, or None.
    model: path of the music model.
    rate: Hz of its codec.
    channels: of its codec.
    codec: hash of its codec.
    config: plain dict of the training run, without data.
    seconds: of a clip.
  """

  folder: pathlib.Path
  workdir: pathlib.Path
  captions: pathlib.Path | None
  model: str
  rate: int
  channels: int
  codec: str
  config: dict
  seconds: float

  @property
  def record_seconds(self) -> float:
    """Of the records, at least those of a clip."""
    return max(RECORD_SECONDS, self.seconds)


def make_job(args) -> Job:
  """The job that the command line asks for."""
  from mmdcodec.audio import files
  from mmdcodec.cli import common

  for name, value, least in (
    ("lora", args.lora, 0),
    ("steps", args.steps, 1),
    ("batch", args.batch, 1),
  ):
    if value is not None and value < least:
      raise UserError(f"--{name} is {value}; it must be at least {least}.")
  for name, value in (("rate", args.rate), ("seconds", args.seconds)):
    if value is not None and not 0 < value < math.inf:
      raise UserError(f"--{name} is {value:g}; it must be above 0.")
  folder = pathlib.Path(args.folder).expanduser().resolve()
  workdir = pathlib.Path(args.workdir).expanduser().resolve()
  if not folder.is_dir():
    raise UserError(f"{args.folder}: no such folder.")
  captions = None
  if args.captions is not None:
    captions = common.check_input(args.captions).resolve()
  if not work.audio_files(folder, workdir):
    raise UserError(
      f"{args.folder} has no audio files; expected {' '.join(files.SUFFIXES)}."
    )
  music = common.load_music(args.model)
  # An id on the Hub is no path.
  local = pathlib.Path(args.model).expanduser()
  config = make_config(args, music)
  return Job(
    folder=folder,
    workdir=workdir,
    captions=captions,
    model=str(local.resolve()) if local.exists() else args.model,
    rate=music.rate,
    channels=music.channels,
    codec=music.codec.hash,
    config=config,
    seconds=config["model"]["frames"] / music.frame_rate,
  )


def make_config(args, music) -> dict:
  """The config of the training run, without paths.

  Args:
    args: of the command line.
    music: the `LoadedMusic` to start from.

  Raises:
    UserError: a batch that the devices can't share.
  """
  import jax

  from mmdcodec.configs import common
  from mmdcodec.parallel import mesh

  config = common.lm_config("small").to_dict()
  frames = music.model.frames
  if args.seconds is not None:
    frames = min(frames, max(1, round(args.seconds * music.frame_rate)))
  # Products of matrices are kept, the rest is computed again: a small price
  # for the memory of long clips.
  config["model"] = music.config["model"] | dict(frames=frames, remat="dots")
  devices = jax.device_count()
  config["batch"] = args.batch or -(-8 // devices) * devices
  mesh.check_batch(config["batch"], mesh.make_mesh(config["mesh"]))
  config["steps"] = args.steps
  config["lora"]["rank"] = args.lora
  if music.model.text and music.model.text["tokenizer"] == "t5":
    config["freeze"] = "conditioner/text_encoder"
  config["optimizer"] |= dict(
    learning_rate=args.rate or (LORA_RATE if args.lora else RATE),
    warmup=min(50, args.steps // 10),
    final=0.1,
  )
  # A short run that ends at a low rate gains little by an average.
  config["ema"] = 0.0
  config["data"] |= dict(
    frame_rate=music.frame_rate, text_tokens=256, valid_batches=2
  )
  config["log_every"] = max(1, args.steps // 25)
  config["eval_every"] = config["save_every"] = max(1, args.steps // 10)
  config["keep"] = 1
  return config


def make_stages(job: Job) -> list[jobs.Stage]:
  """The stages of the job, in order."""

  def stage(name, do, settings, output, **options):
    paths = [job.workdir / output]
    return jobs.Stage(name, lambda: do(job), settings, paths, **options)

  model = {"model": job.model, "codec": job.codec}
  return [
    stage("codec", work.write_codec, model, "codec"),
    stage("prepare", work.prepare, work.audio_settings(job), "data"),
    stage("tokenize", work.tokenize, {}, "tokens", resumes=True),
    stage("train", work.train, job.config, "run", resumes=True),
    stage("export", work.export, {}, "bundle"),
    stage("compare", work.compare, {}, "results.json"),
  ]
