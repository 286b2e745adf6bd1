"""The starts of a run: when, by which command, with which versions and devices.

WORKDIR/starts.json holds one entry for each start, the first one first.
"""

import collections
import datetime
import importlib.metadata
import os
import pathlib
import platform
import secrets
import shlex
import subprocess
import sys
import warnings
from collections.abc import Mapping
from typing import Any

import jax

import mmdcodec
from mmdcodec import bounds
from mmdcodec.errors import Notice, UserError
from mmdcodec.store import atomic, inputs, paths

FILE = "starts.json"

_PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")


def append(workdir: pathlib.Path, step: int) -> str:
  """Records that this process starts or resumes a run.

  Args:
    workdir: folder of the run.
    step: step at which it starts.

  Returns:
    A random id of the run, the same for all of its starts.
  """
  before = read(workdir)
  run = before[0]["run"] if before else secrets.token_hex(6)
  entries = [*before, {"run": run, **_entry(step)}]
  atomic.write_json(workdir / FILE, {"starts": entries})
  return run


def read(workdir: str | os.PathLike) -> list[dict[str, Any]]:
  """Reads the starts of a run, none if there is no file or it is damaged.

  A damaged file is reported and not used: no training ends for it.
  """
  path = paths.of(workdir) / FILE
  if not path.exists():
    return []
  try:
    entries = inputs.read_object(path).get("starts")
    bounds.check(f"{path}: starts", entries, bounds.list_of(_ENTRY, 1 << 20, 0))
  except UserError as error:
    warnings.warn(
      f"{str(error).removesuffix('.')}; earlier starts are not known.",
      Notice,
      stacklevel=2,
    )
    return []
  assert isinstance(entries, list)
  return entries


def rows(workdir: str | os.PathLike) -> list[tuple[str, str]]:
  """Describes the last start of a run as rows of a table; none if unknown."""
  if not (entries := read(workdir)):
    return []
  last = entries[-1]
  versions = ", ".join(f"{k} {v}" for k, v in last["versions"].items())
  devices = ", ".join(f"{n} x {kind}" for kind, n in last["devices"].items())
  if last["processes"] > 1:
    devices += f" in {last['processes']} processes"
  found = [
    ("starts", f"{len(entries)}, the last {last['time']} at step"
     f" {last['step']:,}"),
    ("versions", versions),
  ]  # fmt: skip
  if last.get("commit"):
    found.append(("commit", str(last["commit"])))
  return [
    *found,
    ("devices", devices),
    ("command", shlex.join(last["command"])),
  ]


def _entry(step: int) -> dict[str, Any]:
  """Describes this process and its devices."""
  now = datetime.datetime.now(datetime.UTC)
  versions = {"mmdcodec": mmdcodec.__version__}
  versions |= {name: importlib.metadata.version(name) for name in _PACKAGES}
  kinds = collections.Counter(d.device_kind for d in jax.devices())
  return {
    "time": now.strftime("%Y-%m-%dT%H:%M:%SZ"),
    "step": step,
    "versions": {**versions, "python": platform.python_version()},
    "commit": _commit(),
    "command": list(sys.argv),
    "devices": dict(kinds),
    "processes": jax.process_count(),
  }


def _commit() -> str | None:
  """The commit of the package, if it is in a checkout, and whether it differs.

  An installed package may be in a folder of somebody else's repository, so
  only a repository right around the package counts. Where launch scripts have
  installed it, the environment says from which commit.
  """
  root = pathlib.Path(mmdcodec.__file__).resolve().parents[1]
  if not (root / ".git").exists():
    return os.environ.get("MMDCODEC_COMMIT") or None

  def git(*words: str) -> str:
    return subprocess.run(
      ["git", "-C", str(root), *words],
      capture_output=True,
      text=True,
      timeout=10,
      check=True,
    ).stdout.strip()

  try:
    changed = git("status", "--porcelain", "--untracked-files=no")
    return git("rev-parse", "HEAD") + (" with changes" if changed else "")
  except (OSError, subprocess.SubprocessError):
    return None


def _is_entry(value: Any) -> bool:
  """Whether an entry holds what `rows` shows."""
  return (
    isinstance(value, Mapping)
    and all(isinstance(value.get(k), str) for k in ("run", "time"))
    and all(isinstance(value.get(k), int) for k in ("step", "processes"))
    and all(isinstance(value.get(k), dict) for k in ("versions", "devices"))
    and isinstance(value.get("command"), list)
    and all(isinstance(word, str) for word in value["command"])
  )


_ENTRY = bounds.Check(_is_entry, "what a run writes at its start")
