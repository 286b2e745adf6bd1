"""Random weights and noise, for speed does not depend on what is heard."""

import math
from typing import Any

import jax
import numpy as np


def variables(shapes: Any) -> Any:
  """Weights small enough that no signal explodes, or dies; all others are 1.

  Args:
    shapes: a tree of shapes.
  """
  rng = np.random.default_rng(0)

  def fill(leaf: Any) -> np.ndarray:
    if leaf.dtype != np.float32 or len(leaf.shape) < 2:
      return np.ones(leaf.shape, leaf.dtype)
    scale = math.prod(leaf.shape[:-1]) ** -0.5
    return rng.standard_normal(leaf.shape, np.float32) * np.float32(scale)

  return jax.tree.map(fill, shapes)


def noise(
  seconds: float, rate: int, channels: int, *, batch: int = 1
) -> np.ndarray:
  """Noise as audio: float32 [batch, samples, channels]."""
  rng = np.random.default_rng(0)
  x = rng.standard_normal((batch, round(seconds * rate), channels))
  return (0.1 * x).astype(np.float32)
