"""`mmdcodec bench tokenizers`: operations that are counted, and the table."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from extension.shape import Shape

from mmdcodec.bench import tokenizers
from mmdcodec.cli.main import main


class Matrix(Shape):
  """Features of a matrix product of known size."""

  def __init__(self, config, variables, assets=None):
    super().__init__(config, variables, assets)
    self._network = jax.jit(lambda w, x: jnp.einsum("btc,cd->btd", x, w))

  def features(self, x, lengths):
    """See the base class."""
    rows, valid = super().features(x, lengths)
    return self._network(self.variables["params"]["matrix"], rows), valid


def test_operations_are_those_of_the_programs():
  """Catches a network or a search for codes that is not counted."""
  params = {"weight": np.ones(3), "matrix": np.eye(3)}
  bare = Matrix({"kind": "shape", "model": {}}, {"params": params})
  statistics = {"mean": np.zeros(3), "scale": np.ones(3)}
  found = Matrix(*bare.with_codebooks(statistics, np.ones((2, 16, 3))))
  found.encode(x := np.ones((2, 5000, 1)))
  # Rows are coded in blocks of 512.
  want = 2 * (2 * 50) * 3 * 3 + 2 * 512 * 2 * 16 * 3
  assert tokenizers.operations(found, x) == want


def test_what_is_refused(fails, model):
  """Catches a traceback, and a config of what makes no codes."""
  assert "not the config of a tokenizer" in fails(
    "bench", "tokenizers", "--configs", "lm_small:tiny"
  )
  assert "at least 1 run" in fails("bench", "tokenizers", "--runs", "0")


@pytest.mark.slow
def test_the_table(capsys, model):
  """Catches a kind of tokenizer that cannot be made of random numbers."""
  words = "bench tokenizers --runs 1 --seconds 1 --batch 1 --model".split()
  names = ["semantic:tiny"]
  assert not main([*words, str(model), "--configs", *names])
  lines = capsys.readouterr().out.splitlines()
  for name in [str(model), *names]:
    rows = [line.split() for line in lines if line.startswith(name)]
    assert [row[3] for row in rows] == ["1"]
    assert all(float(row[4]) > 0 for row in rows)
