"""Checks that all processes of a run see the same files.

Processes with separate disks would each write a part of every checkpoint to a
folder of their own, and wait for the parts of the others.
"""

import contextlib
import json
import pathlib
import secrets
import time
from collections.abc import Mapping

import jax

from mmdcodec.errors import Unreachable, UserError
from mmdcodec.parallel import roll

# Seconds after which what one machine wrote is seen by all. NFS may remember
# for a minute what was in a folder.
PATIENCE = 75.0
# Seconds after which the file of a start, which was killed, is deleted.
_OLD = 3600
_ADVICE = "give all processes a folder of a disk that they share, or a URL"


class Disagreement(UserError):
  """What all processes of a run raise together, so that none is missing."""


def check_shared(folder: pathlib.Path) -> None:
  """Checks that all processes see one folder, and makes it.

  Process 0 writes a token into it, which all others must find.

  Args:
    folder: the folder, which need not be there.

  Raises:
    Disagreement: process 0 cannot write there, or another one does not see what
      it wrote.
    Unreachable: the store of the folder does not answer process 0.
  """
  if jax.process_count() == 1:
    return
  first = jax.process_index() == 0
  token, reason = secrets.token_hex(8), ""
  if first:
    try:
      folder.mkdir(parents=True, exist_ok=True)
      _tidy(folder)
      _file(folder, token).write_text(token)
    except Unreachable:
      # Perhaps it answers later: the others notice that this process has gone.
      raise
    except OSError as error:
      reason = f"{folder}: {error.strerror or error}."
    except UserError as error:
      reason = str(error)
  try:
    token, reason = json.loads(
      roll.exchange("token", json.dumps([token, reason]))[0]
    )
    if reason:
      raise Disagreement(f"process 0 cannot write to the folder: {reason}")
    seen = _sees(_file(folder, token), token)
    found = roll.exchange("seen", "" if seen else roll.me())
  finally:
    if first:
      with contextlib.suppress(OSError, UserError):
        _file(folder, token).unlink(missing_ok=True)
  if blind := roll.listed([name for name in found if name]):
    raise Disagreement(
      f"{folder} of {blind} is not the folder of process 0, whose file did not"
      f" appear there within {PATIENCE:g} s; {_ADVICE}, such as"
      " gs://BUCKET/RUN."
    )


def _file(folder: pathlib.Path, token: str) -> pathlib.Path:
  return folder / f".meeting-{token}"


def _tidy(folder: pathlib.Path) -> None:
  """Deletes the files of starts that were killed."""
  for file in folder.glob(_file(folder, "*").name):
    with contextlib.suppress(FileNotFoundError):
      if file.stat().st_mtime < time.time() - _OLD:
        file.unlink()


def check_same(
  found: Mapping[str, str], *, advice: str = f"{_ADVICE}, and the same command"
) -> None:
  """Checks that all processes found the same.

  Args:
    found: what this process found at each path: a digest, or a sentence that
      says why there is none.
    advice: what to do if they differ.

  Raises:
    Disagreement: two processes found different things, or at different paths.
  """
  if jax.process_count() == 1:
    return
  text = json.dumps([roll.me(), found])
  (who, wanted), *others = map(json.loads, roll.exchange("same", text))
  for name, theirs in others:
    for path in sorted({*wanted, *theirs}):
      one, other = wanted.get(path), theirs.get(path)
      if one != other:
        raise Disagreement(
          f"{path} is not the same for all processes: {who} has"
          f" {one or 'no such path'}, {name} has {other or 'no such path'};"
          f" {advice}."
        )


def _sees(file: pathlib.Path, token: str) -> bool:
  """Waits for a file of another process; returns whether it came."""
  end = time.monotonic() + PATIENCE
  while True:
    with contextlib.suppress(OSError, UserError):
      if file.read_text() == token:
        return True
    if time.monotonic() > end:
      return False
    time.sleep(min(0.5, PATIENCE / 10))
