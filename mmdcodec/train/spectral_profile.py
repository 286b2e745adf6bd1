"""Measures the levels of the training music for a spectral codec."""

import itertools
import math
from collections.abc import Callable, Iterator
from typing import Any

import jax

from mmdcodec.models import spectral_bins
from mmdcodec.models.codec import Codec
from mmdcodec.nn.conv import frames
from mmdcodec.parallel import rules

# Enough for a mean level of each bin that more music would hardly change.
SECONDS = 600


def measure(
  codec: Codec,
  collections: dict[str, Any],
  batches: Iterator[dict[str, Any]],
  size: int,
  say: Callable[[str], None],
) -> dict[str, Any]:
  """Sets the profile of a codec to the levels of the first batches.

  Args:
    codec: the model, with the topology "spectral".
    collections: its variables without parameters.
    batches: training batches, placed on the mesh.
    size: clips per batch.
    say: called with a line of text for the user.

  Returns:
    The collections with the profile; it is the same, up to rounding, on any
    number of devices.
  """

  @jax.jit
  def sums(batch: dict[str, jax.Array]) -> tuple[jax.Array, jax.Array]:
    ends = frames(batch["lengths"], codec.stride)
    found = spectral_bins.level_sums(
      batch["audio"],
      ends,
      codec.stride,
      magnitudes=codec.phase_iterations > 0,
    )
    return jax.tree.map(rules.constrain, found)

  first = next(batches)
  seconds = size * first["audio"].shape[1] / codec.rate
  count = math.ceil(SECONDS / seconds)
  say(f"measuring the levels of {count * seconds:.0f} s of the training data")
  rest = itertools.islice(batches, count - 1)
  found = [
    jax.device_get(sums(each)) for each in itertools.chain([first], rest)
  ]
  levels, counts = (sum(parts) for parts in zip(*found, strict=True))
  profile = spectral_bins.profile_of(levels, counts)
  codebook = dict(collections["codebook"])
  old = codebook["profile"]["magnitude"]
  codebook["profile"] = {"magnitude": jax.device_put(profile, old.sharding)}
  return {**collections, "codebook": codebook}
