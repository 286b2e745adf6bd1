"""Residual quantizer: defects that these tests must catch.

Codebooks that shrink after k-means, lose their replaced codes, or leave codes
unused; a commitment loss that reaches only the first level; a search, update or
start that depends on the number of devices; decoding that differs from
quantizing. Padding and dropout: `test_quantizer_masks.py`.
"""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P
from small_quantizer import embed, evaluate, initial, latents, small, train

from mmdcodec.errors import UserError
from mmdcodec.quantize import vector
from mmdcodec.quantize.residual import ResidualVectorQuantizer

STEPS = 400


# --- Health: a stationary mixture, one codebook ------------------------------


@functools.cache
def mixture(kmeans_iterations):
  """(module, initial variables, jitted run of many steps)."""
  module = ResidualVectorQuantizer(
    1, 256, 16, decay=0.99, kmeans_iterations=kmeans_iterations
  )
  centers = 2.0 * jax.random.normal(jax.random.key(1), (64, 16))

  def batch(key, mean):
    mode, noise = jax.random.split(key)
    mode = jax.random.randint(mode, (4096,), 0, 64)
    noise = 0.5 * jax.random.normal(noise, (4096, 16))
    return (centers[mode] + noise + mean).reshape(8, 512, 16)

  @functools.partial(jax.jit, static_argnames="steps")
  def run(variables, key, mean, steps):
    def step(variables, key):
      z = batch(key, mean)
      out, variables = train(module, variables, z, key)
      error = jnp.sum((z - out.z) ** 2) / jnp.sum((z - z.mean((0, 1))) ** 2)
      return variables, (out.metrics["usage"][0] * 256, error)

    return jax.lax.scan(step, variables, jax.random.split(key, steps))

  variables = initial(module, batch(jax.random.key(3), 0.0))
  return module, variables, run, batch


@functools.cache
def healthy(kmeans_iterations, mean):
  _, variables, run, _ = mixture(kmeans_iterations)
  return run(variables, jax.random.key(4), mean, STEPS)


@pytest.mark.parametrize(
  "kmeans_iterations, mean",
  [(10, 0.0), pytest.param(0, 2.0, marks=pytest.mark.slow)],
)
def test_codes_stay_in_use(kmeans_iterations, mean):
  """Collapse: reference implementations end with 10 to 57 codes of 256."""
  variables, (used, error) = healthy(kmeans_iterations, mean)
  assert used[-20:].min() >= 240
  # 64 modes alone explain all but 0.058 of the variance.
  assert error[-20:].max() < 0.058
  assert np.isfinite(embed(variables)).all()


@pytest.mark.parametrize("mean", [0.0, 2.0])
def test_first_updates_keep_the_norms(mean):
  """A k-means codebook divided by its counts, or diluted by old state."""
  module, variables, _, batch = mixture(10)
  step = functools.partial(train, module)
  z = batch(jax.random.key(5), mean)
  out, variables = step(variables, z, jax.random.key(6))
  codes = out.codes[..., 0].reshape(-1)
  before = np.linalg.norm(out.streams.reshape(-1, 16), axis=-1)
  for seed in (7, 8):
    after = np.linalg.norm(embed(variables)[0], axis=-1)[codes]
    assert abs(np.median(after / before) - 1) < 0.03
    z = batch(jax.random.key(seed), mean)
    _, variables = step(variables, z, jax.random.key(seed))


@pytest.mark.slow
def test_killed_codes_come_back():
  """A replacement that the next update undoes, or that never happens."""
  _, _, run, _ = mixture(10)
  variables, _ = healthy(10, 0.0)
  state = variables["codebook"]
  # Far away, with the counts that they had: they must die and return.
  state = dict(state, sum=state["sum"].at[0, :64].set(1e4))
  variables, _ = run({"codebook": state}, jax.random.key(9), 0.0, 300)
  far = np.linalg.norm(embed(variables)[0, :64], axis=-1) > 50
  assert 64 - far.sum() >= 60


# --- Against float64 ---------------------------------------------------------


def reference_step(state, z, mask, levels, decay, epsilon):
  """One step in float64 NumPy, loops and differences, no matmul identity."""
  sum, count = (np.asarray(state[k], np.float64) for k in ("sum", "count"))
  z = np.where(mask[..., None], np.asarray(z, np.float64), 0)
  residual, output, squares = z.copy(), np.zeros_like(z), 0.0
  codes = np.zeros((*mask.shape, len(sum)), int)
  for k in range(len(sum)):
    total, size = count[k].sum(), count.shape[1]
    smooth = (count[k] + epsilon) / (total + size * epsilon) * total
    book = sum[k] / smooth[:, None]
    distance = ((residual[:, :, None] - book) ** 2).sum(-1)
    codes[..., k] = np.where(mask, distance.argmin(-1), 0)
    q = np.where(mask[..., None], book[codes[..., k]], 0)
    on = mask & (k < levels)[:, None]
    batch_sum, batch_count = np.zeros_like(sum[k]), np.zeros_like(count[k])
    np.add.at(batch_sum, codes[..., k][on], residual[on])
    np.add.at(batch_count, codes[..., k][on], 1)
    sum[k] = decay * sum[k] + (1 - decay) * batch_sum
    count[k] = decay * count[k] + (1 - decay) * batch_count
    residual = residual - q
    output += np.where(on[..., None], q, 0)
    squares += (residual[on] ** 2).sum()
  commitment = squares / (mask.sum() * len(sum) * z.shape[-1])
  return dict(sum=sum, count=count), codes, output, commitment


def test_equals_float64_reference():
  """Any slip in search, residual, EMA, smoothing, mask, dropout, commitment."""
  module = small(
    kmeans_iterations=0, threshold=0.0, decay=0.9, epsilon=0.01, dropout=0.5
  )
  z = latents(1)
  mask = np.arange(40) < np.array([40, 31, 17, 1])[:, None]
  variables = initial(module, z)
  count = jax.random.uniform(jax.random.key(3), (3, 32), minval=0.05)
  state = dict(variables["codebook"])
  state |= dict(sum=state["sum"] / 1e-3 * count[..., None], count=count)
  variables, expected = {"codebook": state}, state
  step = functools.partial(train, module)
  for seed in range(4):
    z = latents(seed)
    out, variables = step(variables, z, jax.random.key(seed), mask)
    expected, codes, output, commitment = reference_step(
      expected, z, mask, np.asarray(out.levels), 0.9, 0.01
    )
    np.testing.assert_array_equal(out.codes, codes)
    np.testing.assert_allclose(out.z, output, atol=2e-5)
    np.testing.assert_allclose(out.commitment, commitment, rtol=1e-5)
  for name in ("sum", "count"):
    np.testing.assert_allclose(
      variables["codebook"][name], expected[name], atol=1e-4
    )


def test_use_and_perplexity():
  """Wrong normalisation, log of zero."""
  counts = jnp.array([[5.0, 5, 5, 5], [7, 0, 0, 0], [2, 1, 1, 0], [0] * 4])
  np.testing.assert_allclose(vector.usage(counts), [1, 0.25, 0.75, 0])
  np.testing.assert_allclose(
    vector.perplexity(counts), [4, 1, 2**1.5, 1], rtol=1e-6
  )


# --- Gradients ---------------------------------------------------------------


def test_gradients():
  """Straight-through broken; commitment that reaches only one level."""
  module, z = small(), latents(2)
  _, variables = train(module, initial(module, z), z, jax.random.key(1))

  @jax.jit
  def gradients(z):
    def sums(z):
      out = evaluate(module, variables, z)
      streams = jnp.sum(out.streams * jnp.arange(1.0, 4.0)[:, None])
      return jnp.stack([out.z.sum(), streams, out.commitment])

    _, pull = jax.vjp(sums, z)
    return jax.vmap(lambda row: pull(row)[0])(jnp.eye(3))

  output, streams, commitment = gradients(z)
  np.testing.assert_array_equal(output, 1.0)
  np.testing.assert_array_equal(streams, 1.0 + 2.0 + 3.0)
  # d/dz of mean_k mean |r_k - q_k|^2 = 2 / (K rows dim) sum_k (r_k - q_k).
  out = jax.device_get(evaluate(module, variables, z))
  left = z[:, :, None] - np.cumsum(out.streams, 2)
  assert all(np.abs(left[:, :, k]).max() > 1e-2 for k in range(3))
  expected = 2 * left.sum(2) / (3 * z.size)
  np.testing.assert_allclose(commitment, expected, atol=1e-7)


# --- Starting and replacing --------------------------------------------------


def test_start_is_not_wasted_on_repeated_rows():
  """Most codes on the same row (silence), dead from the start."""
  rows = np.concatenate([latents(7, (300, 8)), np.zeros((900, 8))])
  rows = rows.astype(np.float32)
  kmeans = jax.jit(vector.kmeans, static_argnums=(3, 4))
  mask = np.arange(len(rows)) < 1100
  _, count = kmeans(jax.random.key(2), rows, mask, 64, 10)
  assert count.sum() == 1100
  assert (count > 0).sum() >= 62  # a quarter of them without moving


def test_start_with_fewer_rows_than_codes():
  """NaN or padding in a codebook with more codes than there are rows."""
  module = small(threshold=0.0, kmeans_iterations=4)
  z = latents(0, (1, 40, 8))
  mask = np.arange(40)[None] < 5
  variables = initial(module, z)
  out, variables = train(module, variables, z, jax.random.key(1), mask)
  state = jax.device_get(variables["codebook"])
  np.testing.assert_allclose(out.z[0, :5], z[0, :5], atol=1e-4)
  assert all(np.isfinite(x).all() for x in state.values())
  # One batch from the start and one from the update, five rows in each.
  np.testing.assert_allclose(
    state["count"].sum(-1), 5 * (0.01 * 0.99 + 0.01), rtol=1e-5
  )


@pytest.mark.parametrize("kmeans_iterations", [0, 3])
def test_a_frozen_codebook_keeps_its_start(kmeans_iterations):
  """Codes of k-means with no weight at all, which are 0; replaced codes."""
  module = small(decay=1.0, threshold=1.0, kmeans_iterations=kmeans_iterations)
  z = latents(0)
  variables = initial(module, z)
  out, first = train(module, variables, z, jax.random.key(1))
  if kmeans_iterations:
    # Its codes are means of rows, whichever k-means found.
    assert (out.metrics["perplexity"] > 16).all()
    error = lambda out: np.mean((out.z - z) ** 2)
    assert error(out) < 0.5 * z.var()
    np.testing.assert_array_equal(evaluate(module, first, z).codes, out.codes)
  else:
    np.testing.assert_array_equal(embed(first), embed(variables))
  _, second = train(module, first, 3 * latents(1), jax.random.key(2))
  jax.tree.map(np.testing.assert_array_equal, second, first)


def test_replacement_takes_distinct_rows():
  """The same row twice, a row of weight zero, sum and count that disagree."""
  rows = latents(4, (50, 8))
  weight = np.float32(np.arange(50) < 20)
  count = np.where(np.arange(32) < 6, 10.0, 1e-4).astype(np.float32)
  sum = count[:, None] * np.full(8, 3.0, np.float32)

  @functools.partial(jax.jit, static_argnames="kind")
  def replace(sum, count, threshold, kind="relative"):
    return vector.replace_dead(
      jax.random.key(0),
      sum,
      count,
      rows,
      weight,
      number=weight.sum(),
      threshold=threshold,
      kind=kind,
    )

  new_sum, new_count, replaced = map(np.asarray, replace(sum, count, 0.1))
  assert replaced.sum() == 20 and not replaced[:6].any()
  np.testing.assert_array_equal(new_sum[:6], sum[:6])
  taken = (new_sum / new_count[:, None])[replaced]
  distance = np.abs(taken[:, None] - rows).max(-1)
  assert (distance.min(1) < 1e-5).all()
  assert len(set(distance.argmin(1))) == 20 and distance.argmin(1).max() < 20
  # Alive at the next step, whichever way the limit is given.
  assert not (replace(new_sum, new_count, 0.1)[2] & replaced).any()
  _, new_count, replaced = replace(sum, count, 2.0, kind="absolute")
  # Two of twenty rows would be more than half of uniform use: 1 / 64.
  assert replaced.sum() == 20
  fresh = np.asarray(new_count)[np.asarray(replaced)]
  np.testing.assert_allclose(fresh, vector.GRACE * count.sum() / 64, rtol=1e-4)
  assert not replace(sum, count, 0.0)[2].any()


@pytest.mark.parametrize(
  "kind, threshold", [("absolute", 2), ("relative", 0.1)]
)
def test_replacement_spares_what_k_means_found(kind, threshold):
  """A limit in rows held against the small counts of a codebook's start."""
  module = small(
    codebooks=2, kmeans_iterations=5, threshold=threshold, threshold_kind=kind
  )
  z = latents(0, (8, 80, 8))  # twenty rows a code
  out, variables = train(module, initial(module, z), z, jax.random.key(1))
  assert np.asarray(out.metrics["replaced"]).max() <= 6
  again, _ = train(module, variables, z, jax.random.key(2))
  assert again.commitment < 1.1 * out.commitment


def test_absolute_limit_with_too_few_rows():
  """Counts that grow without end, where not every code can have its rows."""
  module = small(codebooks=1, size=64, threshold=2.0, threshold_kind="absolute")
  z = jnp.asarray(latents(0, (1, 48, 8)))  # less than two rows a code

  @jax.jit
  def run(variables):
    def step(variables, key):
      return train(module, variables, z, key)[1], None

    keys = jax.random.split(jax.random.key(1), 300)
    return jax.lax.scan(step, variables, keys)[0]

  count = run(initial(module, z))["codebook"]["count"]
  assert 24 < float(count.sum()) < 96


def test_evaluation_changes_nothing():
  """Statistics that move in evaluation, or already when initialising."""
  module, z = small(), latents(0)
  init = functools.partial(module.init, jax.random.key(0), z)
  variables = jax.jit(functools.partial(init, train=True))()
  chex.assert_trees_all_equal(variables, initial(module, z))
  assert not variables["codebook"]["started"]
  apply = functools.partial(module.apply, mutable=["codebook"])
  _, after = jax.jit(apply)(variables, z)
  chex.assert_trees_all_equal(variables, dict(after))


# --- Devices -----------------------------------------------------------------


def test_one_device_equals_eight():
  """Statistics, start or replacement per device instead of global."""
  module = small(codebooks=2, threshold=0.6, dropout=0.5, kmeans_iterations=2)
  init = initial(module, latents(0))
  mask = np.arange(40) < np.arange(5, 45, 5)[:, None]

  def run(devices):
    mesh = jax.make_mesh(
      (devices,),
      ("data",),
      axis_types=(AxisType.Auto,),
      devices=jax.devices()[:devices],
    )
    rows = NamedSharding(mesh, P("data"))
    whole = NamedSharding(mesh, P())
    with jax.set_mesh(mesh):
      step = jax.jit(
        functools.partial(train, module),
        in_shardings=(whole, rows, whole, rows),
        out_shardings=(None, whole),
      )
      variables, outputs = jax.device_put(init, whole), []
      for seed in range(2):
        z = jax.device_put(latents(seed, (8, 40, 8)), rows)
        key = jax.device_put(jax.random.key(seed), whole)
        out, variables = step(variables, z, key, jax.device_put(mask, rows))
        outputs.append(jax.device_get(out))
    return outputs, jax.device_get(variables)

  one, eight = run(1), run(8)
  assert sum(out.metrics["replaced"].sum() for out in one[0]) > 0
  for a, b in zip(one[0], eight[0], strict=True):
    np.testing.assert_array_equal(a.codes, b.codes)
  compare = functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-5)
  jax.tree.map(compare, one, eight)


# --- Encoding and decoding ---------------------------------------------------


def test_encode_and_decode():
  """Codes that differ from the forward pass or depend on their number."""
  module, z = small(), latents(6)
  variables = initial(module, z)
  _, variables = train(module, variables, z, jax.random.key(1))
  out = jax.device_get(evaluate(module, variables, z))
  apply = functools.partial(module.apply, variables)
  encode = jax.jit(functools.partial(apply, method="encode"), static_argnums=1)
  decode = jax.jit(functools.partial(apply, method="decode"))
  codes = np.asarray(encode(z, None))
  assert codes.dtype == np.int32 and codes.shape == (4, 40, 3)
  np.testing.assert_array_equal(codes, out.codes)
  np.testing.assert_array_equal(encode(z, 2), codes[..., :2])
  errors = []
  for k in (1, 2, 3):
    decoded = np.asarray(decode(codes[..., :k]))
    np.testing.assert_allclose(decoded, out.streams[:, :, :k].sum(2), atol=1e-5)
    errors.append(np.mean((decoded - z) ** 2))
  np.testing.assert_allclose(decoded, out.z, atol=1e-5)
  assert errors[0] > errors[1] > errors[2]
  # What is no code has no vector, instead of another's.
  codes = codes.copy()
  codes[0, 0, 1], codes[0, 1, 2] = -1, 32
  lost = np.isnan(decode(codes)).all(-1)
  assert lost[0, :2].all() and lost.sum() == 2
  with pytest.raises(UserError, match="has 3 codebooks, 4 were asked"):
    encode(z, 4)


def test_shapes_that_do_not_fit():
  """Catches latents of another width, and a mask that broadcasts."""
  quantizer = ResidualVectorQuantizer(2, 8, 4)
  key = jax.random.key(0)
  with pytest.raises(ValueError, match="dim"):
    jax.eval_shape(quantizer.init, key, jnp.zeros((2, 3, 5)))
  with pytest.raises(ValueError, match="mask has shape"):
    jax.eval_shape(
      quantizer.init, key, jnp.zeros((2, 3, 4)), jnp.ones((2, 1), bool)
    )
