"""Makes an audio data set on the workers of Apache Beam.

Beam hands out the numbers of blocks, and each worker makes those that it gets,
as `prepare --shards` does (`record_blocks.py`). A block that fails is made
again, a pipeline that is run again makes only what is missing, and the process
that started it joins the blocks. Workers need this package, and the folders of
the audio and of the data set under the same names.
"""

import functools
import json
import pathlib
from collections.abc import Sequence

from mmdcodec.data import record_shares, records
from mmdcodec.data.captions import Label
from mmdcodec.data.record_blocks import Blocks
from mmdcodec.data.record_job import Job
from mmdcodec.data.record_writer import Source
from mmdcodec.data.report import Report
from mmdcodec.errors import UserError
from mmdcodec.store import atomic, disk, inputs, paths

# In a worker, which has others beside it.
_WORKERS = 1


def make(
  job: Job, arguments: Sequence[str], *, workers: int | None = None
) -> str:
  """Makes a data set with a pipeline of Beam.

  Args:
    job: the data set.
    arguments: options of Beam, such as "--runner=DirectRunner".
    workers: files in progress at a time in each worker of Beam; None is one.

  Returns:
    What to print, see `record_shares.make_share`.

  Raises:
    UserError: Beam is not installed, or see `records.prepare`.
  """
  try:
    import apache_beam
    from apache_beam.options.pipeline_options import PipelineOptions
  except ImportError:
    raise UserError(
      "--runner needs Apache Beam: run pip install 'mmdcodec[beam]'."
    ) from None
  try:
    pipeline = apache_beam.Pipeline(options=PipelineOptions(arguments))
  except ValueError as error:
    words = " ".join(str(error).split()).removesuffix(".")
    raise UserError(f"Apache Beam takes other options: {words}.") from error
  workers = records.check_workers(workers or _WORKERS)
  if (blocks := record_shares.begin(job)) is None:
    return record_shares.done(job)
  there = blocks.finished()
  todo = [number for number in range(len(blocks)) if number not in there]
  # A file, because the description of a pipeline must be small.
  place = blocks.folder / f"{job.digest}-job.jsonl"
  atomic.write_text(place, _described(job))
  with disk.named(job.out):
    if todo:
      make_block = functools.partial(
        _make_block, place=str(place), workers=workers
      )
      with pipeline:
        numbers = pipeline | apache_beam.Create(todo)
        spread = numbers | apache_beam.Reshuffle()
        spread | "Make blocks" >> apache_beam.Map(make_block)
    return record_shares.finish(job, blocks, 1)


def _make_block(number: int, *, place: str, workers: int) -> int:
  """Makes a block, unless it is there; runs in the workers."""
  blocks = _blocks(place)
  if not blocks.has(number):
    blocks.write([number], workers=workers, progress=False)
  return number


@functools.cache
def _blocks(place: str) -> Blocks:
  """Reads what to make."""
  text = inputs.read_text(paths.of(place), most=inputs.MOST_ROWS)
  first, *rows = map(json.loads, text.splitlines())
  sources = [
    Source(pathlib.Path(path), name, Label(caption, tags), size)
    for path, name, caption, tags, size in rows
  ]
  return Blocks(
    Job(
      folder=pathlib.Path(first["folder"]),
      out=paths.of(first["out"]),
      builder=getattr(records, first["builder"]),
      sources=sources,
      report=Report(rate=first["rate"], channels=first["channels"]),
      seconds=first["seconds"],
      force=False,
    )
  )


def _described(job: Job) -> str:
  """Writes what to make in lines of JSON: the settings, then each file."""
  first = job.settings | {
    "folder": str(job.folder.absolute()),
    "out": str(job.out),
    "seconds": job.seconds,
  }
  rows = [
    [str(s.path.absolute()), s.name, s.label.caption, s.label.tags, s.size]
    for s in job.sources
  ]
  return "".join(
    json.dumps(each, default=str) + "\n" for each in [first, *rows]
  )
