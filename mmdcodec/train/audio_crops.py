"""The batches of a task that trains on random crops of audio, and on no text.

What they are is in `config["batch"]` and `config["data"]`.
"""

from collections.abc import Mapping
from typing import Any

from mmdcodec.data import pipeline, record_order
from mmdcodec.errors import UserError
from mmdcodec.train import settings
from mmdcodec.train.task import Batch


def training(
  config: Mapping[str, Any], *, rate: int, channels: int, seed: int
) -> record_order.Batches:
  """Opens the training data; see `Task.batches`.

  Args:
    config: config of the run.
    rate: sample rate of the model in Hz.
    channels: channels of the model.
    seed: seed of order and crops.

  Raises:
    UserError: there is no training data.
  """
  data = config["data"]
  datasets = settings.parse_datasets(data["train"])
  if not datasets:
    raise UserError(
      "no training data: make a data set with `mmdcodec prepare FOLDER"
      " DATASET` and give --config.data.train=DATASET."
    )
  return pipeline.batches(
    datasets,
    batch=config["batch"],
    seconds=data["seconds"],
    rate=rate,
    channels=channels,
    seed=seed,
    gain_db=tuple(data["gain_db"]),
    mix=data["mix"],
  )


def held_out(
  config: Mapping[str, Any], *, rate: int, channels: int
) -> list[Batch]:
  """Returns the same clips each time; none without validation data.

  Args:
    config: config of the run.
    rate: sample rate of the model in Hz.
    channels: channels of the model.
  """
  data = config["data"]
  datasets = settings.parse_datasets(data["valid"])
  if not datasets:
    return []
  return pipeline.fixed_batches(
    datasets,
    batch=config["batch"],
    seconds=data["seconds"],
    rate=rate,
    channels=channels,
    count=data["valid_batches"],
  )
