"""Forgetful causal masking (Liu et al. 2022, arXiv 2210.13432).

In training, tokens do not see some of those before them, so that a model does
not rely on the nearest ones alone. A token always sees itself, and the first
one is seen by all, so none is left without any.
"""

import dataclasses

import jax
import jax.numpy as jnp

from mmdcodec.nn import sliding
from mmdcodec.nn.block import View


def kept(key: jax.Array, valid: jax.Array, share: float) -> jax.Array:
  """Draws the tokens that stay visible, for each sequence separately.

  Args:
    key: random key.
    valid: bool [batch, tokens], False for padding.
    share: share of the valid tokens to hide, rounded down.

  Returns:
    bool [batch, tokens], True for padding and for the first valid token.
  """
  first = jnp.cumsum(valid, axis=1) == 1
  scores = jax.random.uniform(key, valid.shape, jnp.float32)
  scores = jnp.where(valid & ~first, scores, 2.0)
  rank = jnp.argsort(jnp.argsort(scores, axis=1), axis=1)
  count = jnp.floor(share * valid.sum(axis=1, keepdims=True))
  return (rank >= count) | (scores == 2.0)


def forget(view: View, seen: jax.Array, sinks: int) -> View:
  """Hides tokens from all others.

  Args:
    view: what the tokens attend to.
    seen: bool [batch, tokens], the result of `kept`.
    sinks: keys before those of the tokens, which stay visible.
  """
  if view.band is not None:
    band = dataclasses.replace(view.band, valid=view.band.valid & seen)
    return dataclasses.replace(view, band=band)
  mask = view.mask
  if mask is None:
    mask = sliding.mask(seen.shape[1], window=0, before=0, sinks=sinks)
  own = sliding.itself(seen.shape[1], sinks)
  seen = jnp.pad(seen, ((0, 0), (sinks, 0)), constant_values=True)
  return dataclasses.replace(view, mask=mask & (seen[:, None, None, :] | own))
