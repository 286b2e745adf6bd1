"""Contrastive losses against float64 NumPy, and over devices.

Must catch: a wrong denominator, a sum that overflows, a batch of which a device
sees only its own rows, and a row that should not take part.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmdcodec.errors import UserError
from mmdcodec.losses import contrastive
from mmdcodec.losses.contrastive import KINDS
from mmdcodec.parallel import mesh as mesh_lib

ROWS, DIM = 16, 8
BIAS = -2.0
TAKE = jax.jit(contrastive.contrastive, static_argnames="kind")


def embeddings(seed=0):
  x = np.random.default_rng(seed).standard_normal((2, ROWS, DIM))
  x[1] += x[0]
  return x / np.linalg.norm(x, axis=-1, keepdims=True)


def reference(audio, text, scale, kind, skip=None, valid=None):
  """Row by row, in float64."""
  rows = [i for i in range(len(audio)) if valid is None or valid[i]]
  total = 0.0
  for a, b, away in ((audio, text, skip), (text, audio, skip)):
    for i in rows:
      s = scale * (b @ a[i])
      others = [j for j in rows if j != i]
      if away is not None:
        table = away if a is audio else away.T
        others = [j for j in others if not table[i, j]]
      if kind == "sigmoid":
        total += np.logaddexp(0, -(s[i] + BIAS))
        total += sum(np.logaddexp(0, s[j] + BIAS) for j in others)
      elif others:
        compared = others + ([i] if kind == "softmax" else [])
        total += np.logaddexp.reduce(s[compared]) - s[i]
  return total / (2 * len(rows))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("scale", [1e-3, 10.0, 1e4])
def test_values(kind, scale):
  audio, text = embeddings()
  found = TAKE(audio, text, scale, BIAS, kind=kind)
  expected = reference(audio, text, scale, kind)
  close = dict(rtol=2e-6, atol=2e-7 * max(scale, 1))
  np.testing.assert_allclose(found, expected, **close)
  # Rows that take no part, and pairs that are no negatives.
  skip = np.random.default_rng(1).random((ROWS, ROWS)) < 0.3
  skip[3] = True
  valid = np.arange(ROWS) % 5 > 0
  found = TAKE(audio, text, scale, BIAS, kind=kind, skip=skip, valid=valid)
  expected = reference(audio, text, scale, kind, skip, valid)
  np.testing.assert_allclose(found, expected, **close)


@pytest.mark.parametrize("kind", KINDS)
def test_gradient(kind):
  """Against central differences of the reference."""
  audio, text = embeddings()
  take = jax.jit(
    jax.grad(
      lambda a, t, s, b: contrastive.contrastive(a, t, s, b, kind=kind),
      argnums=(0, 2),
    )
  )
  grads = take(audio, text, 5.0, BIAS)
  step = 1e-6

  def slope(towards, by_scale):
    both = [
      reference(audio + e * towards, text, 5.0 + e * by_scale, kind)
      for e in (step, -step)
    ]
    return (both[0] - both[1]) / (2 * step)

  towards = np.random.default_rng(2).standard_normal(audio.shape)
  found = np.sum(grads[0] * towards)
  np.testing.assert_allclose(found, slope(towards, 0.0), rtol=1e-4)
  np.testing.assert_allclose(grads[1], slope(0.0, 1.0), rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_eight_devices_are_one(kind):
  """Loss and gradient are those of the global batch."""

  def loss(audio, text):
    skip = jnp.abs(audio[:, :1] - audio[None, :, 0]) < 0.1
    return contrastive.contrastive(
      audio, text, 20.0, BIAS, kind=kind, skip=skip, valid=audio[:, 1] < 0.4
    )

  found = []
  for count in (1, 8):
    mesh = mesh_lib.make_mesh(devices=jax.devices()[:count])
    with jax.set_mesh(mesh):
      batch = dict(zip("at", embeddings().astype(np.float32), strict=True))
      placed = mesh_lib.place(batch, mesh)
      step = jax.jit(jax.value_and_grad(loss, (0, 1)))
      found.append(jax.device_get(step(placed["a"], placed["t"])))
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7), *found
  )


@pytest.mark.parametrize("kind", KINDS)
def test_any_temperature_is_stable(kind):
  """Perfect and opposite pairs have a finite loss and gradient."""
  audio, _ = embeddings()
  take = jax.jit(
    jax.value_and_grad(
      lambda a, t, s: contrastive.contrastive(a, t, s, BIAS, kind=kind), (0, 2)
    )
  )
  for sign in (1, -1):
    for scale in (0.0, 1e-30, 1e6, 1e30):
      found = take(jnp.float32(audio), jnp.float32(sign * audio), scale)
      assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(found))
  alone = take(jnp.float32(audio[:1]), jnp.float32(audio[:1]), 1.0)
  assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(alone))


@pytest.mark.parametrize("kind", KINDS)
def test_guessing(kind):
  """Towers that give everything the same vector have the value of guessing."""
  same = np.broadcast_to(np.eye(DIM)[0], (ROWS, DIM))
  bias = -7.0 - np.log(ROWS - 1)
  found = TAKE(same, same, 7.0, bias, kind=kind)
  # The softmax has a share of 1 / ROWS for each pair, the decoupled one counts
  # the negatives only, and the sigmoid has one of 1 / ROWS for all pairs.
  expected = {
    "softmax": np.log(ROWS),
    "decoupled": np.log(ROWS - 1),
    "sigmoid": np.log(ROWS) + (ROWS - 1) * np.log(ROWS / (ROWS - 1)),
  }[kind]
  np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_scale_stays_within_bounds():
  """Any number gives a scale inside, with a gradient; the start is exact."""
  raw = contrastive.raw_of_scale(10.0, 1.0, 100.0)
  scale = lambda x: contrastive.bounded_scale(x, 1.0, 100.0)
  np.testing.assert_allclose(scale(jnp.float32(raw)), 10.0, rtol=1e-6)
  for x in (-1e9, 1e9):
    assert 0.999 < scale(jnp.float32(x)) < 100.01
  assert jax.grad(scale)(jnp.float32(8.0)) > 0
  with pytest.raises(ValueError, match="between"):
    contrastive.raw_of_scale(100.0, 1.0, 100.0)


def test_mistakes_are_named():
  audio, text = embeddings()
  with pytest.raises(UserError, match="'decoupled' or 'softmax'"):
    contrastive.contrastive(audio, text, 1.0, kind="clip")
  with pytest.raises(ValueError, match="text"):
    contrastive.contrastive(audio, text[:4], 1.0, kind="softmax")
