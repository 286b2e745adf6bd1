"""The counts behind the benchmarks, against counts by hand."""

import importlib.util
import re
import time
import types

import jax
import jax.numpy as jnp
import pytest

from mmdcodec.bench import codec as codec_bench
from mmdcodec.bench import codecs, coding, floor, loss_estimators, timing
from mmdcodec.cli.main import main
from mmdcodec.models import codec
from mmdcodec.parallel import mesh as mesh_lib
from mmdcodec.quantize.independence import ESTIMATORS, mmd2


def shape(*sizes):
  return jax.ShapeDtypeStruct(sizes, jnp.float32)


def test_operations_of_known_computations():
  """Catches a wrong factor, and loops or branches counted once or twice."""
  matmul = lambda a, b: a @ b
  a, b = shape(3, 5), shape(5, 7)
  assert floor.operations(matmul, a, b) == 2 * 3 * 5 * 7
  assert floor.operations(jax.jit(matmul), a, b) == 2 * 3 * 5 * 7
  # The gradients of both factors are a product each.
  both = jax.value_and_grad(lambda a, b: (a @ b).sum(), (0, 1))
  assert floor.operations(both, a, b) == 3 * 2 * 3 * 5 * 7

  def conv(x, w):
    return jax.lax.conv_general_dilated(
      x, w, (2,), [(0, 0)], dimension_numbers=("NWC", "WIO", "NWC")
    )

  # 20 samples, 4 taps, stride 2: 9 frames.
  found = floor.operations(conv, shape(2, 20, 3), shape(4, 3, 8))
  assert found == 2 * (2 * 9 * 8) * (4 * 3)

  def loop(x):
    return jax.lax.scan(lambda c, _: (c @ c, None), x, None, length=11)[0]

  assert floor.operations(loop, shape(4, 4)) == 11 * 2 * 4**3

  def branch(x):
    return jax.lax.cond(x[0, 0] > 0, lambda x: x @ x @ x, lambda x: x, x)

  assert floor.operations(branch, shape(4, 4)) == 0
  ways = {"rfft": 0.5, "irfft": 0.5, "fft": 1.0, "ifft": 1.0}
  for name, share in ways.items():
    given = jax.ShapeDtypeStruct(
      (6, 33 if name == "irfft" else 64),
      jnp.float32 if name == "rfft" else jnp.complex64,
    )
    found = floor.operations(getattr(jnp.fft, name), given)
    assert found == share * 6 * 5 * 64 * 6, name
  of_images = floor.operations(jnp.fft.rfft2, shape(3, 8, 16))
  assert of_images == 0.5 * 3 * 5 * 128 * 7


def test_floor_is_the_larger_bound():
  """Catches bytes for bits, and a minimum for a maximum."""
  machine = floor.Machine(flops=10.0, bandwidth=5.0)
  assert machine.floor(100.0, 5.0) == 10.0
  assert machine.floor(10.0, 50.0) == 10.0
  tree = {"a": shape(3, 4), "b": jax.ShapeDtypeStruct((2,), jnp.int8)}
  assert floor.size_in_bytes(tree) == 48 + 2


@pytest.mark.parametrize("looped", [True, False])
def test_the_host_of_a_training_step(looped):
  """Catches a host's share that the device's own time holds as well."""
  compiled = jax.jit(lambda state, batch: (state + batch.sum(), batch.sum()))

  def step(state, batch):
    time.sleep(0.2)  # Once if it is traced, and otherwise at every step.
    return compiled(state, batch)

  given = jnp.zeros(()), jnp.ones(3), mesh_lib.make_mesh({}, jax.devices()[:1])
  program = types.SimpleNamespace(step=step)
  device, loop = codec_bench.turns(program, *given, 2, looped=looped)
  assert loop > 0.2 and (loop > 3 * device) == looped


@pytest.mark.slow
def test_bench_codec_prints_every_part(capsys):
  """Catches a part that no longer traces, or is missing from the table."""
  small = ["--config=codec_small:tiny", "--runs=1", "--seconds=0.5"]
  assert main(["bench", "codec", *small]) == 0
  table = capsys.readouterr().out
  rows = {line.split()[0]: line.split() for line in table.splitlines() if line}
  for part in ("encoder", "quantizer", "decoder", "losses"):
    # Milliseconds, share, operations, bytes, floor.
    assert float(rows[part][1]) > 0 and float(rows[part][3]) > 0, part
  assert "optimizer" in rows and "whole" in rows
  assert re.search(r"\n[\d.]+ ms a step in a row .*: \d+% is host", table)
  assert float(table.split("memory: ")[1].split()[0].replace(",", "")) > 50
  # Milliseconds, real-time factor, operations, share of the peak.
  for way in ("encode", "decode", "encode, streaming", "decode, streaming"):
    line = next(x for x in table.splitlines() if x.startswith(way + "  "))
    ms, factor, flops, share = line.removeprefix(way).split()
    assert float(ms) * float(factor) == pytest.approx(500, rel=0.1), way
    assert float(flops) > 0 and share.endswith("%")


@pytest.mark.parametrize(
  ("changes", "missing", "words"),
  [
    ({}, "", None),
    ({"dilations": (1, 3, 9), "trim_right_ratio": 0.5}, "", None),
    ({"dilations": (1, 2, 5)}, "", "dilations"),
    ({"lstm_layers": 0}, "", "LSTM"),
    ({"norm": "none"}, "", "norm"),
    ({"topology": "soundstream"}, "", "topology"),
    ({}, "torch", "torch is not installed"),
    ({}, "transformers", "transformers is not installed"),
  ],
)
def test_codecs_without_a_peer_say_why(monkeypatch, changes, missing, words):
  """Catches a crash, or another network timed, where there is no such peer."""
  monkeypatch.setattr(
    importlib.util, "find_spec", lambda name: None if name == missing else name
  )
  model = codec.from_config(codec.preset("encodec_tiny", **changes))
  reason = coding.without_peer(model)
  assert reason is None if words is None else words in reason


def test_turns():
  """Catches ways that run one after the other, and a warm-up that counts."""
  called = []
  way = lambda name: lambda: called.append(name) or jnp.zeros(())
  times = timing.take_turns({name: way(name) for name in "ab"}, 2)
  assert called == [*"ababab"]
  assert [len(found) for found in times.values()] == [2, 2]
  called.clear()
  assert timing.median_seconds(way("c"), runs=3) > 0
  assert called == [*"cccc"]
  # The second run was ten times slower for both.
  assert timing.ratio([2.0, 40.0, 2.0], [1.0, 10.0, 4.0]) == 2.0


def test_ratios_of_codecs_are_medians_of_turns():
  """Catches a ratio upside down, or of medians: another load in each turn."""
  times = {
    "a, encode": [1.0, 2.0, 10.0],
    "a, decode": [1.0, 1.0, 1.0],
    "b, encode": [3.0, 6.0, 30.0],
    "b, decode": [0.5, 0.5, 0.5],
  }
  facts = {name: [1.0, 2.0, 3.0] for name in "ab"}
  rows = codecs.table(times, facts, 10.0).splitlines()[-2:]
  found = [[float(cell) for cell in row.split()[4:]] for row in rows]
  assert found == [[5, 1, 10, 1], [pytest.approx(1.67, abs=0.01), 3, 20, 0.5]]


@pytest.mark.slow
def test_bench_codecs_prints_every_topology(capsys, monkeypatch, fails):
  """Catches a topology that no longer runs, or is counted wrongly."""
  monkeypatch.setattr(codecs, "without_peers", lambda: "no PyTorch here")
  small = ["bench", "codecs", "--seconds=0.5", "--runs=1"]
  names = ["spectral_small:tiny", "soundstream_24khz:tiny"]
  assert main([*small, "--configs", *names]) == 0
  shown = capsys.readouterr().out
  assert "no PyTorch here" in shown
  rows = {line.split()[0]: line.split() for line in shown.splitlines() if line}
  flops = []
  for name in names:
    values = [float(value) for value in rows[name][1:]]
    assert len(values) == 7 and all(value > 0 for value in values)
    flops.append(values[1])
  assert flops[0] < min(flops[1:]) / 2  # layers at the frame rate
  assert "needs at least 1 run" in fails("bench", "codecs", "--runs=0")
  assert "not the config of a codec" in fails(
    "bench", "codecs", "--configs", "lm_small:tiny"
  )


def test_plain_independence_formula():
  """Catches a reference that computes something else, or is miscounted."""
  x, y = jax.random.normal(jax.random.key(0), (2, 40, 12))
  y = 0.5 * y + 1.0
  expected = mmd2(x, y)
  assert abs(loss_estimators._mmd(x, y, jnp) - expected) < 1e-5 * expected
  key = jax.eval_shape(lambda: jax.random.key(0))
  found = floor.operations(
    jax.value_and_grad(loss_estimators.plain), shape(40, 3, 12), key
  )
  assert found == pytest.approx(
    1e9 * loss_estimators.gflop("plain jnp", 40, 3, 12)
  )


def test_plain_independence_formula_in_torch():
  """Catches a comparison with something else than the same formula."""
  torch = pytest.importorskip("torch")
  z = jax.random.normal(jax.random.key(0), (40, 2, 6))
  z = (z - z.mean(0)) / z.std(0, ddof=1)
  orders = [jax.random.permutation(jax.random.key(k), 40) for k in range(2)]
  permuted = jnp.stack([z[o, k] for k, o in enumerate(orders)], 1)
  found = loss_estimators.plain_torch(
    torch.tensor(jax.device_get(z)),
    [torch.tensor(jax.device_get(o)) for o in orders],
  )
  expected = mmd2(z.reshape(40, -1), permuted.reshape(40, -1))
  assert float(found) == pytest.approx(float(expected), rel=1e-4, abs=1e-6)


def test_precision_of_a_program():
  """Catches a loss that leaves its products to the backend, and who says so."""
  sizes = 64, 2, 8
  for name, loss in loss_estimators.losses(ESTIMATORS).items():
    text = loss_estimators.lowered(loss, *sizes).as_text()
    assert "stablehlo.dot_general" in text
    assert loss_estimators.precision(text) == "float32", name
  careless = lambda z, key: jnp.vdot(z[:, 0] @ z[:, 1].T, z[:, 0] @ z[:, 0].T)
  text = loss_estimators.lowered(careless, *sizes).as_text()
  assert loss_estimators.precision(text) == "default"


@pytest.mark.slow
def test_bench_independence_prints_every_way(capsys):
  """Catches a way that no longer runs."""
  small = ["--rows=64", "--codebooks=2", "--dim=8", "--runs=1"]
  assert main(["bench", "independence", *small]) == 0
  table = capsys.readouterr().out
  for name in ("plain jnp", "mmd", "dhsic"):
    timed, memory = (
      line[14:].split()
      for line in table.replace("  plain", "plain").splitlines()
      if line.strip().startswith(name + " ")
    )
    assert float(timed[0]) > 0 and float(timed[2]) > 0
    assert float(memory[0].replace(",", "")) > 0
  assert "PyTorch" in table


@pytest.mark.slow
def test_memory_of_the_macro_batch(optimized):
  """Catches arrays of n^2 numbers, and copies of the rows.

  11,776 rows of 4 x 128: all rows are 23 MiB.
  """
  sizes = {
    name: loss_estimators.temporaries(
      loss_estimators.compiled(loss, loss_estimators.MACRO_BATCH, 4, 128)
    )
    for name, loss in loss_estimators.losses(ESTIMATORS).items()
  }
  assert sizes["plain jnp"] > 4000
  assert max(sizes[name] for name in ESTIMATORS) < 128


@pytest.mark.slow
def test_bench_lm_prints_every_way(capsys, compile_fast):
  """Catches a way that no longer runs, and a cache of another size."""
  small = ["--config=lm_small:tiny", "--steps=9", "--runs=1"]
  assert main(["bench", "lm", *small]) == 0
  table = capsys.readouterr().out
  for name in ("batch 1", "batch 1, guidance", "batch 8, guidance"):
    line = next(x for x in table.splitlines() if x.startswith(name + "  "))
    assert all(float(x) > 0 for x in line.removeprefix(name).split())
  line = next(x for x in table.splitlines() if x.startswith("cache"))
  held, formula = line.split(": ")[1].split(" bytes; 2 x")
  assert held == formula.split("= ")[1] == f"{2 * 2 * 9 * 32 * 4:,}"


def test_bytes_of_a_step():
  """Catches weights that are counted twice or never.

  By hand: all weights but those that keys of the prompt take, and tables.
  """
  from mmdcodec.bench import lm
  from mmdcodec.models import token_lm

  fields = token_lm.preset("tiny", text=None, layers=1, width=8, hidden=16)
  model = token_lm.from_config(fields)
  params = lm.random_params(model)
  weights = 4 * 64 + 2 * 64 + 2 * 128 + 4 * 2 * 8 + 4 * 8 * 32
  found = lm.bytes_of_step(model, params, 10, 1, 3.0)
  assert found == 4 * weights + 2 * (2 * 10 * 8 * 4) / 2
