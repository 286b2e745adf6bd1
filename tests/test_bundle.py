"""Bundles on disk, and the codec that they load as."""

import json

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from random_codec import TOPOLOGIES

import mmdcodec
from mmdcodec import bundle, platform
from mmdcodec.audio import files
from mmdcodec.errors import UserError
from mmdcodec.models import codec as codec_model
from mmdcodec.models import weights
from mmdcodec.tokenizers import loaded_codec

each_topology = pytest.mark.parametrize("saved", TOPOLOGIES, indirect=True)


@pytest.fixture(scope="module")
def saved(request, tmp_path_factory):
  """(folder, variables) of a tiny codec with codebooks fitted to noise."""
  config = codec_model.preset(getattr(request, "param", TOPOLOGIES[0]))
  model = codec_model.from_config(config)
  x = jax.random.normal(jax.random.key(0), (2, 4000, 1))
  variables = dict(jax.jit(model.init)(jax.random.key(1), x))
  _, changed = jax.jit(
    lambda v, x: model.apply(
      v, x, train=True, rngs={"quantize": jax.random.key(2)},
      mutable=["codebook"],
    )
  )(variables, x)  # fmt: skip
  variables |= changed
  folder = tmp_path_factory.mktemp("bundles") / "tiny"
  bundle.save(folder, {"kind": "codec", "model": config}, variables)
  return folder, variables


@pytest.fixture(scope="module")
def codec(saved):
  """The loaded bundle."""
  return mmdcodec.load(saved[0])


def noise(*shape, seed=3):
  return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


@each_topology
def test_every_array_comes_back(saved, codec):
  """Catches arrays that change their shape, dtype or value on disk."""
  chex.assert_trees_all_equal(dict(saved[1]), dict(codec.variables))
  assert {p.name for p in saved[0].iterdir()} == {
    "config.json",
    "model.safetensors",
  }


def test_weights_are_its_own(codec):
  """Catches a codec that changes with the arrays that it was made of."""

  def aligned(leaf):
    # As JAX takes over without a copy: at a multiple of 64 bytes.
    leaf = np.asarray(leaf)
    room = np.empty(leaf.nbytes + 64, np.uint8)
    start = -room.ctypes.data % 64
    array = room[start : start + leaf.nbytes].view(leaf.dtype)
    array = array.reshape(leaf.shape)
    array[...] = leaf
    return array

  given = jax.tree.map(aligned, codec.variables)
  made = loaded_codec.LoadedCodec(codec.config, given)
  for leaf in jax.tree.leaves(given):
    leaf[...] = 0
  chex.assert_trees_all_equal(made.variables, codec.variables)


@each_topology
def test_half_precision_is_only_how_weights_are_stored(saved, codec):
  """Catches codes that depend on a division in bfloat16."""
  as_type = lambda tree, dtype: jax.tree.map(
    lambda x: x if x.dtype == bool else np.asarray(x, dtype), tree
  )
  half = as_type(codec.variables, jnp.bfloat16)
  x = noise(1, 1234, 1)
  made, same = (
    loaded_codec.LoadedCodec(codec.config, v)
    for v in (half, as_type(half, np.float32))
  )
  np.testing.assert_array_equal(made.encode(x), same.encode(x))


@each_topology
def test_codes_are_those_of_the_model_alone(saved, codec):
  """Catches padding to a bucket that reaches the codes or the audio."""
  x = noise(1, 1234, 1)
  direct = codec.model.apply(
    codec.variables, jnp.asarray(x), method="encode"
  ).codes
  codes = codec.encode(x)
  np.testing.assert_array_equal(codes, direct)
  assert len(np.unique(codes)) > 3
  y = codec.model.apply(codec.variables, direct, method="decode")
  np.testing.assert_allclose(codec.decode(codes), y, atol=1e-5)
  assert codec.decode(codes, length=1234).shape == (1, 1234, 1)
  lengths = np.array([1234, 777])
  both = np.concatenate([x, noise(1, 1234, 1, seed=4)])
  frames = -(-777 // codec.model.stride)
  np.testing.assert_array_equal(
    codec.encode(both, lengths=lengths)[1, :frames],
    codec.encode(both[1:, :777])[0],
  )


def test_accepted_shapes_and_rates(codec):
  """Catches channels taken for samples, and audio of another rate or width."""
  x = noise(1200)
  one = codec.encode(x)
  np.testing.assert_array_equal(codec.encode(x[:, None]), one)
  np.testing.assert_array_equal(
    codec.encode(jnp.asarray(x)[None, :, None]), one
  )
  np.testing.assert_array_equal(
    codec.encode(np.stack([x, x], -1)),
    one,  # stereo of equal channels
  )
  assert codec.encode(x, codebooks=2).shape == (*one.shape[:2], 2)
  np.testing.assert_array_equal(codec.encode(x, codebooks=2), one[..., :2])
  # One second at another rate is one second at the codec's.
  other = codec.encode(noise(44_100), rate=44_100)
  assert other.shape[1] == codec.frame_rate


def test_time_as_the_last_axis_is_recognised(codec, tmp_path):
  """Catches advice that leaves a user of PyTorch's layout alone."""
  x = noise(1200)
  turned = "shape .* np.swapaxes"
  for given in (x[None], np.stack([x, x]), np.stack([x, x])[None]):
    with pytest.raises(UserError, match=turned):
      codec.encode(given)
    with pytest.raises(UserError, match="time last"):
      files.write(tmp_path / "a.wav", given[-1:].reshape(1, -1), rate=8000)
  codes = np.concatenate([codec.encode(x)] * 2, axis=1)
  with pytest.raises(UserError, match=turned):
    codec.decode(np.swapaxes(codes, 1, 2))
  with pytest.raises(UserError) as error:
    codec.encode(np.zeros((1, 2, 3, 4)))
  assert "swapaxes" not in str(error.value)
  assert f"{codec.rate} Hz, 1 channel" in repr(codec)


@pytest.mark.slow
def test_chunks_of_any_length(tmp_path):
  """Catches scales, frames or samples lost when a chunked clip is padded."""
  config = codec_model.preset("encodec_stereo_tiny")
  model = codec_model.from_config(config)
  size, hop = model.chunk
  x = jax.random.normal(jax.random.key(0), (2, size, 2))
  variables = dict(jax.jit(model.init)(jax.random.key(1), x))
  bundle.save(tmp_path / "b", {"kind": "codec", "model": config}, variables)
  codec = mmdcodec.load(tmp_path / "b")
  encode = jax.jit(lambda x: model.apply(variables, x, method="encode"))
  decode = jax.jit(
    lambda codes, scale, lengths: model.apply(
      variables, codes, scale=scale, lengths=lengths, method="decode"
    )
  )
  for samples in (hop - 3, 2200, 3 * hop + 7):
    x = noise(1, samples, 2)
    direct = encode(x)
    codes, scale = codec.encode(x, return_scale=True)
    np.testing.assert_array_equal(codes, direct.codes)
    np.testing.assert_allclose(scale, direct.scale, rtol=1e-6)
    y = decode(direct.codes, direct.scale, np.array([samples]))[:, :samples]
    found = codec.decode(codes, scale=scale, length=samples)
    np.testing.assert_allclose(found, y, atol=1e-5)
    whole = codec.decode(codes, scale=scale)
    assert samples <= whole.shape[1] < samples + model.stride
    sure = samples - size  # what lies before the last chunk's end is settled
    np.testing.assert_allclose(
      whole[:, : max(sure, 0)], y[:, : max(sure, 0)], atol=1e-5
    )


@pytest.mark.parametrize(
  "call, words",
  [
    (lambda c: c.encode(np.zeros((2, 0, 1))), "at least one sample"),
    (lambda c: c.encode(np.full(100, np.nan)), "NaN"),
    (lambda c: c.encode(np.zeros((1, 2, 3, 4))), "shape"),
    (lambda c: c.encode(np.zeros(100), codebooks=9), "codebooks"),
    (lambda c: c.encode(np.zeros(100), lengths=[101]), "lengths"),
    (lambda c: c.decode(np.zeros((1, 5, 99), int)), "codebooks"),
    (lambda c: c.decode(np.full((1, 5, 2), 32)), "0 to"),
    (lambda c: c.decode(np.zeros((1, 0, 2), int)), "no frames"),
    (lambda c: c.decode(np.zeros((1, 5, 2), int), length=10**6), "length"),
  ],
)
def test_mistakes_are_named(codec, call, words):
  """Catches nonsense that is coded, and errors out of the depth of JAX."""
  with pytest.raises(UserError, match=words):
    call(codec)


def test_buckets():
  """Catches too many programs, too much padding, or a length cut off."""
  sizes = [platform.bucket(n) for n in range(1, 5000)]
  assert all(s >= n for n, s in enumerate(sizes, 1))
  assert all(s <= 1.25 * n for n, s in enumerate(sizes, 1))
  assert sizes == sorted(sizes)
  assert len(set(sizes)) <= 8 + 4 * 10


def test_a_folder_is_not_overwritten(saved, tmp_path):
  """Catches a bundle, or worse, other files, lost to an export."""
  folder, variables = saved
  config = {"kind": "codec", "model": codec_model.preset("soundstream_tiny")}
  with pytest.raises(UserError, match="--force"):
    bundle.save(folder, config, variables)
  (tmp_path / "thesis.tex").write_text("!")
  (tmp_path / "model.safetensors").write_text("of somebody else")
  with pytest.raises(UserError, match="another name"):
    bundle.save(tmp_path, config, variables, force=True)
  assert (tmp_path / "thesis.tex").exists()
  # A training run that has just begun: nothing but its configuration.
  begun = tmp_path / "begun"
  begun.mkdir()
  (begun / "config.json").write_text("{}")
  with pytest.raises(UserError, match="another name"):
    bundle.save(begun, config, variables, force=True)
  assert (begun / "config.json").read_text() == "{}"
  copy = tmp_path / "copy"
  bundle.save(copy, config, variables, discriminators={"bias": noise(2)})
  bundle.save(copy, config, variables, force=True)
  assert {p.name for p in tmp_path.iterdir()} == {
    "thesis.tex",
    "model.safetensors",
    "begun",
    "copy",
  }
  assert not (copy / "discriminators.safetensors").exists()


def test_damaged_bundles_are_refused(saved, tmp_path):
  """Catches a model that loads with weights missing, cut or of another one."""
  folder, variables = saved
  with pytest.raises(UserError, match="no model"):
    mmdcodec.load(tmp_path)
  config = json.loads((folder / "config.json").read_text())

  def copy(name, config=config, weights=None):
    new = tmp_path / name
    new.mkdir()
    (new / "config.json").write_text(
      config if isinstance(config, str) else json.dumps(config)
    )
    weights = weights or (folder / "model.safetensors").read_bytes()
    (new / "model.safetensors").write_bytes(weights)
    return new

  half = (folder / "model.safetensors").read_bytes()[:2000]
  wrong = {**config, "model": {**config["model"], "filters": 8}}
  kind = {**config, "kind": "toaster"}
  for path, words in [
    (copy("json", "{"), "JSON"),
    (copy("half", weights=half), "damaged"),
    (copy("wrong", wrong), "do not fit"),
    (copy("kind", kind), "toaster"),
  ]:
    with pytest.raises(UserError, match=words):
      mmdcodec.load(path)
  for name in ("config.json", "model.safetensors"):
    (path := copy(f"without {name}") / name).unlink()
    with pytest.raises(UserError, match=f"has no {name}.*export"):
      mmdcodec.load(path.parent)


def test_only_training_on_reads_the_discriminators(saved, tmp_path):
  """Catches a codec lost, or loaded slowly, for what it does not need."""
  folder, variables = saved
  config = json.loads((folder / "config.json").read_text())
  critics = {"scale": {"kernel": noise(3, 1, 2)}}
  path = tmp_path / "adversarial"
  bundle.save(path, config, variables, discriminators=critics)
  found = bundle.read(path, discriminators=True).discriminators
  np.testing.assert_array_equal(
    found["scale"]["kernel"], critics["scale"]["kernel"]
  )
  ruined = tmp_path / "ruined"
  critics = {"a": np.full(2, np.inf)}
  bundle.save(ruined, config, variables, discriminators=critics)
  mmdcodec.load(ruined)
  with pytest.raises(UserError, match="a holds NaN or infinite values"):
    bundle.read(ruined, discriminators=True)
  (path / "discriminators.safetensors").write_bytes(b"cut off")
  mmdcodec.load(path)
  with pytest.raises(UserError, match="discriminators.* damaged"):
    bundle.read(path, discriminators=True)


@each_topology
def test_the_hash_names_the_weights(saved, codec):
  """Catches streams of one model decoded by another."""
  folder, variables = saved
  assert mmdcodec.load(folder).hash == codec.hash
  changed = jax.tree.map(np.array, dict(variables))
  changed["codebook"]["quantizer"]["sum"][0, 0, 0] += 1e-3
  assert loaded_codec.fingerprint(codec.config, changed) != codec.hash


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32", "float64"])
def test_values_that_are_no_numbers_are_found_in_any_block(monkeypatch, dtype):
  """Catches an unchecked last block, and a sum that overflows by itself."""
  monkeypatch.setattr(weights, "_BLOCK", 4)
  largest = jnp.finfo(dtype).max
  for shape in ((), (4,), (3, 3), (0, 2)):
    array = np.full(shape, largest, dtype)
    assert weights._problem(array, jnp.float32) is None
    for value in (np.nan, np.inf, -np.inf):
      if array.size:
        array[(-1,) * array.ndim] = value
        assert "infinite" in weights._problem(array, jnp.float32)
