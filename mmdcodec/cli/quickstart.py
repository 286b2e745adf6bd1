"""`mmdcodec quickstart`: from music to a codec, to new music and a report.

Renders built-in music (or takes a folder), prepares it, trains a small codec
with independent codebooks, exports it, reconstructs music that it has not seen,
compares that with the same codec untrained; then trains a language model over
its codes and makes music from prompts (`quickstart_music.py`), and writes a
page to look at and listen to. The same command again continues where the last
one was interrupted.

    WORKDIR/music/{train,valid,test}   audio files, by their use
    WORKDIR/data/{train,valid}         data sets of records
    WORKDIR/run                        training: checkpoints, metrics
    WORKDIR/bundle                     the trained codec
    WORKDIR/evaluation                 measures, audio and plots
    WORKDIR/report.html
"""

import dataclasses
import functools
import json
import os
import pathlib
import shlex
import shutil

from mmdcodec import formatting
from mmdcodec.cli import quickstart_music as music
from mmdcodec.data.audio_folder import fingerprint, readable, split_files
from mmdcodec.errors import UserError
from mmdcodec.store import jobs

HELP = "train a codec and a music model on built-in or your own music"
EXAMPLE = "mmdcodec quickstart --workdir quickstart --audio ~/Music"

# Songs of built-in music: (train, valid, test), and seconds of each.
SONGS, SONG_SECONDS = (96, 8, 8), 20.0
TINY_SONGS, TINY_SONG_SECONDS = (4, 2, 2), 3.0
SPLITS = ("train", "valid", "test")
CLIP_SECONDS, CLIPS = 5.0, 8
# Music that is made, one piece for each prompt.
PIECES, PIECE_SECONDS = 4, 8.0
FOLDERS = (
  "music", "data", "run", "bundle", "evaluation",
  "tokens", "lm", "music_bundle", "generated",
)  # fmt: skip


def add_arguments(parser):
  """Adds the verb's arguments."""
  parser.add_argument(
    "--workdir",
    default="mmdcodec-quickstart",
    metavar="DIR",
    help="everything goes here (default: %(default)s)",
  )
  parser.add_argument(
    "--audio",
    metavar="FOLDER",
    help="train on this music instead; some of its files are held out",
  )
  parser.add_argument(
    "--steps",
    type=int,
    metavar="N",
    help="training steps of either model; more is better",
  )
  parser.add_argument(
    "--tiny",
    action="store_true",
    help="seconds of music, few steps: only shows that everything runs",
  )
  parser.add_argument(
    "--force",
    action="store_true",
    help="do over what was made with other settings",
  )


def run(args):
  """Runs the job; 75 if it was asked to stop and can be continued."""
  if args.steps is not None and args.steps < 1:
    raise UserError(f"--steps is {args.steps}; it must be at least 1.")
  from mmdcodec.train import preemption

  job = make_job(args)
  try:
    seconds = jobs.run_stages(job.workdir, make_stages(job), force=args.force)
  except preemption.Preempted:
    return preemption.EXIT_CODE
  from mmdcodec.cli import reports

  print(
    f"\n{reports.quickstart_text(job)}\n\n"
    f"all done in {formatting.duration(seconds)} of work.\n"
    f"report: {job.workdir / 'report.html'}\n"
    "try: mmdcodec encode YOUR.mp3 your.mmdc --model"
    f" {shlex.quote(str(job.workdir / 'bundle'))}\n"
    'and: mmdcodec generate "a fast tune with drums" tune.wav --model'
    f" {shlex.quote(str(job.workdir / 'music_bundle'))}",
    flush=True,
  )


@dataclasses.dataclass(frozen=True)
class Job:
  """What every stage needs to know.

  Attributes:
    workdir: absolute.
    audio: the user's folder, absolute; None for built-in music.
    config: plain dict of the codec's training, without paths.
    lm: plain dict of the language model's training, without what the codec
      says (`quickstart_music.with_data`).
    songs: built-in songs (train, valid, test).
    song_seconds: of each.
    clips: at most so many test clips are evaluated.
    clip_seconds: of each.
    pieces: at most so many are generated.
    piece_seconds: of each.
    command: what was typed.
  """

  workdir: pathlib.Path
  audio: pathlib.Path | None
  config: dict
  lm: dict
  songs: tuple[int, int, int]
  song_seconds: float
  clips: int
  clip_seconds: float
  pieces: int
  piece_seconds: float
  command: str

  @property
  def rate(self) -> int:
    """Hz, of the codec."""
    return self.config["model"]["rate"]

  @property
  def channels(self) -> int:
    """Of the codec."""
    return self.config["model"]["channels"]


def make_job(args) -> Job:
  """The job that the command line asks for."""
  from mmdcodec.configs import quickstart, quickstart_lm

  size = "tiny" if args.tiny else ""
  config = quickstart.get_config(size).to_dict()
  lm = quickstart_lm.get_config(size).to_dict()
  if args.steps is not None:
    config["steps"] = lm["steps"] = args.steps
    # A warm-up is shorter than the run.
    for each in (config, lm):
      warmup = min(each["optimizer"]["warmup"], args.steps - 1)
      each["optimizer"]["warmup"] = warmup
  workdir = pathlib.Path(args.workdir).expanduser().resolve()
  audio = None
  if args.audio is not None:
    audio = pathlib.Path(args.audio).expanduser().resolve()
    if not audio.is_dir():
      raise UserError(f"--audio {args.audio}: no such folder.")
    ours = [workdir / name for name in FOLDERS]
    if audio == workdir or any(audio.is_relative_to(each) for each in ours):
      raise UserError(
        f"--audio {args.audio} is where the results go; give another --workdir."
      )
  command = ["mmdcodec", "quickstart", "--workdir", str(workdir)]
  command += ["--audio", str(audio)] if audio else []
  command += ["--steps", str(args.steps)] if args.steps is not None else []
  command += ["--tiny"] if args.tiny else []
  return Job(
    workdir=workdir,
    audio=audio,
    config=config,
    lm=lm,
    songs=TINY_SONGS if args.tiny else SONGS,
    song_seconds=TINY_SONG_SECONDS if args.tiny else SONG_SECONDS,
    clips=2 if args.tiny else CLIPS,
    clip_seconds=1.0 if args.tiny else CLIP_SECONDS,
    pieces=2 if args.tiny else PIECES,
    piece_seconds=1.0 if args.tiny else PIECE_SECONDS,
    command=shlex.join(command),
  )


def make_stages(job: Job) -> list[jobs.Stage]:
  """The stages of the job, in order."""
  folder = job.workdir
  sound = {"rate": job.rate, "channels": job.channels}
  clips = {"clips": job.clips, "seconds": job.clip_seconds}
  pieces = {"pieces": job.pieces, "seconds": job.piece_seconds}

  def stage(name, work, settings, outputs, **options):
    paths = [folder / output for output in outputs]
    return jobs.Stage(name, lambda: work(job), settings, paths, **options)

  return [
    stage("music", make_music, music_settings(job), ["music"], resumes=True),
    stage("prepare", prepare, sound, ["data"]),
    stage("train", train, job.config, ["run"], resumes=True),
    stage("export", export, {}, ["bundle"]),
    stage("evaluate", evaluate, clips, ["evaluation"]),
    stage("tokenize", music.tokenize, {}, ["tokens"]),
    stage("train lm", music.train, job.lm, ["lm"], resumes=True),
    stage("export lm", music.export, {}, ["music_bundle"]),
    stage("generate", music.generate, pieces, ["generated"]),
    stage("report", report, {}, ["report.html"]),
  ]


# -------------------------------------------------------------------- stages


def music_settings(job: Job) -> dict:
  """What the music depends on; of a folder, its files with size and date."""
  if job.audio is None:
    return {
      "songs": job.songs,
      "seconds": job.song_seconds,
      "rate": job.rate,
    }
  files = fingerprint(_audio_files(job), job.audio)
  return {"folder": str(job.audio), "files": files}


def make_music(job: Job) -> str:
  """Fills WORKDIR/music/{train,valid,test}."""
  if job.audio is not None:
    return link_music(job)
  from mmdcodec.audio import synth
  from mmdcodec.cli import common

  for index, split in enumerate(SPLITS):
    folder = job.workdir / "music" / split
    folder.mkdir(parents=True, exist_ok=True)
    synth.write_songs(
      folder,
      songs=job.songs[index],
      seconds=job.song_seconds,
      rate=job.rate,
      seed=index,
      # Processes take longer to start than a few songs take to render.
      workers=None if job.songs[index] > 8 else 1,
      progress=common.progress_line(f"songs ({split})"),
    )
  total = formatting.duration(sum(job.songs) * job.song_seconds)
  train, valid, test = job.songs
  return (
    f"rendered {sum(job.songs)} songs, {total}: {train} to train on, {valid}"
    f" to watch the training, {test} held out"
  )


def link_music(job: Job) -> str:
  """Links the files of the user's folder, with captions beside them."""
  paths, broken = readable(_audio_files(job))
  split = split_files(paths, job.audio)
  for name, paths in split.items():
    for path in paths:
      # As `data.captions.sidecar` looks for them.
      sidecars = [path.with_suffix(suffix) for suffix in (".json", ".txt")]
      sidecars += [pathlib.Path(f"{path}{s}") for s in (".json", ".txt")]
      for source in (path, *(s for s in sidecars if s.is_file())):
        relative = os.path.relpath(source, job.audio)
        target = job.workdir / "music" / name / relative
        target.parent.mkdir(parents=True, exist_ok=True)
        target.unlink(missing_ok=True)
        try:
          target.symlink_to(source.resolve())
        except OSError:
          # Some file systems and Windows know no links.
          shutil.copy(source, target)
  counts = {name: len(paths) for name, paths in split.items()}
  return (
    f"{sum(counts.values())} files of {job.audio}: {counts['train']} to train"
    f" on, {counts['valid']} to watch the training, {counts['test']} held out"
    + (f"; {broken} left out that can't be read" if broken else "")
  )


def prepare(job: Job) -> str:
  """Cuts the music for training into records."""
  from mmdcodec.data import records

  found = {}
  for split in ("train", "valid"):
    found[split] = records.prepare(
      job.workdir / "music" / split,
      job.workdir / "data" / split,
      rate=job.rate,
      channels=job.channels,
      # Built-in music takes a second.
      progress=job.audio is not None,
      force=True,
    )
  skipped = sum(len(each.skipped) for each in found.values())
  duration = formatting.duration(found["train"].seconds)
  line = f"{found['train'].records} records, {duration}, to train on"
  return line + (f"; {skipped} files skipped" if skipped else "")


def train(job: Job) -> str:
  """Trains the codec, from where an interrupted run ended."""
  from mmdcodec.train import loop

  loop.train(
    _with_data(job),
    job.workdir / "run",
    log=lambda line: print("  " + line, flush=True),
  )
  return f"{job.config['steps']} steps"


def export(job: Job) -> str:
  """Makes the bundle of the best checkpoint."""
  from mmdcodec import bundle

  folder = job.workdir / "bundle"
  step = bundle.export(job.workdir / "run", folder, force=True)
  return f"step {step}, in {folder}"


def evaluate(job: Job) -> str:
  """Measures the codec, trained and untrained, on the held-out music."""
  import mmdcodec
  from mmdcodec.evaluate import clips as clips_lib

  trained = mmdcodec.load(job.workdir / "bundle")
  clips = clips_lib.collect(
    job.workdir / "music" / "test",
    rate=job.rate,
    channels=job.channels,
    seconds=job.clip_seconds,
    count=job.clips,
    log=functools.partial(print, flush=True),
  )
  folder = job.workdir / "evaluation"
  found = {}
  for name, codec in (("trained", trained), ("untrained", untrained(job))):
    about = {
      "model": str(job.workdir / "bundle") if name == "trained" else name,
      "audio": str(job.workdir / "music" / "test"),
      "seconds": job.clip_seconds,
      "clips": job.clips,
    }
    found[name] = clips_lib.reconstruct(codec, clips, about=about)
    clips_lib.save(found[name], folder / name)
  a, b = (found[name].summary["si_sdr"][0] for name in found)
  return (
    f"SI-SDR {a:.1f} dB on {len(clips)} held-out clips (untrained: {b:.1f} dB)"
  )


def report(job: Job) -> str:
  """Writes the page."""
  from mmdcodec.cli import reports

  path = reports.write_quickstart(job)
  return f"{path.stat().st_size / 1e6:.1f} MB"


# ------------------------------------------------------------------- helpers


def untrained(job: Job):
  """The codec at step 0: random weights, codebooks of k-means on real latents.

  With codebooks fitted to what the random encoder gives, it is the strongest
  codec that needs no training.

  Returns:
    A `LoadedCodec`.
  """
  import jax

  from mmdcodec.data import pipeline
  from mmdcodec.tokenizers.loaded_codec import LoadedCodec
  from mmdcodec.train.task import make_task

  task = make_task(job.config)
  key = jax.random.key(job.config["seed"])
  variables = jax.jit(task.init)(key)
  (batch,) = pipeline.fixed_batches(
    job.workdir / "data" / "train",
    batch=job.config["batch"],
    seconds=job.config["data"]["seconds"],
    rate=job.rate,
    channels=job.channels,
    count=1,
  )

  def start(variables, x, lengths, key):
    """The codebooks after a training call, whose first one is k-means."""
    return task.codec.apply(
      variables,
      x,
      lengths,
      train=True,
      rngs={"quantize": key},
      mutable=["codebook"],
    )[1]

  started = jax.jit(start)(variables, batch["audio"], batch["lengths"], key)
  config = {"kind": job.config["task"], "model": job.config["model"]}
  return LoadedCodec(config, {**variables, **started})


def _with_data(job: Job) -> dict:
  config = json.loads(json.dumps(job.config))
  for split in ("train", "valid"):
    # Not as text, in which `,` and `=` would have a meaning.
    config["data"][split] = {str(job.workdir / "data" / split): 1.0}
  return config


def _audio_files(job: Job) -> list[pathlib.Path]:
  """The user's files, without what this job put below them."""
  from mmdcodec.audio import files

  paths = files.find(job.audio)
  if job.workdir.is_relative_to(job.audio):
    paths = [path for path in paths if not path.is_relative_to(job.workdir)]
  return paths
