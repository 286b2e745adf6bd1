"""Whether a data set may be written to a folder, and how its records are."""

from collections.abc import Callable
from pathlib import Path

import tensorflow_datasets as tfds
from array_record.python import array_record_module
from tensorflow_datasets.proto import tf_example_pb2

from mmdcodec.data.record_source import SUMMARY, describe
from mmdcodec.errors import UserError
from mmdcodec.store import inputs, uploads


def check_out(
  out: Path, force: bool, kind: str, *, several: bool = False
) -> None:
  """Raises UserError unless `out` may be written.

  An existing data set of the same kind may be replaced with `force`; anything
  else must not be replaced.

  Args:
    out: folder to write.
    force: whether to replace what is there.
    kind: kind of data set to write.
    several: whether `out` is to hold a data set in each of its subfolders.
  """
  inputs.check_name(out)
  uploads.check_writable(out)
  if _is_vacant(out):
    return
  if uploads.is_unfinished(out):
    return
  if several and (inside := members(out)):
    for folder in inside:
      check_out(folder, force, kind)
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


def _is_vacant(out: Path) -> bool:
  """Whether nothing is there but what other commands probe a store with."""
  try:
    inside = [*out.iterdir()]
  except FileNotFoundError:
    return True
  except NotADirectoryError:
    return False
  probes = all(path.name.startswith(uploads.PROBE) for path in inside)
  return probes and not out.is_file()


def members(folder: Path) -> list[Path]:
  """The data sets in the subfolders of a folder that holds nothing else."""
  inside = sorted(folder.iterdir()) if folder.is_dir() else []
  good = all((path / SUMMARY).is_file() for path in inside)
  return inside if good else []


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
