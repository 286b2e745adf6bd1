"""The interface between a kind of model and the training loop.

`loop.py` is the same for every model. A subclass of `Task` provides data,
variables, loss and evaluation. The config names the class:

    config.task = "codec"                        a task of this package
    config.task = "package.module:MyTask"        any class that can be imported
    config.task = f"{__file__}:MyTask"           a class in the config file

so `mmdcodec train --config=FILE.py` can train any model. The class is called
with the config as nested dicts. The loop itself reads the keys of `run_config`
in `configs/common.py`; a task may have any others.
"""

import abc
import importlib
import importlib.util
import pathlib
import types
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Protocol

import jax
import jax.numpy as jnp

from mmdcodec.errors import UserError
from mmdcodec.models import low_rank
from mmdcodec.parallel import rules
from mmdcodec.store import paths
from mmdcodec.train.state import TrainState

# The tasks of this package, by their names in configs.
TASKS = {
  "codec": "mmdcodec.train.codec_task:CodecTask",
  "lm": "mmdcodec.train.lm_task:LMTask",
  "mulan": "mmdcodec.train.mulan_task:MulanTask",
  "semantic": "mmdcodec.train.semantic_task:SemanticTask",
  "melody_embedding": "mmdcodec.train.melody_task:MelodyTask",
}

# A batch: arrays by name, [batch, ...].
Batch = dict[str, Any]
# The loss, and (collections, extra state, metrics) after the step.
LossResult = tuple[jax.Array, tuple[dict[str, Any], Any, dict[str, jax.Array]]]


class Batches(Protocol):
  """The training data: an endless iterator that can be resumed."""

  def __next__(self) -> Batch:
    """Returns this process's rows of the next batch, as NumPy arrays."""

  def get_state(self) -> dict[str, int]:
    """Returns the position: `index`, the number of examples read so far."""

  def set_state(self, state: dict[str, int]) -> None:
    """Continues from a position."""

  def close(self) -> None:
    """Stops reading."""


class Task(abc.ABC):
  """Trains one kind of model.

  A subclass must define the attributes `kind` and `rules`, the property
  `audio_seconds`, and the methods `batches`, `batch_shapes`, `init` and `loss`.
  Everything else has a default.

  Attributes:
    config: config of the run.
    workdir: folder of the run; None outside of one.
    kind: kind of model in the `config.json` of a bundle.
    rules: how parameters are sharded; see `parallel/rules.py`.
    best_metric: held-out metric that selects the best checkpoint, such as
      "valid/mel_distance"; None to keep no best one.
    best_mode: "min" or "max", whichever is better.
    progress_metrics: metrics shown in the progress line.
    free_model_keys: keys of `config["model"]` that may change when a run is
      resumed.
    history: number of batches in `history_gradient`.
    inspects: whether `inspect` is implemented.
    measures_data: whether `measure_data` is implemented.
    low_rank_scale: factor of the low-rank additions among the trained
      parameters, see `models/low_rank.py`; None without any.
    parts: names of models that belong to this one, such as the codec of a
      language model. Each is a bundle in a folder of the workdir and becomes
      part of this model's bundle; see `record_parts`.
  """

  workdir: pathlib.Path | None = None
  kind: str
  rules: rules.Rules
  best_metric: str | None = None
  best_mode: str = "min"
  progress_metrics: tuple[str, ...] = ("train/loss", "train/gradient_norm")
  free_model_keys: tuple[str, ...] = ()
  history: int = 1
  inspects: bool = False
  measures_data: bool = False
  low_rank_scale: float | None = None
  parts: tuple[str, ...] = ()

  def __init__(self, config: Mapping[str, Any]):
    """Keeps the config; a subclass builds its model here.

    Args:
      config: config of the run, as nested dicts.

    Raises:
      UserError: a setting is invalid.
    """
    self.config = config

  @property
  def positions(self) -> int | None:
    """Positions of the sequence in one example, for a language model's speed.

    A position holds all codes that are predicted together.
    """
    return None

  # ------------------------------------------------------ every task has these

  @property
  @abc.abstractmethod
  def audio_seconds(self) -> float:
    """Seconds of audio in one example, for the speed that is logged."""

  @abc.abstractmethod
  def batches(self, *, seed: int) -> Batches:
    """Opens the training data.

    Args:
      seed: seed of order and crops.

    Raises:
      UserError: there is no training data, or it does not fit the model.
    """

  @abc.abstractmethod
  def batch_shapes(self, batch: int) -> Batch:
    """Describes a global batch with `jax.ShapeDtypeStruct`s."""

  @abc.abstractmethod
  def init(self, key: jax.Array) -> dict[str, Any]:
    """Initializes `params` and the collections that training changes."""

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
    """Computes the loss of a batch; traced and differentiated in `params`.

    Args:
      params: trained parameters.
      collections: the other variables of `init`.
      extra: see `init_extra_state`.
      batch: a global batch.
      key: random key of this step.
      step: int32 scalar, updates done so far.
      phase: see `phase`.

    Returns:
      The scalar loss, and (new collections, new extra state, metrics: scalars
      or vectors by name, and what `end_step` takes). An override that calls the
      loss of its base class must hand on all metrics of that.
    """

  def weigh(self, part: Batch) -> jax.Array:
    """Returns how much a part of a batch counts beside the others.

    With `accumulate`, the loss is a mean over the parts. One that is itself a
    mean over what is no padding must count that, or else it is not the loss of
    the whole batch. Parts of a codec's batch count alike: discriminators judge
    padding too, and the balancer gives every clip the same norm.
    """
    del part
    return jnp.float32(1.0)

  def end_step(
    self,
    extra: Any,
    metrics: dict[str, Any],
    step: jax.Array,
    phase: str | None = None,
  ) -> tuple[Any, dict[str, jax.Array]]:
    """Updates the extra state once a step, after all parts of the batch.

    `loss` is called for each part (`accumulate`), and hands on what it returns
    as extra state from part to part. What must see the whole batch, such as
    the gradient for another optimizer, it puts into its metrics instead, which
    are averaged over the parts; this method takes it out.

    Args:
      extra: the extra state after `loss`.
      metrics: its metrics; may be changed.
      step: int32 scalar, updates done so far.
      phase: see `phase`.

    Returns:
      The extra state after the step, and what is logged.
    """
    return extra, metrics

  # ----------------------------------------------------- statistics of the data

  def measure_data(
    self,
    collections: dict[str, Any],
    batches: Iterator[Batch],
    say: Callable[[str], None],
  ) -> dict[str, Any]:
    """Measures statistics of the data that are part of the model.

    Called only if `measures_data`, before the first step of a run that does
    not start from a whole model.

    Args:
      collections: the variables of `init` besides `params`.
      batches: training batches, placed on the mesh. Training starts with the
        first of them, however many are taken here.
      say: called with a line of text for the user.

    Returns:
      The collections with the statistics.
    """
    raise NotImplementedError(
      f"{type(self).__name__} sets measures_data, so it must define"
      " measure_data()"
    )

  # --------------------------------------------------------- held-out measures

  def held_out(self) -> list[Batch]:
    """Returns batches to evaluate on, the same each time; none by default."""
    return []

  def evaluate(
    self, variables: dict[str, Any], batches: list[Batch]
  ) -> dict[str, Any]:
    """Computes metrics over the held-out batches, by name.

    Args:
      variables: `params` (averaged, if the run averages them) and collections.
      batches: batches from `held_out`, placed on the mesh.
    """
    return {}

  def warnings(self, values: Mapping[str, float]) -> list[str]:
    """Returns warnings about the metrics of a logged step, one sentence each.

    Args:
      values: metrics by full name, such as "train/loss".
    """
    return []

  def inspect(
    self, state: TrainState, batches: tuple[Batch, ...]
  ) -> dict[str, float]:
    """Computes expensive metrics whenever the run is evaluated.

    Called only if `inspects`.

    Args:
      state: training state.
      batches: up to `history` most recent batches, placed on the mesh.
    """
    raise NotImplementedError(
      f"{type(self).__name__} sets inspects, so it must define inspect()"
    )

  # ---------------------------------------------- steps that differ from others

  def phase(self, step: int) -> str | None:
    """Returns the phase of training that the step after `step` updates is in.

    Each phase is compiled as a separate program, so that a loss can skip work
    without a condition inside the program.
    """
    return None

  def uses_history(self, step: int) -> bool:
    """Whether the step after `step` updates adds `history_gradient`."""
    return False

  def history_gradient(
    self,
    params: Any,
    collections: dict[str, Any],
    batches: tuple[Batch, ...],
    key: jax.Array,
    step: jax.Array,
  ) -> tuple[jax.Array, Any, dict[str, jax.Array]]:
    """Computes an additional loss over the last `history` batches.

    Args:
      params: trained parameters.
      collections: the other variables.
      batches: the last `history` batches, the newest last.
      key: random key of this step.
      step: int32 scalar, updates done so far.

    Returns:
      The loss, its gradient with respect to params, and metrics.
    """
    raise NotImplementedError(
      f"{type(self).__name__} uses history, so it must define"
      " history_gradient()"
    )

  # ------------------------------------- state that only training needs, resume

  def init_extra_state(self, key: jax.Array) -> Any:
    """Initializes training state besides the model: arrays, or None.

    Examples are discriminators and running averages. It is saved in checkpoints
    but not in bundles, except for the parameters of an `adversary`, so that
    training can start from a bundle.
    """
    return None

  @classmethod
  def fixed_settings(cls, config: Mapping[str, Any]) -> dict[str, Any]:
    """Returns settings that must not change when a run is resumed, by name.

    The loop itself checks the model, the name of the optimizer, and whether
    weights are averaged.

    Args:
      config: config of this run, now or when it was last started.
    """
    return {}

  # ------------------------------------- from other models, and to other models

  def to_trained(
    self, variables: dict[str, Any], key: jax.Array
  ) -> dict[str, Any]:
    """Converts the variables of a model to the form that this run trains.

    Readers of a checkpoint undo this without the task, so it may only do two
    things: move parameters to the collection `frozen`, and add low-rank
    additions with scale `low_rank_scale` (`models/low_rank.py`).

    Args:
      variables: variables of a bundle or of another run.
      key: random key for new parameters.
    """
    return variables

  def whole(self, variables: Mapping[str, Any]) -> dict[str, Any]:
    """Undoes `to_trained`: the variables of the model from those of the run."""
    return low_rank.whole(variables, self.low_rank_scale)

  def start_with_part(
    self, path: str, state: TrainState, layout: TrainState
  ) -> TrainState | None:
    """Loads the weights of a part of the model, such as a text encoder.

    Args:
      path: `config["init_from"]`.
      state: freshly initialized state.
      layout: shardings of the state.

    Returns:
      The state with these weights; None if the path holds a whole model.

    Raises:
      UserError: the part does not fit the model.
    """
    return None

  def record_parts(self, workdir: pathlib.Path) -> None:
    """Copies what a bundle needs besides weights into the workdir.

    These are a bundle for each of `parts`, in the folder of that name, and the
    files of `bundle.ASSETS`. Process 0 calls this before the first step.

    Raises:
      UserError: the workdir has parts of another model.
    """
    return None


def make_task(config: Mapping[str, Any]) -> Task:
  """Makes the task that `config["task"]` names; see the top of this file.

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
  """Imports a module by its name or path."""
  if not place.endswith(".py"):
    return importlib.import_module(place)
  path = paths.of(place).resolve()
  spec = importlib.util.spec_from_file_location(path.stem, path)
  assert spec is not None and spec.loader is not None
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module
