"""What training alone does to a language model: forgetting, smaller gradients.

Must catch: a token that is left with nothing to see; padding that counts; an
evaluation that forgets; tokens that are hidden from some only; gradients of
other parameters that shrink, or values that change.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from random_music import random_params

from mmdcodec.errors import UserError
from mmdcodec.models import token_lm
from mmdcodec.nn import forgetting, sliding
from mmdcodec.nn.block import View


def test_which_tokens_stay():
  """Catches a share of all tokens with padding, or the first one hidden."""
  valid = np.ones((3, 20), bool)
  valid[1, 10:] = valid[2, :4] = False
  keys = jax.random.split(jax.random.key(0), 200)
  kept = np.asarray(
    jax.vmap(lambda key: forgetting.kept(key, jnp.asarray(valid), 0.27))(keys)
  )
  hidden = ~kept
  # 0.27 of 20, 10 and 16.
  np.testing.assert_array_equal(hidden.sum(2), [[5, 2, 4]] * 200)
  assert not hidden[:, ~valid].any()
  assert not hidden[:, 0, 0].any() and not hidden[:, 2, 4].any()
  # Every other token now and then, and each sequence by itself.
  others = valid & (np.cumsum(valid, axis=1) > 1)
  assert hidden.any(0)[others].all()
  assert np.any(hidden[:, 0] != hidden[:, 2])
  assert np.all(forgetting.kept(keys[0], jnp.asarray(valid), 0.0))


def test_hidden_tokens_are_hidden_from_all():
  """Catches each of the three forms of a view, and sinks that are hidden.

  A token that is hidden from itself may be left without any, in a window, and
  attention then takes the mean of all: those after it too.
  """
  seen = jnp.array([[True, False, True, True, False, True]])
  causal = np.tril(np.ones((6, 6), bool))
  want = causal & np.asarray(seen) | np.eye(6, dtype=bool)
  plain = View(jnp.arange(6)[None])
  found = forgetting.forget(plain, seen, 0).mask
  np.testing.assert_array_equal(found[0, 0], want)
  masked = plain.replace(mask=sliding.mask(6, window=0, before=0, sinks=2))
  found = forgetting.forget(masked, seen, 2).mask
  np.testing.assert_array_equal(found[0, 0, :, 2:], want)
  assert np.all(found[..., :2])
  band = sliding.Band(jnp.ones((1, 6), bool), 2, 0, 0)
  found = forgetting.forget(plain.replace(band=band), seen, 0).band
  np.testing.assert_array_equal(found.valid, seen)
  # What a token hears: its own number, or one that it sees.
  numbers = jnp.broadcast_to(jnp.arange(6.0)[None, :, None, None], (1, 6, 1, 8))
  heard = jax.jit(sliding.attend)(0 * numbers, 0 * numbers, numbers, found)
  np.testing.assert_allclose(heard[0, :, 0, 0], [0, 0.5, 2, 2.5, 3.5, 5])


def make(**changes):
  """A tiny model without conditions or dropout, and some tokens."""
  model = token_lm.from_config(
    token_lm.preset("tiny", cross=False, conditions={}, width=8, **changes)
  )
  shape = (2, 12, model.codebooks)
  tokens = np.random.default_rng(0).integers(0, model.special, shape)
  return model, random_params(model), tokens


def test_only_training_forgets(compile_fast):
  """Catches an evaluation that forgets, or a first token that is not seen."""
  model, params, tokens = make(forget=0.4)
  plain = dataclasses.replace(model, forget=0.0)

  def run(model, train):
    return jax.jit(
      lambda params: model.apply(
        {"params": params}, tokens, train=train,
        rngs={"dropout": jax.random.key(0)},
      )
    )(params)  # fmt: skip

  want = run(plain, False)
  np.testing.assert_array_equal(run(model, False), want)
  np.testing.assert_allclose(run(plain, True), want, atol=1e-5)
  found = run(model, True)
  np.testing.assert_allclose(found[:, 0], want[:, 0], atol=1e-5)
  assert np.all(np.any(np.abs(found[:, -1] - want[:, -1]) > 1e-3, axis=(1, 2)))


def test_gradients_shrink_at_the_embeddings(compile_fast):
  """Catches a factor that reaches the values or other parameters."""
  model, params, tokens = make(gradient_shrink=0.1)
  plain = dataclasses.replace(model, gradient_shrink=1.0)

  def run(model):
    def loss(params):
      logits = model.apply(
        {"params": params}, tokens, train=True,
        rngs={"dropout": jax.random.key(0)},
      )  # fmt: skip
      return jax.nn.log_softmax(logits)[..., 0].mean()

    return jax.jit(jax.value_and_grad(loss))(params)

  (value, gradient), (want, other) = run(model), run(plain)
  np.testing.assert_allclose(value, want, rtol=1e-5)
  other = {**other, "embedding": 0.1 * other["embedding"]}
  for a, b in zip(
    jax.tree.leaves(gradient), jax.tree.leaves(other), strict=True
  ):
    np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize(
  "changes", [dict(forget=1.0), dict(forget=-0.1), dict(gradient_shrink=2.0)]
)
def test_shares_out_of_bounds(changes):
  """Catches a model that sees nothing."""
  with pytest.raises(UserError, match=next(iter(changes))):
    make(**changes)
