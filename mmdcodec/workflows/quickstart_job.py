"""What `mmdcodec quickstart` is asked to do."""

import dataclasses
import os
import pathlib
import shlex
from typing import Any

from mmdcodec.configs import quickstart, quickstart_lm
from mmdcodec.errors import UserError

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


@dataclasses.dataclass(frozen=True)
class Job:
  """Everything the stages depend on.

  Attributes:
    workdir: absolute.
    audio: the user's folder, absolute; None for built-in music.
    config: plain dict of the codec's training, without paths.
    lm: plain dict of the language model's training, without what depends on
      the codec (`quickstart_music.with_data`).
    songs: built-in songs (train, valid, test).
    song_seconds: of each.
    clips: test clips that are evaluated, at most.
    clip_seconds: of each.
    pieces: pieces of music that are generated, at most.
    piece_seconds: of each.
    command: what was typed.
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
    """Hz, of the codec."""
    return self.config["model"]["rate"]

  @property
  def channels(self) -> int:
    """Of the codec."""
    return self.config["model"]["channels"]


def make_job(
  workdir: str | os.PathLike,
  *,
  audio: str | os.PathLike | None = None,
  steps: int | None = None,
  tiny: bool = False,
) -> Job:
  """Decides what the job does.

  Args:
    workdir: everything goes here.
    audio: folder of music to train on; None for built-in music.
    steps: training steps of either model; None for those of the configs.
    tiny: seconds of music and few steps.

  Raises:
    UserError: no steps, no such folder, or results would go into it.
  """
  if steps is not None and steps < 1:
    raise UserError(f"--steps is {steps}; it must be at least 1.")
  size = "tiny" if tiny else ""
  config = quickstart.get_config(size).to_dict()
  lm = quickstart_lm.get_config(size).to_dict()
  if steps is not None:
    config["steps"] = lm["steps"] = steps
    # A warm-up is shorter than the run.
    for each in (config, lm):
      warmup = min(each["optimizer"]["warmup"], steps - 1)
      each["optimizer"]["warmup"] = warmup
  workdir = pathlib.Path(workdir).expanduser().resolve()
  folder = None
  if audio is not None:
    folder = pathlib.Path(audio).expanduser().resolve()
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
