"""Which checkpoints a folder holds, and which of them are damaged.

A checkpoint gets its name when it is complete and has a digest. Checkpoints of
earlier versions have no digest; their files are checked when they are read.

In an object store it has its name from the beginning, and is one when it has a
digest and Orbax's `commit_success.txt`, which are written last. What has not,
a killed run has left, and the next one deletes it.
"""

import asyncio
import os
import pathlib
import re
from collections.abc import Iterator

from etils import epath
from orbax.checkpoint import path as ocp_path

from mmdcodec.errors import UserError
from mmdcodec.store import digests, inputs, paths

STATE, DATA, METRICS = "state", "data", "metrics"
_STEP = re.compile("0|[1-9][0-9]*")
_COMMITTED = "commit_success.txt"
# What a checkpoint has before it is one; the last is Orbax's.
_PARTS = {STATE, DATA, METRICS, digests.FILE, "_CHECKPOINT_METADATA"}


class Unfinished(ocp_path.atomicity.AtomicRenameTemporaryPath):
  """A checkpoint that Orbax is writing; gets a digest before its name."""

  async def finalize(self) -> None:
    """Completes the folder and gives it its name."""
    # The state and the data position are finished in the same way, inside it.
    inner = ocp_path.atomicity_types.TMP_DIR_SUFFIX in self.get().parent.name
    if not inner:
      await asyncio.to_thread(digests.write, self.get())
    await super().finalize()


class UnfinishedObjects(ocp_path.atomicity.CommitFileTemporaryPath):
  """The same in an object store, where nothing can be renamed in one step."""

  @classmethod
  async def validate(cls, temporary_path: epath.Path) -> None:
    """Raises an error unless a killed run left a folder."""
    if not _STEP.fullmatch(temporary_path.name):
      raise ocp_path.atomicity.ValidationError(f"{temporary_path} is no step")
    await super().validate(temporary_path)

  async def finalize(self) -> None:
    """Completes the folder: first the digest, then Orbax's mark."""
    if _STEP.fullmatch(self.get().name):
      await asyncio.to_thread(digests.write, self.get())
    await super().finalize()


class Steps(ocp_path.step.NameFormat):
  """The checkpoints that Orbax sees: all that are not known to be damaged.

  Attributes:
    damaged: what is wrong with a checkpoint, by step.
  """

  def __init__(self, folder: pathlib.Path):
    """Finds checkpoints with missing files or files of a wrong size."""
    self.damaged: dict[int, str] = {}
    self._folder = folder
    for step in self.all():
      self.find_damage(step, complete=False)

  def all(self) -> list[int]:
    """Returns the steps of all checkpoints in the folder, damaged or not.

    A folder with another content is none, whatever its name.
    """
    if isinstance(self._folder, paths.Url):
      names = self._folder.files()
      return sorted(
        int(step)
        for step, _, name in (each.partition("/") for each in names)
        if name == _COMMITTED
        and _STEP.fullmatch(step)
        and f"{step}/{digests.FILE}" in names
      )
    if not self._folder.is_dir():
      return []
    found = [
      int(path.name)
      for path in self._folder.iterdir()
      if _STEP.fullmatch(path.name)
      and any((path / name).exists() for name in (STATE, DATA, digests.FILE))
    ]
    return sorted(found)

  def is_left(self, step: int) -> bool:
    """Whether an object store has a part of a checkpoint, and nothing else.

    What a run sent before it was killed may arrive when the next one has
    already deleted the rest.
    """
    if not isinstance(self._folder, paths.Url):
      return False
    inside = {
      name.partition("/")[0] for name in (self._folder / str(step)).files()
    }
    return bool(inside) and inside <= _PARTS

  def find_damage(self, step: int, *, complete: bool = True) -> bool:
    """Checks a checkpoint; returns whether it is damaged.

    Args:
      step: step of the checkpoint.
      complete: see `digests.damage`.
    """
    if step not in self.damaged:
      folder = self._folder / str(step)
      fault = digests.damage(folder, complete=complete)
      for name in (STATE, DATA):
        if not fault and not (folder / name).is_dir():
          fault = f"{name} is missing"
      if not fault and (folder / METRICS).is_dir():
        fault = self.metrics(step) is None and "its metrics cannot be read"
      if fault:
        self.damaged[step] = fault
    return step in self.damaged

  def metrics(self, step: int) -> dict[str, float] | None:
    """Returns the metrics of a checkpoint; None if it has no sound ones."""
    folder = self._folder / str(step)
    if digests.damage(folder, within=f"{METRICS}/"):
      return None
    try:
      return inputs.read_object(folder / METRICS / METRICS)
    except UserError:
      return None

  def build_name(self, step: int) -> str:
    """Returns the name of a checkpoint's folder."""
    return str(step)

  def find_all(
    self, base_path: str | os.PathLike
  ) -> Iterator[ocp_path.step.Metadata]:
    """Yields the checkpoints that are not known to be damaged."""
    for step in self.all():
      if step not in self.damaged:
        yield self.find_step(base_path, step)

  def find_step(
    self, base_path: str | os.PathLike, step: int
  ) -> ocp_path.step.Metadata:
    """Returns one checkpoint."""
    path = epath.Path(base_path) / self.build_name(step)
    return ocp_path.step.Metadata(step=step, path=path)
