"""The independence loss in codec training.

Must catch: a loss that acts at the wrong time, with a wrong weight or sign, on
the wrong streams or on padding; other random numbers once it is on; a
macro-batch whose gradient is not that of one large batch, or that needs its
memory; batches lost by a restart; a loss of each device instead of the batch.
"""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmdcodec import patterns, platform
from mmdcodec.errors import UserError
from mmdcodec.nn.conv import frames, length_mask
from mmdcodec.parallel import mesh as mesh_lib
from mmdcodec.quantize.independence import independence_loss
from mmdcodec.store import metrics
from mmdcodec.store.checkpoints import Checkpoints
from mmdcodec.train import (
  config_checks,
  config_files,
  gradients,
  independence_term,
  loop,
)
from mmdcodec.train import program as program_lib
from mmdcodec.train.task import make_task

# Each of them compiles in seconds.
CODECS = {
  "seanet": (
    "--config=codec_small:tiny",
    "--config.model.filters=2",
    "--config.model.lstm_layers=0",
    "--config.model.norm=none",
  ),
  "spectral": (
    "--config=spectral_small:tiny",
    "--config.quantizer_start=0",
    "--config.losses.stft.weight=0.0",
    "--config.losses.commitment.weight=1.0",
    "--config.optimizer.warmup=0",
  ),
}


def configure(*more, topology="seanet", **loss):
  """A small codec: 40 frames a clip, 296 rows a batch."""
  config = config_files.parse(
    [
      *CODECS[topology],
      "--config.data.seconds=0.1",
      "--config.losses.mel.weight=0.0",
      "--config.losses.waveform.weight=1.0",
      *more,
    ]
  )
  config.model.ratios = (20,)
  # Wide enough for four codebooks of 16 standardised dimensions, E d^2 = 128.
  loss = {"kernel.radii": (2.0, 8.0), **loss}
  config.losses.independence.update_from_flattened_dict(loss)
  return config.to_dict()


def clips(seed, batch=8, samples=800):
  """Noise under a slow envelope, and two clips that end early."""
  rng = np.random.default_rng(seed)
  x = rng.standard_normal((batch, samples, 1)).cumsum(1) / 30
  x *= np.sin(np.linspace(0, 9, samples) * rng.uniform(1, 3, (batch, 1)))[
    ..., None
  ]
  lengths = np.full(batch, samples, np.int32)
  lengths[1], lengths[-1] = samples // 2, samples - 50
  x *= np.arange(samples)[:, None] < lengths[:, None, None]
  return {"audio": x.astype(np.float32), "lengths": lengths}


def make(config, devices=1, shape=None):
  task = make_task(config)
  mesh = mesh_lib.make_mesh(shape or {}, jax.devices()[:devices])
  return task, mesh, program_lib.make_program(task, config, mesh)


@functools.cache
def started(topology="seanet"):
  """Parameters and codebooks after the k-means of a first batch."""
  _, mesh, program = make(configure(topology=topology))
  with jax.set_mesh(mesh):
    state = program.init(jax.random.key(0))
    state, _ = program.step(state, mesh_lib.place(clips(100), mesh))
  return jax.device_get((state.params, state.collections))


def close(found, expected, tolerance=1e-5):
  """Of two trees, the difference relative to the whole, by Euclidean norm.

  Not array by array: the loss takes out means, so that the gradient of the last
  bias is 0 but for rounding.
  """
  size = lambda tree: sum(
    np.sum(np.float64(leaf) ** 2) for leaf in jax.tree.leaves(tree)
  )
  assert size(expected) > 0
  apart = size(jax.tree.map(lambda a, b: np.float64(a) - b, found, expected))
  assert apart**0.5 <= tolerance * size(expected) ** 0.5


def term_of(loss=None, streams="quantized", **changes):
  """A term that always acts, with weight 1."""
  fields = dict(
    keep_scale=False, weight=1.0, start=0, ramp=0, every=1, history=1
  )
  return independence_term.Term(loss, streams, **(fields | changes))


def test_streams_and_their_gradients():
  """Catches streams of another level, and a gradient that is not z's."""
  rng = np.random.default_rng(0)
  z = rng.standard_normal((2, 3, 5)).astype(np.float32)
  q = rng.standard_normal((2, 3, 4, 5)).astype(np.float32)
  w = rng.standard_normal(q.shape).astype(np.float32)
  expected = {
    "quantized": q,
    "residual": np.stack(
      [z - q[:, :, : k + 1].sum(2) for k in range(4)], axis=2
    ),
  }
  for kind, value in expected.items():
    seen = []

    def loss(streams, key, *, mask, seen=seen):
      seen.append(streams)
      return jnp.sum(w * streams)

    term = term_of(loss, kind)

    def total(z, term=term):
      vectors = jax.lax.stop_gradient(q - z[:, :, None]) + z[:, :, None]
      return term.value(z, vectors, None, jax.random.key(0))

    np.testing.assert_allclose(total(z), np.sum(w * value), rtol=1e-4)
    np.testing.assert_allclose(seen[0], value, atol=1e-6)
    np.testing.assert_allclose(jax.grad(total)(z), w.sum(2), atol=1e-5)


def test_a_gradient_that_keeps_the_scale():
  """Catches latents that are shrunk or shifted, and padding that counts."""
  rng = np.random.default_rng(1)
  z = rng.standard_normal((3, 8, 5)) * [1, 2, 3, 4, 5] + 7
  w = rng.standard_normal(z.shape)
  mask = np.arange(8) < np.array([8, 3, 6])[:, None]
  found = jax.grad(
    lambda z: jnp.sum(w * independence_term.keep_scale(z, mask))
  )(z.astype(np.float32))
  # Least squares: what a constant and z do not explain.
  expected = np.zeros_like(z)
  for d in range(5):
    basis = np.stack([np.ones(mask.sum()), z[..., d][mask]], 1)
    g = w[..., d][mask]
    expected[..., d][mask] = g - basis @ np.linalg.lstsq(basis, g)[0]
  np.testing.assert_allclose(found, expected, atol=1e-4)


def test_when_it_acts_and_how_much():
  """Catches a schedule that is off by one."""
  term = term_of(weight=6.0, start=4, ramp=3, every=2)
  # Step n + 1 after n updates; it acts in even steps, from update 4 on.
  due = [n for n in range(12) if term.due(n)]
  assert due == [5, 7, 9, 11]
  weights = [float(term.weight_at(n)) for n in range(8)]
  np.testing.assert_allclose(weights, [0, 0, 0, 0, 2, 4, 6, 6])
  at_once = term_of(weight=6.0, start=4)
  weights = [float(at_once.weight_at(n)) for n in range(6)]
  np.testing.assert_allclose(weights, [0, 0, 0, 0, 6, 6])


def test_rows_become_batches():
  """Catches rows that are counted with those which leave the clip."""
  # Delays 0..3 leave 37 rows of the 40 frames: 296 in a batch of 8.
  for rows, history in ((0, 1), (1, 1), (296, 1), (297, 2), (11_776, 40)):
    task = make_task(configure(weight=1, rows=rows, every=64))
    assert task.history == history
  task = make_task(
    configure(weight=1, rows=321, every=2, **{"pattern.name": "parallel"})
  )
  assert task.history == 2
  assert make_task(configure()).history == 1


@pytest.mark.parametrize(
  "settings, words",
  [
    (dict(weight=-1), "weight is -1"),
    (dict(weight=1, estimator="hsic"), "estimator.*mmd, dhsic"),
    (dict(weight=1, streams="codes"), "streams.*quantized, residual"),
    (dict(weight=1, **{"kernel.name": "cosine"}), "kernel.name.*gaussian"),
    (dict(weight=1, **{"kernel.radii": (1.0, -1.0)}), "radii.*positive"),
    (dict(weight=1, **{"kernel.radii": ()}), "radii.*positive"),
    (
      dict(weight=1, **{"kernel.name": "linear", "kernel.relative": True}),
      "no radii",
    ),
    (dict(weight=1, **{"pattern.name": "dealy"}), "pattern.*delay"),
    (dict(weight=1, **{"pattern.name": "flatten"}), "no two codes"),
    (dict(weight=1, **{"pattern.delays": (0, 1)}), "expected 4 numbers"),
    (
      dict(
        weight=1,
        **{"pattern.name": "parallel", "pattern.delays": (0, 1, 2, 3)},
      ),
      "no delays",
    ),
    (dict(weight=1, every=0), "every is 0"),
    (dict(weight=1, rows=-5), "rows is -5"),
    (dict(weight=1, start=-1), "start is -1"),
    (dict(weight=1, rows=600, every=2), "takes 3 batches of 296.*set every"),
    (dict(weight=1, rows=200, accumulate=2), "rows is 200.*one of 2.*has 148"),
  ],
)
def test_settings_that_cannot_be(settings, words):
  """Catches a run that starts with them, or fails without saying why."""
  parts = settings.get("accumulate", 1)
  loss = {k: v for k, v in settings.items() if k != "accumulate"}
  config = configure(f"--config.accumulate={parts}", **loss)
  with pytest.raises(UserError, match=words) as error:
    check(config)
  assert "\n" not in str(error.value)


def check(config):
  config_checks.check(config)
  make_task(config)


def test_one_codebook_has_nothing_to_be_independent_of():
  """Catches an empty sum far inside."""
  with pytest.raises(UserError, match="one codebook"):
    check(configure("--config.model.codebooks=1", weight=1))


def reference(task, params, collections, batch, key):
  """The loss of one large batch, by the plain way."""
  x, lengths = batch["audio"], batch["lengths"]
  mask = length_mask(frames(lengths, task.codec.stride), 40)
  z = task.codec.apply(
    {"params": params, **collections}, x, lengths, method="latents"
  )
  q = task.codec.apply(
    {"params": params, **collections}, z, mask, method="quantize"
  )
  config = task.config["losses"]["independence"]
  # The values of the codes, with a gradient of z that keeps its scale.
  pull = independence_term.keep_scale(z, mask)
  pull = (pull - jax.lax.stop_gradient(pull))[:, :, None]
  return independence_loss(
    jax.lax.stop_gradient(q.streams) + pull,
    jax.random.fold_in(key, independence_term._SALT),
    pattern=patterns.delay(4),
    kernel=independence_term.make_kernel(config["kernel"]),
    estimator=config["estimator"],
    mask=mask,
  )


@pytest.mark.parametrize(
  "estimator, counts, topology",
  [
    ("mmd", (8,), "seanet"),
    pytest.param("mmd", (1, 8), "seanet", marks=pytest.mark.slow),
    pytest.param("dhsic", (1, 8), "seanet", marks=pytest.mark.slow),
    pytest.param("mmd", (8,), "spectral", marks=pytest.mark.slow),
  ],
)
def test_cached_gradient_equals_that_of_one_large_batch(
  estimator, counts, topology
):
  """Catches a part of the rows, another order, or padding that counts."""
  config = configure(
    topology=topology, weight=1, rows=800, every=4, estimator=estimator
  )
  task = make_task(config)
  assert task.history == 3
  params, collections = started(topology)
  batches, key = [clips(i) for i in range(3)], jax.random.key(7)
  large = jax.tree.map(lambda *a: np.concatenate(a), *batches)
  value, grads = jax.jit(
    jax.value_and_grad(functools.partial(reference, task))
  )(params, collections, large, key)
  assert float(value) > 3e-4
  found = {}
  for devices in counts:
    mesh = mesh_lib.make_mesh({}, jax.devices()[:devices])
    with jax.set_mesh(mesh):
      placed = tuple(mesh_lib.place(batch, mesh) for batch in batches)
      got = jax.jit(task.history_gradient)(
        params, collections, placed, key, jnp.int32(0)
      )
    found[devices] = jax.device_get(got)
    # A difference of sums near 1, of which 1e-7 is rounding.
    np.testing.assert_allclose(found[devices][0], value, rtol=1e-5, atol=2e-7)
    close(found[devices][1]["encoder"], grads["encoder"])
    zeros = jax.tree.leaves(found[devices][1]["decoder"])
    assert all(not np.any(leaf) for leaf in zeros)
  close(found[8][1], found[counts[0]][1])


def test_memory_of_a_macro_batch_is_that_of_one_batch(monkeypatch, optimized):
  """Catches residuals kept for every batch (CPUs keep them on purpose)."""
  monkeypatch.setattr(platform, "traced_for", lambda: "gpu")
  task = make_task(configure(weight=1, rows=400, every=64))
  params, collections = started()

  def temporaries(count):
    batches = (clips(0, batch=64),) * count
    encode = lambda params, batch: task.codec.apply(
      {"params": params, **collections}, batch["audio"], method="latents"
    )
    run = lambda params, batches: gradients.cached(
      encode,
      lambda z: jnp.sum(z**2),
      params,
      jax.tree.map(lambda *a: jnp.stack(a), *batches),
    )
    compiled = jax.jit(run).lower(params, batches).compile()
    return compiled.memory_analysis().temp_size_in_bytes

  def plain(count):
    x = np.concatenate([clips(0, batch=64)["audio"]] * count)
    run = lambda params, x: jnp.sum(
      task.codec.apply({"params": params, **collections}, x, method="latents")
      ** 2
    )
    compiled = jax.jit(jax.value_and_grad(run)).lower(params, x).compile()
    return compiled.memory_analysis().temp_size_in_bytes

  two, eight, whole = temporaries(2), temporaries(8), plain(8)
  # Of a clip only the audio and twice z, with room for a copy of each.
  kept = 64 * (800 + 2 * 40 * 16) * 4
  print(f"2 batches {two}, 8 batches {eight}, one large batch {whole}")
  assert eight - two <= 6 * 2 * kept
  assert eight < whole / 2


def run_steps(config, devices, steps, shape=None):
  """Metrics and the last state of a few steps, by the program."""
  task, mesh, program = make(config, devices, shape)
  rows, recent = [], []
  with jax.set_mesh(mesh):
    state = program.init(jax.random.key(0))
    for step in range(steps):
      recent = [*recent, mesh_lib.place(clips(step), mesh)][-task.history :]
      if task.uses_history(step) and len(recent) == task.history:
        state, found = program.long_step(state, tuple(recent))
      else:
        state, found = program.step(state, recent[-1])
      rows.append(jax.device_get(found))
    inspected = task.inspect(state, tuple(recent)) if task.inspects else {}
  return rows, jax.device_get(state), inspected


def test_the_gradient_of_a_step_is_the_sum():
  """Catches a wrong weight or sign, and a loss that changes other draws."""
  more = ("--config.model.quantizer_dropout=0.5",)
  key, batch, step = jax.random.key(3), clips(5), jnp.int32(2)
  params, collections = started()

  def grads(config):
    task = make_task(config)
    return jax.jit(jax.value_and_grad(task.loss, has_aux=True))(
      params, collections, None, batch, key, step
    )

  (_, (books, _, off)), without = grads(configure(*more))
  (total, (other_books, _, on)), both = grads(configure(*more, weight=2))
  (_, (_, _, rest)), resting = grads(configure(*more, weight=2, every=2))
  task = make_task(configure(weight=2))
  value, alone = jax.jit(
    jax.value_and_grad(functools.partial(reference, task))
  )(params, collections, batch, key)

  np.testing.assert_allclose(on["independence"], value, rtol=1e-4)
  np.testing.assert_allclose(total, off["loss"] + 2 * value, rtol=1e-5)
  close(
    jax.tree.map(lambda a, b: a - b, both["encoder"], without["encoder"]),
    jax.tree.map(lambda a: 2 * a, alone["encoder"]),
    1e-3,
  )
  # Not due in step 3: nothing is added, and nothing is said.
  assert np.isnan(rest["independence"])
  close(resting, without)
  # Dropped levels, k-means and replacements are drawn as they were.
  for name, loss in off.items():
    if name not in ("loss", "independence"):
      np.testing.assert_allclose(on[name], loss, rtol=1e-5, err_msg=name)
  close(other_books["codebook"], books["codebook"])


@pytest.mark.slow
@pytest.mark.parametrize(
  "rows, every, start, shape",
  [
    (500, 2, 0, {"data": 8}),
    # The first two steps are those without the loss.
    (0, 1, 2, {"data": 2, "fsdp": 2, "model": 2}),
  ],
)
def test_one_device_equals_eight(rows, every, start, shape, compile_fast):
  """Catches rows of a device for those of the batch, or of a late start."""
  # Few steps: rounding grows with each, and more so where a code flips.
  config = configure(weight=1, rows=rows, every=every, start=start)
  one, state, norms = run_steps(config, 1, 4)
  eight, other, other_norms = run_steps(config, 8, 4, shape)
  for a, b in zip(one, eight, strict=True):
    assert a.keys() == b.keys()
    for name in ("loss", "independence", "gradient_norm"):
      if name in a:
        # The loss is a difference of sums near 1, of which 1e-7 is rounding.
        np.testing.assert_allclose(b[name], a[name], rtol=1e-4, atol=5e-7)
  close(other.params, state.params, 1e-3)
  assert norms.keys() == other_norms.keys()
  for name, norm in norms.items():
    np.testing.assert_allclose(other_norms[name], norm, rtol=1e-3)
  said = [row.get("independence", np.nan) for row in one]
  acted = [step for step in (1, 2, 3, 4) if not np.isnan(said[step - 1])]
  assert acted == [s for s in (1, 2, 3, 4) if s > start and s % every == 0]
  assert set(norms) == {
    f"gradient/{name}" for name in ("waveform", "commitment", "independence")
  }
  assert min(norms.values()) > 0


def test_gradient_norms_of_losses():
  """Catches losses that are mixed up, and a norm at the wrong place."""
  x = jnp.array([1.0, -2.0, 3.0])
  found = gradients.norms(
    lambda x: (2 * x, x**2),
    lambda o: {"b": o[1].sum(), "a": 5 * o[0][0], "c": (o[0] * o[1]).sum()},
    x,
  )
  expected = {"a": 10.0, "b": 2 * 14**0.5, "c": 6 * 98**0.5}
  assert set(found) == set(expected)
  for name, norm in expected.items():
    np.testing.assert_allclose(found[name], norm, rtol=1e-6)


def test_patterns_by_name():
  """Catches a name that gives another pattern, or loses its delays."""
  assert patterns.make("parallel", 3)(5) == patterns.parallel(3)(5)
  assert patterns.make("delay", 3)(5) == patterns.delay(3)(5)
  assert patterns.make("delay", 3, delays=[0, 2, 2])(5) == patterns.delay(
    3, (0, 2, 2)
  )(5)
  assert patterns.make("coarse_first", 3, delays=(0, 1))(
    5
  ) == patterns.coarse_first(3, (0, 1))(5)


@pytest.mark.slow
def test_a_macro_batch_survives_a_restart(tmp_path, dataset):
  """Catches batches that a resumed run does not look back on."""
  # Due in steps 4 and 8 with three batches: stopped after 6, the run must read
  # the batch of step 6 again.
  config = configure(
    f"--config.data.train={dataset}",
    f"--config.data.valid={dataset}",
    "--config.log_every=1",
    weight=30,
    rows=800,
    every=4,
  )

  def run(workdir, steps):
    config["steps"] = config["eval_every"] = config["save_every"] = steps
    loop.train(config, workdir, log=lambda line: None)
    checkpoints = Checkpoints(workdir, read_only=True)
    state = checkpoints.restore_arrays(steps)
    checkpoints.close()
    rows = [r for r in metrics.read(workdir) if "train/loss" in r]
    return state, rows, metrics.read(workdir)

  straight, rows, _ = run(tmp_path / "straight", 8)
  run(tmp_path / "stopped", 6)
  resumed, again, everything = run(tmp_path / "stopped", 8)
  chex.assert_trees_all_equal(resumed, straight)
  acted = [r["step"] for r in rows if "train/independence" in r]
  assert acted == [4, 8]
  same = ("train/loss", "train/independence", "train/gradient_norm")
  assert [[r.get(n) for n in same] for r in rows] == [
    [r.get(n) for n in same] for r in again
  ]
  # Held out, and the gradients, at the evaluations.
  for name in ("valid/independence", "train/gradient/independence"):
    values = [r[name] for r in everything if name in r]
    assert len(values) == 2 and all(np.isfinite(values))
