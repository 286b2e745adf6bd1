"""The table of what fits which slice."""

import importlib.util
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
