"""The joint embedding of music and text: two towers and one unit sphere.

MuLan (Huang et al. 2022, arXiv 2208.12415): a network over the log-mel
spectrogram of a window of 10 s and a Transformer over a text, each followed by
a linear layer to the same 128 dimensions and by division by the norm. Both are
trained so that a window and its own text are near (`losses/contrastive.py`).

  "input"  collection: "mean" and "scale" [mels] of the log-mel spectrogram over
           the training music, measured before the first step. They are part of
           the model; a clip is never normalised by itself.
"""

from collections.abc import Mapping
from typing import Annotated, Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from mmdcodec import bounds
from mmdcodec.bounds import mapping, null_or, number, one_of, whole
from mmdcodec.losses import contrastive
from mmdcodec.models import fields
from mmdcodec.models.bert import Bert
from mmdcodec.models.mel_front_end import window_levels
from mmdcodec.models.resnet import ResNet
from mmdcodec.models.spectrogram_transformer import SpectrogramTransformer
from mmdcodec.models.text_tower import TextTower, fields_of
from mmdcodec.nn.attention import kernel_init
from mmdcodec.nn.norms import unit_vectors
from mmdcodec.nn.stacked import REMAT

# Audio towers by name.
TOWERS: dict[str, Any] = {"ast": SpectrogramTransformer, "resnet": ResNet}
PRESETS: dict[str, dict[str, Any]] = {
  "base": {},
  "small": dict(
    mels=64,
    window=1024,
    hop=320,
    # A patch is 160 ms of all bands: 63 tokens, which a CPU can afford.
    audio=dict(
      patch=(8, 64), layers=3, width=128, heads=4, hidden=512, pooling="mean"
    ),
    # Captions of the built-in music have up to 180 bytes.
    text=dict(
      longest=192, layers=2, width=128, heads=4, hidden=256, pooling="mean"
    ),
  ),
  "tiny": dict(
    seconds=1.0,
    mels=16,
    window=512,
    hop=400,
    dim=8,
    audio=dict(
      patch=(8, 8), layers=1, width=16, heads=2, hidden=16, pooling="mean"
    ),
    text=dict(
      longest=24, layers=1, width=16, heads=2, hidden=16, pooling="mean"
    ),
  ),
}


class Mulan(bounds.Checked, nn.Module):
  """Audio and text towers.

  Attributes:
    rate: Hz of the audio, which has one channel.
    seconds: length of the window of the audio tower.
    mels: bands of the spectrogram.
    window: samples of a frame; 25 ms by default.
    hop: samples between frames; 10 ms by default.
    fmin: lower edge of the first band, Hz.
    fmax: upper edge of the last band, Hz; None means rate / 2.
    tower: kind of the audio tower, a key of TOWERS.
    audio: fields of the audio tower.
    text: fields of the `TextTower`.
    dim: dimensions of an embedding.
    scale: 1 / temperature before training.
    least: its lower bound.
    most: its upper bound.
    remat: what backward passes of both towers recompute, see `Transformer`.
    dtype: compute dtype; parameters, norms and sums are float32.
  """

  called = "the joint embedding"

  rate: Annotated[int, whole(1000, 384_000)] = 16_000
  seconds: Annotated[float, number(0.01, 600)] = 10.0
  mels: Annotated[int, whole(1, 1 << 10)] = 128
  window: Annotated[int, whole(16, 1 << 16)] = 400
  hop: Annotated[int, whole(1, 1 << 16)] = 160
  fmin: Annotated[float, number(0, 192_000)] = 20.0
  fmax: Annotated[float | None, null_or(number(1, 192_000))] = None
  tower: Annotated[str, one_of(tuple(TOWERS))] = "ast"
  audio: Annotated[Any, mapping()] = fields.freeze({})
  text: Annotated[Any, mapping()] = fields.freeze({})
  dim: Annotated[int, whole(1, 1 << 14)] = 128
  scale: Annotated[float, number(1e-3, 1e6)] = 10.0
  least: Annotated[float, number(1e-3, 1e6)] = 1.0
  most: Annotated[float, number(1e-3, 1e6)] = 100.0
  remat: Annotated[str, one_of(("none", *REMAT))] = "none"
  dtype: Annotated[Any, bounds.dtype(*bounds.FLOATS)] = jnp.float32

  @property
  def problem(self) -> str | None:
    """See the base class."""
    audio, _ = self._towers(parent=None)
    if isinstance(audio, SpectrogramTransformer) and (
      self.mels % audio.patch[1]
    ):
      return (
        f"its {self.mels} mels must be a multiple of the {audio.patch[1]} bands"
        " of a patch"
      )
    if not self.least < self.scale < self.most:
      return (
        f"scale is {self.scale}; it must lie between {self.least} (least) and"
        f" {self.most} (most)"
      )
    if not self.fmin < (self.fmax or self.rate / 2) <= self.rate / 2:
      return f"fmin {self.fmin} and fmax {self.fmax} must rise up to rate / 2"
    return None

  @property
  def samples(self) -> int:
    """Samples of a window."""
    return round(self.seconds * self.rate)

  @property
  def text_fields(self) -> dict[str, Any]:
    """Fields of the text tower; see `text_tower.fields_of`."""
    return fields_of(self.text)

  def _towers(self, **parent: Any) -> tuple[nn.Module, nn.Module]:
    """Makes both towers."""
    shared = dict(remat=self.remat, dtype=self.dtype, **parent)
    kind = TOWERS[self.tower]
    for config, tower in ((self.audio, kind), (self.text, TextTower)):
      fields.check_known(config, tower, hidden=("remat", "dtype"))
    return kind(**self.audio, **shared), TextTower(**self.text, **shared)

  def setup(self) -> None:
    """Builds the towers."""
    self.audio_tower, self.text_tower = self._towers()
    dense = lambda: nn.Dense(
      self.dim, use_bias=False, kernel_init=kernel_init(), dtype=jnp.float32
    )
    self.audio_out, self.text_out = dense(), dense()
    raw = contrastive.raw_of_scale(self.scale, self.least, self.most)
    self.raw_scale = self.param(
      "scale", nn.initializers.constant(raw), (), jnp.float32
    )
    # Only the sigmoid loss uses it; the start is SigLIP's.
    self.bias = self.param(
      "bias", nn.initializers.constant(-10.0), (), jnp.float32
    )
    self.mean = self.variable(
      "input", "mean", jnp.zeros, (self.mels,), jnp.float32
    )
    self.factor = self.variable(
      "input", "scale", jnp.ones, (self.mels,), jnp.float32
    )

  def spectrogram(
    self, x: jax.Array, lengths: jax.Array
  ) -> tuple[jax.Array, jax.Array]:
    """Levels before they are standardised; see `window_levels`."""
    return window_levels(
      x,
      lengths,
      rate=self.rate,
      window=self.window,
      hop=self.hop,
      mels=self.mels,
      fmin=self.fmin,
      fmax=self.fmax,
    )

  def embed_audio(
    self, x: jax.Array, lengths: jax.Array, *, train: bool = False
  ) -> jax.Array:
    """Embeds windows; padding and other windows make no difference.

    Args:
      x: float32 [batch, `samples`, 1].
      lengths: int [batch], valid samples from the first on, at least 1.
      train: applies dropout.

    Returns:
      float32 [batch, dim] of norm 1.
    """
    bounds.check_shape("x", x, batch=..., samples=self.samples, channels=1)
    levels, valid = self.spectrogram(x, lengths)
    levels = (levels - self.mean.value) * self.factor.value
    y = self.audio_tower(levels, valid, train=train)
    return unit_vectors(self.audio_out(y))

  def embed_text(
    self, tokens: jax.Array, lengths: jax.Array, *, train: bool = False
  ) -> jax.Array:
    """Embeds texts; padding and other texts make no difference.

    Args:
      tokens: int [batch, tokens].
      lengths: int [batch], tokens that are no padding, at least 1.
      train: applies dropout.

    Returns:
      float32 [batch, dim] of norm 1.
    """
    y = self.text_tower(tokens, lengths, train=train)
    return unit_vectors(self.text_out(y))

  def __call__(
    self,
    x: jax.Array,
    lengths: jax.Array,
    tokens: jax.Array,
    token_lengths: jax.Array,
    *,
    train: bool = False,
  ) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    """Embeds windows and their texts.

    Returns:
      (audio [batch, dim], text [batch, dim], 1 / temperature, bias of the
      sigmoid loss).
    """
    return (
      self.embed_audio(x, lengths, train=train),
      self.embed_text(tokens, token_lengths, train=train),
      contrastive.bounded_scale(self.raw_scale, self.least, self.most),
      self.bias,
    )


def preset(name: str, **changes: Any) -> dict[str, Any]:
  """All fields of a preset, ready for JSON and for `from_config`.

  Args:
    name: "base" (the paper's size), "small" (for CPUs) or "tiny" (for tests).
    **changes: fields to change.

  Raises:
    UserError: there is no such preset or field.
  """
  found = fields.preset(Mulan, PRESETS, name, changes)
  found["dtype"] = str(jnp.dtype(found["dtype"]))
  tower = TOWERS[found["tower"]]
  for key, kind in (("audio", tower), ("text", TextTower)):
    given = dict(found[key])
    if kind is ResNet and key not in changes:
      given = {}
    found[key] = fields.defaults(kind, hidden=("remat", "dtype")) | given
  bert = fields.defaults(Bert, hidden=("dtype",)) | dict(found["text"]["bert"])
  found["text"]["bert"] = bert if found["text"]["kind"] == "bert" else {}
  return found


def from_config(config: Mapping[str, Any]) -> Mulan:
  """Builds a model from its fields; missing ones keep their defaults.

  Raises:
    UserError: an unknown field, or a value out of its bounds.
  """
  return fields.build(Mulan, config)


def shapes(model: Mulan) -> dict[str, Any]:
  """Shapes and dtypes of the variables, without making them."""

  def init(key: jax.Array) -> Any:
    return initial(model, key)

  return dict(jax.eval_shape(init, jax.random.key(0)))


def bundle_shapes(config: Mapping[str, Any]) -> dict[str, Any]:
  """Shapes of the variables of a bundle of kind "mulan".

  Raises:
    UserError: as in `from_config`.
  """
  return shapes(from_config(config["model"]))


def initial(model: Mulan, key: jax.Array) -> dict[str, Any]:
  """Initializes the variables."""
  x = jnp.zeros((1, model.samples, 1), jnp.float32)
  one = jnp.ones(1, jnp.int32)
  tokens = jnp.zeros((1, 4), jnp.int32)
  return dict(model.init(key, x, one * model.samples, tokens, one * 4))
