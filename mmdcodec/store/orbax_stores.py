"""Prepares Orbax for the object stores to which it writes: gs:// and s3://.

Orbax 0.12 hands arrays to TensorStore, which can write to both, but it knows
how to ask for the first one only: it makes a local path of an s3://. Before it
deletes a checkpoint at gs://, it asks for the kind of the bucket, which needs
the right storage.buckets.get besides those on objects.
"""

import contextlib
import functools
import os
import pathlib
from collections.abc import Iterator
from typing import Any

from mmdcodec.errors import UserError
from mmdcodec.store import paths, urls

_SCHEMES = ("gs", "s3")


def prepare(folder: pathlib.Path) -> None:
  """Makes checkpoints in a folder possible.

  Args:
    folder: any path; nothing has to be done for one of this machine.

  Raises:
    UserError: it is a URL of another store.
  """
  if not isinstance(folder, paths.Url):
    return
  scheme = folder.parts[0].removesuffix(":")
  if scheme not in _SCHEMES:
    raise UserError(
      f"{folder}: checkpoints go to a disk, to gs:// or to s3://, not to"
      f" {scheme}://; give another --workdir."
    )
  if scheme == "s3":
    _teach_s3()


@contextlib.contextmanager
def errors_of(folder: pathlib.Path) -> Iterator[None]:
  """Gives errors of a store in the block a form that commands can print.

  Args:
    folder: where checkpoints are written; nothing is changed for one of this
      machine.

  Raises:
    Unreachable: the store does not answer as it should.
    UserError: it refuses.
  """
  try:
    yield
  except UserError:
    raise
  except Exception as error:
    if not isinstance(folder, paths.Url):
      raise
    reason = (str(error).strip() or repr(error)).splitlines()[0]
    raise urls.kind_of(error)(
      f"{folder}: a checkpoint could not be written ({reason:.200}); check the"
      " store, and start again: the run goes on from the one before."
    ) from error


@functools.cache
def _teach_s3() -> None:
  """Makes Orbax ask TensorStore for s3:// as it does for gs://.

  Raises:
    UserError: this version of Orbax is built in another way.
  """
  try:
    from orbax.checkpoint._src.serialization import tensorstore_utils

    build = tensorstore_utils.build_kvstore_tspec
  except (ImportError, AttributeError):
    raise UserError(
      "this version of Orbax cannot write to s3://; install orbax-checkpoint"
      " 0.12, or give a --workdir at gs:// or on a disk."
    ) from None

  @functools.wraps(build)
  def build_for_s3(directory: str, *args: Any, **kwargs: Any) -> Any:
    if not directory.startswith("s3://"):
      return build(directory, *args, **kwargs)
    return _as_s3(build("gs" + directory[2:], *args, **kwargs))

  tensorstore_utils.build_kvstore_tspec = build_for_s3


def _as_s3(spec: Any) -> Any:
  """Converts what is asked of Google's store to what is asked of Amazon's."""
  if isinstance(spec, list):
    return [_as_s3(each) for each in spec]
  if not isinstance(spec, dict):
    return spec
  if spec.get("driver") not in ("gcs", "gcs_grpc"):
    return {key: _as_s3(value) for key, value in spec.items()}
  made = {"driver": "s3", "bucket": spec["bucket"], "path": spec["path"]}
  # TensorStore does not read these, as all other clients of S3 do.
  for key, names in (
    ("endpoint", ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL")),
    ("aws_region", ("AWS_REGION", "AWS_DEFAULT_REGION")),
  ):
    if found := next(filter(None, map(os.environ.get, names)), None):
      made[key] = found
  return made
