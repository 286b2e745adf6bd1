"""Tests run on the CPU, split into eight simulated devices."""

import os

# Before the first import of jax: a TPU library that is only there to compile
# ahead of time would otherwise be asked for chips.
os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["XLA_FLAGS"] = (
  os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"
)

import json  # noqa: E402

import numpy as np  # noqa: E402
import pytest  # noqa: E402


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
