"""The job of `mmdcodec finetune`: a music model learns from a folder of audio.

Splits and prepares the files at the rate of the model's codec, encodes them
with it, trains on from the model's weights, and makes a bundle of the result.
What the stages do is in `finetune_stages.py`.
"""

from collections.abc import Callable, Mapping
from typing import Any

from mmdcodec.store import jobs
from mmdcodec.workflows import finetune_stages as work
from mmdcodec.workflows.finetune_job import Job


def make_stages(job: Job) -> list[jobs.Stage]:
  """The stages of the job, in order."""

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
    stage("codec", work.write_codec, model, "codec"),
    stage("prepare", work.prepare, work.audio_settings(job), "data"),
    stage("tokenize", work.tokenize, {}, "tokens", resumes=True),
    stage("train", work.train, job.config, "run", resumes=True),
    stage("export", work.export, {}, "bundle"),
    stage("compare", work.compare, {}, "results.json"),
  ]
