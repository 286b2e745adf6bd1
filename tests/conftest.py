"""Tests run on the CPU, split into eight simulated devices."""

import os

# Before the first import of jax: a TPU library that is only there to compile
# ahead of time would otherwise be asked for chips.
os.environ["JAX_PLATFORMS"] = "cpu"

import fast_xla  # noqa: E402

DEVICES = f"{fast_xla.GIVEN} --xla_force_host_platform_device_count=8"
os.environ["XLA_FLAGS"] = f"{DEVICES} {fast_xla.FLAGS}"
# Tests ask what a program computes, not how well XLA optimises it: compiling
# takes a third of the time without. The fixture `optimized` is for the others.
# JAX reads both variables when it is imported, in subprocesses as well. Those
# compile the same programs when they go on with what another began.
os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "1"
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.1"

import collections  # noqa: E402
import contextlib  # noqa: E402
import gc  # noqa: E402
import hashlib  # noqa: E402
import pathlib  # noqa: E402
import platform  # noqa: E402
import re  # noqa: E402
import time  # noqa: E402

import jax  # noqa: E402
import pytest  # noqa: E402

from mmdcodec import memory  # noqa: E402
from mmdcodec.parallel import mesh  # noqa: E402

# As the command does, and before the first array.
memory.keep_freed()

# Here the CPU's part of XLA reads its flags. The TPU compiler is not to.
jax.devices()
os.environ["XLA_FLAGS"] = DEVICES


def pytest_addoption(parser):
  parser.addoption(
    "--slow", action="store_true", help="run the tests marked slow too"
  )
  parser.addoption(
    "--soak", action="store_true", help="run all tests, also those marked soak"
  )


def pytest_collection_modifyitems(config, items):
  """Slow tests and whole jobs on demand only, and files with slow tests first.

  A file stays in one process. A long one that starts last leaves the other
  processes with nothing to do.
  """
  soak = config.getoption("--soak")
  chosen = {"slow": soak or config.getoption("--slow"), "soak": soak}
  for name in [name for name, runs in chosen.items() if not runs]:
    skip = pytest.mark.skip(reason=f"{name}: pytest --{name} runs it")
    for item in items:
      if item.get_closest_marker(name):
        item.add_marker(skip)
  slow = collections.Counter(
    item.path for item in items if item.get_closest_marker("slow")
  )
  items.sort(key=lambda item: -slow[item.path])


def pytest_collection_finish():
  """Python looks for cyclic garbage less often, and not among the modules.

  Tracing makes so many objects that a tenth of the time would go there.
  """
  gc.collect()
  gc.freeze()
  gc.set_threshold(100_000, 20, 50)


@pytest.fixture(scope="session", autouse=True)
def compiled_programs(request, tmp_path_factory):
  """A compilation cache of all processes of the tests, kept for the next run.

  The tests build the same models again and again, commands compile them anew,
  and so do the processes that commands start. JAX's keys hold the program, the
  flags and the version; what the processor can do is added here.
  """
  cpu = pathlib.Path("/proc/cpuinfo")
  kind = platform.processor() + platform.machine()
  if cpu.exists():
    kind = str(sorted(set(re.findall(r"^flags.*", cpu.read_text(), re.M))))
  kind = hashlib.sha256(kind.encode()).hexdigest()[:16]
  # Without pytest's cache (-p no:cacheprovider), for this run alone.
  cache = getattr(request.config, "cache", None)
  make = tmp_path_factory.mktemp if cache is None else cache.mkdir
  root = make(f"programs-{kind}")
  # mmdcodec itself puts programs there, see `use_compilation_cache`.
  os.environ["XDG_CACHE_HOME"] = str(root)
  folder = root / "mmdcodec/compiled"
  jax.config.update("jax_compilation_cache_dir", str(folder))
  for file in folder.glob("*"):
    with contextlib.suppress(FileNotFoundError):  # another process was faster
      if file.stat().st_mtime < time.time() - 7 * 86_400:
        file.unlink()


_MAKE_MESH = mesh.make_mesh


@pytest.fixture(scope="session", autouse=True)
def one_device():
  """Runs whose config leaves the mesh open take one of the eight devices.

  A program in eight parts takes a third more time to compile and to run. Tests
  of several devices say which, or have the fixture `all_devices`.
  """

  def make_mesh(shape=None, devices=None):
    sizes = dict(shape or {})
    left_open = sizes.pop("data", -1) == -1 and {*sizes.values()} <= {-1, 1}
    if devices is None and left_open:
      devices = jax.devices()[:1]
    return _MAKE_MESH(shape, devices)

  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(mesh, "make_mesh", make_mesh)
    yield


@pytest.fixture
def all_devices(monkeypatch):
  """Runs whose config leaves the mesh open take all devices, as for users."""
  monkeypatch.setattr(mesh, "make_mesh", _MAKE_MESH)


@pytest.fixture(scope="module", autouse=True)
def forgotten_programs():
  """Or a process keeps all that it ever compiled: 5 GB at the end."""
  yield
  jax.clear_caches()


@pytest.fixture(scope="session")
def dataset(tmp_path_factory):
  """A prepared data set: 3 files of 12 s of simple music at 24 kHz."""
  from tunes import prepare_tunes

  folder = tmp_path_factory.mktemp("music")
  return prepare_tunes(folder, tmp_path_factory.mktemp("data") / "tunes")


@pytest.fixture
def compile_fast(monkeypatch):
  """Subprocesses have one device, and compile as fast as the tests.

  Not for tests that compile for TPUs, see `fast_xla`.
  """
  monkeypatch.setenv("XLA_FLAGS", fast_xla.ONE_DEVICE)


@pytest.fixture
def optimized():
  """XLA optimises as it does for users.

  For tests of compiled programs: their memory, their speed, how they round.
  """
  jax.config.update("jax_disable_most_optimizations", False)
  yield
  jax.config.update("jax_disable_most_optimizations", True)


@pytest.fixture(scope="session")
def model(request, tmp_path_factory):
  """Bundle of a small codec that has not been trained.

  A test may choose its preset, see `random_codec.each_topology`.
  """
  from random_codec import TOPOLOGIES, write_random_codec

  preset = getattr(request, "param", TOPOLOGIES[0])
  spectral = preset == "spectral_tiny"
  changes = dict(causal=True) if spectral else dict(dilations=(1,))
  folder = tmp_path_factory.mktemp("models") / "tiny"
  return write_random_codec(folder, 0, preset, **changes)


@pytest.fixture
def fails(capsys):
  """Runs a command that must end with 2 and one clear sentence."""
  from mmdcodec.cli.main import main

  def run(*argv):
    capsys.readouterr()
    assert main([str(a) for a in argv]) == 2
    error = capsys.readouterr().err
    assert error.startswith("mmdcodec: ") and "Traceback" not in error
    assert len(error.strip().splitlines()) == 1
    return error

  return run
