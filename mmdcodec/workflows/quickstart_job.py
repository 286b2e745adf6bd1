"""The settings of `mmdcodec quickstart`."""

import dataclasses
import os
import pathlib
import shlex
from typing import Any

from mmdcodec.configs import quickstart, quickstart_lm, small, small_music
from mmdcodec.errors import UserError
from mmdcodec.store import paths

# Number of built-in songs (train, valid, test), and their length in seconds.
SONGS, SONG_SECONDS = (320, 8, 8), 20.0
TINY_SONGS, TINY_SONG_SECONDS = (4, 2, 2), 3.0
SPLITS = ("train", "valid", "test")
CLIP_SECONDS, CLIPS = 5.0, 8
# Generated music, one piece for each prompt.
PIECES, PIECE_SECONDS = 4, 8.0
FOLDERS = (
  "music", "first", "data", "run", "preview", "bundle", "evaluation",
  "tokens", "lm", "music_bundle", "generated", "musiclm",
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Job:
  """Everything the stages depend on.

  Attributes:
    workdir: absolute path.
    audio: absolute path of the user's folder; None for built-in music.
    config: config of the codec's training as a dict, without paths.
    lm: config of the language model's training as a dict, without what depends
      on the codec (`quickstart_music.with_data`).
    songs: number of built-in songs (train, valid, test).
    song_seconds: length of a song.
    clips: maximum number of test clips.
    clip_seconds: length of a clip.
    pieces: maximum number of pieces to generate.
    piece_seconds: length of a piece.
    command: the command line.
  """

  workdir: pathlib.Path
  audio: pathlib.Path | None
  config: dict[str, Any]
  lm: dict[str, Any]
  songs: tuple[int, int, int]
  song_seconds: float
  clips: int
  clip_seconds: float
  pieces: int
  piece_seconds: float
  command: str

  @property
  def rate(self) -> int:
    """The codec's sample rate in Hz."""
    return self.config["model"]["rate"]

  @property
  def channels(self) -> int:
    """The codec's channels."""
    return self.config["model"]["channels"]


def make_job(
  workdir: str | os.PathLike,
  *,
  audio: str | os.PathLike | None = None,
  steps: int | None = None,
  tiny: bool = False,
  from_scratch: bool = False,
) -> Job:
  """Makes the job.

  Args:
    workdir: folder for everything.
    audio: folder of music to train on; None for built-in music.
    steps: training steps of each model; None for those of the configs.
    tiny: whether to use only seconds of music and few steps, from nothing.
    from_scratch: whether to train smaller models from nothing, and not the
      packaged ones further.

  Raises:
    UserError: `steps` is less than 1, or the folder is missing or would receive
      results.
  """
  if steps is not None and steps < 1:
    raise UserError(f"--steps is {steps}; it must be at least 1.")
  if tiny or from_scratch:
    size = "tiny" if tiny else ""
    config = quickstart.get_config(size).to_dict()
    lm = quickstart_lm.get_config(size).to_dict()
  else:
    config = small.get_config("further").to_dict()
    lm = small_music.get_config("further").to_dict()
  if steps is not None:
    config["steps"] = lm["steps"] = steps
    # A warm-up must be shorter than the run.
    for each in (config, lm):
      warmup = min(each["optimizer"]["warmup"], steps // 4)
      each["optimizer"]["warmup"] = warmup
    # The codec's codebooks too begin within the run.
    begin = min(config["quantizer_start"], steps // 8)
    config["quantizer_start"] = begin
  workdir = paths.on_disk(workdir, "the folder of a job")
  workdir = workdir.expanduser().resolve()
  folder = None
  if audio is not None:
    folder = paths.on_disk(audio, "the audio").expanduser().resolve()
    if not folder.is_dir():
      raise UserError(f"--audio {audio}: no such folder.")
    ours = [workdir / name for name in FOLDERS]
    if folder == workdir or any(folder.is_relative_to(each) for each in ours):
      raise UserError(
        f"--audio {audio} is where the results go; give another --workdir."
      )
  command = ["mmdcodec", "quickstart", "--workdir", str(workdir)]
  command += ["--audio", str(folder)] if folder else []
  command += ["--steps", str(steps)] if steps is not None else []
  command += ["--tiny"] if tiny else []
  command += ["--from-scratch"] if from_scratch else []
  return Job(
    workdir=workdir,
    audio=folder,
    config=config,
    lm=lm,
    songs=TINY_SONGS if tiny else SONGS,
    song_seconds=TINY_SONG_SECONDS if tiny else SONG_SECONDS,
    clips=2 if tiny else CLIPS,
    clip_seconds=1.0 if tiny else CLIP_SECONDS,
    pieces=2 if tiny else PIECES,
    piece_seconds=1.0 if tiny else PIECE_SECONDS,
    command=shlex.join(command),
  )
