"""What happens to freed memory: kept by the command, as usual in a library.

Catches: settings that are not made, or made too late, by the command; an import
that changes the allocator of somebody else's process; and a failure where the C
library is not glibc.
"""

import ctypes
import os
import subprocess
import sys
import types

import pytest

from mmdcodec import memory

# Prints the mappings that a large block got of its own, and the heaps that
# malloc has after a second thread has used it.
PROBE = """
import ctypes, sys, tempfile, threading
libc = ctypes.CDLL(None)
libc.malloc.restype = libc.fopen.restype = ctypes.c_void_p
class Info(ctypes.Structure):
  _fields_ = [(name, ctypes.c_size_t) for name in (
    "arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks",
    "uordblks", "fordblks", "keepcost")]
libc.mallinfo2.restype = Info
before = libc.mallinfo2().hblks
libc.malloc(ctypes.c_size_t(1 << 26))
mapped = libc.mallinfo2().hblks - before
barrier = threading.Barrier(3)
def work():
  libc.malloc(ctypes.c_size_t(1000))
  barrier.wait()
  barrier.wait()
for _ in range(2):
  threading.Thread(target=work, daemon=True).start()
barrier.wait()
with tempfile.NamedTemporaryFile("r") as file:
  stream = ctypes.c_void_p(libc.fopen(file.name.encode(), b"w"))
  libc.malloc_info(0, stream)
  libc.fclose(stream)
  print(mapped, file.read().count("<heap nr="))
"""
IMPORT = "import mmdcodec, mmdcodec.cli.main, mmdcodec.bundle\n"
COMMAND = (
  "import sys\nfrom mmdcodec.cli import main\n"
  "sys.argv = ['mmdcodec', 'info', '/nowhere']\nassert main.main() == 2\n"
)

glibc = pytest.mark.skipif(
  not hasattr(ctypes.CDLL(None), "mallinfo2"), reason="needs glibc"
)


def probe(first, **variables):
  kept = {k: v for k, v in os.environ.items() if k not in memory._VARIABLES}
  done = subprocess.run(
    [sys.executable, "-c", first + PROBE],
    env=kept | variables,
    stdin=subprocess.DEVNULL,
    capture_output=True,
    text=True,
    check=True,
  )
  mapped, heaps = map(int, done.stdout.split())
  return mapped, heaps > 1


@glibc
def test_the_command_keeps_freed_memory_and_an_import_does_not():
  assert probe(COMMAND) == (0, False)
  assert probe(IMPORT) == (1, True)


@glibc
@pytest.mark.slow
def test_the_runs_of_an_experiment_keep_it_too():
  run = (
    "import runpy, sys\n"
    "sys.argv = ['run', '/nowhere']\n"
    "try:\n"
    "  runpy.run_module('mmdcodec.experiments.arm_run', None, '__main__')\n"
    "except SystemExit as end:\n"
    "  assert 'nowhere' in str(end)\n"
  )
  assert probe(run) == (0, False)


@glibc
def test_settings_of_the_user_take_precedence():
  assert probe(COMMAND, MALLOC_TRIM_THRESHOLD_="100000") == (1, True)


@pytest.mark.parametrize("error", [TypeError, OSError, None])
def test_another_libc_passes_by(monkeypatch, error):
  for name in memory._VARIABLES:
    monkeypatch.delenv(name, raising=False)

  def load(name):
    if error:
      raise error
    # Neither musl nor macOS has mallopt.
    return types.SimpleNamespace()

  monkeypatch.setattr(ctypes, "CDLL", load)
  assert memory.keep_freed() is False
