"""Codecs: causality, independence of batch mates, published sizes.

Must catch: a causal codec that looks ahead; padding of a batch that changes
codes or audio of an example; a preset whose parameters are not those published;
chunks that do not join. (The public models' numbers: test_convert_encodec.py.)
"""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmdcodec.errors import UserError
from mmdcodec.models import chunks, codec, codec_outputs


def random_variables(model, seed=0):
  """Variables of a sensible size, without compiling `init`."""
  x = jnp.zeros((1, model.stride, model.channels))
  shapes = jax.eval_shape(model.init, jax.random.key(0), x)
  rng = np.random.default_rng(seed)

  def draw(path, s):
    name, value = path[-1].key, rng.standard_normal(s.shape)
    if name in ("g", "scale"):
      value = 1.5 + 0.1 * value
    elif name in ("magnitude", "variance"):
      value = np.exp(0.3 * value)
    elif name in ("kernel", "input_kernel", "recurrent_kernel"):
      value = value / np.prod(s.shape[:-1]) ** 0.5
    elif name == "bias":
      value = 0.1 * value
    return value.astype(np.float32)

  variables = jax.tree_util.tree_map_with_path(draw, shapes)
  state = variables["codebook"]["quantizer"]
  level = np.arange(model.codebooks)[:, None, None]
  state["sum"] = state["sum"] * np.float32(0.5**level) * 0.5
  state["count"], state["started"] = np.ones_like(state["count"]), True
  return variables


@pytest.mark.parametrize(
  "name,changes",
  [
    ("soundstream_tiny", {}),
    ("encodec_tiny", {}),
    pytest.param(
      "encodec_tiny",
      dict(causal=False, pad_mode="constant", norm="none"),
      marks=pytest.mark.slow,
    ),
    ("encodec_stereo_tiny", {}),
    ("spectral_tiny", dict(causal=True)),
    ("spectral_tiny", dict(channels=2)),
    ("spectral_tiny", dict(channels=2, phase_iterations=2, compression=1.0)),
  ],
)
def test_batch_of_different_lengths_is_each_alone(name, changes):
  model = codec.from_config(codec.preset(name, **changes))
  variables = random_variables(model)
  # With chunks, one clip ends inside the overlap of two.
  lengths = [900, 333 if model.chunk is None else 778, 7]
  x = np.random.default_rng(1).standard_normal((3, 900, model.channels))
  x = x.astype(np.float32) * np.array([1, 0.1, 3], np.float32)[:, None, None]

  @jax.jit
  def run(variables, x, lengths=None):
    e = model.apply(variables, x, lengths, method="encode")
    # Alone and in chunks, the end of the clip is needed to decode as well.
    ends = lengths
    if ends is None and model.chunk is not None:
      ends = jnp.full((len(x),), x.shape[1])
    y = model.apply(
      variables, e.codes, scale=e.scale, lengths=ends, method="decode"
    )
    return e, y

  # What lies after the end must not matter, not even garbage.
  together, audio = run(variables, x, jnp.array(lengths))
  # Magnitudes of noise differ less than its bins.
  assert len(np.unique(together.codes[..., 0])) > 5
  for i, length in list(enumerate(lengths))[1:]:
    alone, y = run(variables, x[i : i + 1, :length])
    n = int(alone.lengths[0])
    assert n == together.lengths[i]
    np.testing.assert_array_equal(together.codes[i, :n], alone.codes[0, :n])
    assert not together.codes[i, n:].any()
    np.testing.assert_allclose(
      audio[i, :length], y[0, :length], atol=1e-5 * np.abs(y).max()
    )
    assert not audio[i, length:].any()


@pytest.mark.parametrize(
  "name", ["soundstream_tiny", "encodec_tiny", "spectral_tiny"]
)
def test_causal_codecs_see_nothing_after_the_frame(name):
  """Those of overlapping frames see half a frame more, twice."""
  model = codec.from_config(codec.preset(name, causal=True))
  variables = random_variables(model)
  x = np.random.default_rng(2).standard_normal((1, 600, 1)).astype(np.float32)

  @jax.jit
  def gradient(x, t):
    return jax.grad(lambda x: model.apply(variables, x).audio[0, t, 0])(x)

  # Reflection mirrors the first samples and frames of the clip, in the encoder
  # and in the decoder: its look-ahead there is known, and ends.
  if model.topology == "spectral":
    first, half = 1, model.stride // 2
  else:
    mirrored = model.pad_mode == "reflect"
    first, half = 2 * (model.last_kernel - 1) * mirrored, 0
  for frame in (first, first + 1, 20, 28):
    for t in (frame * model.stride, (frame + 1) * model.stride - 1):
      g = np.abs(gradient(x, t - half)[0, :, 0])
      ahead = (frame + 1) * model.stride + half
      assert not g[ahead:].any()
      assert g[ahead - 1] > 0 and g[:ahead].sum() > g[ahead - 1]


def test_parameters_are_the_published_ones():
  """EnCodec's counts hold two biases per LSTM layer where ours holds one."""

  def count(name):
    model = codec.from_config(codec.preset(name))
    x = jnp.zeros((1, model.stride, model.channels))
    shapes = jax.eval_shape(model.init, jax.random.key(0), x)["params"]
    width = model.filters * 2 ** len(model.ratios)
    biases = 2 * model.lstm_layers * 4 * width
    total = sum(np.prod(s.shape) for s in jax.tree.leaves(shapes)) + biases
    return round(total / 1e6, 3), model

  for name, millions, stride, bits in [
    ("encodec_24khz", 14.852, 320, 24000),
    ("encodec_48khz", 14.856, 320, 24000),
    ("encodec_32khz", 56.885, 640, 2200),
  ]:
    total, model = count(name)
    assert (total, model.stride) == (millions, stride)
    assert model.bits_per_second() == bits
  # Table I of the paper says 8.4 M for a width of latents that it does not
  # give; what it describes has 9.5 M with 64, 9.8 M with 128.
  for name, stride, frame_rate in [
    ("soundstream_24khz", 320, 75),
    ("soundstream_musiclm", 480, 50),
  ]:
    total, model = count(name)
    assert 8.4 < total < 10 and model.stride == stride
    assert model.frame_rate == frame_rate and model.bits_per_second() == 6000


@pytest.mark.parametrize("size,hop", [(10, 9), (8, 8)])
def test_chunks_join_to_the_signal(size, hop):
  for samples in (1, 9, 16, 25):
    x = np.random.default_rng(samples).standard_normal((2, samples, 2))
    lengths = jnp.array([samples, max(1, samples - 5)])
    pieces = chunks.split(jnp.asarray(x, jnp.float32), size, hop)
    count = pieces.shape[1]
    assert count == int(np.ceil(samples / hop))
    ends = chunks.lengths_of(lengths, count, size, hop)
    y = chunks.overlap_add(pieces, hop, ends)
    for row, want, n in zip(y, x, lengths, strict=True):
      np.testing.assert_allclose(row[:n], want[:n], atol=1e-6)
      assert not row[n:].any()
    per_chunk = int(np.ceil(size / 4))
    for n, got in zip(
      lengths, chunks.frame_lengths(lengths, size, hop, 4), strict=True
    ):
      used = int(np.ceil(n / hop))
      rest = min(n - (used - 1) * hop, size)
      assert got == (used - 1) * per_chunk + int(np.ceil(rest / 4))


def test_loudness_is_divided_out_and_restored():
  model = codec.from_config(
    codec.preset("encodec_tiny", normalize=True, lstm_layers=0)
  )
  variables = random_variables(model)
  x = np.random.default_rng(3).standard_normal((1, 400, 1)).astype(np.float32)
  run = jax.jit(model.apply)
  quiet, loud = run(variables, x), run(variables, 100 * x)
  np.testing.assert_array_equal(quiet.codes, loud.codes)
  np.testing.assert_allclose(
    100 * quiet.audio, loud.audio, atol=1e-4 * np.abs(loud.audio).max()
  )
  silent = run(variables, 0 * x)
  assert np.isfinite(silent.audio).all()
  total = lambda x: codec_outputs.loudness(x).sum()
  np.testing.assert_array_equal(jax.grad(total)(0 * x), 0)
  with pytest.raises(UserError, match="scale"):
    model.apply(variables, quiet.codes, method="decode")


@pytest.mark.parametrize("name", ["soundstream_tiny", "spectral_tiny"])
def test_bfloat16_computes_in_bfloat16_only_inside(name):
  make = lambda dtype: codec.from_config(codec.preset(name, dtype=dtype))
  variables = random_variables(make("float32"))
  x = np.random.default_rng(4).standard_normal((1, 400, 1)).astype(np.float32)
  latents = lambda dtype: jax.jit(
    lambda v, x: make(dtype).apply(v, x, method="latents")
  )(variables, x)
  exact, rough = latents("float32"), latents("bfloat16")
  assert rough.dtype == jnp.float32
  error = np.abs(exact - rough).max() / np.abs(exact).max()
  assert 1e-4 < error < 5e-2
  out = jax.eval_shape(make("bfloat16").apply, variables, x)
  dtypes = {str(s.dtype) for s in jax.tree.leaves(out)}
  assert dtypes == {"float32", "int32", "bool"}


@pytest.mark.parametrize(
  "name, changes",
  [("soundstream_tiny", dict(dilations=(1,))), ("spectral_tiny", {})],
)
def test_rematerialisation_changes_no_parameter_and_no_result(name, changes):
  """Recomputing needs the same names, or checkpoints would not load."""
  make = lambda remat: codec.from_config(
    codec.preset(name, remat=remat, **changes)
  )
  variables = random_variables(make(False))
  x = np.random.default_rng(5).standard_normal((1, 200, 1)).astype(np.float32)

  def gradient(remat):
    loss = lambda p: (
      make(remat).apply({**variables, "params": p}, x).audio.sum()
    )
    return jax.jit(jax.grad(loss))(variables["params"])

  for a, b in zip(
    jax.tree.leaves(gradient(False)),
    jax.tree.leaves(gradient(True)),
    strict=True,
  ):
    np.testing.assert_allclose(a, b, atol=1e-5 * (1 + np.abs(a).max()))


def test_configs_round_trip_and_mistakes_are_named():
  for name in codec.PRESETS:
    config = codec.preset(name)
    back = codec.from_config(json.loads(json.dumps(config)))
    assert back == codec.from_config(config)
    spectral = config["topology"] == "spectral"
    same = "spectral_small" if spectral else "encodec_24khz"
    assert set(config) == set(codec.preset(same))
  small = codec.from_config(codec.preset("encodec_24khz", filters=16, dim=64))
  assert (small.filters, small.dim, small.lstm_layers) == (16, 64, 2)
  for call, match in [
    (lambda: codec.preset("encodec_24"), "no codec preset 'encodec_24'"),
    (lambda: codec.preset("encodec_tiny", filter=3), "no field 'filter'"),
    (lambda: codec.from_config({"norms": 1}), "no field 'norms'"),
    (lambda: codec.from_config({"norm": "batch"}), "norm of the codec is 'ba"),
    (lambda: codec.from_config({"ratios": [4, 0.5]}), "a whole number from"),
  ]:
    with pytest.raises(UserError, match=match):
      call()
