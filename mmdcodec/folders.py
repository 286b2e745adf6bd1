"""Folders that a command writes completely or not at all.

Such a folder has a few files of known names: a bundle, or an export. What holds
anything else is never replaced.
"""

import contextlib
import pathlib
from collections.abc import Iterator, Sequence

from mmdcodec import convert
from mmdcodec.errors import UserError
from mmdcodec.store import atomic, paths, uploads


@contextlib.contextmanager
def replacing(
  folder: str | pathlib.Path,
  required: Sequence[str],
  *,
  optional: Sequence[str] = (),
  force: bool = False,
  what: str = "bundle",
) -> Iterator[pathlib.Path]:
  """Writes a folder completely or not at all.

  Args:
    folder: output folder; it must be empty or absent, unless force.
    required: names of its files. Only a folder with all of these and no others
      except the optional ones may be replaced.
    optional: names of optional files.
    force: whether to replace the folder.
    what: what to call such a folder in the error.

  Yields:
    A folder to write to, which becomes `folder` if the block succeeds.

  Raises:
    UserError: the folder holds something else, or public weights.
  """
  check(folder, required, optional=optional, force=force, what=what)
  with atomic.folder(paths.of(folder).resolve()) as fresh:
    yield fresh


def check(
  folder: str | pathlib.Path,
  required: Sequence[str],
  *,
  optional: Sequence[str] = (),
  force: bool = False,
  what: str = "bundle",
) -> None:
  """Raises UserError unless a folder may be written; see `replacing`."""
  folder = paths.of(folder).resolve()
  atomic.restore_folder(folder)
  uploads.check_writable(folder)
  if uploads.is_unfinished(folder):
    return
  if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
    convert.spare(folder)
    found = {p.name for p in folder.iterdir()} if folder.is_dir() else set()
    ours = {*required} <= found <= {*required, *optional}
    if not (force and ours):
      raise UserError(
        f"{folder} exists already; "
        + (
          f"give --force to replace the {what} in it."
          if ours
          else f"it is not a {what}, so choose another name."
        )
      )
