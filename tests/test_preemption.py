"""Signals to a training: its state is saved, and nothing hangs."""

import os
import signal
import subprocess
import sys
import time

import pytest
from toy_task import Toy, toy_config
from training_runs import environment

from mmdcodec import platform
from mmdcodec.cli.main import main
from mmdcodec.store.checkpoints import Checkpoints
from mmdcodec.train import loop, opening, preemption


def signals_in(monkeypatch, owner, name, signum):
  """Sends a signal in the middle of the first call of a method."""
  method, sent = getattr(owner, name), []

  def call(*args, **options):
    if not sent:
      sent.append(signum)
      signal.raise_signal(signum)
    return method(*args, **options)

  monkeypatch.setattr(owner, name, call)


def latest(workdir):
  checkpoints = Checkpoints(workdir, read_only=True)
  try:
    return checkpoints.latest
  finally:
    checkpoints.close()


@pytest.mark.parametrize(
  "signum, owner, name, saved",
  [
    (signal.SIGINT, Toy, "batches", 1),
    (signal.SIGINT, loop.Report, "later", 1),
    # Seen after the step that follows.
    (signal.SIGINT, Checkpoints, "save", 3),
    (signal.SIGINT, Checkpoints, "wait", 4),
    (signal.SIGTERM, Checkpoints, "save", 3),
    (signal.SIGTERM, Checkpoints, "wait", 4),
  ],
)
def test_a_signal_at_any_time(
  tmp_path, monkeypatch, signum, owner, name, saved
):
  """Catches a save that is broken off, a signal ignored, a step lost."""
  monkeypatch.setattr(opening, "make_task", Toy)
  before = signal.getsignal(signum)
  signals_in(monkeypatch, owner, name, signum)
  config = toy_config(steps=4, save_every=2)
  interrupted = signum == signal.SIGINT
  with pytest.raises(
    KeyboardInterrupt if interrupted else preemption.Preempted
  ):
    loop.train(config, tmp_path, log=str)
  assert signal.getsignal(signum) is before
  assert latest(tmp_path) == saved
  loop.train(config, tmp_path, log=str)
  assert latest(tmp_path) == 4


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_to_a_run_that_has_ended(tmp_path, monkeypatch, signum):
  """Catches the next run of a script that begins after Ctrl-C."""
  monkeypatch.setattr(opening, "make_task", Toy)
  config = toy_config(steps=1, save_every=1, eval_every=1)
  loop.train(config, tmp_path, log=str)
  signals_in(monkeypatch, Toy, "batches", signum)
  with pytest.raises((KeyboardInterrupt, preemption.Preempted)):
    loop.train(config, tmp_path, log=str)


def test_the_command_says_that_it_was_interrupted(tmp_path, monkeypatch, capfd):
  """Catches a success, or a traceback, for Ctrl-C."""
  monkeypatch.setattr(opening, "make_task", Toy)
  signals_in(monkeypatch, Toy, "batches", signal.SIGINT)
  args = ["--config=encodec_24khz:tiny", f"--workdir={tmp_path}"]
  assert main(["train", *args]) == preemption.INTERRUPTED
  out, err = capfd.readouterr()
  assert "interrupted: saved at step 1; start again" in out
  assert "Ctrl-C again ends at once" in err


def test_a_second_sigint_ends_the_process(monkeypatch):
  """Catches a process that only SIGKILL can end."""
  codes = []
  monkeypatch.setattr(preemption.os, "_exit", codes.append)
  monkeypatch.setattr(platform, "one_command", True)
  notice = preemption.PreemptionNotice()
  try:
    signal.raise_signal(signal.SIGTERM)
    signal.raise_signal(signal.SIGINT)
    assert notice.reached(1) and notice.interrupted and not codes
    signal.raise_signal(signal.SIGINT)
  finally:
    notice.close()
  assert codes == [preemption.INTERRUPTED]


def test_a_second_sigint_only_interrupts_other_programs(monkeypatch):
  """Catches a notebook whose kernel dies of two interrupts."""
  codes = []
  monkeypatch.setattr(preemption.os, "_exit", codes.append)
  before = signal.getsignal(signal.SIGINT)
  notice = preemption.PreemptionNotice()
  try:
    signal.raise_signal(signal.SIGINT)
    assert notice.reached(1) and notice.interrupted
    with pytest.raises(KeyboardInterrupt):
      signal.raise_signal(signal.SIGINT)
  finally:
    notice.close()
  assert not codes and signal.getsignal(signal.SIGINT) is before


def test_a_run_in_the_background_ignores_sigint():
  """Catches a run that stops at the Ctrl-C for another program of a script."""
  before = signal.signal(signal.SIGINT, signal.SIG_IGN)
  try:
    notice = preemption.PreemptionNotice()
    signal.raise_signal(signal.SIGINT)
    assert not notice.reached(1)
    signal.raise_signal(signal.SIGTERM)
    assert notice.reached(2) and not notice.interrupted
    notice.close()
    assert signal.getsignal(signal.SIGINT) == signal.SIG_IGN
  finally:
    signal.signal(signal.SIGINT, before)


BUSY = """
import hashlib
from mmdcodec import platform
from mmdcodec.train import preemption
platform.one_command = True
preemption.PreemptionNotice()
print("ready", flush=True)
hashlib.pbkdf2_hmac("sha256", b"", b"", 1 << 30)
"""


@pytest.mark.slow
def test_a_second_sigint_does_not_wait_for_the_compiler():
  """Catches a count of signals in handlers, which such calls hold up."""
  process = subprocess.Popen(
    [sys.executable, "-c", BUSY],
    env=environment(),
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
  )
  assert process.stdout.readline() == "ready\n"
  os.kill(process.pid, signal.SIGINT)
  assert "Ctrl-C again" in process.stderr.readline()
  assert process.poll() is None
  start = time.monotonic()
  os.kill(process.pid, signal.SIGINT)
  assert process.wait(60) == preemption.INTERRUPTED
  assert time.monotonic() - start < 20
