"""Sends the metrics of a run to Weights & Biases, if its user asks for that.

`wandb` reads the rest from its own variables: WANDB_API_KEY, WANDB_MODE=offline
and so on.
"""

import contextlib
import importlib.util
import pathlib
import sys
from collections.abc import Iterator, Mapping
from typing import Any

from mmdcodec.errors import UserError

# Where `wandb` puts its files, in the folder that it is given.
FOLDER = "wandb"


def check(project: str) -> None:
  """Checks, before long work, that the package is installed if it is wanted.

  Args:
    project: the project; "" if metrics go nowhere.

  Raises:
    UserError: it is not installed.
  """
  if project and importlib.util.find_spec("wandb") is None:
    raise _not_installed(project)


class Board:
  """A run of Weights & Biases, with which all starts of a run here go on."""

  def __init__(
    self,
    project: str,
    run: str,
    *,
    name: str,
    config: Mapping[str, Any],
    folder: pathlib.Path,
  ):
    """Opens the run, or opens it again.

    Args:
      project: `PROJECT` or `ENTITY/PROJECT`.
      run: id of the run, of letters and digits.
      name: what people see.
      config: settings to show beside the metrics.
      folder: folder for files of `wandb`.

    Raises:
      UserError: the package is not installed, or refuses.
    """
    try:
      import wandb
    except ImportError:
      raise _not_installed(project) from None
    self._told = False
    entity, _, project = project.rpartition("/")
    try:
      self._run = wandb.init(
        project=project,
        entity=entity or None,
        id=run,
        name=name,
        config=dict(config),
        dir=str(folder),
        resume="allow",
      )
    except Exception as error:  # of several kinds
      raise UserError(
        f"Weights & Biases refuses: {_reason(error)}; log in with `wandb"
        " login`, set WANDB_MODE=offline, or leave out wandb_project."
      ) from None

  def write(self, step: int, values: Mapping[str, float]) -> None:
    """Sends the metrics of a step."""
    with self._forgiven():
      self._run.log(dict(values), step=step)

  def close(self) -> None:
    """Ends the run, with what is still to be sent."""
    with self._forgiven():
      self._run.finish()

  @contextlib.contextmanager
  def _forgiven(self) -> Iterator[None]:
    """Says once that metrics are missing; no training ends because of that."""
    try:
      yield
    except Exception as error:  # of several kinds
      if not self._told:
        print(
          f"Weights & Biases lacks metrics of this run ({_reason(error)});"
          " metrics.jsonl has all.",
          file=sys.stderr,
          flush=True,
        )
      self._told = True


def _not_installed(project: str) -> UserError:
  return UserError(
    f"wandb_project is {project!r}, but the package of Weights & Biases is not"
    " installed: `pip install 'mmdcodec[wandb]'`."
  )


def _reason(error: Exception) -> str:
  """What an error says, in one line."""
  words = " ".join(str(error).split()).removesuffix(".")
  return words or type(error).__name__
