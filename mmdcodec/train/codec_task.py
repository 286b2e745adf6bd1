"""Training a codec to reconstruct: its losses, and its held-out measures."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mmdcodec.evaluate import codebooks, reconstruction
from mmdcodec.losses import spectral
from mmdcodec.models import codec as codec_model
from mmdcodec.nn.conv import length_mask
from mmdcodec.parallel import rules


class CodecTask:
  """What the training loop needs to know about codecs."""

  kind = "codec"
  rules = rules.CODEC_RULES
  # Shown on the progress line, and the measure that picks the best checkpoint.
  shown = ("train/loss", "train/mel", "train/gradient_norm")
  best, best_mode = "valid/mel_distance", "min"
  # Of `model`: what may change when a run goes on.
  free = (
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
      config: `model` (fields of `Codec`), `losses`, `data.seconds`.
    """
    self.config = config
    self.codec = codec_model.from_config(config["model"])
    self._reconstruct = jax.jit(self._evaluate_batch)

  @property
  def audio_seconds(self) -> float:
    """Seconds of audio in one example."""
    return self.config["data"]["seconds"]

  def example(self, batch: int) -> dict:
    """Shapes of a global batch."""
    samples = round(self.audio_seconds * self.codec.rate)
    return {
      "audio": jax.ShapeDtypeStruct(
        (batch, samples, self.codec.channels), jnp.float32
      ),
      "lengths": jax.ShapeDtypeStruct((batch,), jnp.int32),
    }

  def init(self, key: jax.Array) -> dict:
    """Fresh variables; parameters do not depend on the length of the input."""
    x = jnp.zeros((1, self.codec.stride * 2, self.codec.channels))
    return self.codec.init(key, x)

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
    self, params: Any, collections: dict, batch: dict, key: jax.Array
  ) -> tuple[jax.Array, tuple[dict, dict]]:
    """One forward pass.

    Args:
      params: of the codec.
      collections: `{"codebook": ...}`.
      batch: `audio` [batch, samples, channels], `lengths` [batch].
      key: of this step.

    Returns:
      The weighted sum of losses, and (updated collections, metrics).
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
    found = self.losses(x, out.audio, length_mask(lengths, x.shape[1]))
    found["commitment"] = out.commitment
    weights = self.config["losses"]
    total = sum(
      weights[name]["weight"] * value for name, value in found.items()
    )
    return total, (changed, {"loss": total, **found, **out.metrics})

  def _evaluate_batch(self, variables: dict, batch: dict) -> tuple[dict, Any]:
    """Sums over a batch of clips, so that batches of any number add up."""
    x, lengths = batch["audio"], batch["lengths"]
    out = self.codec.apply(variables, x, lengths)
    rows = reconstruction.compare(x, out.audio, self.codec.rate, lengths)
    used = codebooks.histogram(
      out.codes, self.codec.codebook_size, out.frame_mask
    )
    sums = {name: value.sum() for name, value in rows.items()}
    # Whole on every device, so that each process can read them.
    return jax.tree.map(rules.constrain, (sums, used))

  def evaluate(self, variables: dict, batches: list[dict]) -> dict:
    """Means over held-out clips.

    Args:
      variables: of the codec.
      batches: placed global batches.

    Returns:
      `si_sdr` (dB), `mel_distance`, `stft_distance`, and per level `use` and
      `perplexity` of the codes over all the clips.
    """
    sums, used, clips = None, 0, 0
    for batch in batches:
      found = self._reconstruct(variables, batch)
      rows, counts = jax.tree.map(np.float64, jax.device_get(found))
      sums = rows if sums is None else jax.tree.map(np.add, sums, rows)
      used = used + counts
      clips += batch["audio"].shape[0]
    metrics = {name: value / clips for name, value in sums.items()}
    return {**metrics, **codebooks.statistics(used)}
