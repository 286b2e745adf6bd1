"""Training a language model over codes.

The data are codes and the inputs of conditions (`mmdcodec tokenize`). A step
arranges the codes by the pattern, drops conditions from some of the examples,
as guidance requires (MusicGen, arXiv 2306.05284, 4.2), and predicts every code.
The loss is the cross-entropy per codebook, averaged over codebooks.
"""

import math
import pathlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mmdcodec import bundle
from mmdcodec.data import record_order, token_batches
from mmdcodec.errors import UserError
from mmdcodec.losses import cross_entropy
from mmdcodec.models import token_lm
from mmdcodec.models.code_likelihood import nats_of_codes
from mmdcodec.models.conditioning import Inputs
from mmdcodec.parallel import rules
from mmdcodec.quantize import repeats
from mmdcodec.train import settings, token_data, warm_start
from mmdcodec.train.state import TrainState
from mmdcodec.train.task import Batch, LossResult, Task
from mmdcodec.train.trainable import Trainable

# Name of the codec's folder in a workdir.
CODEC = "codec"
# Config key: the share of examples without any condition.
ALL = "condition_dropout"


class LMTask(Task):
  """Trains a language model."""

  kind = "lm"
  rules = rules.LM_RULES
  progress_metrics = (
    "train/loss",
    "train/bits_per_frame",
    "train/gradient_norm",
  )
  best_metric, best_mode = "valid/bits_per_frame", "min"
  free_model_keys = ("dtype", "remat", "dropout", "forget", "gradient_shrink")
  parts = (CODEC,)

  def __init__(self, config: Mapping[str, Any]):
    """Builds the model.

    Args:
      config: see `configs/common.py`, `lm_config`.

    Raises:
      UserError: a setting is invalid.
    """
    self.config = config
    self.model = token_lm.from_config(config["model"])
    if self.model.collapse and config["codec"]:
      raise UserError(
        "model.collapse leaves out how long a code lasts, so a codec cannot"
        " decode what the model makes: train it without --config.codec, as a"
        " stage."
      )
    lora = config["lora"]
    self.trainable = Trainable(
      freeze=config["freeze"],
      rank=lora["rank"],
      alpha=lora["alpha"],
      on=lora["on"],
    )
    self.low_rank_scale = self.trainable.scale
    if lora["rank"]:
      self.rules = (*rules.LOW_RANK_RULES, *rules.LM_RULES)
    self.conditions = tuple(
      each.in_training(config["data"]) for each in self.model.make_conditions()
    )
    self._dropout = {
      each.name: config.get(f"{each.name}_dropout", 0.0)
      for each in self.conditions
    }
    self._measure = jax.jit(self._measure_batch)

  @property
  def audio_seconds(self) -> float:
    """Seconds of audio in one example."""
    return self.model.frames / self.config["data"]["frame_rate"]

  @property
  def positions(self) -> int:
    """Steps of the pattern in one example."""
    return len(self.model.pattern_of(self.model.frames).steps)

  @classmethod
  def fixed_settings(cls, config: Mapping) -> dict:
    """Returns which parameters are trained; see `Task.fixed_settings`."""
    return {"freeze": config["freeze"], "lora": config["lora"]}

  # -------------------------------------------------------------------- data

  def batches(self, *, seed: int) -> record_order.Batches:
    """Opens the training data; see `Task.batches`."""
    datasets = settings.parse_datasets(self.config["data"]["train"])
    if not datasets:
      raise UserError(
        "no training data: make a data set of codes with `mmdcodec tokenize"
        " DATASET TOKENS --model CODEC` and give --config.data.train=TOKENS."
      )
    self._check_data(datasets)
    return token_batches.token_batches(
      datasets, seed=seed, **self._crop_options()
    )

  def held_out(self) -> list[dict[str, Any]]:
    """Returns the same batches each time; none without validation data."""
    datasets = settings.parse_datasets(self.config["data"]["valid"])
    if not datasets:
      return []
    self._check_data(datasets)
    return token_batches.fixed_token_batches(
      datasets,
      count=self.config["data"]["valid_batches"],
      **self._crop_options(),
    )

  def _crop_options(self) -> dict[str, Any]:
    """Returns options of `token_batches` for crops."""
    model, assets = self.model, self.assets()
    first = model.first_codebook
    return dict(
      batch=self.config["batch"],
      frames=model.frames,
      conditions=[
        each.in_training(self.config["data"])
        for each in model.make_conditions(assets)
      ],
      codebooks=slice(first, first + model.codebooks),
      streams=token_data.streams(self.config, self.conditions),
      tokenizer_hash=self.codec_hash(),
    )

  def codec_hash(self) -> str | None:
    """Returns the hash of the config's codec; None if it has none."""
    if not self.config["codec"]:
      return None
    return bundle.load_codec(self.config["codec"]).hash

  def _check_data(self, datasets: Iterable[str]) -> None:
    """Raises a UserError if data sets do not fit the model."""
    token_data.check(self.config, self.model, self.conditions, datasets)

  def assets(self) -> dict[str, bytes]:
    """Reads the conditions' files; see `warm_start.read_assets`.

    Raises:
      UserError: the model that the run starts from lacks a file.
    """
    needed = {name for each in self.conditions for name in each.files}
    found = warm_start.read_assets(self, needed)
    if missing := sorted(needed - {*found}):
      raise UserError(
        f"the conditions of this model need {', '.join(missing)}: init_from"
        " must be a music model, or a T5, that has it."
      )
    return found

  def batch_shapes(self, batch: int) -> dict[str, Any]:
    """Describes `codes` [batch, frames, codebooks], `lengths`, `conditions`."""
    model = self.model
    return {
      "codes": jax.ShapeDtypeStruct(
        (batch, model.frames, model.codebooks), jnp.int32
      ),
      "lengths": jax.ShapeDtypeStruct((batch,), jnp.int32),
      "conditions": {
        each.name: each.example(batch) for each in self.conditions
      },
    }

  # ------------------------------------------------------------------- model

  def init(self, key: jax.Array) -> dict[str, Any]:
    """Initializes the variables, whose shapes do not depend on clip length."""
    batch = jax.tree.map(
      lambda s: jnp.zeros(s.shape, s.dtype), self.batch_shapes(1)
    )
    tokens = jnp.zeros((1, 2, self.model.codebooks), jnp.int32)
    variables = self.model.init(
      key,
      tokens,
      batch["conditions"],
      targets=tokens,
      frames=np.zeros(2, np.int32),
    )
    return self.to_trained(dict(variables), key)

  def to_trained(
    self, variables: dict[str, Any], key: jax.Array
  ) -> dict[str, Any]:
    """Freezes parameters or adds low-rank ones; see `Trainable.split`."""
    trained, collections = self.trainable.split(
      variables["params"], jax.random.fold_in(key, 1)
    )
    return {"params": trained, **collections}

  def start_with_part(
    self, path: str, state: TrainState, layout: TrainState
  ) -> TrainState | None:
    """Begins with a public T5, or without a model's conditions.

    See `start_with_t5` and `start_with_decoder`.
    """
    begun = warm_start.start_with_t5(path, state, layout, self.conditions)
    return begun or warm_start.start_with_decoder(path, state, layout)

  def _drop(self, inputs: Inputs, keys: Sequence[jax.Array]) -> Inputs:
    """Drops conditions at random: all at once, then each separately.

    The first key is for all conditions, the others for each in reverse order.
    """

    def keep(key: jax.Array, given: jax.Array, share: float) -> jax.Array:
      return jax.random.uniform(key, given.shape, jnp.float32) >= share

    dropped = {}
    for key, each in zip(keys[1:], self.conditions[::-1], strict=True):
      arrays = inputs[each.name]
      together = keep(keys[0], arrays["given"], self.config[ALL])
      alone = keep(key, arrays["given"], self._dropout[each.name])
      dropped[each.name] = each.drop(arrays, together & alone)
    return dropped

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
    """Computes the cross-entropy in nats per code; see `Task.loss`."""
    del step, phase
    # The order of earlier versions, so that their runs resume unchanged.
    every, first, dropout, *others = jax.random.split(
      key, 3 + len(self.conditions)
    )
    keys = [every, first, *others][: 1 + len(self.conditions)]
    nats, mask = nats_of_codes(
      self.model,
      self.trainable.join(params, collections),
      batch["codes"],
      batch["lengths"],
      self._drop(batch["conditions"], keys),
      train=True,
      rngs={"dropout": dropout},
    )
    each = nats.sum((0, 1)) / jnp.maximum(mask.sum((0, 1)), 1)
    metrics = {
      "bits_per_frame": each.sum() / math.log(2),
      "cross_entropy": each,
    }
    return each.mean(), (collections, extra, metrics)

  def weigh(self, part: Batch) -> jax.Array:
    """Counts the frames that are predicted; see `Task.weigh`."""
    lengths = part["lengths"]
    if self.model.collapse:
      _, lengths = repeats.collapse_repeats(part["codes"], lengths)
    return lengths.sum().astype(jnp.float32)

  def _measure_batch(
    self, variables: dict[str, Any], batch: Batch
  ) -> tuple[jax.Array, jax.Array]:
    """Sums nats and counts over a batch; both are [codebooks]."""
    collections = dict(variables)
    params = self.trainable.join(collections.pop("params"), collections)
    nats, mask = nats_of_codes(
      self.model,
      params,
      batch["codes"],
      batch["lengths"],
      batch["conditions"],
    )
    found = nats.sum((0, 1)), mask.sum((0, 1)).astype(jnp.float32)
    return jax.tree.map(rules.constrain, found)

  def evaluate(
    self, variables: dict[str, Any], batches: list[Batch]
  ) -> dict[str, Any]:
    """Returns `cross_entropy.summary` of held-out music with conditions."""
    found = [
      jax.tree.map(np.float64, jax.device_get(self._measure(variables, batch)))
      for batch in batches
    ]
    nats, count = (sum(parts) for parts in zip(*found, strict=True))
    return cross_entropy.summary(nats, count)

  # ------------------------------------------------------------------ bundle

  def record_parts(self, workdir: pathlib.Path) -> None:
    """Copies what a bundle needs, so that the workdir is self-contained.

    Raises:
      UserError: the data sets come from a different tokenizer than those the
        run was started with.
    """
    streams = token_data.streams(self.config, self.conditions)
    token_data.record_streams(workdir, streams)
    paths = [
      path
      for split in ("train", "valid")
      for path in settings.parse_datasets(self.config["data"][split])
    ]
    token_data.record_target(workdir, workdir / CODEC, paths, self.model)
    if self.config["codec"] and not (workdir / CODEC).exists():
      bundle.save(workdir / CODEC, *bundle.read_codec(self.config["codec"]))
    warm_start.keep_assets(workdir, self.assets())
