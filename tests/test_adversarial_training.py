"""Discriminators and balancer in codec training.

Must catch: gradients that are not those of the weighted losses, or reach the
wrong side; a state that is not released, or not taken over; an alarm that never
sounds, or always. `test_adversarial_schedule.py` has when they learn.
"""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from adversarial_steps import (
  CODECS,
  WEIGHTS,
  clips,
  configure,
  judge_and_learn,
  run_steps,
  started,
  tree_close,
)
from mmdcodec.configs import common

from mmdcodec import bundle
from mmdcodec.errors import UserError
from mmdcodec.losses import adversarial as losses
from mmdcodec.losses import balancer
from mmdcodec.parallel import mesh as mesh_lib
from mmdcodec.store import metrics
from mmdcodec.train import adversarial, loop
from mmdcodec.train import program as program_lib
from mmdcodec.train.codec_task import ALONE, CodecTask
from mmdcodec.train.task import make_task

pytestmark = pytest.mark.usefixtures("compile_fast")


def test_both_gradients_are_those_of_the_plain_losses():
  """Catches a lost or doubled loss, and a gradient on the wrong side."""
  config, state, batch = configure(), started(), clips(7)
  # The same dropped levels in both, so the step's own key.
  key, x = jax.random.key(3), batch["audio"]
  task = make_task(config.to_dict())
  (_, (_, extra, found)), grads = jax.jit(
    jax.value_and_grad(task.loss, has_aux=True)
  )(state.params, state.collections, state.extra, batch, key, state.step)
  extra, found = task.end_step(extra, found, state.step)

  judges = task.adversary.model

  def judged(params, x):
    pairs = judges.apply({"params": params}, x)
    return [logits for logits, _ in pairs], [f for _, f in pairs]

  def codec_loss(params):
    out, _ = task.codec.apply(
      {"params": params, **state.collections},
      x,
      batch["lengths"],
      train=True,
      rngs={"quantize": key},
      mutable=["codebook"],
    )
    fixed = state.extra["adversary"].params
    logits, features = judged(fixed, out.audio)
    # Padding is silent in both and counts in the mean over what there is.
    valid = batch["lengths"].sum() * x.shape[2]
    total = WEIGHTS["waveform"] * jnp.abs(x - out.audio).sum() / valid
    total += WEIGHTS["adversarial"] * losses.generator_loss(logits)
    total += WEIGHTS["features"] * losses.feature_matching(
      judged(fixed, x)[1], features
    )
    return total + out.commitment, out.audio

  (total, y), expected = jax.jit(jax.value_and_grad(codec_loss, has_aux=True))(
    state.params
  )
  tree_close(grads, expected)
  np.testing.assert_allclose(found["loss"], total, rtol=1e-5)

  before = state.extra["adversary"]
  value, expected = jax.jit(
    jax.value_and_grad(
      lambda params: losses.discriminator_loss(
        judged(params, x)[0], judged(params, y)[0]
      )
    )
  )(before.params)
  np.testing.assert_allclose(found["discriminator/loss"], value, rtol=1e-5)
  norm = optax.tree.norm(expected)
  np.testing.assert_allclose(
    found["discriminator/gradient_norm"], norm, rtol=1e-4
  )
  # Adam's first moment shows the gradient itself.
  moments = lambda state: state.opt_state[1][0].mu
  b1 = config.adversarial.optimizer.b1
  step = jax.tree.map(
    lambda new, old: (new - b1 * old) / (1 - b1),
    moments(extra["adversary"]),
    moments(before),
  )
  tree_close(step, expected, 1e-4)


def test_a_loss_that_keeps_the_metrics_to_itself():
  """Catches discriminators that silently stop learning.

  In a phase without them, nothing is missing.
  """

  class Own(CodecTask):
    def loss(self, *given, **options):
      value, (changed, extra, _) = super().loss(*given, **options)
      return value, (changed, extra, {"loss": value})

  config = configure(**{"adversarial.start": 1}).to_dict()
  mesh = mesh_lib.make_mesh({}, jax.devices()[:1])
  program = program_lib.make_program(Own(config), config, mesh)
  given = program.abstract, clips(0)
  _, row = jax.eval_shape(lambda *x: program.step(*x, ALONE), *given)
  assert "loss" in row
  with pytest.raises(UserError, match="Own hands no.*of CodecTask.loss"):
    jax.eval_shape(lambda *x: program.step(*x, None), *given)


@pytest.mark.parametrize(
  "left_out, balanced",
  [("adversarial", True), ("features", False)],
)
def test_either_loss_can_be_left_out(left_out, balanced):
  """Catches a run without feature matching, or without the other, that ends."""
  changes = {f"losses.{left_out}.weight": 0.0, "balancer.on": balanced}
  config = configure(**changes).to_dict()
  task = make_task(config)
  program = program_lib.make_program(task, config, mesh_lib.make_mesh())
  _, row = jax.eval_shape(program.step, program.abstract, clips(0, batch=8))
  heard = {name for name in adversarial.NAMES if name in row}
  assert heard == {*adversarial.NAMES} - {left_out}
  assert f"audio_gradient/{left_out}" not in row


@pytest.mark.slow
@pytest.mark.parametrize("topology", CODECS)
def test_all_discriminators_judge_any_codec(topology):
  """Catches audio of a shape or length that a discriminator cannot take."""
  judges = tuple(
    {"name": name, **fields}
    for name, fields in common.TINY_DISCRIMINATORS.items()
  )
  config = configure(topology, **{"adversarial.discriminators": judges})
  task = make_task(config.to_dict())
  mesh = mesh_lib.make_mesh({}, jax.devices()[:1])
  program = program_lib.make_program(task, config.to_dict(), mesh)
  _, row = jax.eval_shape(program.step, program.abstract, clips(0))
  heard = {n for n in row if n.startswith("audio_gradient/")}
  assert heard == {f"audio_gradient/{n}" for n in WEIGHTS}


def test_judging_moves_no_audio():
  """Catches clips that a mesh must carry around."""
  config = configure().to_dict()
  task = make_task(config)
  mesh = mesh_lib.make_mesh({}, jax.devices())
  adversary = started().extra["adversary"]
  x = mesh_lib.place(clips(0, batch=8), mesh)["audio"]
  with jax.set_mesh(mesh):
    step = jax.jit(functools.partial(judge_and_learn, task))
    text = step.lower(adversary, x, 0.5 * x, jnp.int32(3)).compile().as_text()
  assert "all-reduce" in text
  assert "collective-permute" not in text and "all-to-all" not in text


def test_what_is_reported_under_the_balancer():
  """Catches gradients that are reported without the balancer's scale."""
  config = configure(**{"balancer.on": True, "balancer.decay": 0.0, "seed": 3})
  config.losses.independence.weight = 1.0
  config.losses.independence.start = 1_000
  config.adversarial.warmup = 10
  task = make_task(config.to_dict())
  state = started().replace(extra=task.init_extra_state(jax.random.key(1)))
  names = {f"gradient/{name}" for name in WEIGHTS}
  found = task.inspect(state.replace(step=np.int32(10)), (clips(1),))
  assert names <= set(found)
  # Discriminators that nobody hears yet pull at nothing.
  found = task.inspect(state.replace(step=np.int32(9)), (clips(1),))
  assert names & set(found) == {"gradient/waveform"}
  # Without memory the scale is the weight's share over the norm of the moment.
  weights = {"a": 1.0, "b": 3.0}
  pulls = {"a": jnp.full((2, 3, 1), 5.0), "b": jnp.full((2, 3, 1), 0.1)}
  before = balancer.init(weights)
  pull, after, _ = balancer.balance(before, pulls, weights, decay=0.9)
  scales = balancer.scales(after, weights)
  expected = sum(scales[name] * pulls[name] for name in weights)
  np.testing.assert_allclose(pull, expected, rtol=1e-5)


def test_the_balanced_norm_is_that_of_a_worker_at_any_batch():
  """Catches commitment that weighs less the larger the batch is.

  Or more, the more parts it has, whose gradients are averaged.
  """
  norms = []
  for batch, parts in ((4, 1), (8, 1), (8, 2)):
    config = configure(
      **{"balancer.on": True, "batch": batch, "accumulate": parts}
    )
    task = make_task(config.to_dict())
    pulls = {
      name: jax.random.normal(jax.random.key(i), (batch // parts, 800, 1))
      for i, name in enumerate(sorted(WEIGHTS))
    }
    pull, _, _ = task.reconstruction.combine(pulls, balancer.init(WEIGHTS))
    norms.append(float(jnp.linalg.norm(pull, axis=(1, 2)).sum()))
  np.testing.assert_allclose(norms, norms[0], rtol=0.05)


@pytest.mark.slow
def test_balanced_shares_reach_the_codec():
  """Catches weights that act on the losses' own scales under the balancer."""
  rows, state = {}, None
  for gain in (1.0, 100.0):
    config = configure(
      **{
        "balancer.on": True,
        "losses.adversarial.weight": 0.0,
        "losses.features.weight": 0.0,
        "losses.waveform.weight": gain,
        "losses.commitment.weight": 0.0,
        "optimizer.clip": 0.0,
      }
    )
    state = state or run_steps(config, 0)[1]
    rows[gain] = run_steps(config, 3, state)[0]
  for one, other in zip(rows[1.0], rows[100.0], strict=True):
    np.testing.assert_allclose(
      one["gradient_norm"], other["gradient_norm"], rtol=1e-4
    )
    assert one["audio_gradient/waveform"] > 0


def test_the_alarm_of_silent_discriminators(monkeypatch):
  """Catches discriminators that have won, and nobody says so."""
  before = started().extra["adversary"]
  before = before.replace(silent=jnp.int32(adversarial.SILENT_STEPS - 1))
  task = make_task(configure().to_dict())
  x = jnp.asarray(clips(3)["audio"])

  def step():
    # A function of its own, so that it is traced with the losses of now.
    run = jax.jit(lambda *given: judge_and_learn(task, *given))
    after, *_, found = run(before, x, 0.5 * x, jnp.int32(9))
    return after.silent, task.warnings(metrics.flatten(found, "train"))

  assert step() == (0, [])
  nothing = lambda real, fake, kind: 0.0 * sum(map(jnp.sum, real))
  monkeypatch.setattr(losses, "discriminator_loss", nothing)
  silent, (words,) = step()
  assert silent == adversarial.SILENT_STEPS
  assert "discriminators" in words and "adversarial.every" in words


@pytest.mark.slow
def test_a_bundle_hands_the_discriminators_on(tmp_path, dataset, monkeypatch):
  """Catches released codecs that can't be trained on adversarially."""
  config = configure(steps=2, save_every=2, log_every=1)
  config.data.train = str(dataset)
  lines = []
  loop.train(config, tmp_path / "run", log=lines.append)
  bundle.export(tmp_path / "run", tmp_path / "bundle")
  names = {path.name for path in (tmp_path / "bundle").iterdir()}
  assert names == {
    bundle.CONFIG_FILE, bundle.WEIGHTS_FILE, bundle.DISCRIMINATORS_FILE
  }  # fmt: skip
  released = bundle.read(
    tmp_path / "bundle", discriminators=True
  ).discriminators
  bundle.load(tmp_path / "bundle")
  bundle.export(tmp_path / "run", tmp_path / "bundle", force=True)

  config.init_from = str(tmp_path / "bundle")
  config.adversarial.optimizer.learning_rate = 0.0
  loop.train(config, tmp_path / "next", log=lines.append)
  after = bundle.read(tmp_path / "next", discriminators=True).discriminators
  chex.assert_trees_all_equal(after, released)
  # Other discriminators begin anew.
  config.adversarial.discriminators = (
    dict(name="multi_scale_stft", filters=3, windows=(64,)),
  )
  monkeypatch.setattr(adversarial, "SILENT_STEPS", 0)
  loop.train(config, tmp_path / "other", log=lines.append)
  assert any("has other discriminators" in line for line in lines)
  assert any(line.startswith("WARNING: the discr") for line in lines)
  with pytest.raises(UserError, match="adversarial.discriminators"):
    config.steps = 4
    loop.train(config, tmp_path / "next", log=lines.append)


@pytest.mark.parametrize(
  "key, value, words",
  [
    ("adversarial.loss", "wasserstein", "least_squares"),
    ("adversarial.discriminators", (), "discriminators"),
    ("adversarial.optimizer.warmup", 20, "optimizer.warmup is 20.*only 20"),
  ],
)
def test_mistakes_are_named(key, value, words):
  """Catches a setting that is silently ignored, or a traceback."""
  with pytest.raises(UserError, match=words):
    make_task(configure(**{key: value}).to_dict())
