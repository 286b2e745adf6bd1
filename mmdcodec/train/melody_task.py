"""Training a melody embedding (MusicLM, arXiv 2301.11325, 3.4).

An example is two clips of built-in music with the same melody on other
instruments, in other keys and at other speeds. No data set is needed: clips are
rendered as they are needed, in several threads.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import grain
import jax
import jax.numpy as jnp
import numpy as np

from mmdcodec.data import record_order
from mmdcodec.data.melody_clips import HELD_OUT, Melodies
from mmdcodec.errors import UserError
from mmdcodec.evaluate import retrieval
from mmdcodec.losses import triplet
from mmdcodec.models import melody_embedding
from mmdcodec.parallel import rules
from mmdcodec.train import level_statistics
from mmdcodec.train.task import Batch, LossResult, Task

# Clips of a melody in an example.
PAIR = 2


class MelodyTask(Task):
  """Trains a melody embedding.

  Attributes:
    model: the network.
  """

  kind = "melody_embedding"
  rules = rules.MELODY_RULES
  best_metric, best_mode = "valid/r1", "max"
  progress_metrics = ("train/loss", "train/accuracy", "train/gradient_norm")
  free_model_keys = ("dtype", "remat")

  def __init__(self, config: Mapping[str, Any]):
    """Builds the model.

    Args:
      config: see `configs/melody_embedding.py`.

    Raises:
      UserError: a setting is invalid.
    """
    self.config = config
    self.model = melody_embedding.from_config(config["model"])
    if config.get("accumulate", 1) > 1:
      raise UserError(
        f"accumulate is {config['accumulate']}; the triplet loss compares all"
        " rows of a batch, so it must be 1: save memory with model.remat."
      )
    self.measures_data = not self.model.lags
    self._embed = jax.jit(self._embed_batch)

  @property
  def audio_seconds(self) -> float:
    """Seconds of audio in one example."""
    return PAIR * self.model.seconds

  # -------------------------------------------------------------------- data

  def _melodies(self, count: int, **settings: Any) -> Melodies:
    return Melodies(
      count, rate=self.model.rate, seconds=self.model.seconds, **settings
    )

  def batches(self, *, seed: int) -> record_order.Batches:
    """Renders the training data; see `Task.batches`."""
    data = self.config["data"]
    source = self._melodies(
      data["melodies"], renditions=data["renditions"], keep=data["keep"]
    )
    return record_order.batches(
      [source],
      [1.0],
      _Pair(source),
      batch=self.config["batch"],
      seed=seed,
      threads=None,
      process_index=None,
      process_count=None,
    )

  def held_out(self) -> list[Batch]:
    """Returns two renditions of melodies that are not trained on."""
    batch, count = self.config["batch"], self.config["data"]["valid_batches"]
    source = self._melodies(batch * count, first=HELD_OUT, renditions=PAIR)
    examples = [
      _example([source.clip(i, k) for k in range(PAIR)], i)
      for i in range(len(source))
    ]
    return record_order.stacked(examples, batch) if count else []

  def batch_shapes(self, batch: int) -> Batch:
    """Describes the arrays of a batch."""
    audio = (batch, PAIR, self.model.samples, 1)
    return {
      "audio": jax.ShapeDtypeStruct(audio, jnp.float32),
      "melody": jax.ShapeDtypeStruct((batch,), jnp.int32),
    }

  # ------------------------------------------------------------------- state

  def init(self, key: jax.Array) -> dict[str, Any]:
    """Initializes the variables."""
    return melody_embedding.initial(self.model, key)

  def measure_data(
    self,
    collections: dict[str, Any],
    batches: Iterator[Batch],
    say: Callable[[str], None],
  ) -> dict[str, Any]:
    """Measures mean and deviation of the bands of the spectrogram."""
    flat = (
      {"audio": x, "lengths": np.full(len(x), x.shape[1])}
      for x in (_flat(batch["audio"]) for batch in batches)
    )
    found = level_statistics.measure(
      self.model.spectrogram,
      collections["input"],
      flat,
      seconds=self.config["batch"] * self.audio_seconds,
      say=say,
    )
    return {**collections, "input": found}

  # -------------------------------------------------------------------- step

  def _apply(
    self, variables: dict[str, Any], audio: jax.Array, **more: Any
  ) -> jax.Array:
    """Embeds clips [batch, pair, samples, 1] as [batch * pair, dim]."""
    x = rules.constrain(_flat(audio), "batch", None, None)
    lengths = jnp.full(len(x), x.shape[1])
    found: Any = self.model.apply(variables, x, lengths, **more)
    return found

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
    """Computes the triplet loss of a batch; see `Task.loss`."""
    del step, phase
    x = self._apply(
      {"params": params, **collections},
      batch["audio"],
      train=True,
      rngs={"dropout": key},
    )
    value, metrics = triplet.semi_hard(
      x, jnp.repeat(batch["melody"], PAIR), margin=self.config["margin"]
    )
    return value, (collections, extra, metrics)

  def warnings(self, values: Mapping[str, float]) -> list[str]:
    """Warns about collapse."""
    loss, margin = values.get("train/loss", 0.0), self.config["margin"]
    if abs(loss - margin) > 0.02 * margin or values.get("train/accuracy", 1):
      return []
    return [
      f"the loss is {loss:.3f}, that of equal embeddings: the model may have"
      " collapsed to one vector; lower optimizer.learning_rate or margin."
    ]

  # -------------------------------------------------------------- evaluation

  def _embed_batch(
    self, variables: dict[str, Any], batch: Batch
  ) -> tuple[jax.Array, jax.Array]:
    x = self._apply(variables, batch["audio"])
    x = x.reshape(-1, PAIR, x.shape[-1])
    whole = lambda a: rules.constrain(a, *[None] * a.ndim)
    return whole(x), whole(batch["melody"])

  def evaluate(
    self, variables: dict[str, Any], batches: list[Batch]
  ) -> dict[str, Any]:
    """Measures how well one rendition finds the other among all melodies.

    Returns:
      `r1`, `r10`, `median_rank`, `chance_r1`, and `melodies`, their number.
    """
    found = [jax.device_get(self._embed(variables, batch)) for batch in batches]
    x, melody = (np.concatenate(each) for each in zip(*found, strict=True))
    right = melody[:, None] == melody
    ranks = retrieval.ranks(x[:, 0] @ x[:, 1].T, right)
    return {
      **retrieval.summary(ranks),
      "chance_r1": retrieval.chance(right)["r1"],
      "melodies": len(x),
    }


@dataclass(frozen=True)
class _Pair(grain.transforms.RandomMap):
  """Maps (source, melody) to clips of it."""

  source: Melodies

  def random_map(
    self, element: tuple[int, int], rng: np.random.Generator
  ) -> dict:
    _, melody = element
    which = rng.choice(self.source.renditions, PAIR, replace=False)
    clips = [self.source.clip(melody, int(k), rng) for k in which]
    return _example(clips, melody)


def _example(clips: list[np.ndarray], melody: int) -> dict:
  return {"audio": np.stack(clips), "melody": np.int32(melody)}


def _flat(x: Any) -> Any:
  return x.reshape(-1, *x.shape[2:])
