"""Removal of repeated codes.

A semantic token often lasts several frames. MusicLM (arXiv 2301.11325) and
AudioLM (arXiv 2209.03143, section III-B) drop the repeats before a language
model learns the sequence. How long each token lasted is lost: what such a model
makes gets a place in time by the mean number of tokens in a second alone.
"""

import jax
import jax.numpy as jnp
import numpy as np

from mmdcodec.nn.conv import length_mask


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
  keep &= length_mask(lengths, frames)
  # A frame that is not kept goes past the end, where `drop` ignores it.
  place = jnp.where(keep, jnp.cumsum(keep, 1) - 1, frames)
  item = jnp.arange(batch)[:, None]
  kept = jnp.zeros_like(codes).at[item, place].set(codes, mode="drop")
  return kept, keep.sum(1, dtype=jnp.int32)


def count_kept(codes: np.ndarray) -> int:
  """Counts frames that `collapse_repeats` keeps of [frames, codebooks]."""
  changed = (codes[1:] != codes[:-1]).any(axis=1)
  return min(len(codes), 1) + int(changed.sum())


def stretch(codes: np.ndarray, by: float) -> np.ndarray:
  """Repeats codes without repeats, so that all last equally long.

  The codes at the beginning are those of the beginning alone, however many
  follow.

  Args:
    codes: [batch, kept, codebooks].
    by: frames per code, at least 1 and in general not a whole number.

  Returns:
    [batch, floor(kept * by), codebooks].
  """
  frames = np.arange(int(codes.shape[1] * by + 1e-6))
  at = np.minimum((frames / by + 1e-6).astype(int), codes.shape[1] - 1)
  return codes[:, at]
