"""The stages of `mmdcodec quickstart`.

Lets you hear the packaged models (`quickstart_first.py`). Then renders built-in
music (or uses a folder) and prepares it, trains a codec with independent
codebooks, from the packaged one or from nothing (early on there is something to
hear, `quickstart_preview.py`), exports it and compares it with the same codec
untrained on held-out music (`quickstart_codec.py`). Then trains a language
model on its codes, likewise, generates music from prompts
(`quickstart_music.py`), and writes an HTML report (`quickstart_report.py`).
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from mmdcodec.errors import UserError
from mmdcodec.store import jobs
from mmdcodec.workflows import quickstart_codec as codec
from mmdcodec.workflows import quickstart_first, quickstart_report
from mmdcodec.workflows import quickstart_music as music
from mmdcodec.workflows.quickstart_job import Job

LISTEN = "listen"


def check_version(job: Job) -> None:
  """Checks that the workdir's codec is of the kind that the job trains.

  Raises:
    UserError: an earlier version of the command began it, with a SEANet or with
      phases in the codes; or it began from nothing and this one does not, or
      the reverse.
  """
  before = jobs.settings_of(job.workdir).get("train") or {}
  model = before.get("model") or {}
  now = _kind(job.config["model"])
  words = {True: "the packaged codec", False: "nothing"}
  was, wanted = (bool(each.get("init_from")) for each in (before, job.config))
  if model and _kind(model) == now and was != wanted:
    advice = (
      "leave out --from-scratch and --tiny" if was else "add --from-scratch"
    )
    raise UserError(
      f"{job.workdir} was begun from {words[was]}: {advice} to continue it, or"
      " give another --workdir."
    )
  if model and _kind(model) != now:
    raise UserError(
      f"{job.workdir} was begun by an earlier version of this command, whose"
      f" codec was of another kind ({_kind(model)}, now {now}); what is in it"
      " can be used as before, but to run the command again give another"
      " --workdir, or --force to do everything over."
    )


def _kind(model: Mapping[str, Any]) -> str:
  """What kind of codec a config makes, in words."""
  phases = "without" if model.get("phase_iterations") else "with"
  return f"{model.get('topology')}, codes {phases} phases"


def make_stages(job: Job) -> list[jobs.Stage]:
  """Makes the stages of the job, in order."""
  folder = job.workdir
  sound = {"rate": job.rate, "channels": job.channels}
  clips = {"clips": job.clips, "seconds": job.clip_seconds}
  pieces = {"pieces": job.pieces, "seconds": job.piece_seconds}

  def stage(
    name: str,
    work: Callable[[Job], str],
    settings: Mapping[str, Any],
    outputs: Sequence[str],
    **options: Any,
  ) -> None:
    paths = [folder / output for output in outputs]
    needs = [each.name for each in found]
    run = lambda: work(job)
    found.append(jobs.Stage(name, run, settings, paths, needs=needs, **options))

  found: list[jobs.Stage] = []
  stage(
    "music", codec.make_music, codec.music_settings(job), ["music"],
    resumes=True,
  )  # fmt: skip
  stage("prepare", codec.prepare, sound, ["data"])
  stage("train", codec.train, job.config, ["run", "preview"], resumes=True)
  stage("export", codec.export, {}, ["bundle"])
  stage("evaluate", codec.evaluate, clips, ["evaluation"])
  stage("tokenize", music.tokenize, {}, ["tokens"])
  stage("train lm", music.train, job.lm, ["lm"], resumes=True)
  stage("export lm", music.export, {}, ["music_bundle"])
  stage("generate", music.generate, pieces, ["generated"])
  names = [LISTEN, *(each.name for each in found)]
  report = functools.partial(quickstart_report.write, stages=names)
  stage("report", report, {}, ["report.html"])
  # It needs no other stage, and none needs it. Of a folder, the music comes
  # before, because it is only linked, and its faults should be told at once.
  listen = jobs.Stage(
    LISTEN, lambda: quickstart_first.make(job), {},
    [folder / each for each in quickstart_first.OUTPUTS], needs=[],
  )  # fmt: skip
  found.insert(0 if job.audio is None else 1, listen)
  return found
