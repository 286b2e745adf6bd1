"""What counts as a row of the independence loss, and what is refused.

Rows are the codes that a language model predicts in one step; what is in
padding, or leaves the clip, does not count.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference_independence as reference
from reference_independence import assert_equal, dependent_codes

from mmdcodec import patterns
from mmdcodec.quantize.independence import (
  GaussianKernel,
  LaplacianKernel,
  QuadraticKernel,
  dhsic,
  independence_loss,
  mmd2,
)
from mmdcodec.quantize.rows import of_streams

KEY = jax.random.key(5)
KERNEL = GaussianKernel((1.0, 3.0))
# Those whose medians, slopes or variances may be 0 or infinite.
SMALL = [
  GaussianKernel((1.0,), relative=True),
  LaplacianKernel((0.1,)),
  QuadraticKernel(),
]
ESTIMATORS = ("mmd", "dhsic")


@functools.partial(jax.jit, static_argnames=("kernel", "estimator", "pattern"))
def both(z, mask=None, *, kernel=KERNEL, estimator="mmd", pattern=None):
  """Value and gradient."""
  return jax.value_and_grad(
    lambda z: independence_loss(
      z,
      KEY,
      kernel=kernel,
      estimator=estimator,
      pattern=pattern,
      mask=mask,
      block_size=32,
    )
  )(z)


def streams(batch=3, frames=20, books=2, **options):
  z = dependent_codes(batch * frames, books, 5, size=8, **options)
  return z.reshape(batch, frames, books, 5)


def interrupted(frames):
  """Every third frame is predicted code by code."""
  steps = []
  for t in range(frames):
    whole = ((t, 0), (t, 1))
    steps += [whole[:1], whole[1:]] if t % 3 == 1 else [whole]
  return patterns.Pattern(frames, 2, tuple(steps))


def limping(frames):
  """Codebook 1 is a frame late from frame 1 on."""
  steps = [((0, 0), (0, 1)), ((1, 0),)]
  steps += [((t + 1, 0), (t, 1)) for t in range(1, frames - 1)]
  return patterns.Pattern(frames, 2, (*steps, ((frames - 1, 1),)))


PATTERNS = {
  "parallel": (2, patterns.parallel(2)),
  "delay": (3, patterns.delay(3, (0, 1, 3))),
  "partly delayed": (3, patterns.delay(3, (0, 1, 1))),
  "flattened first": (2, patterns.delay(2, flatten_first=4)),
  "coarse first": (3, patterns.coarse_first(3)),
  "stereo": (4, patterns.unroll(4, (0, 0, 1, 1))),
  "interrupted": (2, interrupted),
  "limping": (2, limping),
}


@pytest.mark.parametrize("name", PATTERNS)
def test_rows_are_the_steps(name):
  """Catches entries of other steps, of other clips, or outside the mask."""
  books, pattern = PATTERNS[name]
  batch, frames = 2, 9
  # Each vector says where it stands.
  place = np.arange(batch * frames * books, dtype=np.float32) + 1
  place = place.reshape(batch, frames, books, 1)
  mask = np.ones((batch, frames), bool)
  mask[1, 6:] = False
  found = of_streams(jnp.asarray(place), jnp.asarray(mask), pattern)
  kinds = reference.groups(pattern(frames).steps)
  assert len(found) == len(kinds)
  for (z, valid), kind in zip(found, kinds, strict=True):
    wanted = {
      tuple(place[b, t, k, 0] for t, k in step)
      for b in range(batch)
      for step in kind
      if all(mask[b, t] for t, _ in step)
    }
    rows = [tuple(row) for row in np.asarray(z)[np.asarray(valid), :, 0]]
    assert len(rows) == len(wanted) and set(rows) == wanted


@pytest.mark.parametrize(
  "name, estimator",
  [("delay", "mmd"), ("coarse first", "dhsic"), ("stereo", "mmd")],
)
def test_loss_of_patterns(name, estimator):
  """Catches a wrong mean over kinds of steps, and lost gradients."""
  books, pattern = PATTERNS[name]
  z = streams(books=books)
  mask = np.ones(z.shape[:2], bool)
  mask[1, 13:] = False
  found = both(z, jnp.asarray(mask), estimator=estimator, pattern=pattern)
  expected = reference.loss(
    z, KEY, KERNEL, estimator, pattern=pattern, mask=mask
  )
  assert_equal(found, expected)
  assert (np.asarray(found[1])[1, 13:] == 0).all()


@pytest.mark.parametrize(
  "pattern", [patterns.flatten(2), patterns.grouped(2, 1), patterns.delay(2)]
)
def test_nothing_predicted_together(pattern):
  """Catches a mean over no steps: NaN."""
  z = streams(frames=1)
  value, gradient = both(z, estimator="dhsic", pattern=pattern)
  assert value == 0 and (gradient == 0).all()


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_padding_does_not_matter(estimator):
  """Catches padding in means, variances, medians, permutations or pairs."""
  z = streams()
  mask = np.ones(z.shape[:2], bool)
  mask[:, 14:] = False
  kernel = GaussianKernel((0.5, 1.0), relative=True)
  found = both(z, jnp.asarray(mask), kernel=kernel, estimator=estimator)
  expected = reference.loss(z, KEY, kernel, estimator, mask=mask)
  assert_equal(found, expected)
  for worse in (1e6, np.inf, np.nan):
    z[:, 14:] = worse
    value, gradient = both(
      z, jnp.asarray(mask), kernel=kernel, estimator=estimator
    )
    assert value == found[0]
    np.testing.assert_array_equal(gradient, found[1])


@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize("kernel", SMALL, ids=repr)
def test_hardly_anything_to_compare(kernel, estimator):
  """Catches division by no rows, no pairs, no variance or no distance.

  A constant is independent of anything.
  """
  z = streams(2, 8)
  for rows in (0, 1, 2):
    mask = jnp.arange(16).reshape(2, 8) < rows
    value, gradient = both(z, mask, kernel=kernel, estimator=estimator)
    assert jnp.isfinite(value) and jnp.isfinite(gradient).all()
    if rows < 2:
      assert value == 0 and (gradient == 0).all()

  z[:, :, 1] = 0.37
  mask = jnp.ones((2, 8), bool)
  value, gradient = both(z, mask, kernel=kernel, estimator=estimator)
  assert jnp.isfinite(value) and jnp.isfinite(gradient).all()
  if estimator == "dhsic":
    assert abs(value) < 1e-5


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_a_single_row(estimator):
  """Catches estimators that disagree about a clip too short for them."""
  z = streams(1, 2)
  value, gradient = both(z, estimator=estimator, pattern=patterns.delay(2))
  assert value == 0 and (gradient == 0).all()


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_any_number_of_codebooks(estimator):
  """Catches products over too few or too many codebooks."""
  kernel = GaussianKernel((3.0,))
  value, gradient = both(streams(books=1), kernel=kernel, estimator=estimator)
  assert abs(value) < 1e-6 and abs(gradient).max() < 1e-6
  z = streams(books=8)
  expected = reference.loss(z, KEY, kernel, estimator)
  assert_equal(both(z, kernel=kernel, estimator=estimator), expected)


def test_without_standardization():
  """Catches standardisation that is always or never on."""
  z = streams() + 100
  f = lambda z: independence_loss(z, KEY, kernel=KERNEL, standardize=False)
  expected = reference.loss(z, KEY, KERNEL, "mmd", standardize=False)
  assert_equal(jax.jit(jax.value_and_grad(f))(z), expected)


def refused(match):
  return pytest.raises(ValueError, match=match)


def test_impossible_arguments():
  """Catches errors from deep inside JAX, or none at all."""
  z = jnp.asarray(streams())
  with refused("estimator"):
    independence_loss(z, KEY, estimator="hsic")
  with refused("rows"):
    dhsic(z[0, :1])
  with refused("rows"):
    mmd2(z[0, :1, 0], z[0, :, 1])
  with refused(r"y has shape .*; expected \[m, d = 3\]"):
    mmd2(z[0, :, 0, :3], z[0, :, 1])
  with refused("codebooks"):
    dhsic(z)
  with refused("one value per row"):
    dhsic(z[0], valid=jnp.ones((3,), bool))
  with refused("dim"):
    independence_loss(z[0], KEY)
  with refused(r"mask has shape .*; expected \[batch = 3, frames = 20\]"):
    independence_loss(z, KEY, mask=jnp.ones((1, 2), bool))
  for loss in (
    lambda: dhsic(z[0], block_size=0),
    lambda: mmd2(z[0, :, 0], z[0, :, 1], block_size=0),
    lambda: independence_loss(z, KEY, block_size=0),
  ):
    with refused("block_size"):
      loss()


def test_two_rows():
  """Catches a distance to permuted rows with none of which it may compare.

  Either the rows only change places, or each permuted one is made of both.
  """
  z = jnp.asarray(streams(1, 2))
  for seed in range(4):
    value = independence_loss(z, jax.random.key(seed), kernel=KERNEL)
    assert abs(value) < 1e-6


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_under_64_bits(estimator):
  """Catches arrays of the default type, which then is not float32."""
  z = streams()
  expected = both(z, kernel=SMALL[0], estimator=estimator)
  with jax.enable_x64(True):
    found = both(z, kernel=SMALL[0], estimator=estimator)
  assert_equal(found, (*expected, 0.0))


def test_streams_of_another_shape():
  """Catches "not enough values to unpack" as an error message."""
  with refused("streams"):
    independence_loss(jnp.zeros((20, 2, 5)), KEY)


@pytest.mark.parametrize("shape", [(3, 19), (2, 20), (20, 3)])
def test_mask_of_another_shape(shape):
  """Catches an error about broadcasting as an error message."""
  with refused("mask"):
    independence_loss(jnp.asarray(streams()), KEY, mask=jnp.ones(shape, bool))


@pytest.mark.parametrize("books", [1, 3])
def test_pattern_of_other_codebooks(books):
  """Catches codebooks made up or left out in silence."""
  with refused("codebooks"):
    independence_loss(
      jnp.asarray(streams()), KEY, pattern=patterns.delay(books)
    )
