"""Where a clip begins and ends for a convolution: mirrored padding.

`reflect` for an array that ends where its clip ends, `reflect_at` for a batch
of clips that end where they like, `continued` for a piece of a clip that is
still arriving.
"""

import jax
import jax.numpy as jnp
from jax import lax


def reflect(x: jax.Array, left: int, right: int) -> jax.Array:
  """Mirrors x [batch, time, channels] at both ends, edges not repeated.

  An input that is not longer than the padding is continued with zeros first,
  and as many samples are cut from the right end afterwards.
  """
  time = x.shape[1]
  short = max(0, max(left, right) + 1 - time)
  if short:
    x = jnp.pad(x, ((0, 0), (0, short), (0, 0)))
  x = jnp.pad(x, ((0, 0), (left, right), (0, 0)), mode="reflect")
  return x[:, : left + time + right]


def reflect_at(
  x: jax.Array, left: int, right: jax.Array, lengths: jax.Array, most: int
) -> jax.Array:
  """`reflect`, each example mirrored at its own end.

  Args:
    x: [batch, time, channels], zero after the end of each example.
    left: samples of padding on the left.
    right: [batch], samples of padding after each end.
    lengths: [batch], samples of each example.
    most: static upper bound of `right`.

  Returns:
    [batch, left + time + most, channels], zero after the padding.
  """
  time = x.shape[1]
  size = max(time, left + 1, most + 1)
  x = jnp.pad(x, ((0, 0), (0, size - time), (0, 0)))
  end = jnp.maximum(lengths, jnp.maximum(left, right) + 1)
  head = jnp.flip(x[:, 1 : left + 1], 1)
  x = mirror_end(x, end, right - (end - lengths), most)
  return jnp.concatenate([head, x], 1)[:, : left + time + most]


def mirror_end(
  x: jax.Array, ends: jax.Array, right: jax.Array, most: int
) -> jax.Array:
  """Mirrors the samples before `ends` into those after it.

  Args:
    x: [batch, time, channels].
    ends: [batch], 1 <= ends <= time.
    right: [batch], samples to write after the end; the rest becomes zero.
    most: static upper bound of `right`.

  Returns:
    [batch, time + most, channels].
  """
  if most == 0:
    return x
  # The `most` samples before the mirror, last one first. Only these move by a
  # gather: gathering the whole signal would be slow, its gradient slower.
  ahead = jnp.pad(x, ((0, 0), (most, 0), (0, 0)))
  take = lambda row, at: lax.dynamic_slice_in_dim(row, at, most)
  tail = jnp.flip(jax.vmap(take)(ahead, ends - 1), 1)
  tail = jnp.where((jnp.arange(most) < right[:, None])[..., None], tail, 0)
  body = jnp.pad(x, ((0, 0), (0, most), (0, 0)))
  put = lambda row, new, at: lax.dynamic_update_slice_in_dim(row, new, at, 0)
  return jax.vmap(put)(body, tail, ends)


def continued(
  x: jax.Array,
  context: jax.Array,
  seen: jax.Array,
  lengths: jax.Array,
  *,
  stride: int,
  pad_mode: str,
) -> jax.Array:
  """The next piece of a clip as a causal convolution must see it.

  Convolved without padding it gives the frames that the piece has in the whole
  clip: it follows what came before, or the padding where the clip begins, and
  goes on with the padding where the clip ends.

  Args:
    x: [batch, time, channels], whole strides, zero after `lengths`.
    context: [batch, left, channels], the last samples before x; zeros where
      the clip begins.
    seen: bool [batch], False where the clip begins. If it is mirrored there
      and does not end in x, it must have more than `left` samples in x.
    lengths: [batch] valid samples; fewer than `time` only where a clip ends.
    stride: samples per frame.
    pad_mode: as in `padded_conv`.

  Returns:
    [batch, left + time, channels].
  """
  left, time = context.shape[1], x.shape[1]
  if pad_mode == "constant":
    return jnp.concatenate([context, x], 1)
  size = max(time, left + 1, stride)
  x = jnp.pad(x, ((0, 0), (0, size - time), (0, 0)))
  mirrored = jnp.flip(x[:, 1 : left + 1], 1)
  head = jnp.where(seen[:, None, None], context, mirrored)
  x = jnp.concatenate([head, x], 1)
  right = -lengths % stride
  # As in `reflect`, a whole clip that is too short is continued with zeros.
  least = jnp.where(seen, 0, jnp.maximum(left, right) + 1)
  end = jnp.maximum(lengths, least)
  x = mirror_end(x, left + end, right - (end - lengths), stride - 1)
  return x[:, : left + time]
