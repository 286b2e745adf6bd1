"""Training a codec: reconstructing audio from codes.

The losses of the reconstruction are combined into one gradient at the audio,
which is then propagated through the codec (`reconstruction_losses.py`). Losses
of other quantities (commitment, independence) are added to that.

`freeze="encoder"` trains the decoder alone: the codes of any audio stay what
they were, so token sets and language models over them stay valid.
"""

import pathlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from mmdcodec import bundle
from mmdcodec.data import record_order
from mmdcodec.errors import UserError
from mmdcodec.models import codec as codec_model
from mmdcodec.nn.conv import frames, length_mask
from mmdcodec.parallel import rules
from mmdcodec.store import workdir as run_files
from mmdcodec.tokenizers import loaded_codec
from mmdcodec.train import (
  adversarial,
  audio_crops,
  encoder_gradients,
  gradients,
  independence_term,
  reconstruction_losses,
  spectral_profile,
)
from mmdcodec.train.codec_evaluation import CodecEvaluation
from mmdcodec.train.state import TrainState
from mmdcodec.train.task import Batch, LossResult, Task
from mmdcodec.train.trainable import Trainable

# The phase before the discriminators are used, and the one before that in which
# latents are not quantized.
ALONE, CONTINUOUS = "alone", "continuous"
# Among the metrics of a step: the gradient of the discriminators, and its loss.
_JUDGES, _JUDGES_LOSS = "judges", "discriminator/loss"


class CodecTask(Task):
  """Trains a codec.

  Attributes:
    codec: the model.
    reconstruction: the losses of the reconstruction.
    adversary: the discriminators, or None.
    independence: the independence loss, or None.
  """

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

  def __init__(self, config: Mapping[str, Any]):
    """Builds the model and its losses.

    Args:
      config: see `configs/common.py`, `codec_config`.

    Raises:
      UserError: a setting is invalid.
    """
    self.config = config
    self.codec = codec_model.from_config(config["model"])
    self.reconstruction = reconstruction_losses.ReconstructionLosses(
      config, self.codec.rate
    )
    self.measures_data = self.codec.topology == "spectral"
    samples = round(self.audio_seconds * self.codec.rate)
    self.independence = None
    # These two are missing in runs of early versions.
    self._decoder_alone = config.get("freeze", "") == "encoder"
    self._trainable = Trainable(
      "^(encoder|quantizer)/" if self._decoder_alone else ""
    )
    if self._decoder_alone:
      _check_decoder_alone(config)
    elif "independence" in config["losses"]:
      self.independence = independence_term.make_term(
        config["losses"]["independence"],
        codebooks=self.codec.codebooks,
        frames=frames(samples, self.codec.stride),
        batch=config["batch"],
        accumulate=config.get("accumulate", 1),
      )
    if self.independence is not None:
      self.history, self.inspects = self.independence.history, True
    self.adversary = None
    weights = self.reconstruction.weights
    if heard := [name for name in adversarial.NAMES if name in weights]:
      self.adversary = adversarial.Adversary(
        config["adversarial"],
        names=heard,
        steps=config["steps"],
        channels=self.codec.channels,
      )
    # Missing in runs of early versions.
    self._quantizer_start = config.get("quantizer_start", 0)
    if (
      self.adversary is not None
      and config["adversarial"]["start"] < self._quantizer_start
    ):
      raise UserError(
        f"adversarial.start is {config['adversarial']['start']}; expected at"
        f" least quantizer_start, {self._quantizer_start}: discriminators judge"
        " what codes sound like."
      )
    self._evaluation = CodecEvaluation(self.codec, self.independence)
    self._loss_norms = jax.jit(self._measure_loss_norms)

  @property
  def audio_seconds(self) -> float:
    """Seconds of audio in one example."""
    return self.config["data"]["seconds"]

  # -------------------------------------------------------------------- data

  def batches(self, *, seed: int) -> record_order.Batches:
    """Opens the training data; see `Task.batches`."""
    return audio_crops.training(
      self.config, rate=self.codec.rate, channels=self.codec.channels, seed=seed
    )

  def held_out(self) -> list[Batch]:
    """Returns the same clips each time; none without validation data."""
    return audio_crops.held_out(
      self.config, rate=self.codec.rate, channels=self.codec.channels
    )

  def batch_shapes(self, batch: int) -> Batch:
    """Describes `audio` [batch, samples, channels] and `lengths` [batch]."""
    samples = round(self.audio_seconds * self.codec.rate)
    return {
      "audio": jax.ShapeDtypeStruct(
        (batch, samples, self.codec.channels), jnp.float32
      ),
      "lengths": jax.ShapeDtypeStruct((batch,), jnp.int32),
    }

  # ------------------------------------------------------------------- state

  def init(self, key: jax.Array) -> dict[str, Any]:
    """Initializes the variables, whose shapes do not depend on clip length."""
    x = jnp.zeros((1, self.codec.stride * 2, self.codec.channels), jnp.float32)
    return self.to_trained(dict(self.codec.init(key, x)), key)

  def to_trained(
    self, variables: dict[str, Any], key: jax.Array
  ) -> dict[str, Any]:
    """Freezes what makes the codes, if it is not trained; see `Task`."""
    trained, frozen = self._trainable.split(variables["params"], key)
    return {**variables, "params": trained, **frozen}

  def record_parts(self, workdir: pathlib.Path) -> None:
    """Notes whose codes a run with a frozen encoder keeps to.

    Raises:
      UserError: the model is another one than that of `init_from`.
    """
    if not self._decoder_alone or run_files.has_checkpoint(workdir):
      return
    config, variables = bundle.read_codec(self.config["init_from"])
    self._check_same_codec(config["model"])
    codes = loaded_codec.codes_of(config, variables, self.config["model"])
    run_files.write_codes(workdir, codes)

  def _check_same_codec(self, fields: Mapping[str, Any]) -> None:
    """Checks that the codec to go on from has these settings.

    Raises:
      UserError: one that codes depend on is another.
    """
    start = codec_model.from_config(fields)
    other = [
      key
      for key in self.config["model"]
      if key not in self.free_model_keys
      and getattr(start, key, None) != getattr(self.codec, key, None)
    ]
    if other:
      raise UserError(
        f"freeze is 'encoder', but {', '.join(other)} of the model differ from"
        " those of init_from: the codes would be others."
      )

  def measure_data(
    self,
    collections: dict[str, Any],
    batches: Iterator[Batch],
    say: Callable[[str], None],
  ) -> dict[str, Any]:
    """Measures the profile of a spectral codec."""
    return spectral_profile.measure(
      self.codec, collections, batches, self.config["batch"], say
    )

  def init_extra_state(self, key: jax.Array) -> dict[str, Any] | None:
    """Initializes discriminators and the balancer, if the run has them."""
    extra: dict[str, Any] = {}
    if self.adversary is not None:
      samples = self.batch_shapes(1)["audio"].shape[1]
      key = jax.random.fold_in(key, 1)
      extra["adversary"] = self.adversary.init(key, samples)
    if self.reconstruction.balanced:
      extra["balancer"] = self.reconstruction.init()
    return extra or None

  @classmethod
  def fixed_settings(cls, config: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the settings of the extra state; see `Task.fixed_settings`."""
    weights = reconstruction_losses.read_weights(config)
    judges = optimizer = losses = None
    if any(name in weights for name in adversarial.NAMES):
      judges = config["adversarial"]["discriminators"]
      optimizer = config["adversarial"]["optimizer"]["name"]
    if reconstruction_losses.uses_balancer(config):
      losses = sorted(weights)
    return {
      "adversarial.discriminators": judges,
      "adversarial.optimizer.name": optimizer,
      "freeze": config.get("freeze", ""),
      "set of balanced losses": losses,
    }

  # -------------------------------------------------------------------- step

  def phase(self, step: int) -> str | None:
    """Returns the phase: `CONTINUOUS`, `ALONE` (without discriminators), None.

    A separate program is faster than a condition: XLA's CPU backend runs
    gradients of convolutions 16 times slower inside a branch
    (`adversarial.start` of `codec_small:adversarial`), and TPUs reserve memory
    for both branches.
    """
    if step < self._quantizer_start:
      return CONTINUOUS
    late = self.adversary is not None and not self.adversary.acts(step)
    return ALONE if late else None

  def loss(
    self,
    params: Any,
    collections: dict[str, Any],
    extra: dict[str, Any] | None,
    batch: Batch,
    key: jax.Array,
    step: jax.Array,
    phase: str | None = None,
  ) -> LossResult:
    """Runs the forward pass and computes the losses; see `Task.loss`.

    The value is the weighted sum of the losses. The gradient is not its
    derivative: it comes from `reconstruction.combine`, plus commitment and
    independence.
    """
    x, lengths = batch["audio"], batch["lengths"]
    # With a frozen encoder nothing changes: its norm takes the statistics that
    # codes are made with, not those of the batch.
    mutable = [name for name in collections if not self._decoder_alone]
    applied: Any = self.codec.apply(
      self.whole({"params": params, **collections}),
      x,
      lengths,
      train=True,
      quantize=phase != CONTINUOUS,
      rngs={"quantize": key},
      mutable=mutable,
    )
    out, changed = applied
    changed = {**collections, **changed}
    y = jax.lax.stop_gradient(out.audio)
    mask = length_mask(lengths, x.shape[1])
    found, pulls = gradients.each(
      lambda y: self.reconstruction.values(x, y, mask), y
    )
    extra, metrics = dict(extra or {}), dict(out.metrics)
    if self.adversary is not None:
      if phase is None:
        values, more, judged, metrics[_JUDGES] = self.adversary.judge(
          extra["adversary"].params, x, y, step
        )
      else:
        values, more, judged = self.adversary.absent(y)
      found, pulls, metrics = found | values, pulls | more, metrics | judged
    pull, balanced, norms = self.reconstruction.combine(
      pulls, extra.get("balancer")
    )
    if balanced is not None:
      extra["balancer"] = balanced
    metrics |= {f"audio_gradient/{name}": norm for name, norm in norms.items()}
    # The value is the weighted sum; the gradient is `pull`.
    weights = self.reconstruction.weights
    through = jnp.sum(pull * out.audio)
    total = sum(weights[name] * value for name, value in found.items())
    total += through - jax.lax.stop_gradient(through)
    found["commitment"] = out.commitment
    if phase == CONTINUOUS:
      return total, (
        changed,
        extra or None,
        {"loss": total, **found, **metrics},
      )
    total += self.config["losses"]["commitment"]["weight"] * out.commitment
    term = self.independence
    if term is not None and term.history == 1:
      # Last and with its own key, so that turning it on changes nothing else.
      added, found["independence"] = term.of_step(
        out.z, out.streams, out.frame_mask, key, step
      )
      total += added
    return total, (changed, extra or None, {"loss": total, **found, **metrics})

  def end_step(
    self,
    extra: Any,
    metrics: dict[str, Any],
    step: jax.Array,
    phase: str | None = None,
  ) -> tuple[Any, dict[str, jax.Array]]:
    """Updates the discriminators; see `Task.end_step`.

    Raises:
      UserError: the loss of a subclass keeps their gradient to itself.
    """
    if self.adversary is None or phase is not None:
      return extra, metrics
    if not {_JUDGES, _JUDGES_LOSS} <= metrics.keys():
      raise UserError(
        f"the loss of {type(self).__name__} hands no gradient on to the"
        " discriminators; return all metrics of CodecTask.loss beside your own,"
        " or set losses.adversarial.weight and losses.features.weight to 0."
      )
    judges, learned = self.adversary.learn(
      extra["adversary"],
      metrics.pop(_JUDGES),
      metrics[_JUDGES_LOSS],
      step,
    )
    return {**extra, "adversary": judges}, metrics | learned

  def uses_history(self, step: int) -> bool:
    """Whether this step computes independence over several batches."""
    term = self.independence
    if term is None or term.history == 1 or step < self._quantizer_start:
      return False
    return bool(term.due(step))

  def history_gradient(
    self,
    params: Any,
    collections: dict[str, Any],
    batches: tuple[Batch, ...],
    key: jax.Array,
    step: jax.Array,
  ) -> tuple[jax.Array, Any, dict[str, jax.Array]]:
    """Computes the loss over several batches; see `Task.history_gradient`."""
    assert self.independence is not None
    value, grads, _ = encoder_gradients.independence_of_batches(
      self.codec, self.independence, params, collections, batches, key
    )
    weight = self.independence.weight_at(step)
    grads = jax.tree.map(lambda g: weight * g, grads)
    return weight * value, grads, {"independence": value}

  # ---------------------------------------------------------------- measures

  def evaluate(
    self, variables: dict[str, Any], batches: list[Batch]
  ) -> dict[str, Any]:
    """Averages measures over held-out clips; see `CodecEvaluation`."""
    return self._evaluation(self.whole(variables), batches)

  def inspect(
    self, state: TrainState, batches: tuple[Batch, ...]
  ) -> dict[str, float]:
    """Computes each weighted loss's gradient norm at the encoder's output.

    This makes the weights of different kinds of losses comparable. It costs
    about as much as a training step, plus compilation (on CPUs, of one backward
    pass per loss).

    Args:
      state: training state.
      batches: up to `history` most recent batches, placed on the mesh.

    Returns:
      `gradient/NAME` for each loss, with its weight at the end of any ramp, in
      a step in which it is applied. See `encoder_gradients.loss_norms`.
    """
    # Weights and seed are not compiled in, so runs that differ in them share a
    # program.
    step = int(state.step)
    key = jax.random.fold_in(jax.random.key(self.config["seed"]), step)
    extra = state.extra or {}
    judges = extra["adversary"].params if self.adversary is not None else None
    norms = self._loss_norms(
      state.params, state.collections, judges, batches[-self.history :], key
    )
    scales = jax.device_get(self.reconstruction.scales(extra.get("balancer")))
    unheard: tuple[str, ...] = ()
    if self.adversary is not None and not self.adversary.heard(step):
      unheard = adversarial.NAMES
    losses = self.config["losses"]
    return {
      f"gradient/{name}": float(
        (scales[name] if name in scales else losses[name]["weight"]) * norm
      )
      for name, norm in jax.device_get(norms).items()
      if name not in unheard
    }

  def _measure_loss_norms(
    self,
    params: Any,
    collections: dict[str, Any],
    judges: Any,
    batches: tuple[Batch, ...],
    key: jax.Array,
  ) -> dict[str, jax.Array]:
    """Computes unweighted norms; `judges` are discriminator parameters."""
    assert self.independence is not None

    def losses(
      x: jax.Array, y: jax.Array, mask: jax.Array
    ) -> dict[str, jax.Array]:
      found = self.reconstruction.values(x, y, mask)
      if self.adversary is not None:
        found |= self.adversary.losses(judges, x, y)
      return found

    return encoder_gradients.loss_norms(
      self.codec, self.independence, losses, params, collections, batches, key
    )

  def warnings(self, values: Mapping[str, float]) -> list[str]:
    """Warns if the discriminators have stopped learning."""
    return adversarial.warnings(values)


def _check_decoder_alone(config: Mapping[str, Any]) -> None:
  """Checks what training a decoder alone needs.

  Raises:
    UserError: there are no codes to keep.
  """
  if not config["init_from"]:
    raise UserError(
      "freeze is 'encoder', but the encoder is untrained: set init_from to the"
      " codec whose codes are to stay."
    )
  if config["quantizer_start"]:
    raise UserError(
      f"quantizer_start is {config['quantizer_start']}; expected 0 with"
      " freeze='encoder', because the codebooks stay as they are."
    )
