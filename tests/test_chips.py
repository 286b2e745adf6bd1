"""The table of accelerators.

Defects that these tests must catch: a chip that is taken for another one of a
similar name, and a figure with another unit than its neighbours.
"""

import pytest

from mmdcodec.parallel import chips
from mmdcodec.parallel import topology as topologies


@pytest.mark.parametrize(
  ("kind", "name", "tera"),
  [
    ("TPU v5", "v5p", 459),
    ("TPU v5p", "v5p", 459),
    ("TPU v5 lite", "v5e", 197),
    ("TPU v6 lite", "v6e", 918),
    ("TPU7x", "tpu7x", 1153.5),
    ("NVIDIA A100-SXM4-40GB", "A100", 312),
    ("NVIDIA H100 80GB HBM3", "H100", 989),
    ("NVIDIA H100 PCIe", "H100 PCIe", 756),
    ("NVIDIA H200", "H200", 989),
    ("NVIDIA L40S", "L40S", 362),
    ("NVIDIA L4", "L4", 121),
  ],
)
def test_names(kind, name, tera):
  """Catches v5p for v5e, and L4 for L40S."""
  found = chips.find(kind)
  assert found.name == name and found.peak == tera * 1e12


@pytest.mark.parametrize(
  ("topology", "devices"),
  [("v4:2x2x1", 4), ("v5e:2x2", 4), ("v5p:2x2x1", 4), ("v6e:2x2", 4),
   ("tpu7x:2x2x1", 8), ("2xv6e:2x2", 8)],
)  # fmt: skip
def test_names_of_topologies(topology, devices):
  """Catches a chip that the compiler knows and the table does not."""
  pytest.importorskip("libtpu")
  found = topologies.topology_devices(topology)
  name = topology.split(":")[0].removeprefix("2x")
  assert chips.find(found[0].device_kind).name == name
  assert len(found) == devices


def test_sizes_of_one_name():
  """Catches 40 GB for a chip of 80."""
  sizes = {
    chips.find(f"NVIDIA A100{rest}").memory
    for rest in ("-SXM4-80GB", " 80GB PCIe")
  }
  assert sizes == {80 * 10**9}


def test_unknown_chips():
  """Catches figures of some chip for another one."""
  for kind in ("cpu", "NVIDIA GeForce RTX 4090", "TPU v9", "TPU v5 litepod"):
    assert chips.find(kind) is None


def test_units():
  """Catches gigabytes beside bytes."""
  for chip in (*chips.TPUS.values(), *(chip for _, chip in chips.GPUS)):
    assert 15e9 < chip.memory < 200e9
    assert 50 < chip.peak / chip.bandwidth < 600, chip
    assert chip.links < chip.bandwidth
