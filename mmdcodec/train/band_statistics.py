"""Measures mean and deviation of the mel bands of the training music."""

import itertools
import math
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np

from mmdcodec.models import mel_front_end
from mmdcodec.models.semantic import SemanticModel
from mmdcodec.nn.conv import frames, length_mask
from mmdcodec.parallel import rules

# Enough for statistics that more music would hardly change.
SECONDS = 600


def measure(
  model: SemanticModel,
  collections: dict[str, Any],
  batches: Iterator[dict[str, Any]],
  size: int,
  say: Callable[[str], None],
) -> dict[str, Any]:
  """Sets the statistics of a model to those of the first batches.

  Args:
    model: the model.
    collections: its variables without parameters.
    batches: training batches, placed on the mesh.
    size: clips per batch.
    say: called with a line of text for the user.

  Returns:
    The collections with the statistics; they are the same, up to rounding, on
    any number of devices.
  """

  @jax.jit
  def sums(batch: dict[str, jax.Array]) -> Any:
    levels = model.levels(batch["audio"])
    ends = frames(batch["lengths"], model.hop)
    found = mel_front_end.band_sums(levels, length_mask(ends, levels.shape[1]))
    return jax.tree.map(rules.constrain, found)

  first = next(batches)
  seconds = size * first["audio"].shape[1] / model.rate
  count = math.ceil(SECONDS / seconds)
  say(f"measuring the spectra of {count * seconds:.0f} s of the training data")
  rest = itertools.islice(batches, count - 1)
  found = [
    jax.tree.map(np.float64, jax.device_get(sums(each)))
    for each in itertools.chain([first], rest)
  ]
  totals = (sum(parts) for parts in zip(*found, strict=True))
  measured = mel_front_end.band_statistics(*totals)
  old = collections["statistics"]
  new = {
    name: jax.device_put(measured[name].astype(np.float32), array.sharding)
    for name, array in old.items()
  }
  return {**collections, "statistics": new}
