"""The task: what a kind of model adds to the training loop.

`loop.py` is the same for every model. A subclass of `Task` gives it the data,
the variables, the loss and the held-out measures. The config names the class:

    config.task = "codec"                        a task of this package
    config.task = "package.module:MyTask"        any class that can be imported
    config.task = f"{__file__}:MyTask"           a class in the config file

so `mmdcodec train --config=FILE.py` trains a model that this package does not
know. The class is called with the config, nested dicts. The loop itself reads
the keys of `run_config` in `configs/common.py`; a task may have any others.
"""

import abc
import importlib
import importlib.util
import pathlib
import types
from collections.abc import Mapping
from typing import Any, Protocol

import jax

from mmdcodec.errors import UserError
from mmdcodec.parallel import rules
from mmdcodec.train.state import TrainState

# The tasks of this package, by the name that a config gives.
TASKS = {
  "codec": "mmdcodec.train.codec_task:CodecTask",
  "lm": "mmdcodec.train.lm_task:LMTask",
}

# A batch: arrays by name, [batch, ...].
Batch = dict[str, Any]
# The loss, and (collections, extra state, metrics) after the step.
LossResult = tuple[jax.Array, tuple[dict[str, Any], Any, dict[str, jax.Array]]]


class Batches(Protocol):
  """The training data: batches without end, and a position to go on from."""

  def __next__(self) -> Batch:
    """The next batch: this process's rows, as NumPy arrays."""

  def get_state(self) -> dict[str, int]:
    """The position: `index`, the number of examples that were read."""

  def set_state(self, state: dict[str, int]) -> None:
    """Goes on from a position."""

  def close(self) -> None:
    """Ends reading."""


class Task(abc.ABC):
  """What the training loop needs to know about one kind of model.

  A subclass must give the attributes `kind` and `rules`, the property
  `audio_seconds`, and the methods `batches`, `batch_shapes`, `init` and `loss`.
  Everything else has a default.

  Attributes:
    kind: of model, as `config.json` of a bundle names it.
    rules: how the mesh cuts parameters, see `parallel/rules.py`.
    best_metric: held-out metric that picks the best checkpoint, such as
      "valid/mel_distance"; None if none does.
    best_mode: "min" or "max", whichever is better.
    progress_metrics: metrics that the progress line shows.
    free_model_keys: keys of `config["model"]` that may change when a run is
      continued.
    history: number of batches that a long step takes together, see
      `uses_history`.
    inspects: whether `inspect` measures anything.
    low_rank_scale: factor of the low-rank additions among the trained
      parameters, see `models/low_rank.py`; None without any.
    parts: names of models that belong to this one, such as the codec of a
      language model. Each is a folder of the workdir with a bundle in it, and
      becomes part of this model's bundle; see `record_parts`.
  """

  kind: str
  rules: rules.Rules
  best_metric: str | None = None
  best_mode: str = "min"
  progress_metrics: tuple[str, ...] = ("train/loss", "train/gradient_norm")
  free_model_keys: tuple[str, ...] = ()
  history: int = 1
  inspects: bool = False
  low_rank_scale: float | None = None
  parts: tuple[str, ...] = ()

  def __init__(self, config: Mapping[str, Any]):
    """Keeps the config; a subclass builds its model here.

    Args:
      config: of the run, plain dicts.

    Raises:
      UserError: a setting that is not possible.
    """
    self.config = config

  # ------------------------------------------------------ every task has these

  @property
  @abc.abstractmethod
  def audio_seconds(self) -> float:
    """Seconds of audio in one example, for the speed that is logged."""

  @abc.abstractmethod
  def batches(self, *, seed: int) -> Batches:
    """The training data, without end.

    Args:
      seed: of order and crops.

    Raises:
      UserError: there is no training data, or it does not fit the model.
    """

  @abc.abstractmethod
  def batch_shapes(self, batch: int) -> Batch:
    """Shapes and types of a global batch, as `jax.ShapeDtypeStruct`s."""

  @abc.abstractmethod
  def init(self, key: jax.Array) -> dict[str, Any]:
    """Fresh variables: `params`, and collections that training changes."""

  @abc.abstractmethod
  def loss(
    self,
    params: Any,
    collections: dict[str, Any],
    extra: Any,
    batch: Batch,
    key: jax.Array,
    step: jax.Array,
    phase: str | None = None,
  ) -> LossResult:
    """The loss of a batch; it is traced, and differentiated in `params`.

    Args:
      params: trained parameters.
      collections: the other variables of `init`.
      extra: see `init_extra_state`.
      batch: a global batch.
      key: random key of this step.
      step: int32 scalar, updates done so far.
      phase: see `phase`.

    Returns:
      The loss, a scalar, and (collections after the step, extra state after the
      step, metrics: scalars or vectors by name).
    """

  # --------------------------------------------------------- held-out measures

  def held_out(self) -> list[Batch]:
    """Batches to evaluate on, the same each time; none by default."""
    return []

  def evaluate(
    self, variables: dict[str, Any], batches: list[Batch]
  ) -> dict[str, Any]:
    """Metrics over the held-out batches, by name.

    Args:
      variables: `params` (averaged, if the run averages them) and collections.
      batches: of `held_out`, placed on the mesh.
    """
    return {}

  def warnings(self, values: Mapping[str, float]) -> list[str]:
    """Warnings about the metrics of a logged step, a sentence each.

    Args:
      values: by full name, such as "train/loss".
    """
    return []

  def inspect(
    self, state: TrainState, batches: tuple[Batch, ...]
  ) -> dict[str, float]:
    """Costly measures of training, taken whenever the run is evaluated.

    Called only if `inspects`.

    Args:
      state: of the run.
      batches: the last `history` batches or fewer, placed on the mesh.
    """
    raise NotImplementedError

  # ---------------------------------------------- steps that differ from others

  def phase(self, step: int) -> str | None:
    """Names the part of training that the step after `step` updates is in.

    Each phase is compiled as a program of its own, so that a loss may leave out
    work without a condition inside the program.
    """
    return None

  def uses_history(self, step: int) -> bool:
    """Whether the step after `step` updates also takes `history_gradient`."""
    return False

  def history_gradient(
    self,
    params: Any,
    collections: dict[str, Any],
    batches: tuple[Batch, ...],
    key: jax.Array,
    step: jax.Array,
  ) -> tuple[jax.Array, Any, dict[str, jax.Array]]:
    """A further loss, over the last `history` batches together.

    Args:
      params: trained parameters.
      collections: the other variables.
      batches: the last `history` batches, the newest last.
      key: random key of this step.
      step: int32 scalar, updates done so far.

    Returns:
      The loss, its gradient in params, and metrics.
    """
    raise NotImplementedError

  # ------------------------------------- state that only training needs, resume

  def init_extra_state(self, key: jax.Array) -> Any:
    """State that goes from step to step beside the model: arrays, or None.

    Discriminators and running averages are such. Checkpoints have it, bundles
    do not; but the parameters of an `adversary` in it go into a bundle, to
    train on with.
    """
    return None

  @classmethod
  def fixed_settings(cls, config: Mapping[str, Any]) -> dict[str, Any]:
    """Settings that a run must keep when it is continued, by name.

    The loop itself keeps the model, the name of the optimizer, and whether
    weights are averaged.

    Args:
      config: of this run, or of the same run when it was last started.
    """
    return {}

  # ------------------------------------- from other models, and to other models

  def to_trained(
    self, variables: dict[str, Any], key: jax.Array
  ) -> dict[str, Any]:
    """The variables of a whole model in the form that this run trains.

    Whoever reads a checkpoint undoes this without the task, so it may do only
    two things: move parameters to the collection `frozen`, and add low-rank
    additions of scale `low_rank_scale` (`models/low_rank.py`).

    Args:
      variables: of a bundle or of another run.
      key: random key, for what is added.
    """
    return variables

  def start_with_part(
    self, path: str, state: TrainState, layout: TrainState
  ) -> TrainState | None:
    """Starts from the weights of a part of the model, such as a text encoder.

    Args:
      path: `config["init_from"]`.
      state: fresh.
      layout: shardings of the state.

    Returns:
      The state with these weights; None if the path holds a whole model.

    Raises:
      UserError: the part does not fit the model.
    """
    return None

  def record_parts(self, workdir: pathlib.Path) -> None:
    """Puts into the workdir what a bundle of the run needs beside weights.

    A bundle for each of `parts`, in the folder of that name, and files of
    `bundle.ASSETS`. Process 0 calls it at each start, before the first step.

    Raises:
      UserError: what is there already is of another model.
    """
    return None


def make_task(config: Mapping[str, Any]) -> Task:
  """The task that `config["task"]` names; see the top of this file.

  Raises:
    UserError: there is no such task.
  """
  name = config["task"]
  place, colon, attribute = TASKS.get(name, name).rpartition(":")
  if not colon:
    raise UserError(
      f"task is {name!r}; expected one of {', '.join(sorted(TASKS))}, or the"
      " class of a task as module:Class or FILE.py:Class."
    )
  try:
    module = _load(place)
    cls = getattr(module, attribute)
  except (ImportError, OSError, AttributeError) as error:
    raise UserError(
      f"task is {name!r}, which cannot be imported: {error}."
    ) from None
  if not (isinstance(cls, type) and issubclass(cls, Task)):
    raise UserError(
      f"task is {name!r}; expected a subclass of mmdcodec.train.task.Task."
    )
  return cls(config)


def _load(place: str) -> types.ModuleType:
  """A module by its name, or by the path of its file."""
  if not place.endswith(".py"):
    return importlib.import_module(place)
  path = pathlib.Path(place).resolve()
  spec = importlib.util.spec_from_file_location(path.stem, path)
  assert spec is not None and spec.loader is not None
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module
