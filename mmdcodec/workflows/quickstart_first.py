"""What `mmdcodec quickstart` lets you hear in its first minute.

WORKDIR/first/original.flac         a built-in song that no model learned from
WORKDIR/first/reconstruction.flac   what the packaged codec makes of it
WORKDIR/first/music.flac            new music for PROMPT
WORKDIR/first/first.json            {"kbps", "prompt"}
"""

import math
import pathlib

import numpy as np

from mmdcodec import bundle, packaged
from mmdcodec.audio import files, synth
from mmdcodec.evaluate import reconstruction_report as sections
from mmdcodec.evaluate import report
from mmdcodec.store import atomic, inputs, jobs
from mmdcodec.workflows.quickstart_job import Job

MODEL, MUSIC = "small", "small_music"
PROMPT = "fast tune led by bell tones, bass and drums"
# Seed of the song, used nowhere else.
SEED = 2_000_001
FOLDER, _ABOUT = "first", "first.json"
# Earlier versions made no music.
OUTPUTS = (FOLDER, f"{FOLDER}/music.flac")
_TITLES = ("original", "reconstruction")


def make(job: Job) -> str:
  """Writes WORKDIR/first and says where it is."""
  # Not folders of these names here.
  codec = bundle.load_codec(packaged.FOLDER / MODEL)
  folder = job.workdir / FOLDER
  folder.mkdir()
  seconds = job.piece_seconds
  x = synth.render(SEED, seconds=seconds, rate=codec.rate).audio
  x = np.asarray(x, np.float32).reshape(1, len(x), -1)
  codes = codec.encode(x)
  y = codec.decode(codes, length=x.shape[1])
  for name, each in zip(_TITLES, (x, y), strict=True):
    files.write(folder / f"{name}.flac", each[0], rate=codec.rate)
  bits = codes.shape[2] * math.log2(codec.codebook_size)
  kbps = bits * codec.frame_rate / 1000
  jobs.note(
    f"listen: {folder / 'reconstruction.flac'} is a song at {kbps:.1f} kbps by"
    " the codec that ships with the package, original.flac, beside it, is the"
    " song itself"
  )
  music = bundle.load(packaged.FOLDER / MUSIC)
  piece = music.generate(PROMPT, seconds=seconds)[0]
  files.write(folder / "music.flac", piece, rate=music.rate)
  jobs.note(
    f"listen: {folder / 'music.flac'} is new music for the prompt {PROMPT!r},"
    " by the language model that ships with the package"
  )
  atomic.write_json(folder / _ABOUT, {"kbps": kbps, "prompt": PROMPT})
  return f"the packaged models {MODEL!r} and {MUSIC!r}, in {folder}"


def section(workdir: pathlib.Path) -> list[report.Players]:
  """Shows it on the page, if it is there."""
  folder = workdir / FOLDER
  if not (folder / _ABOUT).exists():
    return []
  about = inputs.read_object(folder / _ABOUT)
  found = {name: files.read(folder / f"{name}.flac") for name in _TITLES}
  audio, rate = {k: x for k, (x, _) in found.items()}, found["original"][1]
  song = sections.compared(f"a song, {about['kbps']:.1f} kbps", audio, rate)
  piece, rate = files.read(folder / "music.flac")
  made = sections.compared(about["prompt"], {"generated": piece}, rate)
  return [
    report.Players(
      "The models that ship with the package",
      [song, made],
      f"{MODEL!r} and {MUSIC!r}, trained before, on other music.",
    )
  ]
