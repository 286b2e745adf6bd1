"""Causal attention on TPUs that never writes its logits to memory.

Splash attention (`jax.experimental.pallas.ops.tpu.splash_attention`) is flash
attention (Dao et al. 2022, arXiv 2205.14135), forward and backward, that skips
the tiles above the diagonal. XLA writes all logits, float32
[batch, heads, queries, keys], to memory and reads them several times: for the
1503 steps of MusicGen, 23 times as many numbers as the queries have.
"""

import jax
import jax.numpy as jnp

from mmdcodec.parallel import mapped, rules

# Sides of a tile are multiples of the 128 lanes of a TPU's vectors. With sides
# of 512, logits and their derivatives take a few of the 16 MiB of vector
# memory, and each row of keys that is read serves 512 queries.
_LANES, _MAX_TILE = 128, 512


def fits(q: jax.Array) -> bool:
  """Whether the kernel pays off: for at least two of the largest tiles.

  Shorter sequences have hardly any tiles to skip, and XLA keeps their logits on
  the chip. Forward and backward, 4 x 16 heads on v5e, by XLA: no memory for the
  logits of 512 queries, 384 MiB for 1024 (the kernel: 4 MiB) and five times the
  traffic.

  It does not work inside of a `jax.shard_map` with `check_vma`.

  Args:
    q: [batch, queries, heads, head_dim], any head_dim.
  """
  return q.shape[1] >= 2 * _MAX_TILE and not mapped.varies(q)


def attend(
  q: jax.Array,
  k: jax.Array,
  v: jax.Array,
  *,
  scale: float | None = None,
  interpret: bool = False,
) -> jax.Array:
  """Causal attention: query i attends to keys 0..i.

  Under a mesh, each device computes its own part of the batch and the heads.
  Heads are not split where the mesh axis `model` does not divide kv_heads.

  Args:
    q: [batch, queries, heads, head_dim].
    k: [batch, queries, kv_heads, head_dim], where kv_heads divides heads.
    v: same shape as k.
    scale: factor on the logits; None means 1 / sqrt(head_dim).
    interpret: emulates the kernel without a TPU, slowly.

  Returns:
    Same shape and dtype as q.
  """
  # Scaled in float32: bfloat16 would round the scale of all logits.
  factor = q.shape[-1] ** -0.5 if scale is None else scale
  scaled = (q.astype(jnp.float32) * factor).astype(q.dtype)

  def local(q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
    return _attend(q, k, v, interpret)

  mesh = jax.sharding.get_abstract_mesh()
  axes = rules.auto_axes(mesh)
  # Inside of `jax.shard_map` and `jax.pmap` too: no example or head needs
  # another one.
  if not axes:
    return local(scaled, k, v)
  # XLA cannot partition a kernel. A split of the key heads also splits the
  # query heads, and matching parts land on the same device.
  spec = rules.activation_spec(k.shape, mesh, "batch", None, "model", None)
  return jax.shard_map(
    local,
    in_specs=(spec, spec, spec),
    out_specs=spec,
    axis_names=set(axes),
    check_vma=False,
  )(scaled, k, v)


def _attend(
  q: jax.Array, k: jax.Array, v: jax.Array, interpret: bool
) -> jax.Array:
  # Imported here: it takes a second, and most programs do not need it.
  from jax.experimental.pallas.ops.tpu import splash_attention as splash

  length, heads = q.shape[1:3]
  # The fewest tiles of one size that cover the sequence, so that padding is
  # small: 1503 steps take 3 x 512, 1025 take 3 x 384.
  count = -(-length // _MAX_TILE)
  tile = -(-length // (count * _LANES)) * _LANES
  padded = count * tile
  mask = splash.CausalMask((padded, padded))
  kernel = splash.make_splash_mha(
    splash.MultiHeadMask([mask] * heads),
    block_sizes=splash.BlockSizes(
      block_q=tile,
      block_kv=tile,
      block_q_dkv=tile,
      block_kv_dkv=tile,
      block_q_dq=tile,
      block_kv_dq=tile,
    ),
    head_shards=1,
    q_seq_shards=1,
    interpret=interpret,
  )

  def to_kernel(x: jax.Array) -> jax.Array:
    # Padding comes after all real queries, so none of them attends to it.
    x = jnp.pad(x, ((0, 0), (0, padded - length), (0, 0), (0, 0)))
    return x.swapaxes(1, 2)

  y = jax.vmap(kernel)(to_kernel(q), to_kernel(k), to_kernel(v))
  return y.swapaxes(1, 2)[:, :length]
