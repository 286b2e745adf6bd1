"""Convolutions over several axes: the form of each platform, and folded ones.

Must catch: a form that is another function, at ends that fill no stride above
all; gradients summed with less precision; outputs that a folded signal has not.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from mmdcodec import platform as platform_lib
from mmdcodec.nn import folded_conv, folding
from mmdcodec.nn.conv_nd import conv_nd


@pytest.mark.parametrize(
  "width, size, taps, strides, dilations, pads, groups",
  [
    (18, (23,), (41,), (4,), (1,), ((20, 20),), 2),
    (18, (24,), (5,), (3,), (1,), ((2, 2),), 1),
    (18, (9,), (3,), (2,), (1,), ((0, 1),), 1),
    (18, (7, 12), (3, 9), (1, 2), (2, 1), ((2, 2), (4, 4)), 1),
    (18, (6, 13), (4, 4), (2, 2), (1, 1), ((1, 1), (1, 2)), 1),
    (18, (5, 8), (1, 1), (2, 2), (1, 1), ((0, 0), (0, 0)), 1),
    (18, (5, 8), (1, 1), (2, 2), (1, 1), ((1, 0), (0, 0)), 1),
    # Groups that no matmul computes.
    (18, (23,), (5,), (1,), (3,), ((6, 6),), 2),
    (18, (6, 7), (3, 3), (1, 1), (1, 1), ((1, 1), (1, 1)), 2),
    # Narrow enough to be widened.
    (6, (11,), (5,), (3,), (1,), ((2, 2),), 1),
    (6, (7, 13), (3, 9), (1, 2), (2, 1), ((2, 2), (4, 4)), 1),
    (2, (7, 9), (3, 9), (1, 1), (1, 1), ((1, 1), (4, 4)), 1),
    (2, (4, 4), (3, 3), (1, 1), (1, 2), ((1, 1), (2, 2)), 1),
  ],
)
@pytest.mark.parametrize("platform", ["cpu", "tpu"])
def test_convolutions_of_a_platform(
  width, size, taps, strides, dilations, pads, groups, platform, monkeypatch
):
  """Catches a folded or widened convolution that differs from a plain one.

  At ends that fill no stride above all; values and both gradients.
  """
  random = np.random.default_rng(0)
  x = random.standard_normal((2, *size, min(width, 8))).astype(np.float32)
  w = random.standard_normal((*taps, x.shape[-1] // groups, width))
  w = w.astype(np.float32)
  options = dict(strides=strides, dilations=dilations, pads=pads, groups=groups)
  plain = lambda x, w: lax.conv_general_dilated(
    x,
    w,
    strides,
    pads,
    rhs_dilation=dilations,
    dimension_numbers=folded_conv.LAYOUTS[len(size)],
    feature_group_count=groups,
  )
  monkeypatch.setattr(platform_lib, "traced_for", lambda: platform)
  ours = lambda x, w: conv_nd(x, w, **options)
  if platform == "tpu":
    assert str(jax.make_jaxpr(ours)(x, w)) == str(jax.make_jaxpr(plain)(x, w))
    return

  def both(conv, x, w):
    y, back = jax.vjp(conv, x, w)
    return y, *back(jnp.sin(y))

  want, got = (jax.jit(both, static_argnums=0)(f, x, w) for f in (plain, ours))
  for a, b in zip(got, want, strict=True):
    np.testing.assert_allclose(a, b, atol=1e-4)


@pytest.mark.parametrize(
  "bins, taps, stride, pad, widened",
  [
    (16, 9, 1, (4, 4), True),
    (33, 9, 1, (4, 3), True),
    (38, 7, 1, (0, 3), True),
    (33, 9, 2, (4, 4), False),
    (33, 1, 1, (0, 0), False),
  ],
)
def test_folded_spectra_are_widened(bins, taps, stride, pad, widened):
  """Catches lanes left to a spectrum's two channels, or another function."""
  random = np.random.default_rng(2)
  x = random.standard_normal((2, 7, bins, 2)).astype(np.float32)
  kernel = random.standard_normal((3, taps, 2, 32)).astype(np.float32)
  options = dict(strides=(1, stride), dilations=(1, 1), pads=((1, 1), pad))

  def run(x, kernel, factor):
    y = conv_nd(folding.refold(x, factor), kernel, **options)
    return folding.unfold(y)

  def both(x, kernel, factor):
    y, back = jax.vjp(lambda x, k: run(x, k, factor), x, kernel)
    return y, *back(jnp.sin(y))

  for a, b in zip(both(x, kernel, 4), both(x, kernel, 1), strict=True):
    np.testing.assert_allclose(a, b, atol=1e-4)
  widths = []
  for eqn in jax.make_jaxpr(run, static_argnums=2)(x, kernel, 4).eqns:
    if eqn.primitive is lax.conv_general_dilated_p:
      widths.append(eqn.invars[0].aval.shape[-1])
  assert widths == [folding.LANES // 2 if widened else 4 * 2]


@pytest.mark.parametrize(
  "channels, features, factor",
  [(8, 8, 16), (2, 32, 4)],
  ids=["folded", "and widened"],
)
def test_folded_kernels_in_bfloat16(channels, features, factor):
  """Catches gradients of shifted copies that are summed in bfloat16."""
  random = np.random.default_rng(0)
  x = random.standard_normal((4, 64, 9, channels)).astype(jnp.bfloat16)
  kernel = random.standard_normal((3, 3, channels, features)).astype(np.float32)
  weight = random.standard_normal((4, 64, 9, features)).astype(np.float32)

  def gradient(x, factor):
    def loss(kernel):
      y = conv_nd(
        folding.refold(x, factor),
        kernel,
        strides=(1, 1),
        dilations=(1, 1),
        pads=((1, 1), (1, 1)),
      )
      return jnp.sum(folding.unfold(y).astype(jnp.float32) * weight)

    return jax.jit(jax.grad(loss))(kernel)

  exact = gradient(x.astype(np.float32), 1)
  error = lambda g: np.linalg.norm(g - exact) / np.linalg.norm(exact)
  plain, folded = (error(gradient(x, by)) for by in (1, factor))
  assert folded <= 1.2 * plain


def test_folded_signals_do_not_grow():
  """Catches outputs past the rows that a folded convolution computes."""
  x, kernel = folding.fold(jnp.ones((1, 8, 2)), 4), jnp.ones((3, 2, 2))
  with pytest.raises(ValueError, match="9 outputs of 8 folded"):
    conv_nd(x, kernel, strides=(1,), dilations=(1,), pads=((1, 2),))
