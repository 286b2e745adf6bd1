"""Files that are there only when they are whole."""

import contextlib
import os
import secrets
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def written(path: str | os.PathLike) -> Iterator[Path]:
  """An empty file beside a path, put in its place when the block ends well.

  Its name is of nobody else's; a failure leaves what was there.

  Args:
    path: where the file is to be; its folder must exist.

  Yields:
    Path of the file to write.

  Raises:
    OSError: the folder cannot be written to.
  """
  path = Path(path)
  # Unlike those of `tempfile`, it has the rights of any new file.
  aside = path.with_name(f".{secrets.token_hex(8)}.partial")
  open(aside, "xb").close()
  try:
    yield aside
    os.replace(aside, path)
  finally:
    aside.unlink(missing_ok=True)
