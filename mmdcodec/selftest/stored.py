"""Checks of whole networks against what a CPU once computed of them.

`stored.json` has a few numbers of the outputs of every kind of network, of
random weights and inputs. They are of the package itself: they show what has
changed, or that another device computes something else, not what was wrong from
the start. That is for the tests, which compare these networks with public ones.

A change that is meant to change them is followed by

  JAX_PLATFORMS=cpu python -m mmdcodec.selftest.stored

which writes the file anew.
"""

import functools
import json
import pathlib
from typing import Any

import jax
import numpy as np

from mmdcodec.selftest.check import Check, Devices, normal
from mmdcodec.selftest.networks import NETWORKS

_FILE = pathlib.Path(__file__).with_name("stored.json")
# Of deep networks on any CPU, relative to the size of the outputs.
_LIMIT = 1e-4


def sketch(outputs: Any) -> dict[str, list[float]]:
  """A few numbers of each array: its size, and sums with random weights.

  All are as large as a number of the array.
  """
  found = {}
  for path, x in jax.tree_util.tree_leaves_with_path(outputs):
    x = np.asarray(x, np.float64).reshape(-1)
    weights = normal(4, x.size) / np.sqrt(x.size)
    numbers = [np.sqrt(np.mean(x * x)), *(weights @ x)]
    name = jax.tree_util.keystr(path) or "output"
    found[name] = [float(f"{number:.7g}") for number in numbers]
  return found


def network(name: str, devices: Devices) -> dict[str, float]:
  """How far each output is from the stored one, as a share of its size."""
  wanted = json.loads(_FILE.read_text())[name]
  found = sketch(NETWORKS[name]())
  if found.keys() != wanted.keys():
    return {"the names of the outputs": 1.0}
  return {
    part: float(
      np.abs(np.subtract(found[part], numbers)).max() / numbers[0]
    )
    for part, numbers in wanted.items()
  }


CHECKS = tuple(
  Check(
    f"stored outputs, {name}",
    "equal what a CPU computed once",
    functools.partial(network, name),
    _LIMIT,
  )
  for name in NETWORKS
)


def main() -> None:
  """Writes the file."""
  with jax.default_matmul_precision("highest"):
    found = {name: sketch(make()) for name, make in NETWORKS.items()}
  _FILE.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
  main()
