"""Adversarial and feature losses: published numbers, means, gradients.

Must catch: signs, real and fake exchanged, sums where means belong, scales of
features that leak through the relative loss, gradients into real features.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmdcodec.errors import UserError
from mmdcodec.losses.adversarial import (
  KINDS,
  discriminator_loss,
  feature_matching,
  generator_loss,
)

ZEROS, ONES = np.zeros(3, np.float32), np.ones(3, np.float32)
RISING = np.array([1, 2, 3], np.float32)


def test_published_generator_losses():
  """Catches wrong signs and targets; numbers of audiocraft's own tests."""
  assert generator_loss([RISING], "hinge") == -2
  assert generator_loss([ONES], "least_squares") == 0
  assert generator_loss([np.array([2.0, 5, 5])], "least_squares") == 11
  # relu(1 - x), the form printed in both papers.
  assert generator_loss([RISING], "hinge_clamped") == 0
  assert generator_loss([-RISING], "hinge_clamped") == 3


@pytest.mark.parametrize(
  "kind, real, fake, want",
  [
    ("hinge", ZEROS, ZEROS, 2),
    ("hinge", RISING, RISING, 3),
    ("hinge_clamped", RISING, RISING, 3),
    # Not symmetric: real and fake exchanged would give 0 and 6.
    ("hinge", -RISING, RISING, 6),
    ("hinge", RISING, -RISING, 0),
    ("least_squares", ZEROS, ZEROS, 1),
    ("least_squares", ZEROS, ONES, 2),
    ("least_squares", ONES, ZEROS, 0),
  ],
)
def test_published_discriminator_losses(kind, real, fake, want):
  """Catches real and fake exchanged; numbers of audiocraft's own tests."""
  assert discriminator_loss([real], [fake], kind) == want


def test_published_feature_losses():
  """Catches sums over layers; numbers of audiocraft's own tests.

  Its variant without normalisation, the sum over layers, is layers x mean.
  """
  real, fake = np.array([2.0, 10, 3]), RISING
  assert feature_matching([[real]], [[fake]], relative=False) == 3
  two = feature_matching([[real] * 2], [[fake] * 2], relative=False)
  assert two == 3 and 2 * two == 6
  assert feature_matching([[real]], [[real]], relative=False) == 0
  # mean |x| is 5.
  np.testing.assert_allclose(feature_matching([[real]], [[fake]]), 3 / 5)
  np.testing.assert_allclose(feature_matching([[fake]], [[real]]), 3 / 2)


def test_every_discriminator_counts_the_same():
  """Catches means over all logits together, in which long outputs win."""
  short, long = np.full((2, 3), 4.0), np.zeros((2, 50, 7, 1))
  assert generator_loss([short, long]) == -2
  assert discriminator_loss([short, long], [short, long]) == (5 + 2) / 2
  # 2 layers of 1 and 3, one layer of 5: (2 + 5) / 2, not 9 / 3.
  layer = lambda value: np.full((2, 4), float(value))
  real = [[layer(0), layer(0)], [layer(0)]]
  fake = [[layer(1), layer(3)], [layer(5)]]
  assert feature_matching(real, fake, relative=False) == 3.5


def test_relative_features_have_no_scale():
  """Catches a division by the scale of the fake, or of all layers together."""
  random = np.random.default_rng(0)
  real = [random.standard_normal((2, 5, 3)) for _ in range(2)]
  fake = [random.standard_normal((2, 5, 3)) for _ in range(2)]
  want = np.mean(
    [
      np.abs(x - y).mean() / np.abs(x).mean()
      for x, y in zip(real, fake, strict=True)
    ]
  )
  for scales in ((1, 1), (1e-3, 1e3)):
    xs = [x * s for x, s in zip(real, scales, strict=True)]
    ys = [y * s for y, s in zip(fake, scales, strict=True)]
    np.testing.assert_allclose(feature_matching([xs], [ys]), want, rtol=1e-5)
  silent = feature_matching([[np.zeros(3)]], [[np.zeros(3)]])
  assert silent == 0


def test_gradients():
  """Catches a gradient into real features, and one that is not finite."""
  x = jnp.array([[1.0, -2.0], [0.5, 0.0]])
  y = jnp.array([[1.0, 2.0], [0.0, 0.0]])
  for relative in (True, False):
    loss = lambda x, y, r=relative: feature_matching([[x]], [[y]], r)
    into_real, into_fake = jax.grad(loss, (0, 1))(x, y)
    assert not np.any(into_real)
    assert np.any(into_fake) and np.isfinite(into_fake).all()
  silent = jax.grad(lambda y: feature_matching([[0 * x]], [[y]]))(0 * x)
  assert np.isfinite(silent).all()
  # Far ahead, the plain hinge still pulls; the clamped one has let go.
  pull = lambda kind: jax.grad(lambda y: generator_loss([y], kind))(y + 9)
  assert np.all(np.asarray(pull("hinge")) == -0.25)
  assert not np.any(pull("hinge_clamped"))


def test_bfloat16_is_summed_in_float32():
  """Catches means in bfloat16, which stop counting at 256."""
  y = jnp.ones((1, 5000), jnp.bfloat16)
  for kind in KINDS:
    loss = generator_loss([y], kind)
    assert loss.dtype == jnp.float32
  assert generator_loss([y], "hinge") == -1


def test_mistakes():
  """Catches lists of different lengths that are cut to the shorter."""
  with pytest.raises(UserError, match="hinge_clamped"):
    generator_loss([ONES], "wasserstein")
  with pytest.raises(UserError, match="least_squares"):
    discriminator_loss([ONES], [ONES], "mse")
  with pytest.raises(ValueError):
    discriminator_loss([ONES], [ONES, ONES])
  with pytest.raises(ValueError):
    generator_loss([])
  with pytest.raises(ValueError):
    feature_matching([[ONES]], [[ONES, ONES]])
  with pytest.raises(ValueError):
    feature_matching([[ONES]], [[np.ones(1)]])
  with pytest.raises(ValueError):
    feature_matching([[]], [[]])
