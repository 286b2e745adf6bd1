"""Runs of several processes that cannot begin, or lose one."""

import argparse
import os
import signal
import socket
import subprocess
import sys
import threading
import types

import jax
import pytest
from peer_processes import free_port

from mmdcodec.cli import common
from mmdcodec.cli.main import main
from mmdcodec.errors import UserError
from mmdcodec.parallel import mesh, peers, roll


@pytest.mark.parametrize("verb", ["train", "tokenize"])
@pytest.mark.parametrize(
  "coordinator, processes, process, words",
  [
    ("localhost:1234", 2, 2, "process-id is 2; expected 0 to 1"),
    ("localhost:1234", 2, -1, "process-id is -1"),
    ("localhost:1234", 0, 0, "num-processes is 0"),
    ("localhost", 2, 0, "expected HOST:PORT"),
    ("localhost:99999", 2, 0, "expected HOST:PORT"),
    (":1234", 2, 0, "expected HOST:PORT"),
    ("localhost:1234", 2, None, "belong together"),
  ],
)
def test_arguments(
  tmp_path, monkeypatch, capsys, verb, coordinator, processes, process, words
):
  """Catches a wait for processes that can never come."""
  monkeypatch.setattr(jax.distributed, "initialize", None)
  monkeypatch.setenv("TF_CPP_MIN_LOG_LEVEL", "0")
  arguments = {
    "train": ["--config=codec_small:tiny", f"--workdir={tmp_path}"],
    "tokenize": ["data", "tokens", "--model=model"],
  }[verb] + [f"--coordinator={coordinator}", f"--num-processes={processes}"]
  arguments += [] if process is None else [f"--process-id={process}"]
  assert main([verb, *arguments]) == 2
  said = capsys.readouterr().err
  assert words in said.splitlines()[-1] and "Traceback" not in said


@pytest.mark.parametrize(
  "given", [("localhost:1234",), ("localhost:1234", 2), (None, 2), (None, 2, 0)]
)
def test_arguments_of_start_belong_together(monkeypatch, given):
  """Catches an AssertionError, and processes that run alone."""
  monkeypatch.setattr(jax.distributed, "initialize", None)
  with pytest.raises(UserError, match="process-id belong together"):
    mesh.start(*given)


# Of this process alone.
HLO = "RESOURCE_EXHAUSTED: allocating %optimization-barrier.3"


@pytest.mark.parametrize(
  "error, lost",
  [
    (jax.errors.JaxRuntimeError("Gloo: Connection closed by peer"), True),
    (jax.errors.JaxRuntimeError("INTERNAL: Barrier failed"), True),
    (ValueError("UNKNOWN: Gloo AllGather failed: Connection reset"), True),
    (ValueError("the connection of two layers"), False),
    (TimeoutError("waiting for async_write_complete barrier"), True),
    (jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory"), False),
    (jax.errors.JaxRuntimeError(HLO), False),
    (ValueError("INVALID_ARGUMENT: %optimization-barrier.3"), False),
    (jax.errors.JaxRuntimeError(f"INTERNAL: Barrier failed: {HLO}"), True),
    (UserError("no training data"), False),
  ],
)
@pytest.mark.parametrize("processes", [1, 2])
def test_errors_of_a_process(monkeypatch, processes, error, lost):
  """Catches an error of its own taken for that of another, and a long wait."""
  ended, leaves = [], []
  monkeypatch.setattr(jax, "process_count", lambda: processes)
  monkeypatch.setattr(peers, "end", lambda *given: ended.append(given))
  monkeypatch.setattr(roll, "missing", lambda: "process 1 on x")
  register = lambda *given: leaves.append(given)
  monkeypatch.setattr(peers.atexit, "register", register)
  with pytest.raises(type(error)), peers.together():
    raise error
  sentence = peers.LOST.format("process 1 on x")
  assert ended == [(sentence, peers.GONE)] * (lost and processes > 1)
  code = 2 if isinstance(error, UserError | OSError) else 1
  assert leaves == [(peers._leave, code)] * (processes > 1)


ALONE = argparse.Namespace(
  coordinator=None,
  num_processes=1,
  process_id=None,
  initialization_timeout=None,
)


def test_sigterm_to_work_that_is_not_saved(monkeypatch):
  """Catches a code with which nobody starts the work again."""
  ended, done = [], threading.Event()
  end = lambda *of, stay: ended.append(of) or done.set()
  monkeypatch.setattr(peers, "end", end)
  before = signal.getsignal(signal.SIGTERM)
  with common.processes(ALONE):
    signal.raise_signal(signal.SIGTERM)
    assert done.wait(60)
  assert ended == [(peers.STOPPED, 75)]
  assert signal.getsignal(signal.SIGTERM) is before
  with common.processes(ALONE, saves=True):
    assert signal.getsignal(signal.SIGTERM) is before


@pytest.mark.parametrize("pod, seconds", [(False, 1.0), (True, 10.0)])
def test_the_end_of_a_process_that_has_lost_another(monkeypatch, pod, seconds):
  """Catches a code that hides the failure of the other one, or its own."""
  codes, slept = [], []
  staying, stayed = threading.Event(), threading.Event()
  monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
  if pod:
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.0.0.1")
  monkeypatch.setattr(peers, "_ending", threading.RLock())

  def sleep(seconds):
    slept.append(seconds)
    staying.set()
    stayed.wait(60)

  monkeypatch.setattr(peers, "time", types.SimpleNamespace(sleep=sleep))
  monkeypatch.setattr(
    peers, "os", types.SimpleNamespace(**vars(os) | {"_exit": codes.append})
  )
  begin = lambda act, *of: (
    thread := threading.Thread(target=act, args=of, daemon=True),
    thread.start(),
  )[0]
  loses = begin(peers.end, "x", peers.GONE)
  assert staying.wait(60)
  # The main thread fails meanwhile, of what it has lost.
  begin(peers._leave, 1).join(0.1)
  assert not codes
  stayed.set()
  loses.join(60)
  assert codes == [peers.GONE] and slept == [seconds]


@pytest.mark.parametrize("timeout", [0, -5])
def test_a_time_limit_that_is_not_possible(tmp_path, capsys, timeout):
  """Catches a value that JAX takes for another."""
  assert (
    main(
      [
        "train",
        "--config=codec_small:tiny",
        f"--workdir={tmp_path}",
        "--coordinator=localhost:1234",
        "--num-processes=2",
        "--process-id=0",
        f"--initialization-timeout={timeout}",
      ]
    )
    == 2
  )
  said = capsys.readouterr().err
  assert f"--initialization-timeout is {timeout}; expected" in said


@pytest.mark.parametrize(
  "error, words",
  [
    ("coordinator_address should be defined.", None),
    ("process_id and num_processes must be nonnegative, with", "with"),
    ("Number of processes must be defined.", "Number of processes"),
  ],
)
def test_what_a_cluster_says(monkeypatch, error, words):
  """Catches a process of a cluster that trains alone."""

  def initialize(**_):
    raise ValueError(error)

  monkeypatch.setattr(jax.distributed, "initialize", initialize)
  if words is None:
    mesh.start()
    return
  with pytest.raises(UserError, match=f"is not possible .*{words}"):
    mesh.start()


def test_a_process_that_is_gone_after_the_meeting(monkeypatch):
  """Catches the code of a mistake, and a sentence about the meeting."""
  acts, ended = [], []

  def fail():
    # As the coordination service may, in C++ code.
    acts[-1]()
    raise jax.errors.JaxRuntimeError("Barrier timed out")

  monkeypatch.setattr(jax.distributed, "initialize", lambda **_: None)
  monkeypatch.setattr(jax, "process_count", lambda: 2)
  monkeypatch.setattr(peers, "_on_abort", acts.append)
  monkeypatch.setattr(peers, "end", lambda *given: ended.append(given))
  monkeypatch.setattr(peers.atexit, "register", lambda *given: None)
  monkeypatch.setattr(roll, "missing", lambda: "process 1 on x")
  monkeypatch.setattr(roll, "open_line", fail)
  with pytest.raises(jax.errors.JaxRuntimeError):
    peers.connect("localhost:1234", 2, 0)
  assert ended == [(peers.LOST.format("process 1 on x"), peers.GONE)] * 2
  acts[0]()
  sentence, code = ended[-1]
  assert "did not meet all others" in sentence and code == peers.GONE


def test_one_process_of_a_cluster_by_itself(monkeypatch):
  """Catches commands of one launcher that cannot be kept apart."""
  monkeypatch.setattr(jax.distributed, "initialize", None)
  mesh.start(num_processes=1)


def test_who_is_missing(monkeypatch):
  """Catches a blocked port that is taken for a process that has ended."""
  entries = [roll._Entry(i, f"host{i}", "", 1) for i in range(9)]
  monkeypatch.setattr(roll, "_entries", entries)
  monkeypatch.setattr(roll, "_mine", 3)
  gone = set()
  monkeypatch.setattr(roll, "_is_there", lambda e: e.process not in gone)
  assert roll.missing() == ""
  gone |= {3, 5}
  assert roll.missing() == "process 5 on host5"
  gone |= {0}
  assert roll.missing() == "process 0 on host0 and process 5 on host5"
  gone |= {1, 2, 4}
  assert roll.missing().endswith("2 on host2, process 4 on host4 and 1 more")
  gone |= set(range(9))
  assert roll.missing() == ""
  gone.clear()
  stopped = {2}
  monkeypatch.setattr(roll, "_hangs_up", lambda e: e.process not in stopped)
  assert roll.missing() == "process 2 on host2"
  gone.add(4)
  assert roll.missing() == "process 4 on host4"


@pytest.fixture
def first(monkeypatch):
  """This process is the first of two, which meet at localhost."""
  with socket.create_server(("127.0.0.1", 0)) as coordinator:
    state = types.SimpleNamespace(
      client=1,
      coordinator_address=f"localhost:{coordinator.getsockname()[1]}",
    )
    monkeypatch.setattr(roll.distributed, "global_state", state)
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    for name in ("_entries", "_line"):
      monkeypatch.setattr(roll, name, [])
    yield
    # Its thread is woken, and then ends.
    roll._line.shutdown(socket.SHUT_RDWR)
    roll._line.close()


def test_many_calls(monkeypatch, first):
  """Catches a process that counts as gone because many call it at once."""
  busy, answer = threading.Event(), roll._answer
  monkeypatch.setattr(roll, "_answer", lambda x: busy.wait(20) and answer(x))
  monkeypatch.setattr(roll, "exchange", lambda topic, text: [text, "other - 0"])
  roll.open_line()
  entry = roll._entries[0]
  assert all(roll._is_there(entry) for _ in range(200))
  busy.set()
  assert roll._hangs_up(entry)


def test_a_process_that_has_been_stopped(monkeypatch):
  """Catches one that is not named, although it holds up all others."""
  monkeypatch.setattr(roll, "_HANG_UP", 0.1)
  with socket.create_server(("127.0.0.1", 0)) as line:
    stopped = roll._Entry(1, "x", *line.getsockname())
    monkeypatch.setattr(roll, "_entries", [stopped])
    # The system takes calls; nobody hangs up.
    assert roll.missing() == "process 1 on x"
  assert roll._hangs_up(stopped)  # Whoever has ended has not been stopped.


def test_a_name_that_is_loopback_on_its_own_machine(monkeypatch, first):
  """Catches processes that call themselves, and cannot call another one."""
  said = []
  monkeypatch.setattr(
    roll, "exchange", lambda topic, text: [text, said.append(text) or text]
  )
  roll.open_line()
  host, port = roll._line.getsockname()
  assert said[0].split()[1:] == ["localhost", str(port)]
  assert host == "0.0.0.0"


CONNECT = """
import sys, time
from mmdcodec.parallel import peers
peers.SILENCE = 10
peers.connect(sys.argv[1], 2, int(sys.argv[2]), int(sys.argv[3]))
print("ready", flush=True)
time.sleep(600)
"""


def start(port, process, patience=120, script=CONNECT):
  return subprocess.Popen(
    [sys.executable, "-c", script, f"localhost:{port}", f"{process}",
     f"{patience}"],
    env={**os.environ, "JAX_PLATFORMS": "cpu", "TF_CPP_MIN_LOG_LEVEL": "4"},
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
  )  # fmt: skip


WORK = """
import argparse, sys, time
from mmdcodec.cli import common
from mmdcodec.parallel import roll
args = argparse.Namespace(
  coordinator=sys.argv[1],
  num_processes=2,
  process_id=int(sys.argv[2]),
  initialization_timeout=120,
)
with common.processes(args), common.one_voice(args) as first:
  print("ready", file=sys.stderr, flush=True)
  if first:
    time.sleep(600)
  else:  # in C++ code, where Python calls no handlers
    roll.exchange("end", "", patience=600)
"""


@pytest.mark.slow
def test_sigterm_to_two_processes():
  """Catches a signal that `jax.distributed` keeps to itself."""
  port = free_port()
  processes = [start(port, i, script=WORK) for i in range(2)]
  try:
    for process in processes:
      assert process.stderr.readline() == "ready\n"
    # Process 0 holds the service that would tell process 1 of its end.
    for process in reversed(processes):
      process.send_signal(signal.SIGTERM)
      _, said = process.communicate(timeout=60)
      assert (process.returncode, said) == (75, f"mmdcodec: {peers.STOPPED}\n")
  finally:
    for process in processes:
      process.kill()


@pytest.mark.slow
def test_a_process_that_never_comes():
  """Catches SIGABRT and a stack trace of C++ code."""
  processes = [start(free_port(), i, patience=2) for i in range(2)]
  for i, process in enumerate(processes):
    _, said = process.communicate(timeout=120)
    assert process.returncode == peers.GONE
    assert f"process {i} of 2 did not meet all" in said
    assert "within 2 s" in said and said.count("\n") == 1


@pytest.mark.slow
@pytest.mark.parametrize(
  "dead, signum", [(0, signal.SIGKILL), (1, signal.SIGSTOP)]
)
def test_a_process_that_dies_or_stops(dead, signum):
  """Catches the same for the processes that are left."""
  port = free_port()
  processes = [start(port, i, patience=120) for i in range(2)]
  for process in processes:
    assert process.stdout.readline() == "ready\n"
  processes[dead].send_signal(signum)
  left = processes[1 - dead]
  _, said = left.communicate(timeout=120)
  processes[dead].kill()
  processes[dead].communicate()
  assert left.returncode == peers.GONE
  assert f"mmdcodec: process {dead} on " in said
  assert said.count("\n") == 1
