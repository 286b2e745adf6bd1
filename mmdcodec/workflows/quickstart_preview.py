"""The first reconstruction that can be heard while the codec still trains.

WORKDIR/preview/original.flac         a clip of held-out music
WORKDIR/preview/reconstruction.flac   what the codec makes of it
WORKDIR/preview/preview.json          {"clip", "step"}
"""

import pathlib
from collections.abc import Callable
from typing import Any

from mmdcodec.audio import files
from mmdcodec.evaluate import clips as clips_lib
from mmdcodec.evaluate import reconstruction_report as sections
from mmdcodec.evaluate import report
from mmdcodec.store import atomic, inputs, jobs
from mmdcodec.tokenizers.loaded_codec import LoadedCodec
from mmdcodec.workflows.quickstart_job import Job

FOLDER = "preview"
_ABOUT = "preview.json"
_NAMES = ("original", "reconstruction")


def write(job: Job, step: int, variables: Any) -> None:
  """Writes WORKDIR/preview and says where it is, at the first evaluation.

  Args:
    job: the job.
    step: steps done.
    variables: the codec's after these steps.
  """
  folder = job.workdir / FOLDER
  if (folder / _ABOUT).exists():
    return
  clip = test_clips(job, log=lambda line: None)[0]
  codec = LoadedCodec({"model": job.config["model"]}, variables)
  audio = clip.audio, codec.decode(codec.encode(clip.audio))[0]
  for name, x in zip(_NAMES, audio, strict=True):
    files.write(folder / f"{name}.flac", x[: len(clip.audio)], rate=job.rate)
  # Last, so that it vouches for the others.
  atomic.write_json(folder / _ABOUT, {"clip": clip.name, "step": step})
  jobs.note(
    f"listen: {folder / 'reconstruction.flac'} is held-out music after"
    f" {step} of {job.config['steps']} steps, original.flac beside it what it"
    " should be"
  )


def section(workdir: pathlib.Path) -> list[report.Players]:
  """Shows the preview on the page, if there is one."""
  folder = workdir / FOLDER
  if not (folder / _ABOUT).exists():
    return []
  about = inputs.read_object(folder / _ABOUT)
  found = {name: files.read(folder / f"{name}.flac") for name in _NAMES}
  rate = found["original"][1]
  audio = {name: x for name, (x, _) in found.items()}
  row = sections.compared(about["clip"], audio, rate)
  return [report.Players(f"The codec after {about['step']} steps", [row])]


def test_clips(job: Job, log: Callable[[str], None]) -> list[clips_lib.Clip]:
  """Cuts clips from the held-out music, the same ones each time.

  Args:
    job: the job.
    log: called with a line for each file that cannot be read.
  """
  return clips_lib.collect(
    job.workdir / "music" / "test",
    rate=job.rate,
    channels=job.channels,
    seconds=job.clip_seconds,
    count=job.clips,
    log=log,
  )
