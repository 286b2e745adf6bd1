"""The tiles as Pallas kernels, against the same tiles without Pallas."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmdcodec.parallel import mesh as mesh_lib
from mmdcodec.quantize import independence, pairs, pallas_pairs
from mmdcodec.quantize.kernels import (
  GaussianKernel,
  InverseMultiquadricKernel,
  LaplacianKernel,
  LinearKernel,
  QuadraticKernel,
)
from mmdcodec.train import compile as compile_lib

KERNELS = (
  GaussianKernel((1.0, 5.0, 10.0)),
  LaplacianKernel((1.0, 10.0)),
  InverseMultiquadricKernel((1.0, 10.0)),
  LinearKernel(),
  QuadraticKernel(),
)
BLOCK, PART = 256, 128


@pytest.fixture
def both(monkeypatch):
  """Runs a function without and with the kernels, which are interpreted."""

  def run(function, *args):
    # The choice falls while tracing, so each of them is traced anew.
    expected = jax.jit(lambda *args: function(*args))(*args)
    met = []

    def interpreted(tile):
      met.append(tile)
      return functools.partial(
        pallas_pairs.tiled, tile, part=PART, interpret=True
      )

    monkeypatch.setattr(pallas_pairs, "by_platform", interpreted)
    found = jax.jit(lambda *args: function(*args))(*args)
    assert met
    return expected, found

  return run


def assert_same(expected, found, tolerance=2e-6):
  """Up to the order in which float32 numbers are added."""
  pairs_of_arrays = zip(
    jax.tree.leaves(expected), jax.tree.leaves(found), strict=True
  )
  for one, other in pairs_of_arrays:
    largest = np.abs(one).max()
    assert largest > 0
    np.testing.assert_allclose(other, one, rtol=1e-5, atol=tolerance * largest)


def tiered(*cases):
  """Parameters (kernel, dim); the kernels after the second one are slow."""
  cases = [(kernel, 16) for kernel in KERNELS] + [
    (KERNELS[0], dim) for dim in cases
  ]
  return pytest.mark.parametrize(
    "kernel, dim",
    [
      pytest.param(
        *case, marks=pytest.mark.slow if case[0] in KERNELS[2:] else ()
      )
      for case in cases
    ],
  )


@tiered(128, 512)
def test_product_sums(kernel, dim, both):
  """Catches a part read from or added to the wrong place, or counted twice.

  And rows that do not count but do.
  """
  random = np.random.default_rng(dim)
  n = 300
  z = random.standard_normal((n, 2, dim)).astype("f4")
  z[7] = z[200]
  valid = random.random(n) > 0.2
  of_joint = random.standard_normal(n).astype("f4")
  of_single = random.standard_normal((kernel.scales, 2, n)).astype("f4")

  def sums(z):
    joint, single = pairs.product_sums(z, valid, kernel, BLOCK)
    alone = pairs.single_sums(z, valid, kernel, BLOCK)
    again, gradient = pairs.product_gradient(
      z, valid, (of_joint, of_single), kernel, BLOCK
    )
    rows = joint, single, alone, again
    return *(jnp.where(valid, x, 0.0) for x in rows), gradient

  assert_same(*both(sums, z))


# 256 dimensions in blocks of 256 rows: nothing but its place tells an axis.
@tiered(1, 256, 512)
def test_weighted_sum(kernel, dim, both):
  """Catches sources that are mixed up, a lost weight, and swapped axes."""
  random = np.random.default_rng(dim)
  n = 2 * BLOCK
  z = random.standard_normal((n, dim)).astype("f4")
  z[3] = z[500]
  source = random.integers(0, 40, (2, n)).astype("i4")
  source[:, random.random(n) < 0.1] = -1
  # Of one sign: a sum that is almost 0 would be nothing but rounding errors.
  weights = jnp.array([[1.0, 0.7], [0.7, 0.4]])

  def value(z):
    samples = [(z[at], source[:, at]) for at in np.split(np.arange(n), 2)]
    return pairs.weighted_sum(samples, weights, kernel, BLOCK)

  assert_same(*both(jax.value_and_grad(value), z))


def test_value_alone(both):
  """Catches kernels that only work with a gradient."""
  z = np.random.default_rng(0).standard_normal((BLOCK, 16)).astype("f4")
  source = jnp.arange(BLOCK)[None]
  one = jnp.ones((1, 1))
  value = lambda z: pairs.weighted_sum([(z, source)], one, KERNELS[0], BLOCK)
  assert_same(*both(value, z))


@pytest.mark.usefixtures("all_devices")
def test_sharded(both):
  """Catches kernels that do not run on a mesh's share of the tiles."""
  random = np.random.default_rng(0)
  z = random.standard_normal((600, 2, 16)).astype("f4")
  mesh = mesh_lib.make_mesh()
  assert mesh.size == 8

  def loss(z):
    with_noise = jnp.concatenate([z[:, :1], z[:, :1] + 0.5 * z[:, 1:]], 1)
    return independence.dhsic(
      with_noise, GaussianKernel((2.0, 4.0)), block_size=BLOCK
    )

  with jax.set_mesh(mesh):
    expected, found = both(jax.value_and_grad(loss), z)
  np.testing.assert_allclose(found[0], expected[0], rtol=1e-4)
  # Here the loss is small against the sums that it is the difference of.
  assert_same(expected[1], found[1], tolerance=1e-5)


@pytest.mark.parametrize(
  "rows, estimator, devices, tile",
  [
    (8192, "mmd", 1, "1,2048,2048"),
    (8192, "dhsic", 1, "4,1024,1024"),
    # Six blocks of equal size.
    (11_000, "mmd", 1, "1,1920,1920"),
    (300, "dhsic", 1, "4,384,384"),
    # 36 tiles would leave some of eight devices a quarter more than others.
    (8192, "dhsic", 8, "4,512,512"),
  ],
)
def test_tiles_of_gpus(rows, estimator, devices, tile, monkeypatch):
  """Catches GPUs that get the small tiles of others, or idle devices.

  The program is only traced: no arrays of this size are made.
  """
  monkeypatch.setattr(pairs.platform, "traced_for", lambda: "gpu")
  loss = lambda z: independence.independence_loss(
    z, jax.random.key(0), estimator=estimator
  )
  mesh = mesh_lib.make_mesh(dict(data=devices), jax.devices()[:devices])
  with jax.set_mesh(mesh):
    traced = str(
      jax.make_jaxpr(jax.value_and_grad(loss))(
        jax.ShapeDtypeStruct((1, rows, 4, 128), "float32")
      )
    )
  assert f"f32[{tile}]" in traced


@pytest.mark.parametrize(
  "topology, estimator",
  [
    ("v4:2x2x1", "dhsic"),
    ("v5e:2x2", "dhsic"),
    ("v5e:2x2", "mmd"),
    pytest.param("v5p:2x2x1", "mmd", marks=pytest.mark.soak),
  ],
)
@pytest.mark.slow
def test_compiles_for_tpus(topology, estimator, optimized):
  """Catches what the TPU compiler does not know, and too little memory."""
  pytest.importorskip("libtpu")
  compiled = compile_lib.compile_independence(
    topology, rows=11_776, codebooks=4, dim=128, estimator=estimator
  )
  assert compiled.kernels > 0
  assert compiled.temporaries < 128 * 2**20


@pytest.mark.slow
def test_narrow_codes_compile_without_the_kernel(optimized):
  """Catches columns that v4 cannot read in a kernel: codes of 4 dimensions."""
  pytest.importorskip("libtpu")
  compiled = compile_lib.compile_independence(
    "v4:2x2x1", rows=2048, codebooks=4, dim=4, estimator="dhsic"
  )
  assert compiled.kernels == 0
