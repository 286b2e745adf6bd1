"""Platform details: CPUs, parents, the cache of programs, traces, arrays."""

import contextlib
import glob
import os
import signal
import stat
import threading
from typing import Any

# Devices of TPU chips: v2 to v4, and later ones.
_CHIPS = ("/dev/accel[0-9]*", "/dev/vfio/[0-9]*")

# Folder of compiled programs in the user's cache.
PROGRAMS = "compiled"

# Whether this process runs one command and nothing else, so that code far below
# may end it. The command line sets it.
one_command = False


def cpus() -> int:
  """Returns the number of CPUs that this process may use."""
  if hasattr(os, "sched_getaffinity"):  # Linux; fewer than all in a container
    return len(os.sched_getaffinity(0))
  return os.cpu_count() or 1


def cache_folder(name: str) -> str:
  """Returns the path of a folder in the user's cache."""
  cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
  return os.path.expanduser(f"{cache}/mmdcodec/{name}")


def keep_programs() -> None:
  """Has JAX keep compiled programs on disk, before it is loaded.

  The next command that needs one is spared seconds or minutes. A setting of
  JAX's own takes precedence.
  """
  folder = cache_folder(PROGRAMS)
  # JAX would warn at every program.
  with contextlib.suppress(OSError):
    os.makedirs(folder, exist_ok=True)
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", folder)


def end_with_parent() -> None:
  """Has this process get SIGTERM when the one that started it has ended.

  However that one ends, the system closes its end of the pipe that is stdin
  here, and into which nobody writes. Does nothing if stdin is no pipe.
  """

  def wait() -> None:
    os.read(0, 1)
    os.kill(os.getpid(), signal.SIGTERM)

  if stat.S_ISFIFO(os.fstat(0).st_mode):
    threading.Thread(target=wait, daemon=True).start()


def only_compile_for_tpu() -> None:
  """Tells libtpu that there are no TPUs here, before JAX loads it.

  Otherwise it queries the cloud's metadata server for minutes, prints errors
  about missing settings, and locks chips that are not used here. Settings of
  the user take precedence.
  """
  for variable, value in (
    ("TPU_SKIP_MDS_QUERY", "1"),
    ("TPU_WORKER_HOSTNAMES", "localhost"),
    ("TPU_WORKER_ID", "0"),
    ("TPU_ACCELERATOR_TYPE", "v5litepod-8"),
    ("ALLOW_MULTIPLE_LIBTPU_LOAD", "1"),
  ):
    os.environ.setdefault(variable, value)


def expect_no_tpu() -> None:
  """Keeps libtpu silent on a machine without TPUs, before JAX loads it.

  Whoever has installed it to compile for TPUs has it asked for chips at JAX's
  first use.
  """
  if not any(map(glob.glob, _CHIPS)):
    only_compile_for_tpu()


def traced_for() -> str:
  """Returns the platform being traced for: "cpu", "gpu" or "tpu".

  This is the platform of the current mesh (which may be a TPU topology that a
  CPU compiles for), or else that of `jax.default_device`, or JAX's default.
  `jax.export` for another platform, and arrays that are committed to one, are
  not detected: the program is slower, or JAX refuses a kernel in it.

  All code that suits itself to a backend asks here. So a test, or a compilation
  ahead of time, can make it answer for any backend. The answer stands beside
  the code that it chooses, because its reason is a measurement of that code:

    nn/cache.py                   stacked or separate blocks for decoding
    nn/turned.py                  order of the factors of products for decoding
    generation/token_sampler.py   precision of greedy decoding
    nn/attention.py               cuDNN, splash attention or XLA
    nn/conformer_attention.py     layout of keys and values
    nn/positions.py               gather or comparisons to look up a bias
    nn/conv_nd.py                 convolutions as such or as other operations
    nn/folding.py                 time folded into the channels of narrow layers
    nn/mdct.py                    FFT or matrix product
    audio/transforms.py           the same
    quantize/pairs.py             size of the tiles of the independence loss
    train/adversarial.py          branch, or both sides
    train/gradients.py            loop, or unrolled

  `jax.lax.platform_dependent` chooses later, when a program is lowered, and
  misses nothing. It is used in quantize/vector.py, tiles.py and
  pallas_pairs.py, where no gradient goes through it: that would store what
  either branch needs, such as all logits of attention. So the Pallas kernel of
  splash attention is chosen here.
  """
  # The command line imports this file, and is fast without JAX.
  import jax

  device = jax.sharding.get_abstract_mesh().abstract_device
  modes: Any = jax.config
  device = device or modes.jax_default_device or jax.default_backend()
  return device if isinstance(device, str) else device.platform


def cuda_capability() -> float:
  """The compute capability of the first NVIDIA GPU, such as 8.0; 0 if none."""
  import jax

  try:
    device = jax.local_devices(backend="cuda")[0]
  except RuntimeError:
    return 0.0
  return float(device.compute_capability)


def bucket(size: int) -> int:
  """Rounds up to one of four sizes per octave: 1..8, 10, 12, 14, 16, 20, ...

  Padding arrays to these sizes keeps the number of compiled programs low, and
  at most a fifth of the work is padding.
  """
  if size <= 8:
    return max(size, 1)
  unit = 1 << ((size - 1).bit_length() - 3)
  return -(-size // unit) * unit
