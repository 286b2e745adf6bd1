"""Devices of a TPU slice that is not there.

The real TPU compiler (the libtpu wheel) compiles for a described topology on
any machine; see `analysis`.
"""

import math
import re
from collections.abc import Sequence
from typing import Any

import jax

from mmdcodec import platform
from mmdcodec.errors import UserError

# Options that some topologies need (libtpu's platform configuration).
_EXTRA = {
  "v4": dict(chip_config_name="megacore", chips_per_host_bounds=(2, 2, 1))
}


def topology_devices(name: str) -> Sequence[jax.Device]:
  """Returns the devices of a described TPU slice, or of several.

  Args:
    name: `v5e:2x2`, `v5p:2x2x2`, `v4:2x2x4`, `v6e:4x4`, `tpu7x:2x2x1`, ...;
      `2xv5e:16x16` is two slices. A chip of `tpu7x` is two devices.

  Raises:
    UserError: libtpu is not installed, or does not support the topology.
  """
  from jax.experimental import topologies

  platform.only_compile_for_tpu()
  parsed = re.fullmatch(
    r"(?:([1-9]\d*) ?x ?)?((v\w+|tpu7x):(\d+(?:x\d+){1,2}))", name
  )
  if parsed is None:
    raise UserError(
      f"{name!r} is not a topology; expected a name such as v5e:2x2, v5p:2x2x2,"
      " v4:2x2x4 or tpu7x:2x2x1, or 2xv5e:16x16 for two slices."
    )
  slices, one, kind, shape = parsed.groups()
  sides = tuple(map(int, shape.split("x")))
  extra: dict[str, Any] = dict(_EXTRA.get(kind, {}))
  if math.prod(sides) == 1:
    extra["chips_per_host_bounds"] = (1, 1, 1)
  if slices is not None and int(slices) > 1:
    extra["num_slices"] = int(slices)
  try:
    return topologies.get_topology_desc(one, platform="tpu", **extra).devices
  except Exception as error:  # jaxlib raises several kinds.
    reason = " ".join(str(error).split())[:200]
    raise UserError(
      f"the TPU compiler has no topology {name!r} ({reason}); it comes with"
      " `pip install libtpu`."
    ) from None
