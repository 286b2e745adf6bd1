"""What `prepare` is to make, whichever processes make it."""

import dataclasses
import functools
import hashlib
import json
from pathlib import Path
from typing import Any

import tensorflow_datasets as tfds

import mmdcodec
from mmdcodec.data import dataset_folder, record_writer
from mmdcodec.data.record_source import SUMMARY
from mmdcodec.data.report import Report


@dataclasses.dataclass(frozen=True)
class Job:
  """What `prepare` is to make, and of what.

  Attributes:
    folder: folder of the audio.
    out: folder of the data set to write.
    builder: kind of the data set.
    sources: the audio files.
    report: rate and channels of the records, and what is left out already.
    seconds: length of a record.
    force: whether to replace an existing data set.
  """

  folder: Path
  out: Path
  builder: type[tfds.core.GeneratorBasedBuilder]
  sources: list[record_writer.Source]
  report: Report
  seconds: float
  force: bool

  @functools.cached_property
  def settings(self) -> dict[str, Any]:
    """All that the data set depends on, except what is in the files."""
    digests = {"files": hashlib.sha256(), "labels": hashlib.sha256()}
    for source in self.sources:
      label = [source.label.caption, source.label.tags]
      words = {"files": [source.name, source.size], "labels": label}
      for kind, digest in digests.items():
        text = json.dumps(words[kind], sort_keys=True, default=str)
        digest.update(text.encode() + b"\n")
    return {
      "rate": self.report.rate,
      "channels": self.report.channels,
      "record_seconds": self.seconds,
      "builder": self.builder.__name__,
      "files": len(self.sources),
      "bytes": sum(source.size for source in self.sources),
      "names_and_sizes": digests["files"].hexdigest()[:16],
      "labels": digests["labels"].hexdigest()[:16],
      "version": mmdcodec.__version__,
    }

  @functools.cached_property
  def digest(self) -> str:
    """16 hex digits that stand for the settings."""
    text = json.dumps(self.settings, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]

  def check_out(self) -> None:
    """Raises UserError unless the data set may be written."""
    dataset_folder.check_out(self.out, self.force, "audio")

  def summarise(self, data: Path, marks: list[str]) -> None:
    """Writes the summary and the lists of what was left out.

    Args:
      data: folder of the files of the data set.
      marks: see `shard_files.marks`.
    """
    summary = self.report.summary() | {
      "record_seconds": self.seconds,
      "source": self.folder.resolve().name,
      "made_from": self.digest,
      "version": mmdcodec.__version__,
      "shards": marks,
    }
    (data / SUMMARY).write_text(json.dumps(summary, indent=2) + "\n")
    self.report.write(data)
