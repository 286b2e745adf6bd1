"""`mmdcodec selftest` finds what is wrong, and says so."""

import contextlib
import importlib
import json
import re

import jax
import numpy as np
import pytest
from planted_errors import PLANTS, SLOW_PLANTS, SPECIAL

from mmdcodec import platform, precision
from mmdcodec.cli.main import main
from mmdcodec.selftest import check, run, speed
from mmdcodec.train import preemption

CHECKS = {each.name: each for each in run.CHECKS}


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
      pytest.param(*case, marks=pytest.mark.soak, id=f"{case[0]}-{case[1]}")
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
def test_all_is_well(monkeypatch):
  """Catches a check that a right kernel does not pass, and broken benchmarks.

  The first of eight devices is tested. A benchmark that trains is below.
  """
  monkeypatch.delitem(run.BENCHMARKS, "loop")
  report = run.run(30.0)
  assert report.passed, report.sentences()
  assert not report.skipped
  check_rows(report, 9)
  # Only splash attention, on GPUs, and Pallas's interpreter, on TPUs, do not
  # apply somewhere else.
  assert all(outcome.applies for outcome in report.outcomes)


@pytest.mark.soak
def test_the_loop_is_timed(monkeypatch):
  """Catches a benchmark that no longer knows what a training says."""
  monkeypatch.setattr(run, "CHECKS", ())
  monkeypatch.setattr(run, "BENCHMARKS", {"loop": run.BENCHMARKS["loop"]})
  report = run.run(30.0)
  assert report.passed, report.sentences()
  check_rows(report, 3)


def check_rows(report, least):
  """All speeds are shown, and are possible ones."""
  shown = str(report)
  for row in report.rows:
    assert row.name in shown and row.seconds > 0
    for share in (row.peak, row.bandwidth):
      assert share is None or share > 0
  assert len(report.rows) >= least


@pytest.mark.slow
@pytest.mark.parametrize(
  "name", ["EnCodec", "semantic tokenizer", "training, language model"]
)
def test_a_cpu_beside_the_device(name):
  """Catches a reference that nothing is compared with."""
  first, second = jax.devices()[:2]
  found = CHECKS[name].run(check.Devices(first, second))
  assert found.passed, found.sentence()
  assert any("CPU" in case for case in found.found)


def test_small_memory(monkeypatch):
  """Catches a small device that is said to be wrong, and a broken benchmark."""

  def large(speeds):
    raise RuntimeError("RESOURCE_EXHAUSTED: Out of memory")

  monkeypatch.setattr(run, "CHECKS", ())
  monkeypatch.setattr(run, "BENCHMARKS", {"large": large, "broken": broken})
  monkeypatch.setattr(speed.Speeds, "measure", lambda: None)
  report = run.run(1.0)
  assert report.problems == {"broken": "ValueError: no such thing"}
  assert report.to_dict()["skipped"] == ["bench large"]
  assert "too little memory for: bench large" in str(report)


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


def test_a_signal_ends_it(small, monkeypatch, capsys):
  """Catches a stopped training that counts as a benchmark that fails."""

  def stopped(speeds):
    raise preemption.Preempted

  monkeypatch.setattr(run, "BENCHMARKS", {"loop": stopped})
  monkeypatch.setattr(speed.Speeds, "measure", lambda: None)
  assert main(["selftest"]) == preemption.EXIT_CODE
  assert capsys.readouterr().out == ""


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
@pytest.mark.parametrize(
  "name",
  [
    "SoundStream",
    "language model, heads, drawing",
    pytest.param("semantic tokenizer", marks=pytest.mark.slow),
    pytest.param("joint tokenizer", marks=pytest.mark.slow),
    pytest.param("melody tokenizer", marks=pytest.mark.slow),
  ],
)
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
    "a chip", platform, 1, reference, (), None, (), (), (), {}, 1.0
  )
  found = report.to_dict()
  assert found["complete"] == whole
  assert found["skipped"] == ["comparisons with the CPU"] * (not whole)
  assert ('set it to "cuda,cpu"' in str(report)) != whole
