"""Draws of codes: guidance, temperature, the likeliest codes alone.

Must catch: a draw that is not of the model's distribution, and guidance that
takes the groups in another order.
"""

import jax
import jax.numpy as jnp
import numpy as np

from mmdcodec.generation import sampling


def test_guidance_against_its_formula():
  """Catches groups in another order."""
  parts = np.random.default_rng(0).normal(size=(3, 2, 4, 5))
  given, other, free = parts
  stacked = jnp.asarray(parts.reshape(6, 4, 5))
  found = sampling.guide(stacked, 3, 3.0, 2.0)
  want = free + 3 * (other + 2 * (given - other) - free)
  np.testing.assert_allclose(found, want, rtol=1e-5, atol=1e-5)
  found = sampling.guide(stacked[:4], 2, 3.0, 9.0)
  np.testing.assert_allclose(
    found, other + 3 * (given - other), rtol=1e-5, atol=1e-5
  )


def frequencies(logits, **options):
  """How often each code is drawn, from 20,000 draws."""
  keys = jax.random.split(jax.random.key(0), 20_000)
  many = jnp.broadcast_to(jnp.asarray(logits), (len(keys), 1, len(logits)))
  drawn = sampling.sample(
    many, keys, temperature=options.pop("temperature", 1.0),
    **{"top_p": None, "top_k": 0, **options},
  )  # fmt: skip
  return np.bincount(drawn[:, 0], minlength=len(logits)) / len(keys)


def test_draws():
  """Catches a distribution that is not the one that was asked for."""
  share = np.array([0.05, 0.4, 0.15, 0.1, 0.3])
  logits = np.log(share).astype(np.float32)

  def check(found, kept, power=1.0):
    want = np.where(kept, share**power, 0)
    want /= want.sum()
    np.testing.assert_allclose(found, want, atol=0.015)
    assert not found[~np.asarray(kept)].any()

  every = np.ones(5, bool)
  check(frequencies(logits), every)
  check(frequencies(logits, temperature=0.5), every, power=2)
  check(frequencies(logits, top_k=2), share > 0.2)
  check(frequencies(logits, top_k=9), every)
  # 0.4 and 0.3 are 0.7: one more is needed for more than that.
  check(frequencies(logits, top_p=0.69), share > 0.2)
  check(frequencies(logits, top_p=0.72), share > 0.12)
  check(frequencies(logits, top_p=0.01), share > 0.35)
  check(frequencies(logits, top_p=0.9, top_k=2), share > 0.2)
  # At half the temperature two codes have more of it.
  check(frequencies(logits, top_p=0.8, temperature=0.5), share > 0.2, power=2)
  assert frequencies(logits, temperature=0.0)[1] == 1
