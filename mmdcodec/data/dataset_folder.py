"""Folders of data sets: never overwritten unasked, there only when whole."""

import glob
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import tensorflow_datasets as tfds
from array_record.python import array_record_module
from tensorflow_datasets.proto import tf_example_pb2

from mmdcodec.data.record_source import SUMMARY, describe
from mmdcodec.errors import UserError
from mmdcodec.store import locks


def check_out(out: Path, force: bool, kind: str) -> None:
  """Refuses to overwrite: a data set of a kind without `force`, else always."""
  if not out.exists() or (out.is_dir() and not any(out.iterdir())):
    return
  if not (out / SUMMARY).is_file():
    raise UserError(
      f"{out}: exists and is not a data set; choose a new folder."
    )
  if (found := describe(out)["kind"]) != kind:
    raise UserError(
      f"{out}: is a data set of {found}, which is not replaced by one of"
      f" {kind}; choose a new folder."
    )
  if not force:
    raise UserError(
      f"{out}: is a finished data set already; use it, choose another name, or"
      " replace it with --force."
    )


def serializer(
  features: tfds.features.FeaturesDict,
) -> Callable[[dict], bytes]:
  """A function from a record to its bytes, as TFDS reads them."""
  made = tfds.core.example_serializer.ExampleSerializer(
    features.get_serialized_info()
  )

  def serialize(record: dict) -> bytes:
    data = made.serialize_example(features.encode_example(record))
    # The order of the features in it is another in every process.
    example = tf_example_pb2.Example.FromString(data)
    return example.SerializeToString(deterministic=True)

  return serialize


def shard_writer(path: Path) -> array_record_module.ArrayRecordWriter:
  """Writes serialised examples to a shard."""
  # One record a group: any record is read without its neighbours. FLAC does
  # not become smaller by compressing it again.
  return array_record_module.ArrayRecordWriter(
    str(path), "group_size:1,uncompressed"
  )


class Unfinished:
  """A hidden scratch folder beside the data set, removed however it ends.

  The lock tells a run under way from one that was killed: what the killed
  ones left is removed by the next run.
  """

  def __init__(self, out: Path):
    prefix = f".{out.name}.unfinished-"
    for stale in out.parent.glob(f"{glob.escape(prefix)}*"):
      if (held := locks.lock_folder(stale)) is not None:
        shutil.rmtree(stale, ignore_errors=True)
        os.close(held)
    while True:
      self._path = Path(tempfile.mkdtemp(prefix=prefix, dir=out.parent))
      self._lock = locks.lock_folder(self._path)
      # Another run may take it for a killed one's before it is locked.
      if self._lock is not None and self._path.exists():
        break
      if self._lock is not None:
        os.close(self._lock)

  def __enter__(self) -> Path:
    """The folder."""
    return self._path

  def __exit__(self, *_) -> None:
    """Removes it."""
    shutil.rmtree(self._path, ignore_errors=True)
    os.close(self._lock)
