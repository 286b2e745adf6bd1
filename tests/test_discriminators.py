"""Discriminators: published weights, sizes, and the interface of the set.

`data/discriminators_tiny.npz` holds tiny random networks of audiocraft 896ec7c
(PyTorch), their input [2, 131, 2], logits, and the mean magnitude of each
feature map. Its waveform discriminator does not use its downsampled signal;
there each scale was given the signal averaged down as in MelGAN.
"""

import functools
import math
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

from mmdcodec.errors import UserError
from mmdcodec.losses import adversarial
from mmdcodec.models.discriminators import from_config
from mmdcodec.models.wave_discriminators import halve
from mmdcodec.nn import folding

# Correctness needs no optimized code, and that compiles much faster.
quick = functools.partial(
  jax.jit, compiler_options={"xla_backend_optimization_level": 0}
)

GOLDEN = pathlib.Path(__file__).parent / "data/discriminators_tiny.npz"

TINY = (
  {"name": "multi_scale_stft", "filters": 4, "windows": [64, 32]},
  {"name": "multi_scale_wave", "filters": 4, "max_filters": 8, "scales": 2},
  {"name": "stft", "filters": 2, "window": 128, "hop": 32},
  {"name": "multi_period", "filters": 2, "max_filters": 4, "periods": [2, 3]},
)

# One sub-discriminator of each kind, for what must be compiled with gradients.
SMALL = (
  dict(TINY[0], windows=[32]),
  dict(TINY[1], scales=1),
  TINY[2],
  dict(TINY[3], periods=[2]),
)


def random_params(model, channels=1, samples=4096, seed=0):
  """Parameters without compiling their initialisation."""
  x = jax.ShapeDtypeStruct((1, samples, channels), jnp.float32)
  shapes = jax.eval_shape(model.init, jax.random.key(0), x)
  assert set(shapes) == {"params"}
  random = np.random.default_rng(seed)

  def draw(path, shape):
    values = random.standard_normal(shape.shape).astype(shape.dtype) / 3
    # Norms of kernels, such that signals neither grow nor vanish.
    return 1.2 + values if path[-1].key == "g" else values

  return jax.tree.map_with_path(draw, shapes)


def count(shapes) -> int:
  return sum(math.prod(s.shape) for s in jax.tree.leaves(shapes))


def published_params(shapes: dict, flat: np.ndarray) -> dict:
  """Weights in PyTorch's order and layout, as ours.

  A layer has weight and bias, or bias, g and v; kernels are [out, in, *taps],
  those over periods with an axis of one tap.
  """
  taken = 0

  def take(shape):
    nonlocal taken
    taken += math.prod(shape)
    return flat[taken - math.prod(shape) : taken].reshape(shape)

  found = {}
  for layer in sorted(shapes):  # conv_0, conv_1, ..., conv_out
    ours = {name: shapes[layer][name].shape for name in shapes[layer]}
    kernel = ours.get("v") or ours["kernel"]
    turned = lambda k=kernel: np.moveaxis(
      take((k[-1], k[-2], *k[:-2])), (0, 1), (-1, -2)
    )
    if "v" in ours:
      found[layer] = {"bias": take(ours["bias"]), "g": take(ours["g"])}
      found[layer]["v"] = turned()
    else:
      found[layer] = {"kernel": turned(), "bias": take(ours["bias"])}
  assert taken == flat.size
  return found


@pytest.mark.parametrize(
  "fields, axes",
  [
    # How PyTorch's [batch, channel, ...] is turned into ours.
    (
      {"name": "multi_scale_stft", "filters": 2, "windows": (64, 32)},
      (0, 2, 3, 1),
    ),
    (
      {
        "name": "multi_period",
        "filters": 4,
        "max_filters": 4,
        "periods": (2, 3),
      },
      (0, 3, 2, 1),
    ),
    (
      {
        "name": "multi_scale_wave",
        "filters": 4,
        "max_filters": 8,
        "scales": 2,
      },
      (0, 2, 1),
    ),
  ],
  ids=lambda value: value["name"] if isinstance(value, dict) else "",
)
def test_published_networks(fields, axes):
  """Catches any change of the functions that the published code computes.

  Window and normalisation of the STFT, order of real and imaginary parts and
  channels, padding, strides, dilations, groups, slopes, weight norm.
  """
  golden = np.load(GOLDEN)
  name, model = fields["name"], from_config([fields])
  shapes = random_params(model, channels=2)["params"][name]
  params = {
    part: published_params(
      shapes[part], golden[f"{name}/weights/{i}"].astype(np.float32)
    )
    for i, part in enumerate(key.split("/")[1] for key in model.names)
  }
  found = jax.jit(model.apply)({"params": {name: params}}, golden["x"])
  assert len(found) == 2
  for i, (logits, features) in enumerate(found):
    want = golden[f"{name}/logits/{i}"].transpose(axes)
    np.testing.assert_allclose(logits, want, atol=1e-5 * np.abs(want).max())
    want = golden[f"{name}/features/{i}"]
    # The published list of the wave discriminator ends in the logits.
    want = want[:-1] if name == "multi_scale_wave" else want
    got = [np.abs(y).mean() for y in features]
    np.testing.assert_allclose(got, want, rtol=1e-5)


@pytest.mark.parametrize(
  "fields, channels, total, layers",
  [
    # Counted from the classes of audiocraft 896ec7c and encodec 0e2d0ae.
    ({"name": "multi_scale_stft"}, 1, 472_330, 5 * 6),
    ({"name": "multi_scale_stft"}, 2, 480_970, 5 * 6),
    (
      {"name": "multi_scale_stft", "windows": (1024, 2048, 512)},
      1,
      283_398,
      3 * 6,
    ),
    # From hifi-gan 4769534: 8 221 154 for each of 5 periods.
    ({"name": "multi_period"}, 1, 41_105_770, 5 * 6),
    ({"name": "multi_period", "periods": [7]}, 1, 8_221_154, 6),
    # From audiocraft's, the same layers as MelGAN's: 5 641 362 a scale.
    ({"name": "multi_scale_wave"}, 1, 16_924_086, 3 * 7),
  ],
)
def test_published_sizes(fields, channels, total, layers):
  """Catches a layer or a weight norm more or less than published."""
  shapes = random_shapes(from_config([fields]), channels)
  assert count(shapes) == total
  convs = [p for p, _ in jax.tree.leaves_with_path(shapes) if "bias" in str(p)]
  assert len(convs) == layers


def random_shapes(model, channels=1, samples=24_000):
  x = jax.ShapeDtypeStruct((2, samples, channels), jnp.float32)
  return jax.eval_shape(model.init, jax.random.key(0), x)


def test_soundstream_stft_sizes():
  """Catches blocks in another order: sizes of SoundStream's figure 4.

  Its total is not published; a convolution has its kernel, g and bias.
  """
  model = from_config(["stft"])
  samples = 1024 + 255 * 256  # 256 frames
  shapes = random_shapes(model, samples=samples)
  conv = lambda a, b, taps: a * b * taps + 2 * b
  total = conv(2, 32, 49) + conv(512, 1, 8)
  widths = (32, 64, 128, 128, 256, 256, 512)
  for i, stride in enumerate((1, 2, 1, 2, 1, 2)):
    before, after = widths[i], widths[i + 1]
    total += conv(before, before, 9) + conv(before, after, 1)
    total += conv(before, after, (stride + 2) * 4)
  assert count(shapes) == total == 5_551_170
  x = jax.ShapeDtypeStruct((2, samples, 1), jnp.float32)
  ((logits, features),) = jax.eval_shape(model.apply, shapes, x)
  assert logits.shape == (2, 256 // 8, 1)
  assert [y.shape[1:] for y in features] == [
    (256, 512, 32),
    (256, 256, 64),
    (128, 128, 128),
    (128, 64, 128),
    (64, 32, 256),
    (64, 16, 256),
    (32, 8, 512),
  ]


def reference_conv(layer, x, strides, pads):
  """Convolution of [frames, bins, channels] in float64, weight norm too."""
  v = np.asarray(layer["v"], np.float64)
  w = v * np.asarray(layer["g"], np.float64) / np.sqrt((v**2).sum((0, 1, 2)))
  x = np.pad(x, (*pads, (0, 0)))
  views = np.lib.stride_tricks.sliding_window_view(x, w.shape[:2], (0, 1))
  views = views[:: strides[0], :: strides[1]]
  return np.einsum("tfckl,klcd->tfd", views, w) + layer["bias"]


def test_soundstream_stft_against_numpy():
  """Catches padding, shortcut, activation or the highest bin gone wrong."""
  model = from_config([TINY[2]])
  params = random_params(model)
  random = np.random.default_rng(1)
  x = random.standard_normal((1, 128 + 4 * 32 + 5, 1)).astype(np.float32)
  ((logits, features),) = jax.jit(model.apply)(params, x)

  p = params["params"]["stft"]
  window = np.sin(np.pi * np.arange(128) / 128) ** 2
  starts = range(0, x.shape[1] - 127, 32)
  y = np.stack(
    [np.fft.rfft(window * x[0, at : at + 128, 0])[:-1] for at in starts]
  ) / np.sqrt(np.sum(window**2))
  y = np.stack([y.real, y.imag], -1)
  leaky = lambda y: np.where(y > 0, y, 0.2 * y)
  y = leaky(reference_conv(p["conv_in"], y, (1, 1), ((3, 3), (3, 3))))
  want = [y]
  for i, stride in enumerate((1, 2, 1, 2, 1, 2)):
    block, strides = p[f"block_{i}"], (stride, 2)
    pads = tuple((1, 1 + n % s) for n, s in zip(y.shape, strides, strict=False))
    inner = leaky(reference_conv(block["conv_0"], y, (1, 1), ((1, 1), (1, 1))))
    inner = reference_conv(block["conv_1"], inner, strides, pads)
    none = ((0, 0), (0, 0))
    y = leaky(inner + reference_conv(block["shortcut"], y, strides, none))
    want.append(y)
  last = reference_conv(p["conv_out"], y, (1, 1), ((0, 0), (0, 0)))[:, 0]
  for got, one in zip([*features, logits], [*want, last], strict=True):
    np.testing.assert_allclose(got[0], one, atol=2e-5 * np.abs(one).max())


@pytest.mark.parametrize(
  "fields, factors",
  [
    # 59 frames and 1003 samples fill no whole rows.
    (dict(TINY[0], windows=[64], filters=32), [4, 4, 4, 4, 4]),
    (dict(TINY[1], max_filters=64, scales=1), [64, 16, 4, 1, 1, 1]),
    pytest.param(
      dict(TINY[2], filters=32),
      [4, 4, 2, 1, 1, 1, 1],
      marks=pytest.mark.slow,
    ),
  ],
  ids=lambda value: value["name"] if isinstance(value, dict) else "",
)
def test_folded(fields, factors):
  """Catches a folded layer that is another function, or is not folded.

  Strides, groups, dilations, rows that end after the signal (which the means of
  the features must not count), and the gradients of all of them.
  """
  model = from_config([fields])
  x = np.random.default_rng(0).standard_normal((4, 1003, 1)).astype(np.float32)
  params = random_params(model)

  def loss(params, x):
    pairs = model.apply(params, x)
    logits = [y for y, _ in pairs]
    features = [features for _, features in pairs]
    real = jax.tree.map(lambda y: y[:2], features)
    fake = jax.tree.map(lambda y: y[2:], features)
    total = adversarial.generator_loss(logits, "least_squares")
    for relative in (True, False):
      total += adversarial.feature_matching(real, fake, relative)
    return total, (logits, [folding.unfold(y) for y in features[0]])

  found = []
  for on in (False, True):
    with folding.forced(on):
      # A function of its own for each, as the trace is cached by function.
      run = lambda *of: jax.value_and_grad(loss, (0, 1), has_aux=True)(*of)
      found.append(quick(run)(params, x))
      ((_, features),) = jax.eval_shape(
        lambda p, x: model.apply(p, x), params, x
      )
    got = [getattr(y, "factor", 1) for y in features]
    assert got == (factors if on else [1] * len(factors))
  (values, grads), (folded_values, folded_grads) = found
  for a, b in zip(*map(jax.tree.leaves, (values, folded_values)), strict=True):
    np.testing.assert_allclose(b, a, atol=1e-5 * max(1, np.abs(a).max()))
  # By norm: where rounding moves a value over a kink, its gradient jumps.
  for a, b in zip(*map(jax.tree.leaves, (grads, folded_grads)), strict=True):
    assert np.linalg.norm(b - a) <= 2e-3 * np.linalg.norm(a)


def test_names():
  """Catches names that are not in the order of the results, or not unique."""
  model = from_config([*TINY, dict(TINY[3], periods=[5])])
  assert model.names == (
    "multi_scale_stft/window_64",
    "multi_scale_stft/window_32",
    "multi_scale_wave/scale_1",
    "multi_scale_wave/scale_2",
    "stft/window_128",
    "multi_period/period_2",
    "multi_period/period_3",
    "multi_period_2/period_5",
  )
  x = jax.ShapeDtypeStruct((2, 500, 1), jnp.float32)
  shapes = random_shapes(model)
  for i, (logits, _) in enumerate(jax.eval_shape(model.apply, shapes, x)):
    if "period" in model.names[i]:
      assert logits.shape[1] == int(model.names[i].split("_")[-1])
  assert len(shapes["params"]) == 5
  assert i + 1 == len(model.names)


@pytest.mark.parametrize("time", [8, 9])
def test_halve(time):
  """Catches padding that counts in the means at the ends."""
  x = np.random.default_rng(0).standard_normal((2, time, 3)).astype(np.float32)
  want = [x[:, max(0, 2 * i - 1) : 2 * i + 3].mean(1) for i in range(time // 2)]
  np.testing.assert_allclose(halve(x), np.stack(want, 1), rtol=1e-5, atol=1e-6)


def test_one_set_of_all():
  """Catches batch mates that matter, and layers without a gradient.

  250 ms at 8 kHz, two channels, one module of all four kinds.
  """
  model = from_config(SMALL)
  hash(model)
  random = np.random.default_rng(0)
  real, fake = random.standard_normal((2, 2, 2000, 2)).astype(np.float32)
  params = random_params(model, channels=2)

  def loss(params, real, fake):
    pairs = model.apply(params, jnp.concatenate([real, fake]))
    logits = [[y[:2] for y, _ in pairs], [y[2:] for y, _ in pairs]]
    return adversarial.discriminator_loss(*logits, "least_squares"), pairs

  step = jax.jit(jax.grad(loss, has_aux=True))
  grads, pairs = step(params, real, fake)
  assert len(pairs) == len(model.names)
  for logits, features in pairs:
    assert logits.shape[0] == 4 and logits.shape[-1] == 1
    assert all(y.shape[0] == 4 for y in features)
  for path, leaf in jax.tree.leaves_with_path(grads):
    assert np.any(leaf) and np.isfinite(leaf).all(), path

  other = random.standard_normal((2, 2000, 2)).astype(np.float32)
  _, mates = step(params, other, fake)
  for (a, fs), (b, gs) in zip(pairs, mates, strict=True):
    for one, two in zip([a, *fs], [b, *gs], strict=True):
      np.testing.assert_allclose(one[2:], two[2:], atol=1e-5)
      assert np.abs(one[:2] - two[:2]).max() > 1e-3


def test_bfloat16():
  """Catches outputs or parameters in bfloat16, or a dtype that is not used."""
  wide, narrow = (from_config(TINY, dtype) for dtype in ("float32", "bfloat16"))
  x = jax.ShapeDtypeStruct((2, 500, 1), jnp.float32)
  params = random_shapes(wide)
  assert params == random_shapes(narrow)
  assert jax.eval_shape(narrow.apply, params, x) == jax.eval_shape(
    wide.apply, params, x
  )
  for fields in TINY:
    model = from_config([fields], "bfloat16")
    text = jax.jit(model.apply).lower(random_shapes(model), x).as_text()
    found = [
      line.rsplit("->", 1)[1].strip()
      for line in text.splitlines()
      if "stablehlo.convolution" in line or "stablehlo.dot_general" in line
    ]
    assert found and all(kind.endswith("xbf16>") for kind in found)


def test_silence():
  """Catches 0 / 0 where features of real audio are all zero."""
  model = from_config([fields for fields in SMALL if fields["name"] != "stft"])
  params = random_params(model)
  # Without biases nothing comes out of silence at all.
  params = jax.tree.map_with_path(
    lambda path, y: 0 * y if path[-1].key == "bias" else y, params
  )

  def loss(x):
    pairs = model.apply(params, x)
    features = [f for _, f in pairs]
    return adversarial.feature_matching(
      features, features
    ) + adversarial.generator_loss([y for y, _ in pairs])

  grad = jax.jit(jax.grad(loss))(jnp.zeros((1, 500, 1)))
  assert np.isfinite(grad).all()


def test_clips_that_are_too_short():
  """Catches a shape error from deep inside, or a discriminator of nothing."""
  model = from_config(["multi_period", "multi_scale_stft"])
  assert model.shortest == 2048
  with pytest.raises(UserError, match="2048 samples, these have 2000.*windows"):
    random_shapes(model, samples=2000)
  random_shapes(model, samples=2048)
  assert from_config(TINY).shortest == 128
  random_shapes(from_config(TINY), samples=128)
  wave = from_config(["multi_scale_wave"])
  random_shapes(wave, samples=wave.shortest)


def test_configs_of_a_file():
  """Catches a set that depends on how its config was written down."""
  want = from_config(TINY)
  assert from_config([ConfigDict(entry) for entry in TINY]) == want
  assert from_config([dict(reversed(entry.items())) for entry in TINY]) == want
  assert from_config(["stft"]) == from_config([{"name": "stft"}])


@pytest.mark.parametrize(
  "config, dtype, words",
  [
    ([], "float32", "list of names"),
    ("stft", "float32", "list of names"),
    (["stftd"], "float32", "'stftd'.*multi_scale_stft"),
    ([{"filters": 4}], "float32", "None.*multi_scale_stft"),
    ([{"name": "stft", "windows": [64]}], "float32", "windows.*filters"),
    ([{"name": "stft", "dtype": "float32"}], "float32", "no field 'dtype'"),
    ([{"name": "stft", "window": 64}], "float32", "multiple of 128"),
    ([{"name": "stft", "window": [128]}], "float32", "whole number"),
    ([{"name": "stft", "filters": 0}], "float32", "from 1 to"),
    ([{"name": "stft", "filters": 1.5}], "float32", "whole number"),
    ([{"name": "stft", "filters": "4"}], "float32", "whole number"),
    ([{"name": "stft", "slope": -1}], "float32", "from 0 to"),
    ([{"name": "multi_scale_stft", "windows": 64}], "float32", "a list"),
    ([{"name": "multi_scale_stft", "windows": []}], "float32", "a list"),
    ([{"name": "multi_scale_stft", "windows": [66]}], "float32", "of 4"),
    ([{"name": "multi_scale_stft", "windows": [64, 64]}], "float32", "twice"),
    ([{"name": "multi_scale_stft", "kernel": [3, 8]}], "float32", "odd"),
    ([{"name": "multi_scale_wave", "filters": 6}], "float32", "of 4"),
    ([{"name": "multi_period", "periods": [2, 2]}], "float32", "twice"),
    (["stft"], "float16", "bfloat16"),
  ],
)
def test_mistakes(config, dtype, words):
  """Catches a typing error that is silently ignored or fails far away."""
  with pytest.raises(UserError, match=words):
    from_config(config, dtype)
