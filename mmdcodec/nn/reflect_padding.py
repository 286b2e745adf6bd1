"""Reflection padding at the ends of clips, for convolutions.

`reflect` pads arrays that end where their clips end, `reflect_lengths` batches
of clips of different lengths, and `continue_clip` pieces of clips that are
still arriving.
"""

import jax
import jax.numpy as jnp
from jax import lax


def reflect(x: jax.Array, left: int, right: int) -> jax.Array:
  """Reflects x [batch, time, channels] at both ends without repeating edges.

  An input no longer than the padding is first extended with zeros, and as many
  samples are then cut from the right end (as in EnCodec's code).

  Returns:
    [batch, left + time + right, channels].
  """
  time = x.shape[1]
  short = max(0, max(left, right) + 1 - time)
  if short:
    x = jnp.pad(x, ((0, 0), (0, short), (0, 0)))
  x = jnp.pad(x, ((0, 0), (left, right), (0, 0)), mode="reflect")
  return x[:, : left + time + right]


def reflect_lengths(
  x: jax.Array, left: int, right: jax.Array, lengths: jax.Array, max_right: int
) -> jax.Array:
  """`reflect` with each example reflected at its own end.

  Args:
    x: [batch, time, channels], zero after the end of each example.
    left: samples of padding on the left.
    right: [batch], samples of padding after each end.
    lengths: [batch], samples of each example.
    max_right: static upper bound of `right`.

  Returns:
    [batch, left + time + max_right, channels], zero after the padding.
  """
  time = x.shape[1]
  size = max(time, left + 1, max_right + 1)
  x = jnp.pad(x, ((0, 0), (0, size - time), (0, 0)))
  end = jnp.maximum(lengths, jnp.maximum(left, right) + 1)
  head = jnp.flip(x[:, 1 : left + 1], 1)
  x = reflect_end(x, end, right - (end - lengths), max_right)
  return jnp.concatenate([head, x], 1)[:, : left + time + max_right]


def reflect_end(
  x: jax.Array, ends: jax.Array, right: jax.Array, max_right: int
) -> jax.Array:
  """Overwrites the samples after `ends` with a reflection of those before.

  Args:
    x: [batch, time, channels].
    ends: [batch], 1 <= ends <= time.
    right: [batch], samples to write after the end; the rest becomes zero.
    max_right: static upper bound of `right`.

  Returns:
    [batch, time + max_right, channels].
  """
  if max_right == 0:
    return x
  # The last `max_right` samples before the last one, reversed. Only these are
  # gathered: gathering the whole signal would be slow, its gradient slower.
  padded = jnp.pad(x, ((0, 0), (max_right, 0), (0, 0)))
  take = lambda row, at: lax.dynamic_slice_in_dim(row, at, max_right)
  tail = jnp.flip(jax.vmap(take)(padded, ends - 1), 1)
  tail = jnp.where((jnp.arange(max_right) < right[:, None])[..., None], tail, 0)
  body = jnp.pad(x, ((0, 0), (0, max_right), (0, 0)))
  put = lambda row, new, at: lax.dynamic_update_slice_in_dim(row, new, at, 0)
  return jax.vmap(put)(body, tail, ends)


def continue_clip(
  x: jax.Array,
  context: jax.Array,
  seen: jax.Array,
  lengths: jax.Array,
  *,
  stride: int,
  pad_mode: str,
) -> jax.Array:
  """Puts a piece of a clip between its context and its padding.

  A causal convolution of the result without padding gives the frames that the
  piece has in the whole clip. The samples before the piece, or the padding at
  the start of the clip, come first. The padding at the end of the clip comes
  last.

  Args:
    x: [batch, time, channels], whole strides, zero after `lengths`.
    context: [batch, left, channels], the last samples before x; zeros at the
      start of a clip.
    seen: bool [batch], False at the start of a clip. With reflection, a clip
      that starts in x must end in x or have more than `left` samples there.
    lengths: [batch] valid samples; fewer than `time` only at the end of a clip.
    stride: samples per frame.
    pad_mode: "constant" or "reflect", as in `conv.padded_conv`.

  Returns:
    [batch, left + time, channels].
  """
  left, time = context.shape[1], x.shape[1]
  if pad_mode == "constant":
    return jnp.concatenate([context, x], 1)
  size = max(time, left + 1, stride)
  x = jnp.pad(x, ((0, 0), (0, size - time), (0, 0)))
  reflected = jnp.flip(x[:, 1 : left + 1], 1)
  head = jnp.where(seen[:, None, None], context, reflected)
  x = jnp.concatenate([head, x], 1)
  right = -lengths % stride
  # As in `reflect`, a whole clip that is too short is extended with zeros.
  least = jnp.where(seen, 0, jnp.maximum(left, right) + 1)
  end = jnp.maximum(lengths, least)
  x = reflect_end(x, left + end, right - (end - lengths), stride - 1)
  return x[:, : left + time]
