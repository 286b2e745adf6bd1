"""Tests run on the CPU, split into eight simulated devices."""

import os

# Before the first import of jax: a TPU library that is only there to compile
# ahead of time would otherwise be asked for chips.
os.environ["JAX_PLATFORMS"] = "cpu"
DEVICES = (
  os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"
)

import fast_xla  # noqa: E402

os.environ["XLA_FLAGS"] = f"{DEVICES} {fast_xla.FLAGS}"

import collections  # noqa: E402
import json  # noqa: E402

import jax  # noqa: E402
import numpy as np  # noqa: E402
import pytest  # noqa: E402

# Here the CPU's part of XLA reads its flags. The TPU compiler is not to, nor
# subprocesses: they run what users run.
jax.devices()
os.environ["XLA_FLAGS"] = DEVICES


def pytest_collection_modifyitems(items):
  """Files with slow tests first.

  A file stays in one process; a long one that begins last leaves the other
  processes with nothing to do.
  """
  slow = collections.Counter(
    item.path for item in items if item.get_closest_marker("slow")
  )
  items.sort(key=lambda item: -slow[item.path])


@pytest.fixture(scope="session", autouse=True)
def compiled_programs(tmp_path_factory):
  """A compilation cache of the tests' own, shared with their subprocesses."""
  folder = tmp_path_factory.mktemp("cache")
  before = os.environ.get("XDG_CACHE_HOME")
  os.environ["XDG_CACHE_HOME"] = str(folder)
  yield folder
  if before is None:
    del os.environ["XDG_CACHE_HOME"]
  else:
    os.environ["XDG_CACHE_HOME"] = before


@pytest.fixture(scope="module", autouse=True)
def forgotten_programs():
  """Or a process keeps all that it ever compiled: 5 GB at the end."""
  yield
  jax.clear_caches()


@pytest.fixture(scope="session")
def dataset(tmp_path_factory):
  """A prepared data set: 3 files of 12 s of simple music at 24 kHz."""
  import soundfile

  from mmdcodec.data import records

  folder = tmp_path_factory.mktemp("music")
  rate, time = 24_000, np.arange(12 * 24_000) / 24_000
  for i in range(3):
    random = np.random.default_rng(i)
    x = 0.01 * random.standard_normal(time.size)
    for start in np.arange(0, 12, 0.25):
      pitch = 110 * 2 ** (random.integers(0, 36) / 12)
      t = np.clip(time - start, 0, None)
      x += 0.2 * (t > 0) * np.exp(-5 * t) * np.sin(2 * np.pi * pitch * t)
    soundfile.write(folder / f"tune{i}.wav", np.clip(x, -1, 1), rate)
    (folder / f"tune{i}.json").write_text(
      json.dumps({"caption": f"tune number {i}"})
    )
  out = tmp_path_factory.mktemp("data") / "tunes"
  records.prepare(folder, out, rate=rate, seconds=10.0, progress=False)
  return out


@pytest.fixture(scope="module")
def compile_once(compiled_programs):
  """Every command compiles its codec anew; here, from the cache on disk."""
  from jax.experimental.compilation_cache import compilation_cache

  names = (
    "jax_compilation_cache_dir",
    "jax_persistent_cache_min_compile_time_secs",
    "jax_persistent_cache_min_entry_size_bytes",
  )
  before = [getattr(jax.config, name) for name in names]
  for name, value in zip(
    names, (str(compiled_programs / "xla"), 0, -1), strict=True
  ):
    jax.config.update(name, value)
  compilation_cache.reset_cache()
  yield
  for name, value in zip(names, before, strict=True):
    jax.config.update(name, value)
  compilation_cache.reset_cache()


@pytest.fixture
def compile_fast(monkeypatch):
  """Compiles to slower programs in a third of the time, in subprocesses too.

  For tests of what a program computes, not of how XLA optimises it; and that do
  not compile for TPUs, see `fast_xla`.
  """
  name = "jax_disable_most_optimizations"
  before = jax.config.read(name)
  monkeypatch.setenv(name.upper(), "1")
  monkeypatch.setenv("XLA_FLAGS", f"{DEVICES} {fast_xla.FLAGS}")
  jax.config.update(name, True)
  yield
  jax.config.update(name, before)


@pytest.fixture(scope="session")
def model(tmp_path_factory):
  """Bundle of a small codec that has not been trained."""
  from random_codec import write_random_codec

  folder = tmp_path_factory.mktemp("models") / "tiny"
  return write_random_codec(folder, 0, dilations=(1,))


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
