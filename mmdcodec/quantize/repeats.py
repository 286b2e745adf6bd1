"""Removal of repeated codes.

A semantic token often lasts several frames. MusicLM (arXiv 2301.11325) and
AudioLM (arXiv 2209.03143, section III-B) drop the repeats before a language
model learns the sequence.
"""

import jax
import jax.numpy as jnp


@jax.jit
def collapse_repeats(
  codes: jax.Array, lengths: jax.Array
) -> tuple[jax.Array, jax.Array]:
  """Keeps one of each run of equal frames.

  Args:
    codes: int32 [batch, frames, codebooks].
    lengths: int32 [batch], valid frames of each item.

  Returns:
    (codes of the same shape, the kept frames first and then zeros; int32
    [batch], the number of kept frames).
  """
  batch, frames, _ = codes.shape
  changed = (codes[:, 1:] != codes[:, :-1]).any(-1)
  keep = jnp.pad(changed, ((0, 0), (1, 0)), constant_values=True)
  keep &= jnp.arange(frames) < lengths[:, None]
  # A frame that is not kept goes past the end, where `drop` ignores it.
  place = jnp.where(keep, jnp.cumsum(keep, 1) - 1, frames)
  item = jnp.arange(batch)[:, None]
  kept = jnp.zeros_like(codes).at[item, place].set(codes, mode="drop")
  return kept, keep.sum(1, dtype=jnp.int32)
