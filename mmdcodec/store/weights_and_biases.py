"""Sends the metrics of a run to Weights & Biases, if its user asks for that.

`wandb` reads the rest from its own variables: WANDB_API_KEY, WANDB_MODE=offline
and so on.
"""

import pathlib
from collections.abc import Mapping
from typing import Any

from mmdcodec.errors import UserError

# Where `wandb` puts its files, in the folder that it is given.
FOLDER = "wandb"


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
      raise UserError(
        f"wandb_project is {project!r}, but the package of Weights & Biases is"
        " not installed: `pip install 'mmdcodec[wandb]'`."
      ) from None
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
      reason = " ".join(str(error).split()).removesuffix(".")
      raise UserError(
        f"Weights & Biases refuses: {reason}; log in with `wandb login`, set"
        " WANDB_MODE=offline, or leave out wandb_project."
      ) from None

  def write(self, step: int, values: Mapping[str, float]) -> None:
    """Sends the metrics of a step."""
    self._run.log(dict(values), step=step)

  def close(self) -> None:
    """Ends the run, with what is still to be sent."""
    self._run.finish()
