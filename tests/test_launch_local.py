"""`launch/local.sh`, the flags, and what shellcheck says of all scripts."""

import os
import pathlib
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time

import fast_xla
import pytest
from fake_cloud import LAUNCH, Cloud

from mmdcodec.store import metrics

# Ends with the next code of its process, or when it gets a SIGTERM.
MMDCODEC = """
for word in "$@"; do
  [[ $word != --process-id=* ]] || id=${word#*=}
done
printf -v line ' %q' "$@"
echo "mmdcodec$line" >>"$CLOUD/calls"
file=$CLOUD/codes.${id:=0}
read -r code rest <"$file"
echo "$rest" >"$file"
if [[ $code == wait ]]; then
  trap 'exit 75' TERM
  echo ready
  for _ in {1..1500}; do sleep 0.02; done
fi
echo "process $id ends with $code"
exit "$code"
"""


@pytest.fixture
def cloud(tmp_path):
  cloud = Cloud(tmp_path)
  cloud.script("mmdcodec", MMDCODEC)
  return cloud


def codes(cloud, *words):
  """How the starts of each process end."""
  for id, codes in enumerate(words):
    (cloud.folder / f"codes.{id}").write_text(codes + "\n")


def test_processes_know_each_other(cloud):
  """Catches processes that do not meet, and arguments that are split."""
  codes(cloud, "0", "0", "0")
  done = cloud.run("local.sh --processes 3 -- mmdcodec train 'a b' --x='$y'")
  assert done.returncode == 0, done.stderr
  lines = sorted(shlex.split(line) for line in cloud.calls)
  assert [line[:4] for line in lines] == 3 * [
    ["mmdcodec", "train", "a b", "--x=$y"]
  ]
  ports = {line[4] for line in lines}
  assert len(ports) == 1
  assert re.fullmatch(r"--coordinator=localhost:\d{5}", ports.pop())
  assert [line[5:] for line in lines] == [
    ["--num-processes=3", f"--process-id={i}"] for i in range(3)
  ]
  for i in range(3):
    assert f"[{i}] process {i} ends with 0" in done.stdout


def test_variables_of_the_command(cloud):
  """Catches flags that do not reach the process."""
  cloud.script("mmdcodec", 'echo "$LIBTPU_INIT_ARGS|$XLA_FLAGS"')
  line = "LIBTPU_INIT_ARGS='--a=1 --b' XLA_FLAGS=--c=2 mmdcodec train"
  assert cloud.run(f"local.sh -- {line}").stdout == "--a=1 --b|--c=2\n"
  refused = cloud.run("local.sh -- X=1 python train.py")
  assert refused.returncode == 2 and "command is missing" in refused.stderr


def test_one_process_is_not_a_cluster(cloud):
  codes(cloud, "0")
  done = cloud.run("local.sh -- mmdcodec evaluate codec --seconds 3")
  assert done.returncode == 0
  assert cloud.calls == ["mmdcodec evaluate codec --seconds 3"]


@pytest.mark.parametrize(
  "first, second, restarts, code, starts",
  [
    ("75 75 0", "75 75 0", 0, 0, 3),
    ("75 0", "2 0", 0, 2, 1),
    ("137 0", "75 0", 0, 137, 1),
    ("1 0", "75 0", 1, 0, 2),
    ("1 75 1 1", "0 75 0 0", 1, 1, 3),
  ],
)
def test_restarts(cloud, first, second, restarts, code, starts):
  """Catches a 75 that is not restarted, or that hides a failure."""
  codes(cloud, first, second)
  done = cloud.run(
    f"local.sh --processes 2 --restarts {restarts} -- mmdcodec train"
  )
  assert done.returncode == code, done.stderr
  assert len(cloud.calls) == 2 * starts
  last = done.stderr.splitlines()[-1]
  assert last.startswith("launch: the run ")
  assert ("is done" if code == 0 else f"failed with exit code {code};") in last


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_reaches_all_processes(cloud, number):
  """Catches a run that is started again although it was to stop."""
  codes(cloud, "wait 0", "wait 0")
  run = cloud.start("local.sh --processes 2 -- mmdcodec train")
  lines = [run.stdout.readline() for _ in range(2)]
  assert sorted(lines) == ["[0] ready\n", "[1] ready\n"]
  run.send_signal(number)
  output = run.communicate(timeout=30)[0]
  assert run.returncode == 75 and "goes on" not in output
  assert len(cloud.calls) == 2


@pytest.mark.slow
def test_libtpu_knows_the_flags():
  """Catches flags that a later libtpu ends the process for."""
  pytest.importorskip("libtpu")
  text = (LAUNCH / "flags.sh").read_text()
  names = sorted(set(re.findall(r"xla_\w*[a-z]\b", text)) - {"xla_"})
  assert len(names) >= 8
  value = lambda name: "98304" if name.endswith("kib") else "true"
  flags = " ".join(f"--{name}={value(name)}" for name in names)
  look = (
    "from mmdcodec.parallel.topology import topology_devices as devices\n"
    "print(len(devices('v5e:2x2')))"
  )
  run = lambda flags: subprocess.run(
    [sys.executable, "-c", look],
    env=os.environ | dict(JAX_PLATFORMS="cpu", LIBTPU_INIT_ARGS=flags),
    capture_output=True,
    text=True,
  )
  done = run(flags)
  assert done.stdout == "4\n", done.stderr
  # And the test notices one.
  assert run("--xla_no_such_flag=true").returncode != 0


def test_shellcheck():
  """Catches unquoted words, and much else."""
  shellcheck = shutil.which(
    "shellcheck", path=f"{pathlib.Path(sys.executable).parent}:{os.defpath}"
  )
  if shellcheck is None:
    pytest.skip("shellcheck is not installed")
  scripts = [
    *LAUNCH.rglob("*.sh"),
    pathlib.Path(__file__).parent / "fake_command.sh",
  ]
  assert len(scripts) > 10
  done = subprocess.run(
    [shellcheck, "--external-sources", "--source-path=SCRIPTDIR", *scripts],
    capture_output=True,
    text=True,
  )
  assert done.returncode == 0, done.stdout


@pytest.mark.slow
def test_two_processes_train_through_a_crash(tmp_path, dataset):
  """Catches processes that do not meet, and a restart that begins anew."""
  cloud = Cloud(tmp_path)
  environment = os.environ | cloud.environment
  folder = pathlib.Path(sys.executable).parent
  environment |= dict(
    PATH=f"{folder}:{os.environ['PATH']}",
    JAX_PLATFORMS="cpu",
    XLA_FLAGS=fast_xla.ONE_DEVICE,
    JAX_DISABLE_MOST_OPTIMIZATIONS="1",
  )
  workdir = tmp_path / "run"
  run = subprocess.Popen(
    [
      LAUNCH / "local.sh", "--processes=2", "--restarts=1", "--",
      "mmdcodec", "train", "--config=codec_small:tiny", f"--workdir={workdir}",
      f"--config.data.train={dataset}", "--config.steps=15",
      "--config.log_every=1", "--config.save_every=5",
      "--config.losses.mel.windows=(256,)", "--config.model.lstm_layers=0",
    ],
    env=environment, text=True,
    stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
  )  # fmt: skip
  deadline = time.time() + 600
  while not any(row["step"] > 6 for row in metrics.read(workdir)):
    assert time.time() < deadline and run.poll() is None
    time.sleep(0.05)
  (victim,) = children(run.pid, "--process-id=1")
  os.kill(victim, signal.SIGKILL)
  output = run.communicate(timeout=600)[0]
  assert run.returncode == 0, output
  assert "failed with exit code 137; restart 1 of 1" in output
  assert f"[0] resumed {workdir} at step" in output
  assert metrics.read(workdir)[-1]["step"] == 15


def children(pid, word):
  """Processes that this one has started with a word in their command line."""
  pids = pathlib.Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
  return [
    int(child)
    for child in pids
    if word in pathlib.Path(f"/proc/{child}/cmdline").read_text().split("\0")
  ]
