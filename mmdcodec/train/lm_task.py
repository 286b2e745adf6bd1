"""Training a language model over codes, with the pattern inside of the loss.

What is read are codes and captions (`mmdcodec tokenize`). A step puts the codes
in the order of the pattern, takes conditions away from a part of the examples,
which is what guidance needs (MusicGen, arXiv 2306.05284, 4.2), and asks for
every code that is there: cross-entropy per codebook, means over codebooks.
"""

import math
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any

import flax
import jax
import jax.numpy as jnp
import numpy as np

from mmdcodec.audio import melody
from mmdcodec.convert import hub, t5
from mmdcodec.data import token_batches, token_records
from mmdcodec.errors import UserError
from mmdcodec.losses import cross_entropy
from mmdcodec.models import text_tokens, token_lm
from mmdcodec.models.conditioning import Inputs
from mmdcodec.models.text_encoder import T5Encoder
from mmdcodec.nn.conv import length_mask
from mmdcodec.parallel import rules
from mmdcodec.train import settings
from mmdcodec.train.state import TrainState
from mmdcodec.train.task import Task
from mmdcodec.train.trainable import Trainable

# In a workdir: the codec that the codes are of.
CODEC = "codec"


class LMTask(Task):
  """What the training loop needs to know about language models."""

  kind = "lm"
  rules = rules.LM_RULES
  progress_metrics = (
    "train/loss",
    "train/bits_per_frame",
    "train/gradient_norm",
  )
  best_metric, best_mode = "valid/bits_per_frame", "min"
  free_model_keys = ("dtype", "remat", "dropout")
  parts = (CODEC,)

  def __init__(self, config: Mapping):
    """Builds the model.

    Args:
      config: see `configs/common.py`, `lm_config`.

    Raises:
      UserError: a setting that can't be.
    """
    self.config = config
    self.model = token_lm.from_config(config["model"])
    lora = config["lora"]
    self.trainable = Trainable(
      freeze=config["freeze"],
      rank=lora["rank"],
      alpha=lora["alpha"],
      on=lora["on"],
    )
    self.low_rank_scale = self.trainable.scale
    for name in ("condition_dropout", "text_dropout", "melody_dropout"):
      if not 0 <= config[name] <= 1:
        raise UserError(
          f"{name} is {config[name]}; it is a share, from 0 to 1."
        )
    heard, names = self.model.melody, ("rate", "window", "hop", "classes")
    ours = (melody.RATE, melody.WINDOW, melody.HOP, melody.CLASSES)
    if heard and tuple(heard[name] for name in names) != ours:
      raise UserError(
        f"model.melody has another {', '.join(names)} than the melodies in data"
        f" sets of tokens, {ours}."
      )
    self._measure = jax.jit(self._measure_batch)

  @property
  def audio_seconds(self) -> float:
    """Seconds of audio in one example."""
    return self.model.frames / self.config["data"]["frame_rate"]

  @classmethod
  def fixed_settings(cls, config: Mapping) -> dict:
    """Which parameters are trained; see `Task.fixed_settings`."""
    return {"freeze": config["freeze"], "lora": config["lora"]}

  # -------------------------------------------------------------------- data

  def batches(self, *, seed: int) -> "Batches":
    """What a run is trained on, without end.

    Args:
      seed: of order and crops.

    Raises:
      UserError: there is no training data, or of another codec.
    """
    datasets = settings.parse_datasets(self.config["data"]["train"])
    if not datasets:
      raise UserError(
        "no training data: make a data set of codes with `mmdcodec tokenize"
        " DATASET TOKENS --model CODEC` and give --config.data.train=TOKENS."
      )
    self._check_data(datasets)
    return Batches(
      token_batches.token_batches(
        datasets,
        batch=self.config["batch"],
        frames=self.model.frames,
        melody=self.melody_frames,
        seed=seed,
        streams=settings.parse_streams(self.config["data"].get("streams", "")),
        tokenizer_hash=self.codec_hash(),
      ),
      self._placeable(),
    )

  def held_out(self) -> list[dict]:
    """Batches for evaluation, always the same."""
    datasets = settings.parse_datasets(self.config["data"]["valid"])
    if not datasets:
      return []
    self._check_data(datasets)
    return list(
      map(
        self._placeable(),
        token_batches.fixed_token_batches(
          datasets,
          batch=self.config["batch"],
          frames=self.model.frames,
          melody=self.melody_frames,
          count=self.config["data"]["valid_batches"],
          streams=settings.parse_streams(
            self.config["data"].get("streams", "")
          ),
          tokenizer_hash=self.codec_hash(),
        ),
      )
    )

  def codec_hash(self) -> str | None:
    """Of the codec that the config names; None if it names none."""
    if not self.config["codec"]:
      return None
    from mmdcodec import bundle

    return bundle.load_codec(self.config["codec"]).hash

  def _check_data(self, datasets) -> None:
    """Makes sure that data sets speak the model's language."""
    wanted = {
      "model.codebooks": self.model.codebooks,
      "model.codebook_size": self.model.codebook_size,
      "data.frame_rate": self.config["data"]["frame_rate"],
    }
    for path in datasets:
      source = token_records.TokenSource(path)
      for key, ours in wanted.items():
        name = key.partition(".")[2]
        theirs = getattr(source, name)
        if not math.isclose(ours, theirs):
          raise UserError(
            f"{path} has {name} {theirs!r}, but the config {ours!r}: set"
            f" --config.{key}={theirs!r}."
          )

  def _placeable(self):
    """What turns the captions of a batch into tokens, which devices take."""
    arrays = ("codes", "lengths", "melody")
    take = lambda batch: {k: batch[k] for k in arrays if k in batch}
    if not self.model.text:
      return take
    tokenizer = text_tokens.make_tokenizer(
      self.model.text["tokenizer"], self.assets()
    )

    def convert(batch: dict) -> dict:
      # One size for all batches.
      text, lengths, has_text = text_tokens.tokenize_cut(
        tokenizer, batch["caption"], self.text_tokens
      )
      return take(batch) | {
        "text": text,
        "text_lengths": lengths,
        "has_text": has_text,
      }

    return convert

  @property
  def text_tokens(self) -> int:
    """Of a caption, at most."""
    return min(self.config["data"]["text_tokens"], self.model.text["longest"])

  @property
  def melody_frames(self) -> int:
    """Of the melody of an example; 0 for a model without."""
    return self.model.melody["frames"] if self.model.melody else 0

  def assets(self) -> dict[str, bytes]:
    """Further files that a bundle of the model needs: its tokenizer's."""
    if not self.model.text or self.model.text["tokenizer"] == "bytes":
      return {}
    from mmdcodec import bundle

    source, found = self.config["init_from"], {}
    if source:
      # Without the weights beside it, if it lies there.
      folder = hub.find(source)
      file = folder / text_tokens.TOKENIZER_FILE
      if file.is_file():
        return {text_tokens.TOKENIZER_FILE: file.read_bytes()}
      if not t5.is_t5(folder):
        found = bundle.read(source).assets
    if text_tokens.TOKENIZER_FILE not in found:
      raise UserError(
        "model.text.tokenizer is t5: init_from must be a music model, or a T5,"
        f" with a {text_tokens.TOKENIZER_FILE}."
      )
    return found

  def batch_shapes(self, batch: int) -> dict:
    """Shapes of a global batch."""
    shape = lambda *axes, dtype=jnp.int32: jax.ShapeDtypeStruct(
      (batch, *axes), dtype
    )
    found = {
      "codes": shape(self.model.frames, self.model.codebooks),
      "lengths": shape(),
    }
    if self.model.text:
      found["text"] = shape(self.text_tokens)
      found["text_lengths"] = shape()
      found["has_text"] = shape(dtype=jnp.bool_)
    if self.melody_frames:
      found["melody"] = shape(self.melody_frames)
    return found

  # ------------------------------------------------------------------- model

  def init(self, key: jax.Array) -> dict:
    """Fresh variables; parameters do not depend on the length of the input."""
    batch = jax.tree.map(
      lambda s: jnp.zeros(s.shape, s.dtype), self.batch_shapes(1)
    )
    tokens = jnp.zeros((1, 2, self.model.codebooks), jnp.int32)
    variables = self.model.init(key, tokens, self._inputs(batch))
    return self.to_trained(variables, key)

  def to_trained(self, variables: dict, key: jax.Array) -> dict:
    """A whole model's variables as those of a run.

    Args:
      variables: with `params`.
      key: random key, for what is added to them.
    """
    trained, collections = self.trainable.split(
      variables["params"], jax.random.fold_in(key, 1)
    )
    return {"params": trained, **collections}

  def start_with_part(
    self, path: str, state: TrainState, layout: TrainState
  ) -> TrainState | None:
    """The state with a T5 as its text encoder, if that is what is at a path.

    Args:
      path: folder of a public T5, or its id on the Hub; or of a whole model.
      state: fresh.
      layout: shardings of it.

    Returns:
      None for a whole model.

    Raises:
      UserError: the model reads texts otherwise than this T5.
    """
    found = t5.read(path)
    if found is None:
      return None
    fields, encoder = found
    ours = self.model.text and self.model.text["encoder"]
    if not ours or T5Encoder(**ours) != T5Encoder(**fields):
      raise UserError(
        "init_from is a T5, but model.text.encoder of the config is"
        f" {dict(ours) if ours else None}: expected {dict(fields)}."
      )
    flat = flax.traverse_util.flatten_dict(encoder["params"], sep="/")
    new = {f"conditioner/text_encoder/{name}": a for name, a in flat.items()}

    def put(path, old, where):
      # Trained, frozen or an average. All else stays where it is: spread over
      # the devices of all processes.
      place = rules.path_name(path)
      for name, array in new.items():
        if place == name or place.endswith(f"/{name}"):
          return jax.device_put(np.asarray(array, old.dtype), where)
      return old

    changed = {
      name: jax.tree_util.tree_map_with_path(
        put, getattr(state, name), getattr(layout, name)
      )
      for name in ("params", "collections", "ema")
    }
    return state.replace(**changed)

  def _inputs(self, batch: dict) -> Inputs | None:
    # Of what the data does not have there is none: tokens of a joint embedding.
    inputs = token_lm.nothing(self.model, batch["codes"].shape[0])
    if self.model.text:
      inputs = inputs.replace(
        text=batch["text"],
        text_mask=length_mask(batch["text_lengths"], batch["text"].shape[1]),
        has_text=batch["has_text"],
      )
    if self.melody_frames:
      inputs = inputs.replace(melody=batch["melody"])
    return inputs

  def _cross_entropy(self, params, batch, inputs, **options):
    """See `losses.cross_entropy`."""
    return cross_entropy.cross_entropy(
      self.model, params, batch["codes"], batch["lengths"], inputs, **options
    )

  def loss(
    self,
    params: Any,
    collections: dict,
    extra: None,
    batch: dict,
    key: jax.Array,
    step: jax.Array,
    phase: None = None,
  ) -> tuple[jax.Array, tuple]:
    """Mean cross-entropy of a batch, in nats per code.

    Args:
      params: to differentiate.
      collections: what is frozen.
      extra: nothing.
      batch: `codes` int32 [batch, frames, codebooks], `lengths` [batch], and
        texts as tokens.
      key: random key of the step.
      step: int32 scalar.
      phase: nothing.

    Returns:
      The loss, and (collections, extra, metrics).
    """
    del step, phase
    keys = jax.random.split(key, 4)
    inputs, count = self._inputs(batch), batch["codes"].shape[0]
    if inputs is not None:
      keep = lambda key, share: jax.random.uniform(key, (count,)) >= share
      inputs = inputs.without(keep(keys[0], self.config["condition_dropout"]))
      inputs = inputs.without(
        keep(keys[1], self.config["text_dropout"]), "text"
      )
      inputs = inputs.without(
        keep(keys[3], self.config["melody_dropout"]), "melody"
      )
    nats, mask = self._cross_entropy(
      self.trainable.join(params, collections),
      batch,
      inputs,
      train=True,
      rngs={"dropout": keys[2]},
    )
    each = nats.sum((0, 1)) / jnp.maximum(mask.sum((0, 1)), 1)
    metrics = {
      "bits_per_frame": each.sum() / math.log(2),
      "cross_entropy": each,
    }
    return each.mean(), (collections, extra, metrics)

  def _measure_batch(self, variables: dict, batch: dict):
    """Sums over a batch [codebooks], so that batches of any number add up."""
    collections = dict(variables)
    params = self.trainable.join(collections.pop("params"), collections)
    nats, mask = self._cross_entropy(params, batch, self._inputs(batch))
    found = nats.sum((0, 1)), mask.sum((0, 1)).astype(jnp.float32)
    return jax.tree.map(rules.constrain, found)

  def evaluate(self, variables: dict, batches: list[dict]) -> dict:
    """What the model makes of held-out music, prompts given.

    Args:
      variables: of the run.
      batches: placed global batches.

    Returns:
      See `cross_entropy.summary`.
    """
    found = [
      jax.tree.map(np.float64, jax.device_get(self._measure(variables, batch)))
      for batch in batches
    ]
    nats, count = (sum(parts) for parts in zip(*found, strict=True))
    return cross_entropy.summary(nats, count)

  # ------------------------------------------------------------------ bundle

  def record_parts(self, workdir: pathlib.Path) -> None:
    """Keeps what a bundle of the run needs, so that the workdir is complete.

    Raises:
      UserError: a run that goes on, with codes of another codec.
    """
    from mmdcodec import bundle

    if (workdir / CODEC).exists():
      kept = bundle.load_codec(workdir / CODEC).hash
      for split in ("train", "valid"):
        for path in settings.parse_datasets(self.config["data"][split]):
          if token_records.TokenSource(path).hash != kept:
            raise UserError(
              f"{path} has codes of another codec than {workdir}, which was"
              f" begun with {kept}."
            )
    elif self.config["codec"]:
      bundle.save(workdir / CODEC, *bundle.read_codec(self.config["codec"]))
    for name, contents in self.assets().items():
      (workdir / name).write_bytes(contents)


class Batches(Iterator):
  """Batches of codes whose captions have become tokens."""

  def __init__(self, batches, convert):
    """Takes `token_batches.token_batches(...)` and what is done to each."""
    self._batches, self._convert = batches, convert
    self.get_state, self.set_state = batches.get_state, batches.set_state
    self.close = batches.close

  def __next__(self) -> dict:
    """The next batch, arrays alone."""
    return self._convert(next(self._batches))
