"""`mmdcodec selftest` finds what is wrong, and says so."""

import contextlib
import importlib
import json
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmdcodec import platform, precision
from mmdcodec.cli.main import main
from mmdcodec.selftest import check, run

CHECKS = {each.name: each for each in run.CHECKS}


def scaled(factor):
  """A function whose results are all a little too large."""

  def plant(function):
    def wrong(*args, **options):
      found = function(*args, **options)
      grow = lambda x: x * np.asarray(factor, x.dtype)
      return jax.tree.map(grow, found)

    return wrong

  return plant


def without(first, last, axis=1):
  """A function that leaves out a part of its result."""

  def plant(function):
    def wrong(*args, **options):
      def drop(x):
        at = np.arange(x.shape[axis])
        keep = (at < first) | (at >= last)
        return x * keep.reshape(-1, *(1,) * (x.ndim - 1 - axis)).astype(x.dtype)

      return jax.tree.map(drop, function(*args, **options))

    return wrong

  return plant


def given(factor, which=0):
  """A function that gets one of its arguments a little too large."""

  def plant(function):
    def wrong(*args, **options):
      args = list(args)
      args[which] = args[which] * factor
      return function(*args, **options)

    return wrong

  return plant


def set_to(value):
  return lambda _: value


def with_scale(function):
  """Attention with a wrong scale of its logits."""

  def wrong(q, *args, scale=None, **options):
    return function(q, *args, scale=1.01 * q.shape[-1] ** -0.5, **options)

  return wrong


def without_top_p(function):
  """Draws from codes that top p leaves out."""
  return lambda *args, top_p, **options: function(*args, top_p=None, **options)


def by_more(share):
  """A function with right results and gradients that are too large."""

  def plant(function):
    def wrong(*args, **options):
      grow = lambda x: (1 + share) * x - share * jax.lax.stop_gradient(x)
      return jax.tree.map(grow, function(*args, **options))

    return wrong

  return plant


steeper = by_more(0.001)


def a_frame_late(function):
  """Codes of the frame after theirs."""
  return lambda frames: function(np.minimum(frames + 1, frames.max()))


def without_tile(function):
  """A sweep that leaves out the pairs of the first two blocks."""

  def wrong(tile, blocks, zeros, weights=None, axis_name=None):
    count = len(blocks[0].z)
    kept = np.ones((count, count), np.float32)
    kept[0, 1] = kept[1, 0] = 0
    kept = jnp.asarray(kept)
    weights = kept if weights is None else weights * kept
    return function(tile, blocks, zeros, weights, axis_name)

  return wrong


def kept(factor):
  """A cache that changes what it keeps."""

  def plant(function):
    def wrong(held, new, sources):
      seen, stored = function(held, new, sources)
      return seen, factor * stored

    return wrong

  return plant


def one_less(function):
  """Indices that are one too small."""
  return lambda *args, **options: np.maximum(function(*args, **options) - 1, 0)


def all_seen(function):
  """A mask that hides nothing."""
  return lambda *args: np.ones_like(function(*args))


def all_valid(function):
  """Padding that counts."""
  return lambda *args: jnp.ones_like(function(*args))


grown = scaled(1.05)
slow = pytest.mark.slow
PLANTS = [
  ("quantizer", "quantize.vector:nearest", given(1.05)),
  ("quantizer", "quantize.vector:embedding", scaled(1.001)),
  ("quantizer", "quantize.vector:statistics", without(0, 1, axis=0)),
  ("k-means", "quantize.vector:statistics", without(3, 4, axis=0)),
  ("patterns", "patterns:Pattern.revert", lambda f: lambda s, t: f(s, t[::-1])),
  ("sampling", "generation.sampling:sample", None),
  ("sampling", "generation.sampling:sample", without_top_p),
  ("entropy coder", "bitstream.entropy:_BACKOFF", set_to(25)),
  ("convolution", "nn.conv:conv", scaled(1.001)),
  ("convolution", "nn.conv:conv", without(3, 4)),
  ("convolution", "nn.conv:conv", steeper),
  ("transposed convolution", "nn.conv:conv_transpose", steeper),
  ("transposed convolution", "nn.conv:conv_transpose", without(8, 12)),
  ("folded convolution", "nn.folded_conv:_between_rows", scaled(1.001)),
  ("folded convolution", "nn.folded_conv:_between_rows", steeper),
  ("LSTM", "nn.lstm:lstm", scaled(1.001)),
  ("LSTM", "nn.lstm:lstm", steeper),
  ("convolution over axes", "nn.conv_nd:grouped_conv", scaled(1.001)),
  ("convolution over axes", "nn.conv_nd:fold_strides", given(1.001, 1)),
  ("convolution over axes", "nn.conv_nd:_plain_conv", steeper),
  ("convolution over axes", "nn.conv_nd:_folded_conv", without(3, 4)),
  ("norms", "nn.norms:weight_norm", scaled(1.001)),
  ("norms", "nn.norms:time_group_norm", steeper),
  ("norms", "nn.norms:unit_vectors", scaled(1.001)),
  ("rotary positions", "nn.positions:rotate", scaled(1.001)),
  ("rotary positions", "nn.positions:rotate", given(1.001)),
  ("sinusoids", "nn.positions:sinusoids", scaled(1.001)),
  ("relative positions", "nn.positions:look_up", without(8, 12, axis=2)),
  ("relative positions", "nn.positions:relative_logits", steeper),
  ("attention", "nn.attention:attend", with_scale),
  ("attention", "nn.attention:attend", steeper),
  ("attention, bfloat16", "nn.attention:attend", scaled(1.05)),
  ("attention, bfloat16", "nn.attention:attend", by_more(0.05)),
  ("sliding attention", "nn.sliding:attend", without(11, 19)),
  ("sliding attention", "nn.sliding:attend", steeper),
  ("sliding attention, cached", "nn.ring:store", kept(1.01)),
  ("sliding attention, cached", "nn.ring:plan", None),
  ("conformer attention", "nn.conformer_attention:with_chunk_before", None),
  ("STFT", "audio.transforms:hann", scaled(1.001)),
  ("mel", "audio.transforms:mel_filters", scaled(1.001)),
  ("MDCT", "nn.mdct:dct_iv", scaled(1.001)),
  ("Griffin-Lim", "nn.griffin_lim:MOMENTUM", set_to(0.9)),
  ("independence loss", "quantize.tiles:gradients", scaled(1.001)),
  ("independence loss", "quantize.pairs:sweep", without_tile),
  (
    "independence loss of streams, mmd",
    "quantize.derivatives:reordered",
    lambda f: lambda z, order: f(z, order[::-1]),
  ),
  (
    "independence loss of streams, mmd",
    "quantize.rows:standardized",
    given(1.01, 1),
  ),
  ("independence loss of streams, dhsic", "quantize.rows:_span", a_frame_late),
  ("independence loss of streams, dhsic", "quantize.rows:standardized", steeper),
  ("spectral losses", "losses.spectral:_frame_weight", without(5, 9, axis=2)),
  (
    "spectral losses",
    "losses.spectral:_nonempty_filters",
    without(3, 5, axis=0),
  ),
  ("adversarial losses", "losses.adversarial:_mean", scaled(1.001)),
  ("adversarial losses", "losses.adversarial:_mean", steeper),
  ("cross-entropy", "losses.cross_entropy:cross_entropy", steeper),
  ("contrastive losses", "losses.contrastive:contrastive", scaled(1.001)),
  ("balancer", "losses.balancer:gradient_norm", given(1.001)),
  ("SoundStream", "models.seanet:elu", scaled(1.001)),
  ("training, codec", "selftest.training:_losses", None),
  ("training, language model", "selftest.training:_losses", None),
]
SLOW_PLANTS = [
  ("splash attention", "nn.splash:_attend", without(256, 512)),
  ("splash attention", "nn.splash:_attend", steeper),
  (
    "independence loss, Pallas interpreter",
    "quantize.pallas_pairs:tiled",
    scaled(1.001),
  ),
  ("EnCodec", "nn.conv:continue_clip", scaled(1.01)),
  ("EnCodec", "nn.norms:weight_norm", scaled(1.001)),
  ("EnCodec, training", "nn.norms:weight_norm", steeper),
  ("spectral codec", "nn.convnext:mask_after", scaled(1.001)),
  ("spectral codec", "nn.mdct:imdct_piece", None),
  ("semantic tokenizer", "quantize.residual:encode", given(1.05)),
  ("language model, heads, drawing", "nn.cache:_put", given(1.05, 1)),
  ("language model, depth, drawing", "nn.cache:_put", given(1.05, 1)),
  ("language model, window, drawing", "nn.ring:plan", None),
  ("MusicLM, semantic stage", "nn.positions:look_up", scaled(1.01)),
  ("MusicLM, coarse stage", "models.token_conditions:length_mask", all_valid),
  ("MusicLM, fine stage", "models.token_lm:logits", scaled(1.01)),
  ("language model, heads, cached", "nn.cache:cross_keys", scaled(1.001)),
  ("language model, window, cached", "nn.ring:store", kept(1.01)),
  ("language model, heads, training", "models.token_lm:embed", scaled(1.001)),
  ("language model, depth, training", "nn.positions:look_up", scaled(1.01)),
  ("language model, window, training", "nn.positions:rotate", scaled(1.001)),
  ("joint tokenizer", "quantize.residual:encode", given(1.05)),
  ("melody tokenizer", "quantize.residual:encode", given(1.05)),
  ("stored outputs, semantic network", "models.semantic:mask_after", grown),
  ("stored outputs, w2v-BERT", "nn.positions:relative_logits", grown),
  ("stored outputs, HuBERT", "nn.attention:attend", grown),
  ("stored outputs, HuBERT, norms first", "nn.attention:attend", grown),
  ("stored outputs, MusicFM", "nn.positions:rotate", grown),
  ("stored outputs, joint embedding", "nn.attention:attend", grown),
  ("stored outputs, joint embedding, ResNet", "models.resnet:_halved", all_valid),
  ("stored outputs, melody embedding", "nn.attention:attend", grown),
  (
    "stored outputs, melody embedding, intervals",
    "models.intervals:intervals",
    without(2, 9, axis=2),
  ),
  ("stored outputs, CLAP", "models.htsat:shifted_mask", all_seen),
  ("stored outputs, T5", "nn.attention:attend", grown),
  ("stored outputs, T5, gated", "models.text_encoder:relative_buckets", one_less),
  ("stored outputs, musicnn", "models.musicnn:Affine.__call__", grown),
  ("stored outputs, discriminators", "models.wave_discriminators:halve", grown),
  ("stored outputs, stereo codec", "nn.norms:time_group_norm", grown),
  (
    "stored outputs, spectral codec of magnitudes",
    "nn.griffin_lim:MOMENTUM",
    set_to(0.9),
  ),
  ("stored outputs, conditions, text", "nn.attention:attend", grown),
  (
    "stored outputs, conditions, added",
    "models.conditioning:EncodedConditions.at",
    grown,
  ),
  (
    "independence loss, other kernels",
    "quantize.kernels:LaplacianKernel.roots",
    scaled(1.001),
  ),
  (
    "independence loss, several devices",
    "quantize.pairs:sweep",
    without_tile,
  ),
]


def hotter(function):
  def wrong(*args, temperature, **options):
    return function(*args, temperature=2 * temperature, **options)

  return wrong


def only_its_own(function):
  """Chunks without the one before."""

  def wrong(x, size):
    found = function(x, size)
    return found.at[:, :, :size].set(jnp.zeros((), found.dtype))

  return wrong


def late(function):
  """A piece whose overlap with the one before is lost."""

  def wrong(*args, overlap=None, **options):
    if overlap is not None:
      overlap = jax.tree.map(lambda x: 0.9 * x, overlap)
    return function(*args, overlap=overlap, **options)

  return wrong


def in_the_slot_before(function):
  """A ring in which a new token takes the slot of the one before it."""

  def wrong(*args):
    found = function(*args)
    return found.replace(slot=jnp.maximum(found.slot - 1, 0))

  return wrong


def apart(_):
  """Trainings whose second step has another gradient on several devices.

  Without the minutes that a training takes to compile.
  """

  def found(kind, devices):
    off = 0.006 * (len(devices) > 1)
    return [dict(loss=2.0, gradient_norm=3.0 + off * k) for k in range(2)]

  return found


SPECIAL = {"sample": hotter, "with_chunk_before": only_its_own}
SPECIAL |= {"_losses": apart}
SPECIAL |= {"imdct_piece": late, "plan": in_the_slot_before}


def plant_error(monkeypatch, path, plant):
  """Puts a wrong function, method or number in the place of another."""
  module, name = path.split(":")
  owner = importlib.import_module(f"mmdcodec.{module}")
  *outer, name = name.split(".")
  for part in outer:
    owner = getattr(owner, part)
  plant = plant or SPECIAL[name]
  monkeypatch.setattr(owner, name, plant(getattr(owner, name)))


@pytest.mark.parametrize(
  "name, path, plant",
  [
    *(
      pytest.param(*case, id=f"{case[1]}-{i}") for i, case in enumerate(PLANTS)
    ),
    *(
      pytest.param(*case, marks=slow, id=f"{case[0]}-{case[1]}")
      for case in SLOW_PLANTS
    ),
  ],
)
def test_planted_errors(name, path, plant, monkeypatch):
  """Catches a check that a wrong kernel passes.

  That the right one passes it is tested below, all at once.
  """
  # Programs without the error may be left.
  jax.clear_caches()
  plant_error(monkeypatch, path, plant)
  found = CHECKS[name].run(check.Devices(jax.devices()[0]))
  jax.clear_caches()
  assert found.problem is None and not found.passed
  assert f"{name} should {CHECKS[name].expected}, but" in found.sentence()


def test_every_check_is_tried():
  """Catches a check that nobody has seen fail."""
  assert {name for name, *_ in PLANTS + SLOW_PLANTS} == {*CHECKS}


@pytest.mark.slow
def test_all_is_well(tmp_path):
  """Catches a check that a right kernel does not pass, and broken benchmarks.

  On eight devices, the first of which is tested, and a CPU beside it.
  """
  first, second = jax.devices()[:2]
  report = run.run(30.0, devices=check.Devices(first, second))
  assert report.passed, report.sentences()
  assert not report.skipped
  shown = str(report)
  for row in report.rows:
    assert row.name in shown and row.seconds > 0
    for share in (row.peak, row.bandwidth):
      assert share is None or share > 0
  assert len(report.rows) >= 12
  # Only splash attention, on GPUs, and Pallas's interpreter, on TPUs, do not
  # apply somewhere else.
  assert all(outcome.applies for outcome in report.outcomes)


def measure(value):
  return lambda devices: {"one": 0.0, "two": value}


def broken(devices):
  raise ValueError("no such thing")


@pytest.fixture
def small(monkeypatch):
  """A self-test of three checks and no benchmark."""
  checks = (
    check.Check("good", "be right", measure(1e-6)),
    check.Check("wrong", "be right", measure(0.5)),
    check.Check("not finite", "be right", measure(np.nan)),
    check.Check("broken", "work", broken),
  )
  monkeypatch.setattr(run, "CHECKS", checks)
  monkeypatch.setattr(run, "BENCHMARKS", {})
  return checks


def test_command(small, capsys, tmp_path):
  """Catches an exit code of 0, and a failure that is not named."""
  path = tmp_path / "found.json"
  assert main(["selftest", "--json", str(path)]) == 1
  out, err = capsys.readouterr()
  assert out.count("FAILED") == 3
  assert err.splitlines() == [
    "mmdcodec: wrong should be right, but two is off by 0.5 (at most 1e-05).",
    "mmdcodec: not finite should be right, but two is off by nan (at most"
    " 1e-05).",
    "mmdcodec: broken should work, but raised ValueError: no such thing.",
  ]
  found = json.loads(path.read_text(), parse_constant=pytest.fail)
  assert [each["passed"] for each in found["checks"]] == [
    True, False, False, False,
  ]  # fmt: skip
  assert found["platform"] == "cpu" and not found["passed"]


def test_good_checks_and_json(small, monkeypatch, capsys):
  """Catches tables among the JSON."""
  monkeypatch.setattr(run, "CHECKS", small[:1])
  assert main(["selftest", "--json"]) == 0
  found = json.loads(capsys.readouterr().out)
  assert found["passed"] and found["checks"][0]["found"]["two"] == 1e-6


def test_time(small, monkeypatch, fails):
  """Catches checks that begin after the time, or that vanish without a word."""
  report = run.run(1e-9)
  assert report.skipped == ("good", "wrong", "not finite", "broken")
  assert "no time was left for: good" in str(report)
  assert "--minutes is 0; expected more than 0." in fails(
    "selftest", "--minutes", "0"
  )


def without_request():
  """In place of `precision.exact`: asks for nothing."""
  return contextlib.nullcontext()


@pytest.mark.parametrize("planted", [False, True])
@pytest.mark.parametrize("name", ["SoundStream", "language model, heads, drawing"])
def test_codes_are_made_as_users_make_them(
  name, planted, monkeypatch, tmp_path
):
  """Catches a check that asks for full precision in place of what it checks.

  Such a check passes on a GPU whose codes are wrong. What a program asks for is
  in its text.
  """
  jax.clear_caches()
  # The sampler asks for nothing on a CPU.
  monkeypatch.setattr(platform, "traced_for", lambda: "gpu")
  if planted:
    monkeypatch.setattr(precision, "exact", without_request)
  jax.config.update("jax_dump_ir_to", str(tmp_path))
  try:
    found = CHECKS[name].run(check.Devices(jax.devices()[0]))
  finally:
    jax.config.update("jax_dump_ir_to", "")
  jax.clear_caches()
  assert found.passed, found.sentence()
  lines = [
    line
    for path in tmp_path.iterdir()
    for line in path.read_text().splitlines()
    if re.search(r"stablehlo\.(dot|dot_general|convolution)\b", line)
  ]
  assert len(lines) > 10
  assert all(line.count("HIGHEST") == 2 for line in lines) != planted


def test_a_setting_of_less_precision(monkeypatch):
  """Catches a sound device that fails because the user's JAX asks for speed."""
  seen = []

  def measure(devices):
    seen.append(jax.config.jax_default_matmul_precision)
    with check.as_users():
      seen.append(jax.config.jax_default_matmul_precision)
    return {}

  with jax.default_matmul_precision("tensorfloat32"):
    check.Check("one", "be right", measure).run(check.Devices.find())
  assert seen == ["highest", None]


@pytest.mark.parametrize("platform, reference, whole", [
  ("cuda", None, False), ("cuda", "cpu", True), ("cpu", None, True),
])  # fmt: skip
def test_no_cpu_beside_the_device(platform, reference, whole):
  """Catches comparisons with the CPU that vanish without a word."""
  report = run.Report(
    "a chip", platform, 1, reference, (), None, (), (), {}, 1.0
  )
  found = report.to_dict()
  assert found["complete"] == whole
  assert found["skipped"] == ["comparisons with the CPU"] * (not whole)
  assert ('set it to "cuda,cpu"' in str(report)) != whole
