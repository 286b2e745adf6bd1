"""What `mmdcodec quickstart` lets you hear in its first minute.

WORKDIR/first/original.flac         held-out music
WORKDIR/first/reconstruction.flac   what the packaged codec makes of it
WORKDIR/first/first.json            {"clip", "kbps"}
"""

import math
import pathlib

from mmdcodec import bundle, packaged
from mmdcodec.audio import files
from mmdcodec.evaluate import reconstruction_report as sections
from mmdcodec.evaluate import report
from mmdcodec.store import atomic, inputs
from mmdcodec.workflows import quickstart_preview
from mmdcodec.workflows.quickstart_job import Job

MODEL = "small"
FOLDER, _ABOUT = "first", "first.json"
_TITLES = ("original", "reconstruction")


def make(job: Job) -> str:
  """Writes WORKDIR/first and says where it is."""
  # Not a folder of that name here.
  codec = bundle.load_codec(packaged.FOLDER / MODEL)
  folder = job.workdir / FOLDER
  folder.mkdir()
  clip = quickstart_preview.test_clips(job, log=lambda line: None)[0]
  x = files.resample(clip.audio, rate=job.rate, to=codec.rate)
  codes = codec.encode(x[None])
  y = codec.decode(codes, length=len(x))[0]
  for name, each in zip(_TITLES, (x, y), strict=True):
    files.write(folder / f"{name}.flac", each, rate=codec.rate)
  bits = codes.shape[2] * math.log2(codec.codebook_size)
  kbps = bits * codec.frame_rate / 1000
  print(
    f"  listen: {folder / 'reconstruction.flac'} is held-out music at"
    f" {kbps:.1f} kbps by the codec that ships with the package, original.flac"
    " beside it what it was",
    flush=True,
  )
  atomic.write_json(folder / _ABOUT, {"clip": clip.name, "kbps": kbps})
  return f"the packaged codec {MODEL!r}, in {folder}"


def section(workdir: pathlib.Path) -> list[report.Players]:
  """Shows it on the page, if it is there."""
  folder = workdir / FOLDER
  if not (folder / _ABOUT).exists():
    return []
  about = inputs.read_object(folder / _ABOUT)
  found = {name: files.read(folder / f"{name}.flac") for name in _TITLES}
  audio, rate = {k: x for k, (x, _) in found.items()}, found["original"][1]
  row = sections.compared(about["clip"], audio, rate)
  words = f"{MODEL!r}, {about['kbps']:.1f} kbps, trained before."
  return [report.Players("The codec that ships with the package", [row], words)]
