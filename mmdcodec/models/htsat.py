"""HTS-AT: a Swin Transformer over a log-mel spectrogram.

Chen et al. 2022, arXiv 2202.00874, after Liu et al. 2021, arXiv 2103.14030. The
spectrogram is cut along time into pieces, which are laid on top of each other
to fill a square image. Attention works in square windows of patches; every
second block shifts them by half a window, so that neighbours meet. Between
stages, four patches merge into one. It is the audio tower of LAION-CLAP.
"""

import functools
from typing import Annotated, Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from mmdcodec import bounds
from mmdcodec.bounds import list_of, number, whole
from mmdcodec.nn.attention import Attention, kernel_init


@functools.lru_cache(8)
def resize_matrix(size: int, to: int) -> np.ndarray:
  """Cubic interpolation of a signal whose ends stay where they are.

  Args:
    size: samples of the signal.
    to: samples of the result, at least 2.

  Returns:
    float32 [to, size], with rows of sum 1: Keys' kernel with a = -0.75, and
    samples beyond an end equal to that at the end, as PyTorch's bicubic
    `interpolate` has them with `align_corners`.
  """
  a = -0.75
  at = np.arange(to) * (size - 1) / (to - 1)
  first = np.floor(at).astype(int)
  out = np.zeros((to, size))
  for tap in range(-1, 3):
    x = np.abs(at - first - tap)
    near = (a + 2) * x**3 - (a + 3) * x**2 + 1
    far = a * (x**3 - 5 * x**2 + 8 * x - 4)
    source = np.clip(first + tap, 0, size - 1)
    np.add.at(out, (np.arange(to), source), np.where(x <= 1, near, far))
  return out.astype(np.float32)


def distances(window: int) -> np.ndarray:
  """Row of the table of biases for each pair of patches in a window.

  Returns:
    int [window^2, window^2], queries first.
  """
  rows, columns = np.divmod(np.arange(window**2), window)
  down = rows[:, None] - rows + window - 1
  right = columns[:, None] - columns + window - 1
  return down * (2 * window - 1) + right


@functools.lru_cache(32)
def shifted_mask(side: int, window: int, shift: int) -> np.ndarray:
  """Which patches of a shifted window were neighbours before the shift.

  Returns:
    bool [windows, 1, window^2, window^2].
  """
  place = np.arange(side)
  part = (place >= side - window).astype(int) + (place >= side - shift)
  parts = _windows(3 * part[:, None] + part, window, np)
  return (parts[:, :, None] == parts[:, None, :])[:, None]


def _windows(x: Any, window: int, xp: Any) -> Any:
  """[side, side, ...] -> [windows, window^2, ...]."""
  count = x.shape[0] // window
  x = x.reshape(count, window, count, window, *x.shape[2:])
  return xp.moveaxis(x, 2, 1).reshape(count**2, window**2, *x.shape[4:])


def _whole(x: jax.Array, window: int) -> jax.Array:
  """The inverse of `_windows`."""
  count = round(x.shape[0] ** 0.5)
  x = x.reshape(count, count, window, window, *x.shape[2:])
  return jnp.moveaxis(x, 2, 1).reshape(
    count * window, count * window, *x.shape[4:]
  )


def _norm(name: str, epsilon: float = 1e-5) -> nn.LayerNorm:
  return nn.LayerNorm(epsilon=epsilon, dtype=jnp.float32, name=name)


class SwinBlock(nn.Module):
  """Attention in windows and a feed-forward layer, each on a norm.

  Attributes:
    heads: attention heads.
    hidden: width of the feed-forward layer.
    window: patches along a side of a window.
    shift: patches by which windows are shifted.
    epsilon: added to the variance in norms.
    dtype: compute dtype.
  """

  heads: int
  hidden: int
  window: int
  shift: int
  epsilon: float
  dtype: Any

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """float32 [batch, side, side, width] -> the same shape."""
    side, width = x.shape[1], x.shape[-1]
    window, shift = self.window, self.shift
    y = _norm("attention_norm", self.epsilon)(x)
    if shift:
      y = jnp.roll(y, (-shift, -shift), (1, 2))
    y = jax.vmap(lambda image: _windows(image, window, jnp))(y)
    batch, count, size, _ = y.shape
    table = self.param(
      "distance_bias",
      nn.initializers.normal(0.02),
      ((2 * window - 1) ** 2, self.heads),
      jnp.float32,
    )
    bias = jnp.moveaxis(table[distances(window)], -1, 0)[None]
    mask = None
    if shift:
      mask = np.tile(shifted_mask(side, window, shift), (batch, 1, 1, 1))
    attention = Attention(
      width=width,
      heads=self.heads,
      kv_heads=self.heads,
      head_dim=width // self.heads,
      use_bias=True,
      dtype=self.dtype,
    )
    nn.share_scope(self, attention)
    y = y.reshape(batch * count, size, width)
    y = attention(y, *attention.keys_and_values(y), mask=mask, bias=bias)
    y = y.reshape(batch, count, size, width)
    y = jax.vmap(lambda parts: _whole(parts, window))(y)
    if shift:
      y = jnp.roll(y, (shift, shift), (1, 2))
    x = x + y
    dense = lambda size, name: nn.Dense(
      size, dtype=self.dtype, kernel_init=kernel_init(), name=name
    )
    y = dense(self.hidden, "inner")(_norm("feed_norm", self.epsilon)(x))
    y = dense(width, "outer")(nn.gelu(y, approximate=False))
    return x + y.astype(jnp.float32)


class HTSAT(bounds.Checked, nn.Module):
  """Maps a log-mel spectrogram to one vector, without dropout.

  Attributes:
    mels: bands of the spectrogram.
    side: points of the image's side; a multiple of `mels`.
    patch: points of a patch's side.
    width: channels of a patch in the first stage; each stage doubles them.
    depths: blocks of each stage.
    heads: attention heads of each stage.
    window: patches along a side of a window.
    expansion: width of a feed-forward layer over the width of its stage.
    epsilon: added to the variance in the norms of blocks.
    dtype: compute dtype; parameters, norms and sums are float32.
  """

  called = "the audio tower"

  mels: Annotated[int, whole(1, 1 << 10)] = 64
  side: Annotated[int, whole(1, 1 << 12)] = 256
  patch: Annotated[int, whole(1, 256)] = 4
  width: Annotated[int, whole(1, 1 << 12)] = 96
  depths: Annotated[Any, list_of(whole(1, 64), 8)] = (2, 2, 6, 2)
  heads: Annotated[Any, list_of(whole(1, 256), 8)] = (4, 8, 16, 32)
  window: Annotated[int, whole(1, 64)] = 8
  expansion: Annotated[float, number(0.1, 64)] = 4.0
  epsilon: Annotated[float, number(1e-12, 1e-1)] = 1e-5
  dtype: Annotated[Any, bounds.dtype(*bounds.FLOATS)] = jnp.float32

  @property
  def problem(self) -> str | None:
    """See the base class."""
    stages = len(self.depths)
    if self.side % self.mels:
      return f"its side of {self.side} is no multiple of its {self.mels} mels"
    if len(self.heads) != stages:
      return f"it has {stages} depths and {len(self.heads)} heads"
    least = self.patch * self.window * 2 ** (stages - 1)
    if self.side % least:
      return (
        f"its side of {self.side} is no multiple of {least}, a window of the"
        " last stage"
      )
    for i, heads in enumerate(self.heads):
      if self.width * 2**i % heads:
        return f"{heads} heads can't share a width of {self.width * 2**i}"
    return None

  @property
  def out_width(self) -> int:
    """Channels of the vector."""
    return self.width * 2 ** (len(self.depths) - 1)

  @property
  def frames(self) -> int:
    """Frames that fill the image; fewer are stretched to as many."""
    return self.side**2 // self.mels

  @nn.compact
  def __call__(self, levels: jax.Array) -> jax.Array:
    """Encodes spectrograms.

    Args:
      levels: float32 [batch, frames, mels] in dB, 2 to `frames` frames.

    Returns:
      float32 [batch, out_width].

    Raises:
      ValueError: levels have another shape.
    """
    bounds.check_shape("levels", levels, batch=..., frames=..., mels=self.mels)
    batch, frames, _ = levels.shape
    if not 2 <= frames <= self.frames:
      raise ValueError(f"{frames} frames; expected 2 to {self.frames}")
    # The statistics of a batch norm, and its affine part.
    x = levels * self.param(
      "mel_scale", nn.initializers.ones, (self.mels,), jnp.float32
    )
    x += self.param(
      "mel_bias", nn.initializers.zeros, (self.mels,), jnp.float32
    )
    if frames < self.frames:
      resize = resize_matrix(frames, self.frames)
      x = jnp.einsum("btf,st->bsf", x, resize, precision="highest")
    # Pieces of time on top of each other, each with its lowest band first.
    pieces = x.reshape(batch, -1, self.side, self.mels)
    image = pieces.swapaxes(2, 3).reshape(batch, self.side, self.side, 1)
    x = nn.Conv(
      self.width,
      (self.patch, self.patch),
      self.patch,
      padding="VALID",
      kernel_init=kernel_init(),
      dtype=self.dtype,
      name="patches",
    )(image)
    x = _norm("patch_norm")(x)
    for stage, (depth, heads) in enumerate(
      zip(self.depths, self.heads, strict=True)
    ):
      for i in range(depth):
        # A single window can't be shifted.
        shift = self.window // 2 if i % 2 and x.shape[1] > self.window else 0
        x = SwinBlock(
          heads=heads,
          hidden=int(self.expansion * x.shape[-1]),
          window=self.window,
          shift=shift,
          epsilon=self.epsilon,
          dtype=self.dtype,
          name=f"stage_{stage}_block_{i}",
        )(x)
      if stage < len(self.depths) - 1:
        x = self._merge(x, f"stage_{stage}")
    return jnp.mean(_norm("norm")(x), (1, 2))

  def _merge(self, x: jax.Array, name: str) -> jax.Array:
    """Merges four patches into one of twice the width."""
    batch, side, _, width = x.shape
    x = x.reshape(batch, side // 2, 2, side // 2, 2, width)
    # Channels of the patches by columns, then rows.
    x = x.transpose(0, 1, 3, 4, 2, 5)
    x = x.reshape(batch, side // 2, side // 2, 4 * width)
    x = _norm(f"{name}_merge_norm")(x)
    return nn.Dense(
      2 * width,
      use_bias=False,
      kernel_init=kernel_init(),
      dtype=self.dtype,
      name=f"{name}_merge",
    )(x).astype(jnp.float32)
