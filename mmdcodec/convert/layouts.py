"""How the tensors of PyTorch's layers are laid out in ours."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from mmdcodec.convert import weights
from mmdcodec.convert.weights import Rule

Make = Callable[[np.ndarray], np.ndarray]


def same(a: np.ndarray) -> np.ndarray:
  """Returns the tensor as it is."""
  return a


class Heads(NamedTuple):
  """The layers of attention with `heads` heads of `dim` channels.

  They have no -1 in their shapes, because a tensor of the right size may still
  have a wrong shape.
  """

  heads: int
  dim: int

  def into(self, a: np.ndarray) -> np.ndarray:
    """Kernel [out, in] of queries, keys or values -> [in, heads, dim]."""
    return a.T.reshape(*a.shape[1:], *self)

  def bias(self, a: np.ndarray) -> np.ndarray:
    """Bias [out] of queries, keys or values -> [heads, dim]."""
    return a.reshape(self)

  def back(self, a: np.ndarray) -> np.ndarray:
    """Kernel [out, in] after the heads -> [heads, dim, out]."""
    return a.T.reshape(*self, *a.shape[:1])


def batch_norm(
  targets: tuple[str, str], names: tuple[str, ...], *, epsilon: float
) -> Rule:
  """Returns the rule for a batch norm that is not trained further.

  Args:
    targets: paths of a factor and a sum, [channels] each.
    names: tensors of the scale, bias, mean and variance, [channels] each.
    epsilon: what is added to the variance.
  """

  def make(*arrays: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    if len({a.shape for a in arrays}) > 1:
      raise weights.Misfit(names)
    scale, bias, mean, variance = (a.astype(np.float64) for a in arrays)
    factor = scale / np.sqrt(variance + epsilon)
    shift = bias - mean * factor
    return factor.astype(np.float32), shift.astype(np.float32)

  return Rule(targets, names, make)
