"""The table of what fits which slice."""

import importlib.util
import math
import pathlib

import pytest

from mmdcodec.train import config_files

DOCS = pathlib.Path(__file__).parents[1] / "docs"


@pytest.fixture(scope="module")
def scaling():
  spec = importlib.util.spec_from_file_location("scaling", DOCS / "scaling.py")
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module


def test_it_is_that_of_its_rows(scaling):
  """Catches a row that was added without the table, and one by hand."""
  assert (DOCS / "SCALING.md").read_text() == scaling.render()


def test_its_commands_are_valid(scaling):
  """Catches a command of a config that is not there any more."""
  for row in scaling.read():
    words = row["command"].split()[2:]
    words = [word for word in words if word.startswith("--config")]
    config = config_files.parse(words)
    assert config.batch == row["batch"], row["command"]


def test_what_is_missing_can_be_made(scaling, monkeypatch, tmp_path):
  """Catches a batch that the slice cannot hold, found after all other rows."""
  for name, words in scaling.missing().items():
    *settings, topology = words
    config = config_files.parse(settings)
    slices, _, one = topology.removeprefix("--topology=").rpartition("xv5e:")
    sides = map(int, one.rpartition(":")[2].split("x"))
    chips = math.prod(sides) * int(slices or 1)
    assert name.endswith(f"_{chips}")
    mesh, parts = config.mesh, config.accumulate
    assert chips % (mesh.data * mesh.fsdp) == 0
    assert config.batch % (chips * parts) == 0, name
  monkeypatch.setattr(scaling, "ROWS", tmp_path)
  there = len(scaling.missing())
  (tmp_path / "lm_small_train_4.json").write_text("{}")
  assert len(scaling.missing()) == there - 1
