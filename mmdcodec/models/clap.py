"""LAION-CLAP: music, sounds and texts on one sphere.

Wu et al. 2023, arXiv 2211.06687: HTS-AT over the log-mel spectrogram of a
window of 10 s and RoBERTa over a text, each followed by two linear layers to
the same 512 dimensions.
"""

from collections.abc import Mapping
from typing import Annotated, Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from mmdcodec import bounds
from mmdcodec.audio import transforms
from mmdcodec.bounds import mapping, number, whole
from mmdcodec.models import fields
from mmdcodec.models.bert import Bert
from mmdcodec.models.htsat import HTSAT
from mmdcodec.nn.attention import kernel_init
from mmdcodec.nn.conv import length_mask
from mmdcodec.nn.norms import unit_vectors

# What each file of the authors was trained with.
RATE, WINDOW, HOP, SECONDS = 48_000, 1024, 480, 10
SAMPLES = RATE * SECONDS
# Tokens of a text, as the authors cut them.
LONGEST_TEXT = 77


def log_mel(x: jax.Array, *, mels: int, fmin: float, fmax: float) -> jax.Array:
  """Log-mel spectrogram of windows.

  Args:
    x: float32 [batch, samples] at 48 kHz.
    mels: bands.
    fmin: lower edge of the first band, Hz.
    fmax: upper edge of the last band, Hz.

  Returns:
    float32 [batch, frames, mels] in dB; frames are centred, and the signal is
    reflected at its ends.
  """
  half = WINDOW // 2
  x = jnp.pad(x, ((0, 0), (half, half)), mode="reflect")
  energy = transforms.mel(
    x,
    rate=RATE,
    window=WINDOW,
    hop=HOP,
    mels=mels,
    fmin=fmin,
    fmax=fmax,
    center=False,
  )
  return 10 * jnp.log10(jnp.maximum(energy, 1e-10))


def fill_windows(x: jax.Array, lengths: jax.Array) -> jax.Array:
  """Repeats short clips as often as they fit into a window.

  The authors trained with clips that were filled so.

  Args:
    x: float32 [batch, samples].
    lengths: int [batch], valid samples from the first on, at least 1.

  Returns:
    float32 [batch, samples]; 0 after the last whole repetition.
  """
  place, lengths = jnp.arange(x.shape[1]), lengths[:, None]
  x = jnp.take_along_axis(x, place % lengths, axis=1)
  return jnp.where(place < place.size // lengths * lengths, x, 0.0)


class Clap(bounds.Checked, nn.Module):
  """Audio and text towers.

  Attributes:
    audio: fields of the `HTSAT`.
    text: fields of the `Bert`, by default those of RoBERTa's base model.
    dim: dimensions of an embedding.
    fmin: lower edge of the first mel band, Hz.
    fmax: upper edge of the last mel band, Hz.
    dtype: compute dtype; parameters, norms and sums are float32.
  """

  called = "CLAP"

  audio: Annotated[Any, mapping()] = fields.freeze({})
  text: Annotated[Any, mapping()] = fields.freeze({})
  dim: Annotated[int, whole(1, 1 << 14)] = 512
  fmin: Annotated[float, number(0, RATE / 2)] = 50.0
  fmax: Annotated[float, number(1, RATE / 2)] = 14_000.0
  dtype: Annotated[Any, bounds.dtype(*bounds.FLOATS)] = jnp.float32

  @property
  def problem(self) -> str | None:
    """See the base class."""
    for config, tower in ((self.audio, HTSAT), (self.text, Bert)):
      fields.check_known(config, tower, hidden=("dtype",))
    if HTSAT(**self.audio, parent=None).frames < 1 + SAMPLES // HOP:
      return f"the image of its audio tower is too small for {SECONDS} s"
    # Says what is wrong with its fields.
    Bert(**self.text, parent=None)
    if self.fmin >= self.fmax:
      return f"fmin {self.fmin} must be less than fmax {self.fmax}"
    return None

  @property
  def rate(self) -> int:
    """Hz of the audio, which has one channel."""
    return RATE

  @property
  def seconds(self) -> float:
    """Length of a window."""
    return float(SECONDS)

  @property
  def samples(self) -> int:
    """Samples of a window."""
    return SAMPLES

  @property
  def text_fields(self) -> dict[str, Any]:
    """The tokenizer of texts, and the most tokens of one."""
    longest = Bert(**self.text, parent=None).longest
    return {"tokenizer": "roberta", "longest": min(longest, LONGEST_TEXT)}

  def setup(self) -> None:
    """Builds the towers."""
    self.audio_tower = HTSAT(**self.audio, dtype=self.dtype)
    self.text_tower = Bert(**self.text, dtype=self.dtype)
    dense = lambda size: nn.Dense(
      size, kernel_init=kernel_init(), dtype=jnp.float32
    )
    self.text_pool = dense(self.text_tower.width)
    self.audio_in, self.audio_out = dense(self.dim), dense(self.dim)
    self.text_in, self.text_out = dense(self.dim), dense(self.dim)
    # Logarithms of 1 / temperature, for a clip among texts and a text among
    # clips.
    self.log_scale = self.param(
      "log_scale", nn.initializers.constant(np.log(1 / 0.07)), (2,), jnp.float32
    )

  def project_audio(self, levels: jax.Array) -> jax.Array:
    """Embeds spectrograms of windows, not yet of length 1.

    Args:
      levels: float32 [batch, frames, mels] from `log_mel`.

    Returns:
      float32 [batch, dim].
    """
    return self.audio_out(nn.relu(self.audio_in(self.audio_tower(levels))))

  def embed_audio(self, x: jax.Array, lengths: jax.Array) -> jax.Array:
    """Embeds windows, not yet as vectors of length 1.

    Args:
      x: float32 [batch, `samples`, 1].
      lengths: int [batch], valid samples from the first on, at least 1.

    Returns:
      float32 [batch, dim].
    """
    bounds.check_shape("x", x, batch=..., samples=self.samples, channels=1)
    levels = log_mel(
      fill_windows(x[..., 0], lengths),
      mels=self.audio_tower.mels,
      fmin=self.fmin,
      fmax=self.fmax,
    )
    return self.project_audio(levels)

  def project_text(self, tokens: jax.Array, mask: jax.Array) -> jax.Array:
    """Embeds texts, not yet as vectors of length 1.

    Args:
      tokens: int [batch, tokens] with a start and an end token.
      mask: [batch, tokens], False or 0 for padding.

    Returns:
      float32 [batch, dim].
    """
    first = self.text_tower(tokens, mask)[:, 0]
    pooled = nn.tanh(self.text_pool(first))
    return self.text_out(nn.relu(self.text_in(pooled)))

  def embed_text(self, tokens: jax.Array, lengths: jax.Array) -> jax.Array:
    """Embeds texts.

    Args:
      tokens: int [batch, tokens] with a start and an end token.
      lengths: int [batch], tokens that are no padding.

    Returns:
      float32 [batch, dim] of norm 1.
    """
    mask = length_mask(lengths, tokens.shape[1])
    return unit_vectors(self.project_text(tokens, mask), 1e-12)

  def __call__(
    self, levels: jax.Array, tokens: jax.Array, mask: jax.Array
  ) -> tuple[jax.Array, jax.Array]:
    """Embeds spectrograms and texts; see the methods."""
    return self.project_audio(levels), self.project_text(tokens, mask)


def from_config(config: Mapping[str, Any]) -> Clap:
  """Builds a CLAP from a mapping of its fields.

  Raises:
    UserError: an unknown field, or a value out of its bounds.
  """
  return fields.build(Clap, config)


def shapes(config: Mapping[str, Any]) -> dict[str, Any]:
  """Shapes of the variables of a bundle of kind "clap".

  Raises:
    UserError: as in `from_config`.
  """
  model = from_config(config["model"])
  tower = HTSAT(**model.audio, parent=None)
  levels = jax.ShapeDtypeStruct((1, 2, tower.mels), jnp.float32)
  tokens = jax.ShapeDtypeStruct((1, 1), jnp.int32)
  return dict(
    jax.eval_shape(model.init, jax.random.key(0), levels, tokens, tokens)
  )
