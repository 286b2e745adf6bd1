"""Published figures of accelerators, by `device_kind` as JAX names it.

Sources: https://docs.cloud.google.com/tpu/docs/v5e, and .../v3 to .../tpu7x;
arXiv 2304.01433, table 4, for the links of v3 and v4; NVIDIA's datasheets of
A100, H100, H200, B200, L4 and L40S, without sparsity. What TPU programs can use
of the memory is what the compiler of libtpu 0.0.52 says when it runs out.

All figures are per JAX device. That is a chip, but half a chip of TPU v3 and
TPU7x, whose two cores are devices of their own.
"""

import dataclasses
import re


@dataclasses.dataclass(frozen=True)
class Chip:
  """What one device can do.

  Attributes:
    name: short name, such as "v5e" or "H100".
    memory: bytes of device memory for programs. For a TPU it is what the
      compiler may use; for a GPU the nominal size.
    peak: bfloat16 operations per second (matrix units, dense).
    bandwidth: bytes per second of the memory.
    links: bytes per second to other chips (ICI, NVLink), both directions
      together; 0 for PCI Express alone.
  """

  name: str
  memory: int
  peak: float
  bandwidth: float
  links: float


def _tpu(name: str, gib: float, *figures: float) -> Chip:
  tera, memory, links = figures
  return Chip(name, int(gib * 2**30), tera * 1e12, memory * 1e9, links * 1e9)


def _gpu(name: str, gigabytes: int, *figures: float) -> Chip:
  tera, memory, links = figures
  return Chip(name, gigabytes * 10**9, tera * 1e12, memory * 1e9, links * 1e9)


# Teraflops, then GB/s of memory and links.
TPUS = {
  "TPU v3": _tpu("v3", 15.48, 61.5, 450, 280),
  "TPU v4": _tpu("v4", 30.75, 275, 1228, 600),
  "TPU v5 lite": _tpu("v5e", 15.75, 197, 819, 400),
  "TPU v5": _tpu("v5p", 95.73, 459, 2765, 1200),
  "TPU v6 lite": _tpu("v6e", 31.24, 918, 1638, 800),
  "TPU7x": _tpu("tpu7x", 94.74, 1153.5, 3690, 600),
}
# Other names of the same chips.
_ALIASES = {
  "TPU v5e": "TPU v5 lite",
  "TPU v5p": "TPU v5",
  "TPU v6e": "TPU v6 lite",
}

# The first pattern at the start of a GPU's name counts.
GPUS = (
  (r"A100 80GB PCIe", _gpu("A100", 80, 312, 1935, 600)),
  (r"A100.*80GB", _gpu("A100", 80, 312, 2039, 600)),
  (r"A100", _gpu("A100", 40, 312, 1555, 600)),
  (r"H100 NVL", _gpu("H100 NVL", 94, 835, 3900, 600)),
  (r"H100 PCIe", _gpu("H100 PCIe", 80, 756, 2000, 600)),
  (r"H100", _gpu("H100", 80, 989, 3350, 900)),
  (r"H200 NVL", _gpu("H200 NVL", 141, 835, 4800, 900)),
  (r"H200", _gpu("H200", 141, 989, 4800, 900)),
  (r"B200", _gpu("B200", 180, 2250, 8000, 1800)),
  (r"L40S", _gpu("L40S", 48, 362, 864, 0)),
  (r"L4\b", _gpu("L4", 24, 121, 300, 0)),
)


def find(device_kind: str) -> Chip | None:
  """Returns the figures of a device, or None if they are not known.

  Args:
    device_kind: `jax.Device.device_kind`, such as "TPU v5 lite" or "NVIDIA H100
      80GB HBM3".
  """
  kind = _ALIASES.get(device_kind, device_kind)
  if kind in TPUS:
    return TPUS[kind]
  name = re.sub(r"^(NVIDIA|Tesla)\s+", "", kind)
  for pattern, chip in GPUS:
    if re.match(pattern, name):
      return chip
  return None
