"""The settings of `mmdcodec finetune` and the config of its training."""

import dataclasses
import os
import pathlib
import warnings
from typing import Any

import jax

from mmdcodec.configs import common
from mmdcodec.errors import Notice, UserError
from mmdcodec.generation.musicgen import LoadedMusic
from mmdcodec.generation.stage import Stage
from mmdcodec.parallel import mesh
from mmdcodec.store import paths

# Low-rank additions start at 0 and need larger steps.
LEARNING_RATE, LORA_LEARNING_RATE = 3e-5, 3e-4
# Minimum length of a record: a crop is taken from one record.
RECORD_SECONDS = 20.0


@dataclasses.dataclass(frozen=True)
class Options:
  """How to train.

  Attributes:
    lora: rank of the low-rank additions that are trained alone; 0 for the
      whole model.
    steps: training steps.
    learning_rate: None for `LEARNING_RATE` or `LORA_LEARNING_RATE`.
    batch: clips in a step, over all devices; None for 8, or one per device.
    seconds: length of a clip; None for the model's length, the maximum.
  """

  lora: int = 0
  steps: int = 500
  learning_rate: float | None = None
  batch: int | None = None
  seconds: float | None = None


@dataclasses.dataclass(frozen=True)
class FolderJob:
  """What the first stages depend on, for a music model of any kind.

  Attributes:
    folder: folder of audio.
    workdir: absolute path.
    captions: table of captions, or None.
    model: path of the music model.
    rate: sample rate of its codec in Hz.
    channels: channels of its codec.
    seconds: length of the longest clips.
  """

  folder: pathlib.Path
  workdir: pathlib.Path
  captions: pathlib.Path | None
  model: str
  rate: int
  channels: int
  seconds: float

  @property
  def record_seconds(self) -> float:
    """The length of a record: at least that of a clip."""
    return max(RECORD_SECONDS, self.seconds)


@dataclasses.dataclass(frozen=True)
class Job(FolderJob):
  """Everything the stages depend on.

  Attributes:
    codec: hash of the model's codec.
    config: config of the training run as a dict, without data.
  """

  codec: str
  config: dict[str, Any]


def make_job(
  folder: str | os.PathLike,
  workdir: str | os.PathLike,
  *,
  model: str,
  music: LoadedMusic,
  options: Options,
  captions: pathlib.Path | None = None,
) -> Job:
  """Makes the job.

  Args:
    folder: folder of audio files, at any depth.
    workdir: folder for everything.
    model: path of the music model, or an id on the Hub.
    music: the model itself.
    options: how to train.
    captions: table of captions.

  Raises:
    UserError: an option is invalid.
  """
  config = make_config(options, music)
  seconds = config["model"]["frames"] / music.frame_rate
  # Of a MusicLM, each stage has clips of its own length.
  if options.seconds is not None and options.seconds > seconds + 0.5:
    warnings.warn(
      Notice(
        f"clips have {seconds:g} s, the most that this model takes, not"
        f" {options.seconds:g}."
      ),
      stacklevel=2,
    )
  return Job(
    **common_fields(folder, workdir, model, music),
    captions=captions,
    codec=music.codec.hash,
    config=config,
    seconds=seconds,
  )


def common_fields(
  folder: str | os.PathLike, workdir: str | os.PathLike, model: str, music: Any
) -> dict[str, Any]:
  """Returns fields of a `FolderJob`; for the arguments see `make_job`.

  Raises:
    UserError: the model is inside the workdir.
  """
  # An id on the Hub is not a path.
  local = paths.of(model).expanduser()
  place = paths.on_disk(workdir, "the folder of a job").expanduser().resolve()
  if local.exists() and local.resolve().is_relative_to(place):
    raise UserError(
      f"--model is {model}, which is inside the workdir {workdir}, whose files"
      " this command may replace; give another workdir."
    )
  return dict(
    folder=paths.on_disk(folder, "the audio").expanduser().resolve(),
    workdir=place,
    model=str(local.resolve()) if local.exists() else model,
    rate=music.rate,
    channels=music.channels,
  )


def make_config(
  options: Options,
  music: LoadedMusic | Stage,
  frames: int | None = None,
  frame_rate: float | None = None,
) -> dict[str, Any]:
  """Makes the config of the training run, without paths.

  Args:
    options: how to train.
    music: the model to start from.
    frames: length of its clips, if it is not that of the model's frames.
    frame_rate: frames per second of the clips, if they are not the model's.

  Raises:
    UserError: the batch does not divide over the devices.
  """
  config = common.lm_config("small").to_dict()
  frames = frames or music.model.frames
  frame_rate = frame_rate or music.frame_rate
  if options.seconds is not None:
    frames = min(frames, max(1, round(options.seconds * frame_rate)))
  # Keeps matrix products and recomputes the rest: little extra work saves the
  # memory that long clips would need.
  config["model"] = music.config["model"] | dict(frames=frames, remat="dots")
  devices = jax.device_count()
  config["batch"] = options.batch or -(-8 // devices) * devices
  mesh.check_batch(
    config["batch"],
    mesh.make_mesh(config["mesh"]),
    config.get("accumulate", 1),
  )
  config["steps"] = options.steps
  config["lora"]["rank"] = options.lora
  config["freeze"] = "|".join(
    each.pretrained for each in music.conditions if each.pretrained
  )
  default = LORA_LEARNING_RATE if options.lora else LEARNING_RATE
  config["optimizer"] |= dict(
    learning_rate=options.learning_rate or default,
    warmup=min(50, options.steps // 10),
    final=0.1,
  )
  # A short run that ends at a low learning rate gains little from averaging.
  config["ema"] = 0.0
  config["data"] |= dict(
    frame_rate=frame_rate, text_tokens=256, valid_batches=2
  )
  config["log_every"] = max(1, options.steps // 25)
  config["eval_every"] = config["save_every"] = max(1, options.steps // 10)
  config["keep"] = 1
  return config
