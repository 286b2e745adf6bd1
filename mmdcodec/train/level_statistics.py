"""Measures mean and deviation of each band of the training music's spectra."""

import itertools
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mmdcodec.parallel import rules

# Enough that more music would hardly change them.
SECONDS = 600
# Bands that hardly change, such as those above the bandwidth of the data, are
# not amplified further. Decibels; for "scale", to which even silent bands may
# matter, there is nearly no limit.
_LEAST_DEVIATION = 1.0


def measure(
  spectrogram: Callable[[jax.Array, jax.Array], tuple[jax.Array, jax.Array]],
  old: Mapping[str, jax.Array],
  batches: Iterator[dict[str, Any]],
  *,
  seconds: float,
  say: Callable[[str], None],
) -> dict[str, jax.Array]:
  """Measures the bands over the valid frames of the first batches.

  Args:
    spectrogram: (audio [batch, samples, channels], valid samples [batch]) ->
      (levels [batch, frames, bands], bool [batch, frames], valid frames).
    old: "mean" and "deviation" or "scale" [bands], whose places the results
      take.
    batches: training batches, placed on the mesh, with "audio" and "lengths".
    seconds: seconds of audio in a batch.
    say: called with a line of text for the user.

  Returns:
    What `old` has: "mean"; "deviation", at least 1 dB; "scale", by which
    (levels - mean) * scale has variance 1. They are the same, up to rounding,
    on any number of devices.
  """

  @jax.jit
  def sums(batch: dict[str, jax.Array]) -> tuple[jax.Array, ...]:
    levels, valid = spectrogram(batch["audio"], batch["lengths"])
    kept = valid[..., None].astype(jnp.float32)
    # About the middle of audible levels, so that squares lose no digits.
    levels = (levels + 50.0) * kept
    found = levels.sum((0, 1)), (levels * levels).sum((0, 1)), kept.sum()
    return jax.tree.map(lambda x: rules.constrain(x, *[None] * x.ndim), found)

  count = math.ceil(SECONDS / seconds)
  say(f"measuring the levels of {count * seconds:.0f} s of the training data")
  found = [
    jax.tree.map(np.float64, jax.device_get(sums(each)))
    for each in itertools.islice(batches, count)
  ]
  total, squares, frames = (sum(parts) for parts in zip(*found, strict=True))
  mean = total / max(frames, 1)
  # A band that never changes, as in silence, is left as loud as it is.
  deviation = np.sqrt(np.maximum(squares / max(frames, 1) - mean**2, 0))
  new = {
    "mean": mean - 50.0,
    "scale": 1 / np.where(deviation > 1e-3, deviation, 1.0),
    "deviation": np.maximum(deviation, _LEAST_DEVIATION),
  }
  return {
    name: jax.device_put(np.float32(new[name]), old[name].sharding)
    for name in old
  }
