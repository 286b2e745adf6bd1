"""Causal attention on TPUs: tiles of logits that never leave the chip.

Splash attention (`jax.experimental.pallas.ops.tpu.splash_attention`) is flash
attention (Dao et al. 2022, arXiv 2205.14135), forward and backward, that leaves
out the tiles in which no query sees a key. XLA writes all logits, float32
[batch, heads, queries, keys], to memory and reads them again several times: for
the 1503 steps of MusicGen 23 times as many numbers as the queries have.
"""

import jax
import jax.numpy as jnp

from mmdcodec.parallel import rules

# A TPU's vectors have 128 lanes; a tile's sides are multiples of it. Of 512,
# logits and what is made of them take a few of the 16 MiB of vector memory, and
# each row of keys that is read meets as many queries.
_LANES, _LARGEST = 128, 512


def fits(q: jax.Array) -> bool:
  """Whether the kernel is worth its while: from two of the largest tiles on.

  Below, there is hardly a tile to leave out, and XLA keeps logits on the chip:
  forward and backward of 4 x 16 heads on v5e it needs no memory for those of
  512 queries, but 384 MiB for 1024 (the kernel 4), and five times the traffic.

  Args:
    q: [batch, queries, heads, head_dim], any head_dim.
  """
  return q.shape[1] >= 2 * _LARGEST


def attend(
  q: jax.Array,
  k: jax.Array,
  v: jax.Array,
  *,
  scale: float | None = None,
  interpret: bool = False,
) -> jax.Array:
  """Causal attention: query i sees keys up to i.

  Under a mesh each device takes its items and heads; heads are whole where the
  mesh's axis `model` does not divide those of the keys.

  Args:
    q: [batch, queries, heads, head_dim].
    k: [batch, queries, kv_heads, head_dim]; kv_heads divide the heads.
    v: as k.
    interpret: run it without a TPU, slowly.

  Returns:
    As q.
  """
  # In float32, or all logits would be off by what bfloat16 makes of the scale.
  factor = q.shape[-1] ** -0.5 if scale is None else scale
  scaled = (q.astype(jnp.float32) * factor).astype(q.dtype)
  local = lambda q, k, v: _attend(q, k, v, interpret)
  mesh = jax.sharding.get_abstract_mesh()
  if mesh.empty:
    return local(scaled, k, v)
  # XLA can't cut a kernel. Where the heads of keys can be cut, those of queries
  # can, and the parts belong together.
  spec = rules.activation_spec(k.shape, mesh, "batch", None, "model", None)
  return jax.shard_map(
    local, in_specs=(spec, spec, spec), out_specs=spec, check_vma=False
  )(scaled, k, v)


def _attend(q, k, v, interpret: bool):
  # Takes a second to import, and most programs have no need of it.
  from jax.experimental.pallas.ops.tpu import splash_attention as splash

  length, heads = q.shape[1:3]
  # As few tiles as there can be, and of one size, so that little is padding:
  # 1503 steps are 3 x 512, 1025 are 3 x 384.
  count = -(-length // _LARGEST)
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

  def to_kernel(x):
    # What is added stands after all queries that count: none of them sees it.
    x = jnp.pad(x, ((0, 0), (0, padded - length), (0, 0), (0, 0)))
    return x.swapaxes(1, 2)

  y = jax.vmap(kernel)(to_kernel(q), to_kernel(k), to_kernel(v))
  return y.swapaxes(1, 2)[:, :length]
