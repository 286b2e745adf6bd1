"""Short runs of the soak programs in tests/soak, always of the same seed.

Catches: damaged input of any kind that ends in a traceback, a hang, too much
memory or a wrong result without a word; and commands that lose what was there,
or leave something behind, when they are killed.
"""

import pathlib
import subprocess
import sys

import pytest

SOAK = pathlib.Path(__file__).parent / "soak"

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def root(tmp_path_factory):
  """Where both programs make their samples, once."""
  return tmp_path_factory.mktemp("soak")


def run(root, program, *options):
  """Runs a program; returns what it printed."""
  done = subprocess.run(
    [sys.executable, SOAK / program, "--root", root, "--seed", "0", *options],
    capture_output=True,
    text=True,
    timeout=900,
  )
  print(done.stdout[-6000:])
  assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-3000:]
  return done.stdout


def test_damaged_input(root):
  """A hundred damaged inputs of all kinds."""
  output = run(
    root, "fuzz.py", "--trials", "100", "--faults", root / "faults.jsonl"
  )
  assert output.splitlines()[-1].split()[:2] == ["all", "100"]


def test_killed_commands(root):
  """A kill of each of some commands that write.

  The program has more.
  """
  verbs = ["prepare", "train", "export", "encode"]
  output = run(
    root, "killed_commands.py", "--kills", "1", "--verbs", ",".join(verbs)
  )
  assert output.count("of CPU for a run") == len(verbs)
