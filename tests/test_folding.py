"""Folded signals give what the same layers give without folding.

Must catch: a Toeplitz matrix that is shifted, one tap short, or whose gradient
is summed wrongly; samples after an example's end, or in the last row after the
end of the signal, that reach its own; a codec whose folded layers see another
padding, or have other parameters; folding on another platform than it is for.
"""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmdcodec.models import codec
from mmdcodec.nn import conv, folded_conv, folding

RNG = np.random.default_rng(0)


def normal(*shape):
  return RNG.standard_normal(shape).astype(np.float32)


# Correctness needs no optimized code, and that compiles much faster.
quick = functools.partial(
  jax.jit, compiler_options={"xla_backend_optimization_level": 0}
)


def both(layer, x, lengths, factor):
  """Output and gradients of a layer, plain and folded by `factor`."""
  variables = jax.eval_shape(layer.init, jax.random.key(0), x[:1])
  variables = jax.tree.map(lambda p: normal(*p.shape), variables)
  shape = jax.eval_shape(layer.apply, variables, x).shape
  weight = normal(*shape)

  @quick
  def run(variables, x):
    def plain(variables, x):
      return layer.apply(variables, x, lengths)

    def folded(variables, x):
      y = layer.apply(variables, folding.fold(x, factor), lengths)
      # Rows must be zero after the end, or the next layer would see it.
      rest = y.rows.reshape(x.shape[0], -1, shape[2])[:, y.time :]
      return folding.unfold(y) + jnp.sum(rest)

    results = []
    for f in (plain, folded):
      y, pull = jax.vjp(f, variables, x)
      results.append((y, pull(weight)))
    return results

  return run(variables, x)


def check(plain, folded, tolerance=2e-5):
  for a, b in zip(jax.tree.leaves(plain), jax.tree.leaves(folded), strict=True):
    scale = max(1.0, float(jnp.abs(a).max()))
    np.testing.assert_allclose(b, a, atol=tolerance * scale)


CASES = [
  # taps, dilation, stride, factor, samples
  (7, 1, 1, 4, 64),
  (7, 3, 1, 4, 61),
  (7, 9, 1, 8, 131),
  (3, 1, 1, 5, 33),
  (1, 1, 1, 4, 17),
  (4, 1, 2, 8, 64),
  (6, 1, 3, 6, 47),
  (8, 1, 4, 4, 64),
  (10, 1, 5, 10, 53),
  (16, 1, 8, 8, 47),
  (7, 2, 3, 6, 40),
  (7, 1, 1, 4, 5),  # shorter than its padding
]


@pytest.mark.parametrize("first", range(4))
def test_convolutions(first):
  """Each case in one of the four ways, in another one with each of the rest."""
  ways = list(itertools.product((True, False), conv.PAD_MODES))
  for i, case in list(enumerate(CASES))[first::4]:
    taps, dilation, stride, factor, samples = case
    causal, mode = ways[(i + i // 4) % 4]
    x = normal(2, samples, 3)
    # Some cases whole, else an example that ends before the array.
    lengths = None
    if i % 3:
      lengths = jnp.array([samples, samples // 2 + 1])
      x = np.array(conv.mask_after(x, lengths))
    layer = conv.Conv(
      2,
      taps,
      stride=stride,
      dilation=dilation,
      causal=causal,
      pad_mode=mode,
      norm="weight",
    )
    check(*both(layer, x, lengths, factor))


def test_transposed_convolutions():
  for i, (taps, stride, factor, samples) in enumerate(
    [
      (4, 2, 1, 9),
      (4, 2, 4, 10),
      (6, 3, 2, 11),
      (8, 4, 3, 9),
      (10, 5, 1, 6),
      (16, 8, 2, 5),
      (7, 3, 2, 8),
      (5, 5, 3, 4),
    ]
  ):
    x = normal(2, samples, 3)
    lengths = None
    if i % 2:
      lengths = jnp.array([samples, samples // 2])
      x = np.array(conv.mask_after(x, lengths))
    layer = conv.ConvTranspose(
      2,
      taps,
      stride,
      causal=i % 3 > 0,
      trim_right_ratio=(1.0, 0.5, 0.0)[i // 3],
      norm="weight",
    )
    check(*both(layer, x, lengths, factor))


def test_a_row_holds_whole_strides():
  with pytest.raises(ValueError, match="does not divide"):
    folded_conv.conv(
      folding.fold(jnp.ones((1, 12, 2)), 3), jnp.ones((4, 2, 2)), stride=2
    )


def test_refolding_and_width():
  x = normal(2, 13, 3)
  folded = folding.fold(x, 4)
  assert folded.rows.shape == (2, 4, 12) and folded.shape == x.shape
  again = folding.fold(folded, 6)
  assert again.factor == 6
  np.testing.assert_array_equal(folding.unfold(again), x)


def test_chains_of_narrow_blocks():
  """Catches a chain that ends folded, or that is wider than it may be."""
  # SoundStream's and EnCodec's blocks; MusicLM's strides; 32 kHz.
  widths = (32, 64, 128, 256)
  assert folding.factors(widths, (2, 4, 5, 8)) == [8, 4, 1, 1]
  assert folding.factors(widths, (3, 4, 5, 8)) == [12, 4, 1, 1]
  assert folding.factors((64, 128, 256, 512), (4, 4, 5, 8)) == [4, 1, 1, 1]
  # A chain is cut where it gets too wide, and the next one begins.
  assert folding.factors((8, 16, 32, 64), (2, 4, 5, 8)) == [40, 20, 5, 8]
  assert folding.factors((256, 512), (2, 4)) == [1, 1]


def test_by_the_platform_of_the_mesh():
  """Catches folding on CPUs, and none in what a CPU compiles for TPUs."""
  assert not folding.wanted()
  with folding.forced(True):
    assert folding.wanted()
    with folding.forced(False):
      assert not folding.wanted()
  tpu = jax.sharding.AbstractDevice("TPU v5 lite", 1, "tpu")
  mesh = jax.sharding.AbstractMesh((1,), ("data",), abstract_device=tpu)
  with jax.sharding.use_abstract_mesh(mesh):
    assert folding.wanted()


@pytest.mark.parametrize(
  "name,changes",
  [
    ("soundstream_tiny", dict(dilations=(1, 3), ratios=(3, 2))),
    # Reflection, weight norm, LSTM.
    pytest.param("encodec_tiny", dict(ratios=(3, 2)), marks=pytest.mark.slow),
    pytest.param(
      "encodec_tiny",
      dict(causal=False, pad_mode="constant", remat=True),
      marks=pytest.mark.slow,
    ),
  ],
)
def test_whole_codec(name, changes):
  """Same parameters, latents, audio and gradients, at an odd length."""
  model = codec.from_config(codec.preset(name, **changes))
  samples = 3 * model.stride + 1
  x = normal(2, samples, model.channels)
  lengths = jnp.array([samples, 2 * model.stride - 3])
  weight = normal(2, samples, model.channels)
  variables = quick(model.init)(jax.random.key(0), x)

  def loss(params, x):
    z = model.apply(
      {**variables, "params": params}, x, lengths, method="latents"
    )
    y = model.apply(
      {**variables, "params": params}, z, lengths, method="synthesize"
    )
    return jnp.sum(y[:, :samples] * weight), (z, y)

  results = []
  for on in (False, True):
    with folding.forced(on):
      # A function of its own for each, as the trace is cached by function.
      run = quick(lambda p, x: jax.value_and_grad(loss, has_aux=True)(p, x))
      shapes = jax.eval_shape(lambda k: model.init(k, x), jax.random.key(0))
      text = str(run.trace(variables["params"], x).jaxpr)
      results.append((run(variables["params"], x), jax.tree.leaves(shapes)))
      # The first layer's rows, which only the folded codec has.
      assert (f"{-(-samples // model.stride)},{model.stride}]" in text) == on
  (plain, shapes), (folded, same) = results
  assert shapes == same
  check(plain, folded, 1e-4)
