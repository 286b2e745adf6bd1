"""The independence experiment: shared start, weights, table, resuming."""

import concurrent.futures
import json
import os
import pathlib
import shutil
import signal
import time

import chex
import jax
import numpy as np
import pytest
import quick_arm_run
from mmdcodec.configs import independence as independence_config

from mmdcodec.cli import experiment_independence as cli_experiment
from mmdcodec.cli import main as cli
from mmdcodec.data import pipeline
from mmdcodec.errors import UserError
from mmdcodec.experiments import arm_grid, arm_plots, arm_report, arm_run, arms
from mmdcodec.store.checkpoints import Checkpoints
from mmdcodec.train import loop


def tiny(dataset, **changes) -> dict:
  """The tiny config as plain dicts, with some of `losses.independence`."""
  config = independence_config.get_config("tiny").to_dict()
  config["data"]["train"] = str(dataset)
  config["keep"] = 100
  config["model"]["lstm_layers"] = 0
  config["losses"]["mel"]["windows"] = [256]
  config["losses"]["independence"].update(changes)
  return json.loads(json.dumps(config))


def arrays(run, step):
  """Everything in a checkpoint."""
  checkpoints = Checkpoints(run, read_only=True)
  found = checkpoints.restore_arrays(step)
  checkpoints.close()
  return found


def test_help_lists_the_arms():
  """An arm that was added, renamed or taken away, and --help not told."""
  assert cli_experiment.ARMS == tuple(arms.ARMS)


@pytest.fixture(scope="module")
def shared(dataset, tmp_path_factory):
  """A finished run without the loss."""
  folder = tmp_path_factory.mktemp("shared")
  loop.train(tiny(dataset), folder, log=lambda line: None)
  return folder


@pytest.mark.slow
def test_arm_from_the_shared_start_is_the_arm_trained_alone(
  dataset, tmp_path, optimized
):
  """Catches a start that isn't shared: other data, weights or schedule.

  Steps with and without the loss round alike as XLA compiles them for users.
  """
  shared = tmp_path / "shared"
  loop.train(tiny(dataset), shared, log=lambda line: None)
  config = tiny(dataset, **arms.ARMS["mmd_delay"], weight=30.0)
  loop.train(config, tmp_path / "alone", log=lambda line: None)
  run = tmp_path / "on"
  run.mkdir()
  arm_run.take_over(run, {"shared": str(shared), "config": config})
  loop.train(config, run, log=lambda line: None)
  a, b = arrays(tmp_path / "alone", 20), arrays(run, 20)
  chex.assert_trees_all_equal(a, b)
  # And the loss does something from there on.
  none = arrays(shared, 20)
  same = jax.tree.map(np.array_equal, a["params"], none["params"])
  assert not any(jax.tree.leaves(same))
  steps = [
    row["step"]
    for row in map(json.loads, (run / "metrics.jsonl").open())
    if "train/loss" in row
  ]
  assert steps == [5, 10, 15, 20]


@pytest.mark.slow
def test_weight_gives_the_gradient_its_size(dataset, shared, tmp_path):
  """Catches an inverse ratio, and weights that ignore the estimator."""
  weights = {}
  for arm in ("mmd_delay", "dhsic_delay"):
    config = tiny(dataset, **arms.ARMS[arm])
    run = tmp_path / arm
    run.mkdir()
    job = {
      "shared": str(shared), "config": config, "calibrate": str(shared),
      "gradient_ratio": 0.5,
    }  # fmt: skip
    arm_run.take_over(run, job)
    weights[arm] = arm_run.weight(run, job)
    config["losses"]["independence"]["weight"] = weights[arm]
    norms = arm_run.gradient_norms(run, config, batches=4, seed=99)
    ratio = np.mean([own / other for own, other in norms])
    assert 0.35 < ratio < 0.7, (arm, ratio)
  assert weights["mmd_delay"] != pytest.approx(weights["dhsic_delay"], rel=0.05)
  # Of another seed, the same.
  job["config"] = config | {"seed": 7}
  assert arm_run.weight(run, job) == weights[arm]


@pytest.mark.slow
def test_weight_is_taken_on_the_audio_that_is_trained_on(
  dataset, shared, tmp_path, monkeypatch
):
  """Catches a calibration on batches without the mixing, or of another kind."""
  given = []

  def batches(datasets, **options):
    given.append((datasets, options))
    raise UserError("enough")

  monkeypatch.setattr(pipeline, "batches", batches)
  config = tiny(dataset)
  config["data"] |= {"mix": 0.25, "gain_db": [-3.0, 1.0]}
  with pytest.raises(UserError, match="enough"):
    loop.train(config, tmp_path / "run", log=lambda line: None)
  with pytest.raises(UserError, match="enough"):
    arm_run.gradient_norms(shared, config, batches=1, seed=config["seed"])
  assert given[0] == given[1] and given[0][1]["mix"] == 0.25


@pytest.mark.slow
def test_whole_command_and_again(
  dataset, tmp_path, capsys, compile_fast, monkeypatch
):
  """Catches a grid that stops, does things twice, or loses an arm."""
  monkeypatch.setattr(arm_run, "__name__", quick_arm_run.__name__)
  folder = str(pathlib.Path(quick_arm_run.__file__).parent)
  monkeypatch.setenv("PYTHONPATH", folder, prepend=os.pathsep)
  valid, workdir = tmp_path / "valid", tmp_path / "out"
  shutil.copytree(dataset, valid)
  command = [
    *("experiment", "independence", "--config=independence:tiny"),
    *(f"--train={dataset}", f"--valid={valid}", f"--workdir={workdir}"),
    *("--arms=dhsic_delay", "--seeds=1", "--jobs=2"),
    *("--clips=4", "--clip_seconds=2", "--config.steps=15"),
    *("--config.losses.independence.start=5", "--config.model.lstm_layers=0"),
    "--config.losses.mel.windows=(256,)",
  ]
  assert cli.main(command) == 0
  said = capsys.readouterr().out
  assert "none seed 0: see" in said and "dhsic_delay seed 0: see" in said
  table = (workdir / "table.md").read_text()
  assert "| none |" in table and "| dhsic_delay |" in table
  results = json.loads((workdir / "results.json").read_text())
  assert list(results) == ["none", "dhsic_delay"]
  assert (
    results["none"]["0"]["weight"] == 0 < results["dhsic_delay"]["0"]["weight"]
  )
  run = workdir / "dhsic_delay" / "seed_0"
  kept = json.loads((run / "config.json").read_text())["losses"]["independence"]
  assert kept["weight"] == results["dhsic_delay"]["0"]["weight"]
  assert kept["estimator"] == "dhsic" and kept["keep_scale"]
  assert [m["step"] for m in results["none"]["0"]["curve"]] == [5, 10]
  for name in ("tradeoff.png", "training.png"):
    assert (workdir / name).read_bytes().startswith(b"\x89PNG")

  before = (run / "result.json").stat().st_mtime_ns
  assert cli.main(command) == 0
  again = capsys.readouterr().out
  assert again.count("done before") == 4 and "dhsic_delay" in again
  assert (run / "result.json").stat().st_mtime_ns == before
  # Other settings do not mix with what is there.
  assert cli.main([*command, "--gradient_ratio=0.7"]) == 2
  assert "other settings" in capsys.readouterr().err


def result(total, mel=10.0):
  """A run's result, as far as the report needs it."""
  kind = {
    "total_correlation": total, "error": 0.01, "share": total / 20,
    "mmd": total / 100, "dhsic": total / 10, "dhsic_null": 0.0,
  }  # fmt: skip
  return {
    "step": 20, "weight": 1.0, "delay": kind, "same_frame": kind,
    "entropy": 20.0, "mel_distance": mel, "stft_distance": 2.0, "si_sdr": 1.0,
    "usage": [1.0, 0.5], "perplexity": [30.0, 20.0],
  }  # fmt: skip


def test_changes_are_between_runs_of_one_seed(tmp_path):
  """Catches a comparison with the mean, or with another seed's run."""
  for arm, values in (("none", (1.0, 2.0)), ("mmd_delay", (0.5, 1.5))):
    for seed, total in enumerate(values):
      folder = tmp_path / arm / f"seed_{seed}"
      folder.mkdir(parents=True)
      (folder / "result.json").write_text(json.dumps(result(total)))
  found = arm_report.write(tmp_path)
  total = lambda r: r["delay"]["total_correlation"]
  np.testing.assert_allclose(
    arm_report.changes(found, "mmd_delay", total), [-50.0, -25.0]
  )
  columns, rows = arm_report.dependence_table(found)
  row = dict(zip(columns[:4], rows[1][:4], strict=True))
  assert row["TC delay (bits)"] == "1.000 ± 0.707"
  assert row["change (%)"] == "-37.5 ± 17.7"
  assert "-37.5 ± 17.7" in (tmp_path / "table.md").read_text()
  assert (tmp_path / "tradeoff.png").stat().st_size > 5000


def test_changes_of_nothing(tmp_path):
  """Catches a division by a total correlation of 0, and a share of less."""
  found = {
    "none": {0: result(0.0), 1: result(-0.01), 2: result(1.0, 10.0)},
    "mmd_delay": {0: result(0.5), 1: result(0.5), 2: result(0.5, 11.0)},
    "mmd_frame": {0: result(0.5)},
  }
  total = lambda r: r["delay"]["total_correlation"]
  np.testing.assert_array_equal(
    arm_report.changes(found, "mmd_delay", total), [np.nan, np.nan, -50.0]
  )
  columns, rows = arm_report.dependence_table(found)
  at = columns.index("TC delay (bits)") + 1
  assert [row[at] for row in rows] == ["", "-50.0", ""]
  # Pictured is the seed that can be compared, and nothing else.
  known = {
    arm: {s: r for s, r in of.items() if s == 2} for arm, of in found.items()
  }
  assert arm_plots.tradeoff(found) == arm_plots.tradeoff(known)


def test_failed_run_is_named(tmp_path):
  """Catches a grid that hangs or goes on when one of its runs fails.

  Its process is the very one of the experiment.
  """
  settings = {"config": {"seed": 3}, "shared": str(tmp_path / "missing")}
  run = arm_grid._Run(tmp_path, "mmd_delay", settings, {}, one_core=False)
  with pytest.raises(UserError, match="mmd_delay seed 3 failed.*log.txt"):
    run.stage().run()


@pytest.fixture
def run_of(tmp_path, monkeypatch):
  """Makes a run whose process executes some code instead of a job."""

  def make(code):
    (tmp_path / "replaced_run.py").write_text(code)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr(arm_run, "__name__", "replaced_run")
    settings = {"config": {"seed": 3}}
    return arm_grid._Run(tmp_path, "none", settings, {}, one_core=False)

  return make


def test_a_killed_run_is_named_with_its_signal(run_of):
  """Catches a run that is out of memory, and nothing said of it."""
  run = run_of("import os, signal; os.kill(os.getpid(), signal.SIGKILL)")
  words = r"none seed 3 was ended by signal 9 \(Killed\); see .*log.txt"
  with pytest.raises(UserError, match=words):
    run.stage().run()


def test_a_run_ends_with_the_experiment(run_of):
  """Its stdin is a pipe that ends with the process that started it."""
  run = run_of("import sys; sys.stdin.read(); sys.exit(7)")
  with concurrent.futures.ThreadPoolExecutor(1) as pool:
    result = pool.submit(run.stage().run)
    while run._process is None and not result.done():
      time.sleep(0.01)
    run._process.stdin.close()
    with pytest.raises(UserError, match="seed 3 failed"):
      result.result(60)
  assert run._process.returncode == 7


@pytest.mark.parametrize(
  "arguments, words",
  [
    (["--arms=mmd_sideways"], "there are none, mmd_frame"),
    (["--train=nowhere"], "no such folder"),
    (["--config.losses.independence.start=7"], "multiple of save_every"),
    (["--gradient_ratio=nan"], "a number above 0"),
    (["--config.optimizer.learning_rate=nan"], "learning_rate is nan"),
    (["--jobs=0"], "--jobs is 0"),
    (["--clips=0"], "--clips is 0"),
    (["--clip_seconds=0"], "--clip-seconds is 0"),
    (["--clip_seconds=1e-4"], "a frame for each of"),
  ],
)
def test_mistakes(arguments, words, dataset, tmp_path, capsys):
  """Catches a traceback, or hours of training before a mistake is told."""
  shutil.copytree(dataset, tmp_path / "valid")
  command = [
    *("experiment", "independence", "--config=independence:tiny"),
    *(f"--train={dataset}", f"--valid={tmp_path / 'valid'}"),
    f"--workdir={tmp_path / 'out'}",
  ]
  assert cli.main([*command, *arguments]) == 2
  assert words in capsys.readouterr().err
  assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("how", ["{}", "./{}", "{}/../{}", "link"])
def test_training_music_is_not_measured_on(
  how, dataset, tmp_path, fails, monkeypatch
):
  """Catches a held-out measure on what was trained on, by another path."""
  (tmp_path / "link").symlink_to(dataset)
  monkeypatch.chdir(dataset.parent)
  valid = tmp_path / how if how == "link" else how.format(*2 * [dataset.name])
  error = fails(
    *("experiment", "independence", f"--train={dataset.name}"),
    *(f"--valid={valid}", f"--workdir={tmp_path / 'out'}"),
  )
  assert "measure on other music" in error


@pytest.mark.parametrize(
  "arguments, expected",
  [
    ([], tuple(arms.GRID)),
    (["--arms=grid"], tuple(arms.GRID)),
    (["--arms=ablation"], tuple(arms.ABLATION)),
    (["--arms=all"], tuple(arms.ARMS)),
    (["--arms=none, mmd_linear"], ("none", "mmd_linear")),
  ],
)
def test_arms_by_name(
  arguments, expected, dataset, tmp_path, fails, monkeypatch
):
  """Catches a set of arms that lacks some, and a SIGTERM that stays caught."""
  shutil.copytree(dataset, tmp_path / "valid")
  seen = []

  def run(config, workdir, *, arms, **options):
    seen.append((tuple(arms), signal.getsignal(signal.SIGTERM)))
    raise UserError("enough")

  monkeypatch.setattr(arm_grid, "run", run)
  before = signal.getsignal(signal.SIGTERM)
  error = fails(
    *("experiment", "independence", f"--train={dataset}"),
    *(f"--valid={tmp_path / 'valid'}", f"--workdir={tmp_path / 'out'}"),
    *arguments,
  )
  assert "enough" in error
  assert seen == [(expected, signal.default_int_handler)]
  assert signal.getsignal(signal.SIGTERM) is before
