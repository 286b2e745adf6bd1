"""The stages of `mmdcodec finetune` for a MusicLM.

    WORKDIR/parts/{codec,semantic,joint,melody}   the model's tokenizers,
    WORKDIR/parts/{semantic,coarse,fine}_lm       and its stages
    WORKDIR/data/{train,valid}                    data sets of audio
    WORKDIR/tokens/{train,valid}                  tokens of all tokenizers
    WORKDIR/{semantic,coarse,fine}_run            training of the stages
    WORKDIR/bundle                                the new model
    WORKDIR/results.json                          bits of held-out music

The tokenizers stay as they are. No captions are needed: joint tokens of the
music take the place of its text in training (Agostinelli et al. 2023, arXiv
2301.11325, 3.3).
"""

import copy
import dataclasses
import functools
import math
import os
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from mmdcodec import bundle
from mmdcodec.configs import common
from mmdcodec.errors import UserError
from mmdcodec.evaluate import stage_likelihood, token_sets
from mmdcodec.generation.musiclm import LoadedMusicLM
from mmdcodec.generation.musiclm_parts import KINDS, STAGES
from mmdcodec.generation.stage import Stage
from mmdcodec.store import atomic, jobs
from mmdcodec.tokenizers.loaded_codec import fingerprint
from mmdcodec.workflows import assemble as assemble_lib
from mmdcodec.workflows import finetune, stage_training
from mmdcodec.workflows.finetune_job import (
  FolderJob,
  Options,
  common_fields,
  make_config,
)


@dataclasses.dataclass(frozen=True)
class MusicLMJob(FolderJob):
  """Everything the stages depend on.

  Attributes:
    tokenizers: hashes of the model's tokenizers by their key.
    weights: hashes of its stages, by part.
    configs: config of each stage's training as a dict, without data, by the
      name of the stage; from the top.
  """

  tokenizers: dict[str, str]
  weights: dict[str, str]
  configs: dict[str, dict[str, Any]]


def make_job(
  folder: str | os.PathLike,
  workdir: str | os.PathLike,
  *,
  model: str,
  music: LoadedMusicLM,
  options: Options,
  captions: pathlib.Path | None = None,
) -> MusicLMJob:
  """Makes the job.

  Args:
    folder: folder of audio files, at any depth.
    workdir: folder for everything.
    model: path of the MusicLM.
    music: the model itself.
    options: how to train each stage. Clips of a stage have `seconds`, or their
      own length if that is shorter.
    captions: must be None.

  Raises:
    UserError: an option is invalid.
  """
  if captions is not None:
    raise UserError(
      f"--captions is {captions}, but {model} is a MusicLM, whose stages learn"
      " from the audio alone; leave it out."
    )
  stages = music.parts.stages
  lengths = {name: stage.seconds for name, stage in stages.items()}
  if (asked := options.seconds) and asked > max(lengths.values()):
    own = ", ".join(f"{name} {s:g} s" for name, s in lengths.items())
    raise UserError(
      f"--seconds is {asked:g}, which is longer than the clips of every stage"
      f" ({own}); give less, or leave it out."
    )
  configs = {
    name: stage_config(options, name, stage) for name, stage in stages.items()
  }
  found = {key: getattr(music.parts, key) for key in KINDS}
  return MusicLMJob(
    **common_fields(folder, workdir, model, music),
    captions=None,
    seconds=max(
      config["model"]["frames"] / config["data"]["frame_rate"]
      for config in configs.values()
    ),
    tokenizers={
      key: each.hash for key, each in found.items() if each is not None
    },
    weights={
      f"{name}_lm": fingerprint(
        music.config["parts"][f"{name}_lm"], stage.variables
      )
      for name, stage in stages.items()
    },
    configs=configs,
  )


def stage_config(options: Options, name: str, stage: Stage) -> dict[str, Any]:
  """Makes the config of a stage's training, without paths.

  Args:
    options: how to train.
    name: name of the stage.
    stage: the stage to start from.

  Raises:
    UserError: the batch does not divide over the devices.
  """
  # Those of the tokenizer: a stage without repeats makes fewer.
  frames, rate = token_sets.crop_frames(stage), stage.target["frame_rate"]
  config = copy.deepcopy(make_config(options, stage, frames, rate))
  kept = config["model"]["frames"] / frames
  for fields in config["model"]["conditions"].values():
    # Tokens in time are of the same clip; others describe the whole piece.
    if fields.get("frame_rate"):
      fields["frames"] = max(1, math.ceil(fields.get("frames", 1) * kept))
  # How often conditions are dropped stays as it was, and what guidance means.
  trained = stage.config.get("training", {}).get("config", {})
  usual = common.stage_config(name, "small").to_dict()
  for key in (
    "condition_dropout",
    *(f"{c.name}_dropout" for c in stage.conditions),
  ):
    config[key] = trained.get(key, usual.get(key, config.get(key, 0.0)))
  return config


def make_stages(job: MusicLMJob) -> list[jobs.Stage]:
  """Makes the stages of the job, in order."""
  found = []

  def stage(
    name: str,
    do: Callable[[MusicLMJob], str],
    settings: Mapping[str, Any],
    output: str,
    needs: Sequence[str],
    **options: Any,
  ) -> None:
    run, paths = functools.partial(do, job), [job.workdir / output]
    found.append(
      jobs.Stage(name, run, settings, paths, needs=list(needs), **options)
    )

  model = {
    "model": job.model,
    "tokenizers": job.tokenizers,
    "weights": job.weights,
  }
  audio = finetune.audio_settings(job, captioned=False)
  prepare = functools.partial(finetune.prepare, captioned=False)
  stage("parts", write_parts, model, "parts", [])
  stage("prepare", prepare, audio, "data", ["parts"])
  needs = ["parts", "prepare"]
  stage("tokenize", tokenize, {}, "tokens", needs, resumes=True)
  for name, config in job.configs.items():
    do = functools.partial(train_stage, name=name)
    needs = ["parts", "tokenize"]
    stage(f"train {name}", do, config, f"{name}_run", needs, resumes=True)
  trained = [f"train {name}" for name in job.configs]
  stage("assemble", assemble, {}, "bundle", ["parts", *trained])
  needs = ["parts", "tokenize", "assemble"]
  stage("compare", compare, {}, "results.json", needs)
  return found


def write_parts(job: MusicLMJob) -> str:
  """Writes a bundle of each part of the model."""
  keys = [*job.tokenizers, *(f"{name}_lm" for name in job.configs)]
  assemble_lib.take_apart(job.model, {key: _part(job, key) for key in keys})
  return (
    f"{len(job.configs)} stages and {len(job.tokenizers)} tokenizers of"
    f" {job.model}"
  )


def tokenize(job: MusicLMJob) -> str:
  """Encodes the records with all tokenizers."""
  return stage_training.tokenize(
    job.workdir / "data",
    job.workdir / "tokens",
    [bundle.load_tokenizer(_part(job, key)) for key in job.tokenizers],
  )


def train_stage(job: MusicLMJob, *, name: str) -> str:
  """Trains a stage further, resuming an interrupted run."""
  path = _part(job, f"{name}_lm")
  about = bundle.read(path).config
  tokens = finetune.datasets(job, "tokens")
  # Training never saw what has no stream, and a melody needs its tokenizer.
  streams = {
    condition: of["tokenizer"]
    for condition, of in about.get("streams", {}).items()
    if (tokens["train"] / of["tokenizer"]).exists()
  }
  config = copy.deepcopy(job.configs[name]) | {"init_from": str(path)}
  stage_training.set_data(
    config,
    job.workdir / "tokens",
    about["target"]["tokenizer"],
    streams,
    [*tokens],
  )
  return stage_training.train(config, _run(job, name))


def assemble(job: MusicLMJob) -> str:
  """Makes one bundle of the tokenizers and the new stages.

  Each stage is that of its best checkpoint, with low-rank additions merged.
  """
  folder = job.workdir / "bundle"
  tokenizers: dict[str, Any] = {key: _part(job, key) for key in job.tokenizers}
  assemble_lib.assemble(
    folder,
    stages=[_run(job, name) for name in job.configs],
    force=True,
    **tokenizers,
  )
  return str(folder)


def compare(job: MusicLMJob) -> str:
  """Measures held-out music under the old and the new stages."""
  found: dict[str, dict[str, float]] = {}
  if "valid" in (tokens := finetune.datasets(job, "tokens")):
    sets = token_sets.find([tokens["valid"]])
    stages = bundle.load(job.workdir / "bundle").parts.stages
    for name in STAGES:
      if name in stages:
        found[name] = _compare(job, name, stages[name], sets)
  atomic.write_json(job.workdir / "results.json", {"bits_per_frame": found})
  if not found:
    return "nothing is held out to compare on"
  return "held-out music takes, in bits per frame: " + ", ".join(
    f"{name} {of['after']:.3f} ({of['before']:.3f} before)"
    for name, of in found.items()
  )


def _compare(
  job: MusicLMJob, name: str, new: Stage, sets: Sequence[Any]
) -> dict[str, float]:
  """Measures one stage before and after training, on the same clips."""
  old = bundle.read(_part(job, f"{name}_lm"))
  both = {"before": Stage(new.config, old.variables), "after": new}
  return {
    when: stage_likelihood.measure(
      stage, token_sets.of_stage(stage, sets), crops=finetune.COMPARED
    ).bits_per_frame
    for when, stage in both.items()
  }


def _part(job: MusicLMJob, key: str) -> pathlib.Path:
  """Folder of a part's bundle."""
  return job.workdir / "parts" / key


def _run(job: MusicLMJob, name: str) -> pathlib.Path:
  """Folder of a stage's training."""
  return job.workdir / f"{name}_run"
