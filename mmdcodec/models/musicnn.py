"""musicnn: a convolutional network that tags music.

Pons and Serra 2019, arXiv 1909.06654. Filters that are high and short hear
timbre, filters that are long and one band wide hear rhythm; three layers over
time with shortcuts follow. The maximum and the mean over time of all of these
go through one hidden layer, whose output is an embedding of the music.

Batch norms are stored as a factor and a sum, because public weights are only
used, not trained.
"""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from mmdcodec import bounds
from mmdcodec.audio import transforms
from mmdcodec.bounds import whole
from mmdcodec.models import fields
from mmdcodec.nn.attention import kernel_init

# The front end, and the frames of a window (3 s) that was trained with.
RATE, WINDOW, HOP, MELS, FRAMES = 16_000, 512, 256, 96, 187
# Frames and bands of the filters for timbre; frames of those for rhythm.
TIMBRE = ((7, 38), (7, 67))
RHYTHM = (128, 64, 32)
# Samples of a window with the whole of its first and last frame.
SAMPLES = (FRAMES - 1) * HOP + WINDOW


def levels_of(x: jax.Array) -> jax.Array:
  """Compressed mel spectrogram.

  Args:
    x: float32 [batch, samples] at 16 kHz; the first frame begins with it.

  Returns:
    float32 [batch, frames, MELS].
  """
  energy = transforms.mel(
    x, rate=RATE, window=WINDOW, hop=HOP, mels=MELS, center=False
  )
  # In float32: the authors' code overflows here in half precision.
  return jnp.log10(1e4 * energy + 1)


class Affine(nn.Module):
  """A batch norm with fixed statistics, as a factor and a sum per channel."""

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """[..., channels] -> the same shape."""
    scale = self.param("scale", nn.initializers.ones, x.shape[-1:], jnp.float32)
    return x * scale + self.param(
      "bias", nn.initializers.zeros, x.shape[-1:], jnp.float32
    )


class Musicnn(bounds.Checked, nn.Module):
  """Maps spectrograms to logits of tags and to embeddings.

  Attributes:
    timbre: filters of each of the two kinds for timbre.
    rhythm: filters of each of the three kinds for rhythm.
    middle: filters of each of the three layers over time.
    units: size of an embedding.
    tags: number of tags.
  """

  called = "musicnn"

  timbre: Annotated[int, whole(1, 1 << 14)] = 204
  rhythm: Annotated[int, whole(1, 1 << 14)] = 51
  middle: Annotated[int, whole(1, 1 << 14)] = 64
  units: Annotated[int, whole(1, 1 << 14)] = 200
  tags: Annotated[int, whole(1, 1 << 14)] = 50

  @nn.compact
  def __call__(self, levels: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Tags spectrograms.

    Args:
      levels: float32 [batch, frames, MELS] from `levels_of`.

    Returns:
      (logits float32 [batch, tags], embeddings float32 [batch, units]).

    Raises:
      ValueError: levels have another shape.
    """
    bounds.check_shape("levels", levels, batch=..., frames=None, mels=MELS)

    def layer(
      x: jax.Array, size: int, kernel: Sequence[int], name: str
    ) -> jax.Array:
      """Convolution over as many frames, and its norm."""
      # Same in time, as few bands as fit.
      time = ((kernel[0] - 1) // 2, kernel[0] // 2)
      y = nn.Conv(
        size,
        tuple(kernel),
        padding=(time, *[(0, 0)] * (len(kernel) - 1)),
        kernel_init=kernel_init(),
        name=name,
      )(x)
      return Affine(name=f"{name}_norm")(nn.relu(y))

    x = Affine(name="input_norm")(levels[..., None])
    parts = [
      jnp.max(layer(x, self.timbre, kernel, f"timbre_{i}"), 2)
      for i, kernel in enumerate(TIMBRE)
    ]
    parts += [
      jnp.max(layer(x, self.rhythm, (frames, 1), f"rhythm_{i}"), 2)
      for i, frames in enumerate(RHYTHM)
    ]
    y = jnp.concatenate(parts, -1)
    found = [y]
    for i in range(3):
      more = layer(y, self.middle, (TIMBRE[0][0],), f"middle_{i}")
      y = more + y if i else more
      found.append(y)
    y = jnp.concatenate(found, -1)
    # Maximum and mean of each channel beside each other.
    pooled = jnp.stack([jnp.max(y, 1), jnp.mean(y, 1)], -1)
    pooled = Affine(name="pool_norm")(pooled.reshape(len(y), -1))
    dense = lambda size, name: nn.Dense(
      size, kernel_init=kernel_init(), name=name
    )
    hidden = nn.relu(dense(self.units, "hidden")(pooled))
    embedding = Affine(name="hidden_norm")(hidden)
    return dense(self.tags, "tags_out")(embedding), embedding


def from_config(config: Mapping[str, Any]) -> Musicnn:
  """Builds a network from a mapping of its fields.

  Raises:
    UserError: an unknown field, or a value out of its bounds.
  """
  return fields.build(Musicnn, config)


def shapes(config: Mapping[str, Any]) -> dict[str, Any]:
  """Shapes of the variables of a bundle of kind "tagger".

  Raises:
    UserError: as in `from_config`.
  """
  model = from_config(config["model"])
  levels = jax.ShapeDtypeStruct((1, FRAMES, MELS), jnp.float32)
  return dict(jax.eval_shape(model.init, jax.random.key(0), levels))
