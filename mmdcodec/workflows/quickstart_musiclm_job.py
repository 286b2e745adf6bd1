"""The settings of `mmdcodec quickstart --system musiclm`."""

import dataclasses
import os
import pathlib
from typing import Any

from mmdcodec.configs import quickstart_musiclm
from mmdcodec.errors import UserError
from mmdcodec.workflows import quickstart_job
from mmdcodec.workflows.quickstart_job import Job

# Levels and codes of each tokenizer's codebooks, and the rows of features that
# they are fitted to, at most.
CODEBOOKS = {
  "semantic": {"levels": 1, "codes": 256, "rows": 10_000},
  "joint": {"levels": 12, "codes": 64, "rows": 10_000},
  "melody": {"levels": 8, "codes": 64, "rows": 10_000},
}
TINY_CODEBOOKS = {
  "semantic": {"levels": 1, "codes": 16, "rows": 1000},
  "joint": {"levels": 2, "codes": 4, "rows": 1000},
  "melody": {"levels": 2, "codes": 4, "rows": 1000},
}
# The MusicLM that ships with the package.
PACKAGED = "small_musiclm"
# Weight of the prompt.
GUIDANCE = 3.0


@dataclasses.dataclass(frozen=True)
class MusicLMJob:
  """Everything the stages depend on.

  Attributes:
    codec: the plain command's job, whose music, data and codec are used.
    configs: config of each model's training as a dict, without what depends on
      the tokenizers.
    codebooks: `levels`, `codes` and `rows` of each tokenizer that is trained.
    packaged: the packaged MusicLM whose tokenizers are taken and whose stages
      are trained further; "" for none.
    begun: the stages that it has.
    story: `seconds` of each of the three prompts of a story, of the melody's
      piece, and `guidance`.
    measured: `pieces` that are measured, `seconds` of each, and `guidance`.
    command: the command line.
  """

  codec: Job
  configs: dict[str, dict[str, Any]]
  codebooks: dict[str, dict[str, int]]
  story: dict[str, float]
  measured: dict[str, float]
  command: str
  packaged: str = ""
  begun: tuple[str, ...] = ()

  @property
  def workdir(self) -> pathlib.Path:
    """Folder of the whole job."""
    return self.codec.workdir

  @property
  def folder(self) -> pathlib.Path:
    """Folder of what this job adds."""
    return self.workdir / "musiclm"


def make_job(
  workdir: str | os.PathLike,
  *,
  audio: str | os.PathLike | None = None,
  steps: int | None = None,
  tiny: bool = False,
  from_scratch: bool = False,
) -> MusicLMJob:
  """Makes the job.

  Args:
    workdir: folder for everything; it may be one of the plain command.
    audio: must be None.
    steps: training steps of each model; None for those of the configs.
    tiny: whether to use only seconds of music and few steps.
    from_scratch: whether all of it begins from nothing.

  Raises:
    UserError: `steps` is less than 1, or there is a folder of music.
  """
  if audio is not None:
    raise UserError(
      "--system musiclm is for built-in music, whose captions say what is in"
      " it; leave out --audio, and train the result further on your music with"
      " `mmdcodec finetune`."
    )
  codec = quickstart_job.make_job(
    workdir, steps=steps, tiny=tiny, from_scratch=from_scratch
  )
  taken = "" if tiny or from_scratch else PACKAGED
  begun = quickstart_musiclm.FURTHER if taken else ()
  configs = {}
  for name in quickstart_musiclm.MODELS:
    if taken and name in quickstart_musiclm.TOKENIZERS:
      continue
    further = "_further" if name.removesuffix("_lm") in begun else ""
    how = "_tiny" if tiny else further
    config = quickstart_musiclm.get_config(name + how).to_dict()
    if steps is not None:
      config["steps"] = steps
      warmup = min(config["optimizer"]["warmup"], steps - 1)
      config["optimizer"]["warmup"] = warmup
    configs[name] = config
  words = "mmdcodec quickstart"
  return MusicLMJob(
    codec=codec,
    configs=configs,
    codebooks=TINY_CODEBOOKS if tiny else CODEBOOKS,
    packaged=taken,
    begun=begun,
    story={"seconds": 0.2 if tiny else 10.0, "guidance": GUIDANCE},
    measured={
      "pieces": 2 if tiny else 32,
      "seconds": 0.5 if tiny else 10.0,
      "guidance": GUIDANCE,
    },
    command=codec.command.replace(words, f"{words} --system musiclm", 1),
  )
