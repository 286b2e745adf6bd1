"""Convolutions: exact lengths, edges and gradients.

Must catch: a frame too many or too few for any stride, padding on the wrong
side (odd totals, causal), reflection that repeats the edge or reads past a
short input, padding of a batch leaking into its shorter examples, a transposed
convolution with flipped taps or a wrong trim, weight norm over the wrong axes,
GroupNorm statistics that include padding.
"""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from mmdcodec.nn import conv, norms

RNG = np.random.default_rng(0)


def normal(*shape):
  return RNG.standard_normal(shape).astype(np.float32)


def reference_pad(x, left, right, mode):
  """One example [time, channels] padded in float64, sample by sample."""
  zero = np.zeros(x.shape[1])
  if mode == "constant":
    return np.stack([zero] * left + list(x) + [zero] * right)
  time = len(x)
  long = list(x) + [zero] * max(0, max(left, right) + 1 - time)
  last = len(long) - 1
  at = lambda i: long[abs(i) if abs(i) <= last else 2 * last - abs(i)]
  return np.stack([at(i) for i in range(-left, len(long) + right)])[
    : left + time + right
  ]


def reference_conv(x, kernel, stride, dilation, causal, mode):
  """One example [time, in] -> [ceil(time / stride), out] in float64."""
  x, kernel = x.astype(np.float64), kernel.astype(np.float64)
  taps = len(kernel)
  total = (taps - 1) * dilation + 1 - stride
  right = 0 if causal else total // 2
  count = int(np.ceil(len(x) / stride))
  extra = count * stride - len(x)
  x = reference_pad(x, total - right, right + extra, mode)
  return np.stack(
    [
      sum(x[t * stride + j * dilation] @ kernel[j] for j in range(taps))
      for t in range(count)
    ]
  )


CASES = [
  # samples, taps, stride, dilation
  (20, 7, 1, 1),
  (17, 3, 1, 4),
  (23, 4, 2, 1),
  (21, 10, 5, 1),
  (19, 7, 3, 2),  # odd total, incomplete last stride
  (3, 7, 1, 2),  # shorter than its padding
  (1, 8, 4, 1),
]


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("mode", conv.PAD_MODES)
def test_padded_conv_is_the_float64_sum(mode, causal):
  for samples, taps, stride, dilation in CASES:
    x, kernel = normal(2, samples, 3), normal(taps, 3, 2)
    y = conv.padded_conv(
      x, kernel, stride=stride, dilation=dilation, causal=causal, pad_mode=mode
    )
    expected = [
      reference_conv(row, kernel, stride, dilation, causal, mode) for row in x
    ]
    np.testing.assert_allclose(y, expected, atol=2e-5)


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("mode", conv.PAD_MODES)
def test_lengths_pad_each_example_at_its_own_end(mode, causal):
  lengths = np.array([25, 24, 22, 13, 7, 2, 1])
  for taps, stride, dilation in [(7, 1, 1), (10, 5, 1), (7, 3, 2)]:
    kernel = normal(taps, 3, 2)
    x = normal(len(lengths), 25, 3)
    x[np.arange(25) >= lengths[:, None]] = 0
    y = conv.padded_conv(
      x,
      kernel,
      stride=stride,
      dilation=dilation,
      causal=causal,
      pad_mode=mode,
      lengths=jnp.asarray(lengths),
    )
    for row, length, got in zip(x, lengths, y, strict=True):
      want = reference_conv(
        row[:length], kernel, stride, dilation, causal, mode
      )
      np.testing.assert_allclose(got[: len(want)], want, atol=2e-5)


def test_output_lengths_for_any_shape():
  for samples, stride, taps, dilation, causal in itertools.product(
    (1, 2, 5, 16, 31), (1, 2, 3, 8), (1, 3, 8, 16), (1, 3), (True, False)
  ):
    kernel = jax.ShapeDtypeStruct((taps, 1, 2), jnp.float32)
    x = jax.ShapeDtypeStruct((1, samples, 1), jnp.float32)
    if (taps - 1) * dilation + 1 < stride:
      with pytest.raises(ValueError, match="shorter than stride"):
        conv.padding(taps, stride, dilation, causal)
      continue
    options = dict(stride=stride, dilation=dilation, causal=causal)
    for mode in conv.PAD_MODES:
      f = lambda x, k, o=options, m=mode: conv.padded_conv(
        x, k, pad_mode=m, **o
      )
      y = jax.eval_shape(f, x, kernel)
      assert y.shape == (1, int(np.ceil(samples / stride)), 2)
    if dilation == 1:
      left, right = conv.trimming(taps, stride, causal)
      f = lambda x, k, s=stride: conv.conv_transpose(x, k, stride=s)
      y = jax.eval_shape(f, x, kernel)
      assert y.shape[1] - left - right == samples * stride


@pytest.mark.parametrize("taps,stride", [(8, 4), (7, 3), (5, 5), (3, 1)])
def test_transposed_is_lax_with_gradients(taps, stride):
  x, kernel = normal(2, 6, 3), normal(taps, 3, 2)

  def reference(x, kernel):
    return lax.conv_transpose(
      x,
      kernel[::-1],
      (stride,),
      "VALID",
      dimension_numbers=("NWC", "WIO", "NWC"),
    )[:, : (x.shape[1] - 1) * stride + taps]

  ours = lambda x, kernel: conv.conv_transpose(x, kernel, stride=stride)
  want, pull = jax.vjp(reference, x, kernel)
  got, our_pull = jax.vjp(ours, x, kernel)
  np.testing.assert_allclose(got, want, atol=1e-5)
  ct = normal(*want.shape)
  for a, b in zip(our_pull(ct), pull(ct), strict=True):
    np.testing.assert_allclose(a, b, atol=2e-5)


def test_trimming_rules():
  # Odd total: the extra sample is cut on the left.
  assert conv.trimming(7, 4, causal=False) == (2, 1)
  assert conv.trimming(7, 4, causal=True) == (0, 3)
  assert conv.trimming(7, 4, True, trim_right_ratio=0.5) == (1, 2)
  assert conv.trimming(7, 4, True, trim_right_ratio=0.0) == (3, 0)
  with pytest.raises(ValueError, match="shorter than stride"):
    conv.trimming(3, 4, True)


def test_weight_norm_and_its_start():
  """One g per output of Conv, per input of ConvTranspose; starts as v."""
  x = normal(1, 12, 3)
  for layer, width in [
    (conv.Conv(5, 4, stride=2, norm="weight"), 5),
    (conv.ConvTranspose(5, 4, stride=2, norm="weight"), 3),
  ]:
    params = layer.init(jax.random.key(0), x)["params"]
    assert params["g"].shape == (width,) and params["v"].shape == (4, 3, 5)
    plain = layer.clone(norm="none")
    same = {"kernel": params["v"], "bias": params["bias"]}
    np.testing.assert_allclose(
      layer.apply({"params": params}, x),
      plain.apply({"params": same}, x),
      atol=1e-5,
    )
    g, v = normal(width), normal(4, 3, 5).astype(np.float64)
    axes = (0, 1) if width == 5 else (0, 2)
    norm = np.sqrt((v**2).sum(axes, keepdims=True))
    want = v / norm * (g if width == 5 else g[:, None])
    got = norms.weight_norm(g, v, 2 if width == 5 else 1)
    np.testing.assert_allclose(got, want, rtol=1e-5)


def test_group_norm_counts_valid_samples_only():
  x, lengths = normal(3, 9, 4), np.array([9, 5, 1])
  x += 3
  scale, bias = normal(4), normal(4)
  got = norms.time_group_norm(x, scale, bias, jnp.asarray(lengths))
  for row, length, y in zip(x, lengths, got, strict=True):
    row = row[:length].astype(np.float64)
    want = (row - row.mean()) / np.sqrt(row.var() + 1e-5) * scale + bias
    np.testing.assert_allclose(y[:length], want, atol=1e-5)
  whole = norms.time_group_norm(x[:1], scale, bias)
  np.testing.assert_allclose(whole, got[:1], atol=1e-6)


@pytest.mark.parametrize("norm", norms.NORMS)
def test_layers_are_zero_after_the_end(norm):
  x, lengths = normal(2, 10, 2), jnp.array([10, 3])
  down = conv.Conv(3, 4, stride=2, norm=norm, pad_mode="reflect")
  up = conv.ConvTranspose(3, 4, stride=2, norm=norm, causal=False)
  x = conv.mask_after(x, lengths)
  for layer, end in ((down, 2), (up, 6)):
    variables = layer.init(jax.random.key(0), x)
    variables["params"]["bias"] += 1.0
    y = layer.apply(variables, x, lengths)
    assert not y[1, end:].any() and y[1, :end].all() and y[0].all()
    alone = layer.apply(variables, x[1:, :3])
    np.testing.assert_allclose(y[1:, :end], alone, atol=1e-5)
