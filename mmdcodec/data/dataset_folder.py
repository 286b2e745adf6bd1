"""Writes data set folders completely or not at all; replaces on request."""

import contextlib
import glob
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import tensorflow_datasets as tfds
from array_record.python import array_record_module
from tensorflow_datasets.proto import tf_example_pb2

from mmdcodec.data.record_source import SUMMARY, describe
from mmdcodec.errors import UserError
from mmdcodec.store import locks


def check_out(out: Path, force: bool, kind: str) -> None:
  """Raises UserError unless `out` may be written.

  An existing data set of the same kind may be replaced with `force`; anything
  else must not be replaced.
  """
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
  """Returns a function from a record to the bytes that TFDS reads."""
  made = tfds.core.example_serializer.ExampleSerializer(
    features.get_serialized_info()
  )

  def serialize(record: dict) -> bytes:
    data = made.serialize_example(features.encode_example(record))
    # The order of the features differs between processes.
    example = tf_example_pb2.Example.FromString(data)
    return example.SerializeToString(deterministic=True)

  return serialize


def shard_writer(path: Path) -> array_record_module.ArrayRecordWriter:
  """Opens a writer of serialised examples to a shard."""
  # With one record per group, a record is read without its neighbours.
  # Compression does not make FLAC smaller.
  return array_record_module.ArrayRecordWriter(
    str(path), "group_size:1,uncompressed"
  )


class Unfinished:
  """A hidden scratch folder beside the data set, removed at the end.

  A lock distinguishes the folder of a live run from that of a killed run, which
  the next run removes.
  """

  def __init__(self, out: Path):
    """Makes the folder beside `out` and removes those of killed runs."""
    prefix = f".{out.name}.unfinished-"
    for stale in out.parent.glob(f"{glob.escape(prefix)}*"):
      with contextlib.suppress(FileNotFoundError):
        if (held := locks.take(stale)) is not None:
          shutil.rmtree(stale, ignore_errors=True)
          held.release()
    while True:
      self._path = Path(tempfile.mkdtemp(prefix=prefix, dir=out.parent))
      # Another run may remove it as a leftover before it is locked.
      with contextlib.suppress(FileNotFoundError):
        lock = locks.take(self._path)
        if lock is not None and self._path.exists():
          self._lock = lock
          break
        if lock is not None:
          lock.release()

  def __enter__(self) -> Path:
    """Returns the folder."""
    return self._path

  def __exit__(self, *_: Any) -> None:
    """Removes the folder."""
    shutil.rmtree(self._path, ignore_errors=True)
    self._lock.release()
