"""Training the network of semantic tokens.

A step hides some frames of each clip, and the network predicts their codes
(`mmdcodec/models/semantic.py`). What it says must be compared with what it
could say without listening: `guess` is the cross-entropy of the codes under
their running frequencies, `prediction` that of the network.
"""

import functools
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mmdcodec.data import record_order
from mmdcodec.losses import masking
from mmdcodec.models import semantic
from mmdcodec.models.semantic_outputs import Losses
from mmdcodec.nn.conv import frames, length_mask
from mmdcodec.parallel import rules
from mmdcodec.quantize.vector import perplexity
from mmdcodec.train import audio_crops, level_statistics
from mmdcodec.train.task import Batch, LossResult, Task

# A network below this share of the loss of guessing has learned something.
LEARNING = 0.98
# Steps at the loss of guessing after which the user is warned.
PATIENCE = 1_000
# Codes have collapsed if their perplexity is less than this share of them.
COLLAPSED = 0.02
# Of the running frequencies of codes.
_DECAY = 0.99


class SemanticTask(Task):
  """Trains a semantic network; its codes are fitted afterwards."""

  kind = "semantic"
  rules = rules.SEMANTIC_RULES
  measures_data = True
  progress_metrics = (
    "train/loss",
    "train/prediction",
    "train/guess",
    "train/accuracy",
    "train/perplexity",
  )
  free_model_keys = ("dtype", "remat", "dropout", "feature_layer")

  def __init__(self, config: Mapping[str, Any]):
    """Builds the model.

    Args:
      config: see `configs/common.py`, `semantic_config`.

    Raises:
      UserError: a setting is invalid.
    """
    self.config = config
    self.model = semantic.from_config(config["model"])
    self.learns_codes = self.model.objective == "w2v_bert"
    if not self.learns_codes:
      # Where codes are learned, they can be easy to predict because they say
      # little, so no held-out measure tells the best checkpoint.
      self.best_metric = "valid/prediction"
    self._measure = jax.jit(self._measure_batch)

  @property
  def audio_seconds(self) -> float:
    """Seconds of audio in one example."""
    return self.config["data"]["seconds"]

  # -------------------------------------------------------------------- data

  def batches(self, *, seed: int) -> record_order.Batches:
    """Opens the training data; see `Task.batches`."""
    return audio_crops.training(
      self.config, rate=self.model.rate, channels=1, seed=seed
    )

  def held_out(self) -> list[Batch]:
    """Returns the same clips each time; none without validation data."""
    return audio_crops.held_out(self.config, rate=self.model.rate, channels=1)

  def batch_shapes(self, batch: int) -> Batch:
    """Describes `audio` [batch, samples, 1] and `lengths` [batch]."""
    samples = round(self.audio_seconds * self.model.rate)
    return {
      "audio": jax.ShapeDtypeStruct((batch, samples, 1), jnp.float32),
      "lengths": jax.ShapeDtypeStruct((batch,), jnp.int32),
    }

  # ------------------------------------------------------------------- state

  def init(self, key: jax.Array) -> dict[str, Any]:
    """Initializes the variables, whose shapes do not depend on clip length."""
    return semantic.init(self.model, key)

  def measure_data(
    self,
    collections: dict[str, Any],
    batches: Iterator[Batch],
    say: Callable[[str], None],
  ) -> dict[str, Any]:
    """Measures mean and deviation of the mel bands."""

    def spectrogram(
      x: jax.Array, lengths: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
      levels = self.model.levels(x)
      ends = frames(lengths, self.model.hop)
      return levels, length_mask(ends, levels.shape[1])

    found = level_statistics.measure(
      spectrogram,
      collections["statistics"],
      batches,
      seconds=self.config["batch"] * self.audio_seconds,
      say=say,
    )
    return {**collections, "statistics": found}

  def init_extra_state(self, key: jax.Array) -> dict[str, jax.Array]:
    """Initializes frequencies of codes, and the last step that beat them."""
    codes = self.model.codes
    return {
      "frequencies": jnp.full((codes,), 1 / codes, jnp.float32),
      "learned": jnp.zeros((), jnp.int32),
    }

  # -------------------------------------------------------------------- step

  def predict(
    self,
    variables: dict[str, Any],
    batch: Batch,
    hide: jax.Array,
    **options: Any,
  ) -> Losses:
    """Hides some frames of a batch and predicts their codes.

    Args:
      variables: of the model.
      batch: see `batch_shapes`.
      hide: random key of mask and noise.
      **options: further arguments of the model.
    """
    masked, noise = jax.random.split(hide)
    x, lengths = batch["audio"], batch["lengths"]
    how = self.config["masking"]
    mask = masking.MASKS[how["kind"]](
      masked,
      self.model.valid(lengths, x.shape[1]),
      how["share"],
      how["frames"],
    )
    loud = how["noise"] * jax.random.normal(noise, x.shape, x.dtype)
    found: Any = self.model.apply(variables, x, lengths, mask, loud, **options)
    return found

  def loss(
    self,
    params: Any,
    collections: dict[str, Any],
    extra: dict[str, jax.Array],
    batch: Batch,
    key: jax.Array,
    step: jax.Array,
    phase: str | None = None,
  ) -> LossResult:
    """Computes the weighted losses of masked frames; see `Task.loss`."""
    del phase
    hide, drop, draw = jax.random.split(key, 3)
    found = self.predict(
      {"params": params, **collections},
      batch,
      hide,
      key=draw,
      settings=self._objective_settings(step),
      train=True,
      rngs={"dropout": drop},
    )
    total = self._total(found.losses)
    logs = jnp.log(extra["frequencies"])
    guess = -masking.masked_mean(logs[found.ids], found.masked)
    shares = _shares(found, self.model.codes)
    # Below the frequency of any code that is in use.
    smooth = (shares + 1e-4 / self.model.codes) / (1 + 1e-4)
    extra = {
      "frequencies": (_DECAY * extra["frequencies"] + (1 - _DECAY) * smooth),
      "learned": jnp.where(
        found.losses["prediction"] < LEARNING * guess, step, extra["learned"]
      ),
    }
    metrics = {
      **found.losses,
      **found.metrics,
      "guess": guess,
      "perplexity": perplexity(shares),
      "masked": found.masked.sum() / jnp.maximum(found.valid.sum(), 1),
      "steps_of_guessing": step - extra["learned"],
    }
    return total, (collections, extra, metrics)

  def weigh(self, part: Batch) -> jax.Array:
    """Counts frames; see `Task.weigh`.

    Which of them are masked depends on a random key, but the same share of the
    valid ones is expected to be.
    """
    valid = self.model.valid(part["lengths"], part["audio"].shape[1])
    return valid.sum().astype(jnp.float32)

  def _total(self, losses: dict[str, jax.Array]) -> jax.Array:
    """Adds the losses of the objective by their weights."""
    weights = self.config["losses"]
    return sum(
      (
        losses[name] * each["weight"]
        for name, each in weights.items()
        if name in losses
      ),
      jnp.zeros((), jnp.float32),
    )

  def _objective_settings(self, step: jax.Array | int) -> dict[str, Any]:
    """Returns the settings of the objective at a step."""
    if not self.learns_codes:
      return {}
    gumbel = self.config["gumbel"]
    done = step / self.config["steps"]
    return {
      "temperature": self.config["losses"]["contrastive"]["temperature"],
      "gumbel_temperature": gumbel["first"]
      * (gumbel["last"] / gumbel["first"]) ** done,
    }

  # ---------------------------------------------------------------- measures

  def _measure_batch(
    self, variables: dict[str, Any], batch: Batch, key: jax.Array
  ) -> tuple[dict[str, jax.Array], jax.Array]:
    """Returns metrics of a batch, and the shares of codes [codes]."""
    found = self.predict(
      variables,
      batch,
      key,
      settings=self._objective_settings(self.config["steps"]),
    )
    metrics = {"loss": self._total(found.losses), **found.losses}
    metrics |= found.metrics
    shares = _shares(found, self.model.codes)
    return jax.tree.map(rules.constrain, (metrics, shares))

  def evaluate(
    self, variables: dict[str, Any], batches: list[Batch]
  ) -> dict[str, Any]:
    """Averages losses and metrics over held-out clips, masked as always."""
    measured = [
      jax.device_get(self._measure(variables, batch, jax.random.key(i)))
      for i, batch in enumerate(batches)
    ]
    mean = functools.partial(jax.tree.map, lambda *x: np.mean(x, axis=0))
    metrics, shares = mean(*measured)
    return {**metrics, "perplexity": float(perplexity(shares))}

  def warnings(self, values: Mapping[str, float]) -> list[str]:
    """Warns of codes that have collapsed, and of nothing learned."""
    found = []
    perplexity = values.get("train/perplexity", np.inf)
    if perplexity < COLLAPSED * self.model.codes:
      cause = (
        "raise losses.diversity.weight or lower the learning rate"
        if self.learns_codes
        else "see that the clips are not silent"
      )
      found.append(
        f"the codes to predict have collapsed: their perplexity is"
        f" {perplexity:.1f} of {self.model.codes}; {cause}."
      )
    stuck = values.get("train/steps_of_guessing", 0)
    if stuck >= PATIENCE:
      found.append(
        f"for {stuck:.0f} steps the network has predicted no better than by"
        " guessing the most frequent codes; change the learning rate or the"
        " warm-up."
      )
    return found


def _shares(found: Losses, codes: int) -> jax.Array:
  """Shares of all codes among valid frames: [codes]."""
  counts = jnp.zeros((codes,), jnp.float32).at[found.ids].add(found.valid)
  return counts / jnp.maximum(found.valid.sum(), 1)
