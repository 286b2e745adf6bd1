"""What libtpu is told where there is no TPU, and the end of parent processes.

Catches: lines of C++ errors before the output of every command, and settings
for one chip on a machine that has a pod's.
"""

import glob
import importlib.util
import os
import subprocess
import sys

import jax
import pytest

from mmdcodec import platform

NAMES = ("TPU_SKIP_MDS_QUERY", "TPU_WORKER_HOSTNAMES", "TPU_WORKER_ID")
NAMES += ("TPU_ACCELERATOR_TYPE", "ALLOW_MULTIPLE_LIBTPU_LOAD")


@pytest.mark.parametrize("chip", ["", "/dev/accel0", "/dev/vfio/3"])
def test_settings_of_tpus_stay_where_there_are_some(monkeypatch, chip):
  for name in NAMES:
    monkeypatch.setenv(name, "")  # restored after the test
    monkeypatch.delenv(name)
  monkeypatch.setenv("TPU_WORKER_ID", "3")
  found = lambda pattern: [chip] if chip and chip[:-1] in pattern else []
  monkeypatch.setattr(glob, "glob", found)
  platform.expect_no_tpu()
  assert [name in os.environ for name in NAMES].count(not chip) >= 4
  assert os.environ["TPU_WORKER_ID"] == "3"


@pytest.mark.slow
@pytest.mark.skipif(
  importlib.util.find_spec("libtpu") is None, reason="needs libtpu"
)
def test_libtpu_is_silent_without_a_tpu():
  if any(map(glob.glob, platform._CHIPS)):
    pytest.skip("there is a TPU")
  env = {k: v for k, v in os.environ.items() if k not in NAMES}
  env.pop("JAX_PLATFORMS", None)
  code = "from mmdcodec import platform; platform.expect_no_tpu();"
  code += "import jax; jax.devices()"
  done = subprocess.run(
    [sys.executable, "-c", code], env=env, capture_output=True, text=True
  )
  assert done.returncode == 0 and done.stderr == ""


def test_a_cpu_beside_a_gpu_is_detected(monkeypatch):
  """Catches a kernel for GPUs in a program that runs on a CPU."""
  monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
  traced = []
  run = jax.jit(lambda x: traced.append(platform.traced_for()))
  run(0)
  for device in ("cpu", jax.devices("cpu")[0]):
    with jax.default_device(device):
      run(0)
  assert traced == ["gpu", "cpu", "cpu"]


@pytest.mark.parametrize("stdin, code", [(subprocess.PIPE, -15), (None, 3)])
def test_a_process_ends_with_its_parent(stdin, code):
  """Catches one that goes on alone and holds locks when that was killed."""
  program = (
    "import sys, time\n"
    "from mmdcodec import platform\n"
    "platform.end_with_parent()\n"
    "time.sleep(0.1)\n"
    "print('runs', flush=True)\n"
    f"time.sleep({0 if stdin is None else 60})\n"
    "sys.exit(3)"
  )
  child = subprocess.Popen(
    [sys.executable, "-c", program],
    stdin=stdin or subprocess.DEVNULL,
    stdout=subprocess.PIPE,
  )
  assert child.stdout.readline() == b"runs\n"
  if stdin:
    child.stdin.close()  # as the system does for a process that is killed
  assert child.wait(30) == code
  child.stdout.close()


@pytest.mark.parametrize("own", ["", "/theirs"])
def test_commands_keep_compiled_programs(tmp_path, own):
  """Catches a command that compiles the same each time it is called."""
  code = (
    "import sys; from mmdcodec.cli.main import main; sys.argv = ['mmdcodec'];"
    " main(); import jax; print(jax.config.jax_compilation_cache_dir)"
  )
  environment = {**os.environ, "XDG_CACHE_HOME": str(tmp_path)}
  environment.pop("JAX_COMPILATION_CACHE_DIR", None)
  if own:
    environment["JAX_COMPILATION_CACHE_DIR"] = own
  said = subprocess.run(
    [sys.executable, "-c", code], env=environment, capture_output=True,
    text=True,
  ).stdout  # fmt: skip
  wanted = own or f"{tmp_path}/mmdcodec/compiled"
  assert said.splitlines()[-1] == wanted
