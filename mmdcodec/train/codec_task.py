"""Training a codec to reconstruct: its losses, and its held-out measures.

Every loss of the reconstruction, those of discriminators included, is pulled
back to the reconstruction by itself; there they are weighed, by the balancer or
as they are, and one gradient goes on through the codec. What is not a function
of the reconstruction (commitment, independence) is added to it as it is.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mmdcodec.data import pipeline
from mmdcodec.errors import UserError
from mmdcodec.evaluate import codebooks, reconstruction
from mmdcodec.losses import balancer, spectral
from mmdcodec.models import codec as codec_model
from mmdcodec.nn.conv import frames, length_mask
from mmdcodec.parallel import rules
from mmdcodec.train import adversarial, gradients, independence_term, settings
from mmdcodec.train.state import TrainState
from mmdcodec.train.task import Task

# A phase: the discriminators do not act yet.
ALONE = "alone"


def _balanced(config: Mapping) -> dict[str, float]:
  """Weights of the losses of the reconstruction that are on."""
  # Configs of earlier versions know fewer losses.
  names = ("waveform", "mel", "stft", *adversarial.NAMES)
  losses = config["losses"]
  weights = {name: losses[name]["weight"] for name in names if name in losses}
  return {name: weight for name, weight in weights.items() if weight}


def _balancer(config: Mapping) -> Mapping:
  """Settings of the balancer; configs of earlier versions have none."""
  return config.get("balancer", {"on": False})


class CodecTask(Task):
  """What the training loop needs to know about codecs."""

  kind = "codec"
  rules = rules.CODEC_RULES
  progress_metrics = ("train/loss", "train/mel", "train/gradient_norm")
  best_metric, best_mode = "valid/mel_distance", "min"
  free_model_keys = (
    "dtype",
    "remat",
    "decay",
    "threshold",
    "threshold_kind",
    "quantizer_dropout",
  )

  def __init__(self, config: Mapping):
    """Builds the model.

    Args:
      config: `model` (fields of `Codec`), `losses`, `data.seconds`, `batch`.

    Raises:
      UserError: a setting that can't be.
    """
    self.config = config
    self.codec = codec_model.from_config(config["model"])
    samples = round(self.audio_seconds * self.codec.rate)
    self.independence = None
    # Runs of earlier versions do not have it.
    if "independence" in config["losses"]:
      self.independence = independence_term.make_term(
        config["losses"]["independence"],
        codebooks=self.codec.codebooks,
        frames=frames(samples, self.codec.stride),
        batch=config["batch"],
      )
    self.adversary = None
    if heard := [name for name in adversarial.NAMES if name in self.balanced]:
      self.adversary = adversarial.Adversary(
        config["adversarial"],
        names=heard,
        steps=config["steps"],
        channels=self.codec.channels,
      )
    self._balancer = _balancer(config)
    self._reconstruct = jax.jit(self._evaluate_batch)
    self._dependence = jax.jit(self._evaluate_independence)
    self._gradients = jax.jit(self._gradient_norms)

  @property
  def audio_seconds(self) -> float:
    """Seconds of audio in one example."""
    return self.config["data"]["seconds"]

  def _weight(self, name: str) -> float:
    """Weight of a loss of the config."""
    return self.config["losses"][name]["weight"]

  @property
  def balanced(self) -> dict[str, float]:
    """Weights of the losses of the reconstruction that are on."""
    return _balanced(self.config)

  @property
  def history(self) -> int:
    """Batches that some steps take together."""
    return 1 if self.independence is None else self.independence.history

  def uses_history(self, step: int) -> bool:
    """Whether the step after `step` updates takes `history` batches."""
    return self.history > 1 and self.independence.due(step)

  def phase(self, step: int) -> str | None:
    """What the step after `step` updates leaves out; None: nothing.

    A program each, and no condition in one: XLA's CPU backend runs gradients of
    convolutions in a branch 16 times slower (`adversarial.start` of
    `codec_small:adversarial`), and a TPU keeps memory for both branches.
    """
    late = self.adversary is not None and not self.adversary.acts(step)
    return ALONE if late else None

  @property
  def inspects(self) -> bool:
    """Whether `inspect` has something to say."""
    return self.independence is not None

  def batch_shapes(self, batch: int) -> dict:
    """Shapes of a global batch."""
    samples = round(self.audio_seconds * self.codec.rate)
    return {
      "audio": jax.ShapeDtypeStruct(
        (batch, samples, self.codec.channels), jnp.float32
      ),
      "lengths": jax.ShapeDtypeStruct((batch,), jnp.int32),
    }

  def batches(self, *, seed: int) -> pipeline.Batches:
    """What a run is trained on, without end.

    Args:
      seed: of order, crops and augmentation.

    Raises:
      UserError: there is no training data, or a setting that can't be.
    """
    data = self.config["data"]
    datasets = settings.parse_datasets(data["train"])
    if not datasets:
      raise UserError(
        "no training data: make a data set with `mmdcodec prepare FOLDER"
        " DATASET` and give --config.data.train=DATASET."
      )
    return pipeline.batches(
      datasets,
      **self._audio(),
      seed=seed,
      gain_db=tuple(data["gain_db"]),
      mix=data["mix"],
    )

  def held_out(self) -> list[dict]:
    """Batches for evaluation, always the same; none without such data."""
    data = self.config["data"]
    datasets = settings.parse_datasets(data["valid"])
    if not datasets:
      return []
    return pipeline.fixed_batches(
      datasets, **self._audio(), count=data["valid_batches"]
    )

  def _audio(self) -> dict:
    """Shape of the batches, as `pipeline` takes it."""
    return dict(
      batch=self.config["batch"],
      seconds=self.audio_seconds,
      rate=self.codec.rate,
      channels=self.codec.channels,
    )

  def init(self, key: jax.Array) -> dict:
    """Fresh variables; parameters do not depend on the length of the input."""
    x = jnp.zeros((1, self.codec.stride * 2, self.codec.channels))
    return self.codec.init(key, x)

  @classmethod
  def fixed_settings(cls, config: Mapping) -> dict:
    """Settings that the extra state depends on; see `Task.fixed_settings`."""
    weights = _balanced(config)
    found = {"adversarial.discriminators": None}
    found["adversarial.optimizer.name"] = None
    if any(name in weights for name in adversarial.NAMES):
      settings = config["adversarial"]
      found["adversarial.discriminators"] = settings["discriminators"]
      found["adversarial.optimizer.name"] = settings["optimizer"]["name"]
    on = _balancer(config)["on"]
    found["set of balanced losses"] = sorted(weights) if on else None
    return found

  def init_extra_state(self, key: jax.Array) -> dict | None:
    """Fresh discriminators and running gradient norms, as the config has them.

    Args:
      key: random key.
    """
    extra = {}
    if self.adversary is not None:
      samples = self.batch_shapes(1)["audio"].shape[1]
      key = jax.random.fold_in(key, 1)
      extra["adversary"] = self.adversary.init(key, samples)
    if self._balancer["on"]:
      extra["balancer"] = balancer.init(sorted(self.balanced))
    return extra or None

  def losses(self, x: jax.Array, y: jax.Array, mask: jax.Array) -> dict:
    """Every reconstruction loss of the config, unweighted.

    Args:
      x: original audio [batch, samples, channels].
      y: reconstruction, same shape.
      mask: [batch, samples], False in padding.
    """
    config, rate = self.config["losses"], self.codec.rate
    found = {}
    if config["waveform"]["weight"]:
      found["waveform"] = spectral.waveform_l1(x, y, mask)
    if config["mel"]["weight"]:
      found["mel"] = spectral.multi_scale_mel(
        x,
        y,
        rate=rate,
        windows=tuple(config["mel"]["windows"]),
        mels=config["mel"]["mels"],
        form=config["mel"]["form"],
        mask=mask,
      )
    if config["stft"]["weight"]:
      found["stft"] = spectral.multi_scale_stft(
        x, y, windows=tuple(config["stft"]["windows"]), mask=mask
      )
    return found

  def loss(
    self,
    params: Any,
    collections: dict,
    extra: dict | None,
    batch: dict,
    key: jax.Array,
    step: jax.Array,
    phase: str | None = None,
  ) -> tuple[jax.Array, tuple[dict, dict | None, dict]]:
    """One forward pass.

    Args:
      params: of the codec.
      collections: `{"codebook": ...}`.
      extra: see `Task.init_extra_state`.
      batch: `audio` [batch, samples, channels], `lengths` [batch].
      key: of this step.
      step: int32, updates done.
      phase: see `phase`.

    Returns:
      The weighted sum of losses, whose gradient in `params` is the balanced
      one, and (updated collections, updated extra, metrics).
    """
    x, lengths = batch["audio"], batch["lengths"]
    out, changed = self.codec.apply(
      {"params": params, **collections},
      x,
      lengths,
      train=True,
      rngs={"quantize": key},
      mutable=list(collections),
    )
    y = jax.lax.stop_gradient(out.audio)
    mask = length_mask(lengths, x.shape[1])
    found, pulls = gradients.each(lambda y: self.losses(x, y, mask), y)
    extra, metrics = dict(extra or {}), dict(out.metrics)
    if self.adversary is not None:
      adversary = self.adversary
      act = adversary.absent if phase == ALONE else adversary.step
      extra["adversary"], values, more, judged = act(
        extra["adversary"], x, y, step
      )
      found, pulls, metrics = found | values, pulls | more, metrics | judged
    pull, norms = self._weigh(pulls, extra)
    metrics |= {f"audio_gradient/{name}": norm for name, norm in norms.items()}
    # The value of the weighted sum, the gradient of what was weighed.
    through = jnp.sum(pull * out.audio)
    total = sum(self.balanced[name] * value for name, value in found.items())
    total += through - jax.lax.stop_gradient(through)
    found["commitment"] = out.commitment
    total += self._weight("commitment") * out.commitment
    term = self.independence
    if term is not None and term.history == 1:
      # Last, and with a key of its own: without it nothing else changes.
      added, found["independence"] = term.of_step(
        out.z, out.streams, out.frame_mask, key, step
      )
      total += added
    return total, (
      changed,
      extra or None,
      {"loss": total, **found, **metrics},
    )

  def _weigh(self, pulls: dict, extra: dict) -> tuple[jax.Array, dict]:
    """One gradient of those of all losses, and `gradient_norm` of each."""
    if self._balancer["on"]:
      pull, extra["balancer"], norms = balancer.balance(
        extra["balancer"],
        pulls,
        self.balanced,
        decay=self._balancer["decay"],
        total_norm=self._norm_of_a_clip,
      )
      return pull, norms
    pull = sum(self.balanced[name] * one for name, one in pulls.items())
    norms = {name: balancer.gradient_norm(g) for name, g in pulls.items()}
    return pull, norms

  @property
  def _norm_of_a_clip(self) -> float:
    """Of the balanced gradient."""
    return self._balancer["total_norm"] / self.config["batch"]

  def history_gradient(
    self,
    params: Any,
    collections: dict,
    batches: tuple[dict, ...],
    key: jax.Array,
    step: jax.Array,
  ) -> tuple[jax.Array, Any, dict]:
    """What the rows of several batches together add to a step.

    Args:
      params: of the codec.
      collections: `{"codebook": ...}`.
      batches: the last `history` ones.
      key: of this step.
      step: int32, updates done.

    Returns:
      The weighted loss, its gradient in params, and metrics.
    """
    value, grads, _ = self._independence(params, collections, batches, key)
    weight = self.independence.weight_at(step)
    grads = jax.tree.map(lambda g: weight * g, grads)
    return weight * value, grads, {"independence": value}

  def _independence(self, params, collections, batches, key):
    """The loss over several batches; see `gradients.cached`."""
    stacked = jax.tree.map(lambda *arrays: jnp.stack(arrays), *batches)
    ends = frames(stacked["lengths"].reshape(-1), self.codec.stride)

    def encode(params, batch):
      z = self.codec.apply(
        {"params": params, **collections},
        batch["audio"],
        batch["lengths"],
        method="latents",
      )
      return rules.constrain(z, "batch", None, None)

    def loss(z):
      mask = length_mask(ends, z.shape[1])
      q = self.codec.apply(
        {"params": params, **collections}, z, mask, method="quantize"
      )
      return self.independence.value(z, q.streams, mask, key)

    return gradients.cached(encode, loss, params, stacked)

  def inspect(self, state: TrainState, batches: tuple[dict, ...]) -> dict:
    """Norm of each weighted loss's gradient at the output of the encoder.

    What makes weights comparable, for losses that reach the encoder on
    different ways. Costs about as much as a training step, and the compilation
    of one (on CPUs of one backward pass for each loss): nothing for every step.

    Args:
      state: TrainState.
      batches: placed, the last `history` ones or fewer.

    Returns:
      `gradient/NAME` for each loss, with the weight it has after any ramp.
      Where a loss is taken over several batches, times the root of their
      number, as what pulls a frame the same way is so much fainter in it. It is
      that of a step in which the loss acts: with `every`, one of so many.
    """
    # No weight and no seed in what is compiled: runs that differ in them share
    # it.
    step = int(state.step)
    key = jax.random.fold_in(jax.random.key(self.config["seed"]), step)
    norms = self._gradients(
      state.params,
      state.collections,
      state.extra,
      batches[-self.history :],
      key,
    )
    scales = {}
    if self._balancer["on"]:
      scales = jax.device_get(
        balancer.scales(
          state.extra["balancer"],
          self.balanced,
          total_norm=self._norm_of_a_clip,
        )
      )
    unheard = ()
    if self.adversary is not None and not self.adversary.heard(step):
      unheard = adversarial.NAMES
    return {
      f"gradient/{name}": float(scales.get(name, self._weight(name)) * norm)
      for name, norm in jax.device_get(norms).items()
      if name not in unheard
    }

  def _gradient_norms(self, params, collections, extra, batches, key):
    """Norms without weights, of the last batch and of the rows of all."""
    x, lengths = batches[-1]["audio"], batches[-1]["lengths"]
    mask = length_mask(lengths, x.shape[1])
    term = self.independence

    valid = length_mask(
      frames(lengths, self.codec.stride), frames(x.shape[1], self.codec.stride)
    )

    def forward(shift):
      out = self.codec.apply(
        {"params": params, **collections}, x, lengths, shift=shift
      )
      return out.audio, out.commitment, out.z, out.streams

    def losses(outputs):
      audio, commitment, z, streams = outputs
      found = self.losses(x, audio, mask) | {"commitment": commitment}
      if self.adversary is not None:
        judges = extra["adversary"].params
        found |= self.adversary.losses(judges, x, audio)
      if term.history == 1:
        found["independence"] = term.value(z, streams, valid, key)
      return found

    here = jnp.zeros((*valid.shape, self.codec.dim))
    found = gradients.norms(forward, losses, here)
    if len(batches) == term.history > 1:
      _, _, pull = self._independence(params, collections, batches, key)
      found["independence"] = term.history**0.5 * jnp.linalg.norm(pull)
    return jax.tree.map(rules.constrain, found)

  def _evaluate_batch(
    self, variables: dict, batch: dict
  ) -> tuple[tuple[dict, Any], Any]:
    """Sums over a batch of clips, so that batches of any number add up.

    Returns:
      (sums, counts of codes), and what the independence of all clips is
      measured on.
    """
    x, lengths = batch["audio"], batch["lengths"]
    out = self.codec.apply(variables, x, lengths)
    rows = reconstruction.compare(x, out.audio, self.codec.rate, lengths)
    used = codebooks.histogram(
      out.codes, self.codec.codebook_size, out.frame_mask
    )
    sums = {name: value.sum() for name, value in rows.items()}
    # Whole on every device, so that each process can read them.
    found = jax.tree.map(rules.constrain, (sums, used))
    if self.independence is None:
      return found, None
    return found, (out.z, out.streams, out.frame_mask)

  def _evaluate_independence(self, rows: list[tuple]) -> jax.Array:
    """The unweighted loss over the clips of all batches."""
    z, streams, mask = jax.tree.map(lambda *x: jnp.concatenate(x), *rows)
    found = self.independence.value(z, streams, mask, jax.random.key(0))
    return rules.constrain(found)

  def warnings(self, values: Mapping[str, float]) -> list[str]:
    """What is to be said loudly of a logged step's metrics."""
    return adversarial.warnings(values)

  def evaluate(self, variables: dict, batches: list[dict]) -> dict:
    """Means over held-out clips.

    Args:
      variables: of the codec.
      batches: placed global batches.

    Returns:
      `si_sdr` (dB), `mel_distance`, `stft_distance`, and per level `usage` and
      `perplexity` of the codes over all the clips; `independence`, the
      unweighted loss over all the clips, if the config has it.
    """
    sums, used, clips, held = None, 0, 0, []
    for batch in batches:
      found, rows = self._reconstruct(variables, batch)
      held.append(rows)
      more, counts = jax.tree.map(np.float64, jax.device_get(found))
      sums = more if sums is None else jax.tree.map(np.add, sums, more)
      used = used + counts
      clips += batch["audio"].shape[0]
    metrics = {name: value / clips for name, value in sums.items()}
    if self.independence is not None:
      metrics["independence"] = float(self._dependence(held))
    return {**metrics, **codebooks.statistics(used)}
