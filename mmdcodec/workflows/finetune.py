"""The stages of `mmdcodec finetune`, for a music model of one language model.

    WORKDIR/codec                  the model's codec
    WORKDIR/data/{train,valid}     data sets of audio
    WORKDIR/tokens/{train,valid}   their codes
    WORKDIR/run                    training: checkpoints, metrics
    WORKDIR/bundle                 the new music model
    WORKDIR/results.json           bits per frame of held-out music

A stage is a function that takes the job and returns a description of its
result. `finetune_musiclm` has those for a MusicLM.
"""

import collections
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import mmdcodec
from mmdcodec import bundle, formatting, progress
from mmdcodec.audio import files
from mmdcodec.data import (
  audio_folder,
  captions,
  record_source,
  records,
  report,
  tokenization,
)
from mmdcodec.data.token_records import TokenSource
from mmdcodec.evaluate import likelihood
from mmdcodec.store import atomic, jobs
from mmdcodec.train import loop
from mmdcodec.workflows.finetune_job import FolderJob, Job

SPLITS = ("train", "valid")
# Records per batch: the codecs of music models need a lot of memory.
ENCODED = 4
# Maximum number of held-out records to compare the new model with the old on.
COMPARED = 32


def make_stages(job: Job) -> list[jobs.Stage]:
  """Makes the stages of the job, in order."""

  def stage(
    name: str,
    do: Callable[[Job], str],
    settings: Mapping[str, Any],
    output: str,
    **options: Any,
  ) -> jobs.Stage:
    paths = [job.workdir / output]
    return jobs.Stage(name, lambda: do(job), settings, paths, **options)

  model = {"model": job.model, "codec": job.codec}
  return [
    stage("codec", write_codec, model, "codec"),
    stage("prepare", prepare, audio_settings(job), "data"),
    stage("tokenize", tokenize, {}, "tokens", resumes=True),
    stage("train", train, job.config, "run", resumes=True),
    stage("export", export, {}, "bundle"),
    stage("compare", compare, {}, "results.json"),
  ]


def write_codec(job: Job) -> str:
  """Writes a bundle of the model's codec, which training needs separately."""
  codec = bundle.read_codec(job.model)
  bundle.save(job.workdir / "codec", *codec, force=True)
  return f"{job.rate} Hz, {job.seconds:g} s at a time, of {job.model}"


def audio_settings(job: FolderJob, *, captioned: bool = True) -> dict[str, Any]:
  """Returns what the records depend on: files, captions and length.

  Args:
    job: the job.
    captioned: whether captions matter.
  """
  paths = audio_folder.find(job.folder, job.workdir)
  beside = [each for path in paths for each in captions.sidecars(path)]
  if not captioned:
    beside = []
  read = paths + sorted({each for each in beside if each.is_file()})
  read += [job.captions] if job.captions else []
  return {
    "folder": str(job.folder),
    "captions": job.captions and str(job.captions),
    "files": audio_folder.fingerprint(read, job.folder),
    "seconds": job.record_seconds,
  }


def prepare(job: FolderJob, *, captioned: bool = True) -> str:
  """Splits the files and cuts them into records at the codec's rate.

  Args:
    job: the job.
    captioned: whether captions matter.
  """
  paths, broken = audio_folder.readable_files(
    audio_folder.find(job.folder, job.workdir)
  )
  split = audio_folder.split_files(paths, job.folder, test=False)
  reports = {}
  for name in SPLITS:
    if split[name]:
      reports[name] = records.prepare(
        job.folder,
        job.workdir / "data" / name,
        rate=job.rate,
        channels=job.channels,
        seconds=job.record_seconds,
        captions=job.captions,
        paths=split[name],
        force=True,
      )
  skipped = [each for made in reports.values() for each in made.skipped]
  for path, reason in skipped:
    jobs.note(f"left out: {path}: {reason}")
  for line in report.note_lines(reports.values()):
    jobs.note(line)
  used = sum(made.files for made in reports.values())
  with_caption = sum(made.captioned for made in reports.values())
  words = [
    f"{used} files,"
    f" {formatting.duration(reports['train'].seconds)} to train on",
    *([f"{with_caption} of {used} have a caption"] if captioned else []),
    *changes(paths, job),
    f"{reports['valid'].files} held out" if "valid" in reports
    else "none held out: too few files",
  ]  # fmt: skip
  left = broken + len(skipped)
  return "; ".join(words + ([f"{left} left out"] if left else []))


def changes(paths: Sequence[pathlib.Path], job: FolderJob) -> list[str]:
  """Describes how files are converted that differ from the codec."""
  infos = [files.info(path) for path in paths]
  rates = collections.Counter(info.rate for info in infos)
  rates.pop(job.rate, None)
  mixed = sum(info.channels != job.channels for info in infos)
  found = []
  if rates:
    of = ", ".join(f"{n} of {rate} Hz" for rate, n in sorted(rates.items()))
    found.append(f"resampled to {job.rate} Hz: {of}")
  if mixed:
    found.append(f"{mixed} mixed to {formatting.channels(job.channels)}")
  return found


def tokenize(job: Job) -> str:
  """Encodes the records."""
  codec = mmdcodec.load(job.workdir / "codec")
  frames = 0
  for name, data in datasets(job, "data").items():
    out = job.workdir / "tokens" / name
    if not (out / record_source.SUMMARY).exists():
      out.parent.mkdir(exist_ok=True)
      tokenization.tokenize(
        data,
        out,
        codec,
        batch=ENCODED,
        show=progress.counter(f"records ({name})"),
      )
    for line in report.folder_lines(out):
      jobs.note(line)
    frames += record_source.describe(out)["frames"]
  return f"{frames:,} frames of {codec.codebooks} codebooks"


def train(job: Job) -> str:
  """Trains the model further, resuming an interrupted run."""
  found = datasets(job, "tokens")
  # A mapping, because paths in text must not contain `,` and `=`.
  paths = {name: {str(path): 1.0} for name, path in found.items()}
  config = job.config | dict(
    init_from=job.model,
    codec=str(job.workdir / "codec"),
    data=job.config["data"] | paths,
  )
  loop.train(config, job.workdir / "run", log=jobs.note)
  return f"{job.config['steps']} steps"


def export(job: Job) -> str:
  """Exports the best checkpoint, with low-rank additions merged."""
  folder = job.workdir / "bundle"
  step = bundle.export(job.workdir / "run", folder, force=True)
  return f"step {step}, in {folder}"


def compare(job: Job) -> str:
  """Measures held-out music under the old and the new model."""
  found, path = {}, datasets(job, "tokens").get("valid")
  if path is not None:
    tokens = TokenSource(path)
    held_out = [tokens[i] for i in range(min(len(tokens), COMPARED))]
    for name, model in (
      ("before", job.model),
      ("after", job.workdir / "bundle"),
    ):
      found[name] = likelihood.measure(
        mmdcodec.load(model),
        [record["codes"] for record in held_out],
        [record["caption"] for record in held_out],
        seconds=job.seconds,
      ).bits_per_frame
  atomic.write_json(job.workdir / "results.json", {"bits_per_frame": found})
  if not found:
    return "nothing is held out to compare on"
  return (
    f"held-out music takes {found['after']:.3f} bits per frame,"
    f" {found['before']:.3f} before"
  )


def datasets(job: FolderJob, kind: str) -> dict[str, pathlib.Path]:
  """Returns data sets ("data" or "tokens") by split; valid may be missing."""
  found = {name: job.workdir / kind / name for name in SPLITS}
  return {name: path for name, path in found.items() if path.exists()}


def a_prompt(path: pathlib.Path) -> str:
  """Returns a caption of the music in a token data set as an example."""
  tokens = TokenSource(path)
  found = (tokens[i]["caption"] for i in range(len(tokens)))
  return next((caption for caption in found if caption.strip()), "")
