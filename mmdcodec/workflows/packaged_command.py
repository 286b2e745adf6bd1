"""The settings and the command line of the jobs that train packaged models."""

import argparse
import dataclasses
import functools
import pathlib
from collections.abc import Sequence

from mmdcodec import packaged
from mmdcodec.store import jobs

_log = functools.partial(print, flush=True)


@dataclasses.dataclass(frozen=True)
class Job:
  """What the stages of a job depend on.

  Attributes:
    workdir: folder of the job.
    minutes: time for the training.
    start: the packaged model to go on from; "" for none.
    tiny: whether to use little music and few steps, for tests.
  """

  workdir: pathlib.Path
  minutes: float
  start: str = ""
  tiny: bool = False


def make_parser(
  doc: str | None, *, minutes: float, first: Sequence[str] = ()
) -> argparse.ArgumentParser:
  """Makes the parser of a job.

  Args:
    doc: description of the job's module.
    minutes: default of --minutes.
    first: names of paths that come before WORKDIR.
  """
  assert doc
  parser = argparse.ArgumentParser(
    description=doc, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  for name in (*first, "workdir"):
    parser.add_argument(name, type=pathlib.Path)
  parser.add_argument("--minutes", type=float, default=minutes)
  parser.add_argument("--from-scratch", action="store_true")
  parser.add_argument("--tiny", action="store_true")
  parser.add_argument("--install", action="store_true")
  return parser


def start(args: argparse.Namespace, name: str) -> str:
  """Returns the packaged model to go on from; "" to begin from nothing."""
  fresh = args.from_scratch or args.tiny
  return "" if fresh or name not in packaged.names() else name


def run(
  args: argparse.Namespace, name: str, stages: Sequence[jobs.Stage]
) -> None:
  """Runs a job, which leaves the model in WORKDIR/NAME, and installs that."""
  workdir = args.workdir.absolute()
  jobs.run_stages(workdir, stages, force=None)
  if args.install:
    packaged.install(workdir / name)
  _log(f"model and card: {workdir / name}")
