"""The network of semantic tokens: log-mel spectra, two stacks of conformers.

w2v-BERT (Chung et al. 2021, arXiv 2108.06209): two convolutions reduce the
frames of a spectrum to a quarter, 25 a second. A stack of conformer blocks, the
contrastive module, makes context vectors of them; a second one, the masked
prediction module, predicts the codes of frames that were hidden. MusicLM (arXiv
2301.11325) takes its semantic tokens from the output of a block of the second
stack.

Both objectives train the same network (`objective_w2v_bert`,
`objective_best_rq`). Spectra are standardised by mean and deviation of each mel
band over the training data, in the collection "statistics".
"""

import functools
from collections.abc import Mapping
from typing import Annotated, Any

import flax
import flax.linen as nn
import jax
import jax.numpy as jnp

from mmdcodec import bounds
from mmdcodec.audio import transforms
from mmdcodec.bounds import flag, number, one_of, whole
from mmdcodec.losses import masking
from mmdcodec.models import fields
from mmdcodec.models.mel_front_end import REDUCTION, FrontEnd
from mmdcodec.models.objective_best_rq import BestRQ
from mmdcodec.models.objective_w2v_bert import W2vBert
from mmdcodec.models.semantic_outputs import Heard, Objective
from mmdcodec.nn.conformer import Conformer
from mmdcodec.nn.conv import frames, length_mask, mask_after

OBJECTIVES = {"w2v_bert": W2vBert, "best_rq": BestRQ}


class SemanticModel(bounds.Checked, nn.Module):
  """The network, and what its objective adds for training.

  Variables: collections "params", "statistics" and, with the objective
  "best_rq", "targets". Random keys: "params" at init, "dropout" in training. A
  clip gives the same vectors alone, padded and in any batch.

  Attributes:
    rate: sample rate in Hz.
    window: samples of a spectrum's window.
    hop: samples between spectra; a frame has four of them.
    mels: mel bands.
    filters: channels of the convolutions.
    width: channels of a frame's vector.
    heads: attention heads.
    hidden: width of the feed-forward layers.
    kernel: taps of the conformers' convolutions.
    contrastive_layers: blocks of the first stack.
    prediction_layers: blocks of the second stack.
    feature_layer: block of the second stack, counted from 1, whose output is
      the features.
    positions: how attention knows distances, see `Conformer`.
    chunk: frames of a chunk of attention, see `Conformer`; 0: all of a clip.
    objective: a key of OBJECTIVES.
    codes: number of codes that are predicted.
    code_dim: length of a code's vector.
    centered: codes are made of what differs from the mean of the clip, so they
      do not say what all of it has in common, such as its instruments.
    dropout: rate in training.
    remat: "none", "full" or "dots", see `Transformer`.
    dtype: compute dtype, "float32" or "bfloat16"; parameters, norms, spectra,
      codes and losses are float32.
  """

  called = "the semantic model"

  # `Conformer` has the bounds of its own fields.
  rate: Annotated[int, whole(1000, 1_000_000)] = 24_000
  window: Annotated[int, whole(16, 1 << 16)] = 2048
  hop: Annotated[int, whole(1, 1 << 16)] = 240
  mels: Annotated[int, whole(4, 1 << 10)] = 128
  filters: Annotated[int, whole(1, 1 << 12)] = 128
  width: int = 1024
  heads: int = 8
  hidden: int = 4096
  kernel: int = 5
  contrastive_layers: Annotated[int, whole(1, 256)] = 12
  prediction_layers: Annotated[int, whole(1, 256)] = 12
  feature_layer: Annotated[int, whole(1, 256)] = 7
  positions: str = "rotary"
  chunk: int = 0
  objective: Annotated[str, one_of(tuple(OBJECTIVES))] = "w2v_bert"
  codes: Annotated[int, whole(2, 1 << 20)] = 1024
  code_dim: Annotated[int, whole(1, 1 << 14)] = 1024
  centered: Annotated[bool, flag()] = False
  dropout: Annotated[float, number(0, 1)] = 0.0
  remat: str = "none"
  dtype: Annotated[str, bounds.dtype("float32", "bfloat16")] = "float32"

  @property
  def problem(self) -> str | None:
    """See the base class."""
    # Its own checks come first.
    self.make_stack(self.prediction_layers, parent=None)
    if self.hop > self.window:
      return f"its hop of {self.hop} is longer than the window, {self.window}"
    if self.feature_layer > self.prediction_layers:
      return (
        f"feature_layer is {self.feature_layer}; it must be at most"
        f" prediction_layers, {self.prediction_layers}"
      )
    return None

  # Every clip has a frame.
  shortest = 1

  @property
  def stride(self) -> int:
    """Samples per frame."""
    return REDUCTION * self.hop

  @nn.nowrap
  def frames_of(self, samples: Any) -> Any:
    """Number of frames of so many samples; works for arrays too."""
    return frames(samples, self.stride)

  @property
  def frame_rate(self) -> float:
    """Frames per second."""
    return self.rate / self.stride

  @nn.nowrap
  def make_stack(self, layers: int, **more: Any) -> Conformer:
    """Makes a stack of blocks."""
    return Conformer(
      layers=layers,
      width=self.width,
      heads=self.heads,
      hidden=self.hidden,
      kernel=self.kernel,
      positions=self.positions,
      chunk=self.chunk,
      dropout=self.dropout,
      remat=self.remat,
      dtype=jnp.dtype(self.dtype),
      **more,
    )

  def setup(self) -> None:
    """Builds the network and its objective."""
    dtype = jnp.dtype(self.dtype)
    self.mean = self.variable(
      "statistics", "mean", jnp.zeros, self.mels, jnp.float32
    )
    self.deviation = self.variable(
      "statistics", "deviation", jnp.ones, self.mels, jnp.float32
    )
    self.front = FrontEnd(self.filters, self.width, dtype)
    self.contrastive = self.make_stack(self.contrastive_layers)
    self.prediction = self.make_stack(self.prediction_layers)
    kind: type[Objective] = OBJECTIVES[self.objective]
    self.target = kind(self.codes, self.code_dim, dtype)

  @nn.nowrap
  def valid(self, lengths: jax.Array, samples: int) -> jax.Array:
    """Valid frames: bool [batch, ceil(samples / stride)]."""
    return length_mask(
      frames(lengths, self.stride), frames(samples, self.stride)
    )

  @nn.nowrap
  def levels(self, x: jax.Array) -> jax.Array:
    """Log-mel spectra in decibels.

    Args:
      x: float32 [batch, samples, 1], 0 after the end of a clip.

    Returns:
      float32 [batch, 4 * ceil(samples / stride), mels].
    """
    bounds.check_shape("x", x, batch=..., samples=None, channels=1)
    x = jnp.pad(x[..., 0], ((0, 0), (0, -x.shape[1] % self.stride)))
    found = transforms.log_mel(
      x, rate=self.rate, window=self.window, hop=self.hop, mels=self.mels
    )
    # The last one is centred on the end.
    return found[:, :-1]

  def spectra(self, x: jax.Array, ends: jax.Array) -> jax.Array:
    """Standardised spectra, as `levels`; 0 after `ends` spectral frames."""
    found = (self.levels(x) - self.mean.value) / self.deviation.value
    return mask_after(found, ends)

  def features(self, x: jax.Array, lengths: jax.Array) -> jax.Array:
    """Vectors of each frame, to be clustered.

    Args:
      x: float32 [batch, samples, 1].
      lengths: int [batch], valid samples.

    Returns:
      float32 [batch, ceil(samples / stride), width], 0 after the end of a clip.
    """
    ends, valid = frames(lengths, self.hop), self.valid(lengths, x.shape[1])
    y = self.front(self.spectra(mask_after(x, lengths), ends), ends)
    y = self.contrastive(y, valid)
    return self.prediction.hidden_states(y, valid, self.feature_layer)

  def __call__(
    self,
    x: jax.Array,
    lengths: jax.Array,
    masked: jax.Array,
    noise: jax.Array,
    key: jax.Array | None = None,
    *,
    settings: Mapping[str, Any] = flax.core.FrozenDict(),
    train: bool = False,
  ) -> Any:
    """Predicts the codes of masked frames.

    Args:
      x: float32 [batch, samples, 1].
      lengths: int [batch], valid samples.
      masked: bool [batch, ceil(samples / stride)], frames to hide.
      noise: same shape as x, heard where a frame is hidden.
      key: random key of the targets; None for targets without noise.
      settings: keyword arguments of the objective.
      train: applies dropout.

    Returns:
      `semantic_outputs.Losses`.
    """
    x = mask_after(x, lengths)
    ends, valid = frames(lengths, self.hop), self.valid(lengths, x.shape[1])
    masked = masked & valid
    spectra = functools.partial(self.spectra, ends=ends)
    hidden = masking.hide(x, masked, self.stride, noise)
    # Noise, too, ends with the clip.
    hidden = mask_after(hidden, lengths)
    context = self.contrastive(
      self.front(spectra(hidden), ends), valid, train=train
    )
    clean = spectra(x)
    features = self.front(clean, ends) if self.target.hears else None
    if self.centered:
      clean = center(clean, length_mask(ends, clean.shape[1]))
      features = None if features is None else center(features, valid)
    return self.target(
      Heard(
        spectra=clean,
        features=features,
        context=context,
        predicted=self.prediction(context, valid, train=train),
        masked=masked,
        valid=valid,
      ),
      key,
      **settings,
    )


def center(x: jax.Array, valid: jax.Array) -> jax.Array:
  """Subtracts the mean over the valid frames of each clip.

  Args:
    x: [batch, frames, dim].
    valid: bool [batch, frames].

  Returns:
    As x, 0 where a frame is not valid.
  """
  seen = valid[..., None]
  total = jnp.where(seen, x, 0).sum(1, keepdims=True)
  count = jnp.maximum(seen.sum(1, keepdims=True), 1)
  return jnp.where(seen, x - total / count, 0)


# Fields that differ from those of the paper's network with 600 M parameters.
PRESETS: dict[str, dict[str, Any]] = {
  "full": dict(),
  "base": dict(
    width=768,
    hidden=1152,
    contrastive_layers=6,
    prediction_layers=6,
    feature_layer=4,
    code_dim=256,
  ),
  "small": dict(
    filters=32,
    width=256,
    heads=4,
    hidden=768,
    contrastive_layers=3,
    prediction_layers=3,
    feature_layer=2,
    code_dim=128,
  ),
  "tiny": dict(
    rate=8000,
    window=256,
    hop=80,
    mels=16,
    filters=4,
    width=16,
    heads=2,
    hidden=32,
    contrastive_layers=1,
    prediction_layers=1,
    feature_layer=1,
    codes=32,
    code_dim=8,
  ),
}


def preset(name: str, **changes: Any) -> dict[str, Any]:
  """All fields of a preset, for `from_config`, ready for JSON.

  Args:
    name: one of PRESETS.
    **changes: fields to change.

  Raises:
    UserError: there is no such preset or field.
  """
  return fields.preset(SemanticModel, PRESETS, name, changes)


def from_config(config: Mapping[str, Any]) -> SemanticModel:
  """Builds the model from a mapping of its fields.

  Raises:
    UserError: an unknown key, or an invalid value.
  """
  return fields.build(SemanticModel, config)


def init(model: SemanticModel, key: jax.Array) -> dict[str, Any]:
  """Initializes the variables, whose shapes do not depend on clip length."""
  x = jnp.zeros((1, 2 * model.stride, 1), jnp.float32)
  lengths = jnp.full((1,), x.shape[1])
  return dict(model.init(key, x, lengths, jnp.ones((1, 2), bool), x))


def bundle_shapes(config: Mapping[str, Any]) -> dict[str, Any]:
  """Shapes and dtypes of the variables of a bundle, without making them.

  Args:
    config: config of the bundle; `model` holds the fields.

  Raises:
    UserError: an unknown key, or an invalid value.
  """
  model = from_config(config["model"])
  return jax.eval_shape(lambda key: init(model, key), jax.random.key(0))
