"""Keeps freed memory in the process, where the C library is glibc.

XLA's CPU backend allocates its buffers anew at every step and frees them. glibc
returns large blocks to the kernel at once, which clears the same pages again at
the next step: a fifth of the CPU time of a small training run. Settings for the
whole process are a program's to make, not a library's, so only the command
(`mmdcodec.cli.main`), the runs that an experiment starts, and the tests call
`keep_freed`.
"""

import ctypes
import os

# From malloc.h, which has no other names for them.
_M_TRIM_THRESHOLD, _M_MMAP_MAX, _M_ARENA_MAX = -1, -4, -8

# The user's own settings for glibc, which take precedence.
_VARIABLES = (
  "GLIBC_TUNABLES",
  "MALLOC_ARENA_MAX",
  "MALLOC_MMAP_MAX_",
  "MALLOC_MMAP_THRESHOLD_",
  "MALLOC_TRIM_THRESHOLD_",
)


def keep_freed() -> bool:
  """Makes glibc keep freed memory for the next allocation.

  All blocks come from one heap: a block with a mapping of its own goes back to
  the kernel when it is freed, and so does the top of each thread's heap. Call
  this before the first large array.

  Returns:
    Whether it is in effect. It is not with another C library, nor if
    environment variables of the user set glibc's allocator.
  """
  if any(name in os.environ for name in _VARIABLES):
    return False
  try:
    libc = ctypes.CDLL(None)
    # musl and macOS have no such function.
    libc.gnu_get_libc_version  # noqa: B018
    return all(
      libc.mallopt(name, value) == 1
      for name, value in (
        (_M_ARENA_MAX, 1),
        (_M_MMAP_MAX, 0),
        (_M_TRIM_THRESHOLD, 2**31 - 1),
      )
    )
  except (AttributeError, OSError, TypeError):  # TypeError: Windows
    return False
