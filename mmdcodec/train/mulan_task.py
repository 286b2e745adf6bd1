"""Training a joint embedding of music and text (MuLan, arXiv 2208.12415).

An example is a crop as long as the audio tower's window and a text: the caption
of its record, or a random subset of its tags that is drawn anew each time. The
loss compares every crop of the global batch with every text. Pairs whose texts
are equal are neither right nor wrong, and a record without any text takes no
part.
"""

import functools
import math
import pathlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mmdcodec.data import pipeline, record_order
from mmdcodec.data.texts import Describe, tag_names
from mmdcodec.errors import UserError
from mmdcodec.evaluate import retrieval
from mmdcodec.losses import contrastive
from mmdcodec.models import mulan, text_tokens
from mmdcodec.parallel import rules
from mmdcodec.train import level_statistics, settings, warm_start
from mmdcodec.train.state import TrainState
from mmdcodec.train.task import Batch, LossResult, Task

# A loss above this share of the value for guessing has learned nothing, and
# after so many steps of that in a row, something is wrong.
GUESSING, LONG = 0.98, 300


class MulanTask(Task):
  """Trains a joint embedding.

  Attributes:
    model: both towers.
  """

  kind = "mulan"
  rules = rules.MULAN_RULES
  best_metric, best_mode = "valid/r10", "max"
  progress_metrics = ("train/loss", "train/accuracy", "train/gradient_norm")
  free_model_keys = ("dtype", "remat")
  measures_data = True

  def __init__(self, config: Mapping[str, Any]):
    """Builds the model.

    Args:
      config: see `configs/common.py`, `mulan_config`.

    Raises:
      UserError: a setting is invalid.
    """
    self.config = config
    self.model = mulan.from_config(config["model"])
    if config.get("accumulate", 1) > 1:
      raise UserError(
        f"accumulate is {config['accumulate']}; a contrastive loss compares all"
        " rows of a batch, so it must be 1: save memory with model.remat."
      )
    self._embed = jax.jit(self._embed_batch)

  @property
  def audio_seconds(self) -> float:
    """Seconds of audio in one example."""
    return self.model.seconds

  # -------------------------------------------------------------------- data

  def batches(self, *, seed: int) -> record_order.Batches:
    """Opens the training data; see `Task.batches`."""
    data = self.config["data"]
    datasets = settings.parse_datasets(data["train"])
    if not datasets:
      raise UserError(
        "no training data: make a data set with `mmdcodec prepare FOLDER"
        " DATASET --captions FILE` and give --config.data.train=DATASET."
      )
    return pipeline.batches(
      datasets,
      **self._example_settings(),
      seed=seed,
      gain_db=tuple(data["gain_db"]),
    )

  def held_out(self) -> list[Batch]:
    """Returns the same clips with their captions each time.

    Raises:
      UserError: none of them has a caption or tags.
    """
    data = self.config["data"]
    datasets = settings.parse_datasets(data["valid"])
    if not datasets:
      return []
    found = pipeline.fixed_batches(
      datasets, **self._example_settings(), count=data["valid_batches"]
    )
    if found and not any(batch["told"].any() for batch in found):
      raise UserError(
        f"none of the held-out clips of {', '.join(datasets)} has a caption or"
        " tags, by which a joint embedding is measured: prepare the data set"
        " with --captions, or omit --config.data.valid."
      )
    return found

  def _example_settings(self) -> dict[str, Any]:
    """Returns what an example is, as arguments of `pipeline`."""
    data, text = self.config["data"], self.model.text_fields
    return dict(
      batch=self.config["batch"],
      seconds=self.model.seconds,
      rate=self.model.rate,
      channels=1,
      describe=Describe(
        encode=text_tokens.make_tokenizer(
          text["tokenizer"], self.assets()
        ).encode,
        longest=text["longest"],
        share=data["tag_share"],
        tags=tag_names(data["tags"]),
      ),
    )

  def assets(self) -> dict[str, bytes]:
    """Reads the text tower's files; see `warm_start.read_assets`.

    Raises:
      UserError: the model that the run starts from lacks a file.
    """
    needed = text_tokens.FILES[self.model.text_fields["tokenizer"]]
    found = warm_start.read_assets(self, needed)
    if missing := sorted({*needed} - {*found}):
      raise UserError(
        f"the text tower needs {', '.join(missing)}: init_from must be a text"
        " encoder of BERT's form, or a joint embedding, that has it."
      )
    return found

  def batch_shapes(self, batch: int) -> Batch:
    """Describes the arrays of a batch; see `texts.Describe`."""
    shape = jax.ShapeDtypeStruct
    longest = self.model.text_fields["longest"]
    return {
      "audio": shape((batch, self.model.samples, 1), jnp.float32),
      "lengths": shape((batch,), jnp.int32),
      "tokens": shape((batch, longest), jnp.int32),
      "token_lengths": shape((batch,), jnp.int32),
      "told": shape((batch,), jnp.bool_),
    }

  # ------------------------------------------------------------------- state

  def init(self, key: jax.Array) -> dict[str, Any]:
    """Initializes the variables."""
    return mulan.initial(self.model, key)

  def measure_data(
    self,
    collections: dict[str, Any],
    batches: Iterator[Batch],
    say: Callable[[str], None],
  ) -> dict[str, Any]:
    """Measures mean and deviation of the bands of the spectrogram."""
    found = level_statistics.measure(
      self.model.spectrogram,
      collections["input"],
      batches,
      seconds=self.config["batch"] * self.model.seconds,
      say=say,
    )
    return {**collections, "input": found}

  def start_with_part(
    self, path: str, state: TrainState, layout: TrainState
  ) -> TrainState | None:
    """Begins with a public text encoder; see `start_with_bert`."""
    text = self.model.text_fields
    if text["kind"] != "bert":
      return None
    return warm_start.start_with_bert(
      path, state, layout, text["bert"], "text_tower/bert"
    )

  def record_parts(self, workdir: pathlib.Path) -> None:
    """Copies the text tower's files, which belong to the bundle."""
    warm_start.keep_assets(workdir, self.assets())

  def init_extra_state(self, key: jax.Array) -> dict[str, jax.Array]:
    """Counts the steps in a row whose loss is that of guessing."""
    del key
    return {"guessing": jnp.zeros((), jnp.int32)}

  # -------------------------------------------------------------------- step

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
    """Computes the contrastive loss of a batch; see `Task.loss`."""
    del step, phase
    applied: Any = self.model.apply(
      {"params": params, **collections},
      batch["audio"],
      batch["lengths"],
      batch["tokens"],
      batch["token_lengths"],
      train=True,
      rngs={"dropout": key},
    )
    audio, text, scale, bias = applied
    names = name_texts(batch["tokens"], batch["token_lengths"])
    same, told = names[:, None] == names[None, :], batch["told"]
    loss = functools.partial(
      contrastive.contrastive,
      audio,
      text,
      kind=self.config["loss"],
      skip=same,
      valid=told,
    )
    value = loss(scale, bias)
    # With no similarity at all, and the best bias.
    guess = loss(0.0, -math.log(max(len(names) - 1, 1)))
    lost = jax.lax.stop_gradient(value >= GUESSING * guess)
    count = jnp.where(lost, extra["guessing"] + 1, 0)
    cosines = jnp.where(told[None, :], audio @ text.T, -2.0)
    own = jnp.max(jnp.where(same, cosines, -2.0), 1)
    hit = (own >= cosines.max(1)) & told
    metrics = {
      "accuracy": hit.sum() / jnp.maximum(told.sum(), 1),
      "loss_of_guessing": guess,
      "guessing_steps": count.astype(jnp.float32),
      "scale": scale,
      "told": told.mean(),
    }
    return value, (collections, {"guessing": count}, metrics)

  def warnings(self, values: Mapping[str, float]) -> list[str]:
    """Warns about collapse, and about music without texts."""
    found = []
    steps = values.get("train/guessing_steps", 0)
    if steps >= LONG:
      found.append(
        f"the loss has been that of guessing,"
        f" {values['train/loss_of_guessing']:.3f}, for {steps:.0f} steps: the"
        " towers may have collapsed to one vector; lower"
        " optimizer.learning_rate, raise batch, or check that captions belong"
        " to their audio."
      )
    if (told := values.get("train/told", 1.0)) < 0.5:
      found.append(
        f"only {told:.0%} of the clips have a caption or tags, and the others"
        " teach nothing; prepare the data set with --captions."
      )
    return found

  # -------------------------------------------------------------- evaluation

  def _embed_batch(
    self, variables: dict[str, Any], batch: Batch
  ) -> tuple[jax.Array, ...]:
    """Embeddings [batch, dim] of both kinds, names of texts, and `told`."""
    applied: Any = self.model.apply(
      variables,
      batch["audio"],
      batch["lengths"],
      batch["tokens"],
      batch["token_lengths"],
    )
    audio, text, _, _ = applied
    names = name_texts(batch["tokens"], batch["token_lengths"])
    whole = lambda x: rules.constrain(x, *[None] * x.ndim)
    return jax.tree.map(whole, (audio, text, names, batch["told"]))

  def evaluate(
    self, variables: dict[str, Any], batches: list[Batch]
  ) -> dict[str, Any]:
    """Measures retrieval among all held-out clips with a text.

    A clip with the same caption counts as found.

    Returns:
      `r1`, `r10` and `median_rank` of music for a text, `audio_r1` and so on
      of a text for music, `chance_r10`, and `gap`, `own` and `other` of
      `retrieval.gap`.
    """
    found = [jax.device_get(self._embed(variables, batch)) for batch in batches]
    audio, text, names, told = (
      np.concatenate(each) for each in zip(*found, strict=True)
    )
    audio, text = (x[told].astype(np.float64) for x in (audio, text))
    names = names[told]
    right = names[:, None] == names[None, :]
    cosines = audio @ text.T
    by_text = retrieval.summary(retrieval.ranks(cosines.T, right))
    by_audio = retrieval.summary(retrieval.ranks(cosines, right))
    return {
      **by_text,
      **{f"audio_{name}": value for name, value in by_audio.items()},
      "chance_r10": retrieval.chance(right)["r10"],
      **retrieval.gap(audio, text),
    }


def name_texts(tokens: jax.Array, lengths: jax.Array) -> jax.Array:
  """Numbers that are equal for equal texts, and hardly ever for others.

  Args:
    tokens: int [batch, tokens].
    lengths: int [batch].

  Returns:
    uint32 [batch].
  """
  size = tokens.shape[1]
  weights = np.random.default_rng(0).integers(1, 2**32, size, np.uint32)
  kept = jnp.arange(size) < lengths[:, None]
  # A token of 0 in a text differs from padding.
  numbers = jnp.where(kept, tokens.astype(jnp.uint32) + 1, 0)
  return jnp.sum(numbers * weights, 1, dtype=jnp.uint32)
