"""Standard streams that are closed, whose reader is gone, or that are full.

Catches: tracebacks after `| head`, at the end of the interpreter as well; a
closed stdout or stderr whose number a data file gets; a hidden thread that dies
of a full disk while the run waits for it.
"""

import errno
import importlib
import os
import shlex
import signal
import subprocess
import sys
import threading

import pytest
from coded_streams import make_stream

from mmdcodec import bitstream
from mmdcodec.cli import streams
from mmdcodec.cli.main import main

info = importlib.import_module("mmdcodec.cli.info")


def line_by_line(args):
  print("a line", flush=True)


def in_a_large_block(args):
  print("words" * 10_000)


def at_the_end(args):
  print("a line")


def bytes_of_a_file(args):
  streams.stdout().write(bytes(100_000))


def from_deep_within(args):
  try:
    print("a line", flush=True)
  except BrokenPipeError as error:
    raise RuntimeError("a callback failed") from error


@pytest.mark.parametrize(
  "run",
  [line_by_line, in_a_large_block, at_the_end, bytes_of_a_file]
  + [from_deep_within],
)
def test_a_reader_that_goes_away(monkeypatch, capsys, run):
  monkeypatch.setattr(info, "run", run)
  reader, writer = os.pipe()
  os.close(reader)
  with open(writer, "w") as file, monkeypatch.context() as patch:
    patch.setattr(sys, "stdout", file)
    assert main(["info", "x"]) == 141
  assert capsys.readouterr().err == ""


def test_pipes_to_something_else_are_errors(monkeypatch):
  def broken(args):
    raise BrokenPipeError

  monkeypatch.setattr(info, "run", broken)
  with pytest.raises(BrokenPipeError):
    main(["info", "x"])


def test_processes_end_quietly(tmp_path):
  """All in one shell: a process takes half a second."""
  bitstream.write(tmp_path / "a.mmdc", make_stream())
  command = shlex.join([sys.executable, "-m", "mmdcodec"])
  lines = {
    f"{command} info a.mmdc | true; echo ${{PIPESTATUS[0]}}": "141",
    f"{command} info --help | true; echo ${{PIPESTATUS[0]}}": "0",
    f"{command} info a.mmdc >&-; echo $?": "0",
    f"{command} info a.mmdc <&- 2>&- >/dev/null; echo $?": "0",
    f"{command} info none 2>/dev/full; echo $?": "2",
    f"{command} --version >/dev/full; echo $?": "2",
    f"{command} encode a.mmdc - --codebooks 1 >&-; echo $?": "2",
    f"{command} decode - a.wav --model none <&-; echo $?": "2",
  }
  done = subprocess.run(
    ["bash", "-c", "\n".join(lines)],
    cwd=tmp_path,
    # Unbuffered, argparse ignores what it cannot write.
    env={k: v for k, v in os.environ.items() if k != "PYTHONUNBUFFERED"},
    capture_output=True,
    text=True,
  )
  assert done.stdout.split() == [*lines.values()]
  full, out, err = done.stderr.splitlines()
  assert "No space left" in full and "/dev/stdout" in full
  assert "stdout is closed" in out and "stdin is closed" in err


CRASH = """
import os, resource, signal, sys
resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
from mmdcodec.cli import info, main
def crashing(args): os.kill(os.getpid(), signal.SIGSEGV)
info.run, sys.argv = crashing, ["mmdcodec", "info", "x"]
main.main()
"""


def test_a_crash_says_where(tmp_path):
  """Catches a library in C++ that ends a command without a word."""
  own = ("PYTHONFAULTHANDLER", "PYTHONDEVMODE")
  done = subprocess.run(
    [sys.executable, "-c", CRASH],
    cwd=tmp_path,
    env={k: v for k, v in os.environ.items() if k not in own},
    capture_output=True,
    text=True,
  )
  assert done.returncode == -signal.SIGSEGV
  assert "Segmentation fault" in done.stderr and "crashing" in done.stderr


def test_a_thread_that_meets_a_full_disk_ends_the_run(monkeypatch, capsys):
  codes = []
  monkeypatch.setattr(os, "_exit", codes.append)
  monkeypatch.setattr(threading, "excepthook", streams._thread_failed)
  monkeypatch.setattr(sys, "unraisablehook", sys.unraisablehook)
  full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

  def write():
    raise full

  thread = threading.Thread(target=write)
  thread.start()
  thread.join()
  assert codes == [2]
  assert capsys.readouterr().err.startswith("mmdcodec: No space left on device")


@pytest.mark.parametrize("code, ends", [(0, 2), (1, 1), (75, 75)])
def test_a_full_disk_at_the_end(monkeypatch, capsys, code, ends):
  monkeypatch.setattr(sys, "unraisablehook", sys.unraisablehook)
  monkeypatch.setattr(threading, "excepthook", threading.excepthook)
  with open("/dev/full", "w") as file, monkeypatch.context() as patch:
    patch.setattr(sys, "stdout", file)
    print("the last words")
    assert streams.end(code) == ends
  assert ("No space left" in capsys.readouterr().err) is (code == 0)


def test_late_results_of_storage_are_not_printed(capsys):
  streams._failed(RuntimeError, RuntimeError("Event loop is closed"), None)
  assert capsys.readouterr().err == ""
  streams._failed(RuntimeError, RuntimeError("a bug"), None)
  assert "a bug" in capsys.readouterr().err
