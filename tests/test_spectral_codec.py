"""Spectral codecs: what they have that others do not.

Batches, streams, long clips and exports are tested together with those of other
codecs (test_codec_model.py, test_streaming.py, test_stablehlo.py), the
transform in test_mdct.py.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import soundfile
from random_codec import write_random_codec
from test_codec_model import random_variables

import mmdcodec
from mmdcodec.cli.main import main
from mmdcodec.errors import UserError
from mmdcodec.losses import spectral
from mmdcodec.models import codec, spectral_bins
from mmdcodec.parallel import mesh as mesh_lib
from mmdcodec.train import loop, spectral_profile
from mmdcodec.train.codec_task import CodecTask


def tiny(**changes):
  return codec.from_config(codec.preset("spectral_tiny", **changes))


def shapes_of(model):
  x = jnp.zeros((1, model.stride, model.channels))
  return jax.eval_shape(model.init, jax.random.key(0), x)


def test_presets_have_the_fields_of_their_topology():
  with pytest.raises(UserError, match="'spectral', which has no field 'norm'"):
    codec.preset("spectral_tiny", norm="none")
  with pytest.raises(UserError, match="has no field 'width'"):
    codec.preset("encodec_24khz", width=3)
  with pytest.raises(UserError, match="even number of samples per frame"):
    tiny(ratios=(5, 3)).network  # noqa: B018


@pytest.mark.parametrize(
  "name, channels, stride, bits, megabytes",
  [
    ("spectral_small", 1, 480, 3200, 4.2),
    ("spectral_24khz", 1, 480, 4000, 3.91),
    ("spectral_48khz", 2, 960, 8000, 43.98),
  ],
)
def test_presets_are_as_large_as_they_say(
  name, channels, stride, bits, megabytes
):
  """In bfloat16, with codebooks; spectral_24khz stays below 4 MB."""
  model = codec.from_config(codec.preset(name))
  assert (model.channels, model.stride) == (channels, stride)
  assert (model.frame_rate, model.bits_per_second()) == (50, bits)
  size = 2e-6 * sum(leaf.size for leaf in jax.tree.leaves(shapes_of(model)))
  assert size == pytest.approx(megabytes, abs=0.01)


@pytest.mark.parametrize(
  "rate, frame_rate, channels",
  [
    (24000, 25, 1),
    pytest.param(32000, 50, 1, marks=pytest.mark.slow),
    (44100, 50, 2),
    pytest.param(24000, 100, 2, marks=pytest.mark.slow),
  ],
)
def test_any_rate_and_frame_rate(rate, frame_rate, channels):
  """Frames and samples of three and a half frames, and sound in all of them."""
  hop = rate // frame_rate
  small = dict(width=4, encoder_blocks=1, decoder_blocks=1, codebooks=3)
  ratios = (hop // 20, 20) if hop % 20 == 0 else (hop // 6, 6)
  model = tiny(rate=rate, ratios=ratios, channels=channels, **small)
  assert model.frame_rate == frame_rate and model.stride == hop
  variables = random_variables(model)
  x = np.random.default_rng(4).standard_normal((1, 7 * hop // 2, channels))
  out = jax.jit(model.apply)(variables, x.astype(np.float32))
  assert out.codes.shape == (1, 4, 3) and out.audio.shape == x.shape
  assert np.abs(out.audio).reshape(7, hop // 2, -1).mean(1).min() > 0


@pytest.mark.parametrize("causal", [True, False])
def test_latents_see_half_a_frame_more_than_blocks_do(causal):
  """Also the reach by which long clips are cut."""
  model = tiny(causal=causal)
  variables, stride, at = random_variables(model), model.stride, 15
  x = np.random.default_rng(0).standard_normal((1, 30 * stride, 1))

  @jax.jit
  def gradient(x):
    take = lambda x: model.apply(variables, x, method="latents")[0, at].sum()
    return jax.grad(take)(x)

  touched = np.flatnonzero(gradient(x.astype(np.float32)))
  left, right = (4, 0) if causal else (2, 2)  # two blocks of three taps
  half = stride // 2
  assert touched[0] == (at - left) * stride - half
  assert touched[-1] == (at + 1 + right) * stride + half - 1


def test_training_normalises_latents_and_keeps_their_statistics():
  """Batch statistics of the valid frames alone; then constants."""
  model = tiny()
  variables = random_variables(model)
  x = np.random.default_rng(1).standard_normal((3, 400, 1)).astype(np.float32)
  lengths = jnp.array([400, 200, 100])

  @jax.jit
  def train(variables, x):
    return model.apply(
      variables,
      x,
      lengths,
      train=True,
      rngs={"quantize": jax.random.key(0)},
      mutable=["codebook"],
    )

  garbage = np.where(np.arange(400)[:, None] < lengths[:, None, None], x, 7)
  out, changed = train(variables, garbage)
  rows = np.asarray(out.z)[np.asarray(out.frame_mask)]
  assert len(rows) == 20 + 10 + 5
  np.testing.assert_allclose(rows.mean(0), 0, atol=1e-5)
  np.testing.assert_allclose(rows.std(0), 1, rtol=1e-3)
  before = variables["codebook"]["encoder"]["norm"]
  after = changed["codebook"]["encoder"]["norm"]
  # What was normalised is what the constants moved towards, by 5 %.
  raw = jax.jit(lambda v, x: model.apply(v, x, lengths, method="latents"))(
    variables, x
  )
  scale = np.sqrt(before["variance"] + 1e-6)
  raw = np.asarray(raw * scale + before["mean"])[np.asarray(out.frame_mask)]
  for name, now in (("mean", raw.mean(0)), ("variance", raw.var(0))):
    expected = 0.95 * before[name] + 0.05 * now
    np.testing.assert_allclose(after[name], expected, rtol=1e-4, atol=1e-5)


def test_before_the_quantizer_starts_latents_pass_and_codebooks_rest():
  model = tiny()
  variables = random_variables(model)
  x = np.random.default_rng(2).standard_normal((1, 400, 1)).astype(np.float32)

  @jax.jit
  def train(x):
    return model.apply(
      variables,
      x,
      train=True,
      quantize=False,
      rngs={"quantize": jax.random.key(0)},
      mutable=["codebook"],
    )

  out, changed = train(x)
  np.testing.assert_array_equal(out.quantized, out.z)
  old, new = (c["codebook"]["quantizer"] for c in (variables, changed))
  jax.tree.map(np.testing.assert_array_equal, old, dict(new))


def test_profile_is_the_level_of_the_music():
  """Of white noise it is its deviation, of a quiet channel that channel's."""
  model = tiny(channels=2)
  rng = np.random.default_rng(3)
  middle, side = rng.standard_normal((2, 40, 800)) * [[[0.1]], [[0.001]]]
  x = np.stack([middle + side, middle - side], -1) / 2**0.5
  half = np.full(40, 400)
  x[:, 400:] = 0.0  # silence does not count
  batches = iter([{"audio": jnp.float32(x), "lengths": half}] * 1000)
  old = {"codebook": {"profile": {"magnitude": jnp.ones((2, 20))}}}
  said = []
  found = spectral_profile.measure(model, old, batches, 40, said.append)
  assert said == ["measuring the levels of 600 s of the training data"]
  profile = found["codebook"]["profile"]["magnitude"]
  # The mean log magnitude of a Rayleigh variable of mean square 1. Windows with
  # a corner, in the first and the last of 20 frames, leak between bins.
  rayleigh = np.exp(-np.euler_gamma / 2)
  np.testing.assert_allclose(profile[0], 0.1 * rayleigh, rtol=0.1)
  np.testing.assert_allclose(profile[1], 0.001 * rayleigh, rtol=0.1)


def test_the_profile_is_the_same_on_8_devices(monkeypatch):
  """Up to rounding, which depends on the clips of a device."""
  monkeypatch.setattr(spectral_profile, "SECONDS", 8)
  model, found = tiny(channels=2), []
  x = 0.1 * np.random.default_rng(5).standard_normal((8, 400, 2))
  batch = {"audio": np.float32(x), "lengths": np.full(8, 400, np.int32)}
  for devices in (1, 8):
    mesh = mesh_lib.make_mesh({}, jax.devices()[:devices])
    with jax.set_mesh(mesh):
      old = {"codebook": {"profile": {"magnitude": jnp.ones((2, 20))}}}
      placed = mesh_lib.place(batch, mesh)
      new = spectral_profile.measure(
        model, old, iter([placed] * 20), 8, lambda line: None
      )
    found.append(np.asarray(new["codebook"]["profile"]["magnitude"]))
  np.testing.assert_allclose(*found, rtol=1e-6)


def test_a_silent_channel_has_the_profile_1():
  nothing = np.zeros((1, 20)), np.zeros(1)
  np.testing.assert_array_equal(spectral_bins.profile_of(*nothing), 1)


def test_gradients_are_finite_at_silence_and_at_impulses():
  """Of all losses, for the audio and for the parameters, and not all zero."""
  model = tiny()
  variables = random_variables(model)
  x = np.zeros((6, 400, 1), np.float32)
  x[range(1, 5), [0, 199, 210, 399]] = 1.0  # ends, a frame's end, its middle
  x[5] = 1.0 - 2 * (np.arange(400)[:, None] // 7 % 2)  # a full-scale square

  @jax.jit
  @jax.vmap
  def gradient(x):
    def loss(params, x):
      given = {**variables, "params": params}
      out, _ = model.apply(
        given,
        x[None],
        train=True,
        rngs={"quantize": jax.random.key(0)},
        mutable=["codebook"],
      )
      pair = x[None], out.audio
      total = spectral.multi_scale_mel(*pair, rate=8000, windows=(128, 512))
      total += spectral.multi_scale_stft(*pair, windows=(128,))
      return total + spectral.waveform_l1(*pair) + out.commitment

    return jax.grad(loss, (0, 1))(variables["params"], x)

  found = gradient(x)
  for leaf in jax.tree.leaves(found):
    assert np.isfinite(leaf).all()
  heard = np.abs(found[1]).max((1, 2))
  assert (heard[1:] > 1e-6).all()


def test_extreme_clips_are_coded_or_refused(tmp_path, fails):
  """By the library and the command: a sample, a square wave, NaN."""
  folder = write_random_codec(tmp_path / "codec", 0, "spectral_tiny")
  codec, out = mmdcodec.load(folder), tmp_path / "coded.mmdc"
  square = np.where(np.arange(900) // 7 % 2, 1.0, -1.0).astype(np.float32)
  for length in (1, 900):
    x, path = square[:length], tmp_path / f"{length}.wav"
    y = codec.decode(codec.encode(x), length=length)
    assert y.shape == (1, length, 1) and np.isfinite(y).all()
    soundfile.write(path, x, 8000, subtype="FLOAT")
    wav = str(tmp_path / "again.wav")
    model = ["--model", folder, "--force"]
    assert main(["encode", str(path), str(out), *model]) == 0
    assert main(["decode", str(out), wav, *model]) == 0
    found, _ = soundfile.read(wav)
    np.testing.assert_allclose(found, np.clip(y[0, :, 0], -1, 1), atol=1e-4)
  square[450] = np.nan
  soundfile.write(path, square, 8000, subtype="FLOAT")
  assert "NaN" in fails("encode", path, out, *model)
  with pytest.raises(UserError, match="NaN"):
    codec.encode(square)


def test_discriminators_do_not_come_before_codes():
  from mmdcodec.configs import encodec_24khz

  config = encodec_24khz.get_config("tiny").to_dict()
  config["quantizer_start"], config["adversarial"]["start"] = 5, 3
  with pytest.raises(UserError, match="at least quantizer_start, 5"):
    CodecTask(config)


@pytest.mark.slow
def test_a_run(dataset, tmp_path):
  """It measures the profile, starts the codebooks late and goes on alike."""
  from mmdcodec.configs import spectral_small

  from mmdcodec import bundle

  config = spectral_small.get_config("tiny")
  config.data.train = config.data.valid = str(dataset)
  said = []
  for name, steps in ("whole", (20,)), ("parts", (10, 20)):
    for config.steps in steps:
      loop.train(config, tmp_path / name, log=said.append)
  assert sum("measuring the levels" in line for line in said) == 2
  whole, parts = (
    bundle.read(tmp_path / name).variables for name in ("whole", "parts")
  )
  jax.tree.map(np.testing.assert_array_equal, whole, parts)
  profile = whole["codebook"]["profile"]["magnitude"]
  assert profile.shape == (1, 20) and np.ptp(profile) > 0
  task = CodecTask(config.to_dict())
  assert [task.phase(step) for step in (4, 5)] == ["continuous", None]
