"""The stages of `mmdcodec quickstart --system musiclm`.

Music, data and codec are those of the plain command (`quickstart.py`), so that
both go on from each other in one folder. Everything else goes below it:

    WORKDIR/musiclm/parts                         what the packaged MusicLM has
    WORKDIR/musiclm/tokens/{train,valid}          token data sets of all four
    WORKDIR/musiclm/{semantic,coarse,fine}_lm     training of the stages
    WORKDIR/musiclm/bundle                        all parts in one
    WORKDIR/musiclm/generated                     a story, and a melody's piece
    WORKDIR/musiclm/measures                      pieces of prompts, measured
    WORKDIR/musiclm/report.html                   the page

Tokenizers are those of the packaged MusicLM, whose stages are trained further.
With --from-scratch all begin from nothing: {semantic,joint,melody}_run are
trainings of tokenizers, which {semantic,joint,melody} then are.
`quickstart_musiclm_models` trains, `quickstart_musiclm_pieces` makes music, and
`quickstart_musiclm_report` writes the page.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

from mmdcodec.configs.quickstart_musiclm import STAGES, TOKENIZERS
from mmdcodec.store import jobs
from mmdcodec.workflows import quickstart, quickstart_musiclm_report
from mmdcodec.workflows import quickstart_musiclm_models as models
from mmdcodec.workflows import quickstart_musiclm_pieces as pieces
from mmdcodec.workflows.quickstart_musiclm_job import MusicLMJob

# Stages of the plain command that this one begins with.
SHARED = ("music", "prepare", "train", "export")


def make_stages(job: MusicLMJob) -> list[jobs.Stage]:
  """Makes the stages of the job, in order."""
  shared = {stage.name: stage for stage in quickstart.make_stages(job.codec)}
  found = [shared[name] for name in SHARED]

  def stage(
    name: str,
    work: Callable[[MusicLMJob], str],
    settings: dict[str, Any],
    outputs: Sequence[str],
    needs: Sequence[str],
    **options: Any,
  ) -> None:
    paths = [job.folder / output for output in outputs]
    run = functools.partial(work, job)
    found.append(
      jobs.Stage(name, run, settings, paths, needs=list(needs), **options)
    )

  tokenizers = []  # the stages that leave a tokenizer
  if job.packaged:
    taken = {"model": job.packaged, "stages": job.begun}
    stage("parts", models.take, taken, [models.PARTS], [])
    tokenizers.append("parts")
  for name in () if job.packaged else TOKENIZERS:
    stage(
      f"train {name}",
      functools.partial(models.train_tokenizer, name=name),
      job.configs[name],
      [f"{name}_run"],
      ["prepare"],
      resumes=True,
    )
    stage(
      f"cluster {name}",
      functools.partial(models.cluster, name=name),
      job.codebooks[name],
      [name],
      ["prepare", f"train {name}"],
    )
    tokenizers.append(f"cluster {name}")
  stage(
    "tokenize for stages",
    models.tokenize,
    {},
    ["tokens"],
    ["prepare", "export", *tokenizers],
  )
  for name in STAGES:
    stage(
      f"train {name} stage",
      functools.partial(models.train_stage, name=name),
      job.configs[f"{name}_lm"],
      [f"{name}_lm"],
      ["tokenize for stages", *(["parts"] if job.packaged else [])],
      resumes=True,
    )
  trained = [f"train {name} stage" for name in STAGES]
  parts = ["export", *tokenizers, *trained]
  stage("assemble", models.assemble, {}, ["bundle"], parts)
  stage("story", pieces.generate, job.story, ["generated"], ["assemble"])
  stage("measure", pieces.measure, job.measured, ["measures"], ["assemble"])
  names = [each.name for each in found]
  page = functools.partial(quickstart_musiclm_report.write, stages=names)
  stage("page", page, {}, ["report.html"], names)
  return found
