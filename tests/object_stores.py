"""Servers of object stores on this machine: gs:// and s3:// of real clients."""

import contextlib
import os
import pathlib
import socket
import subprocess
import sys
import time

HERE = pathlib.Path(__file__).parent
BUCKET = "music"
SCHEMES = ("gs", "s3")

# What clients ask for: fsspec, boto and TensorStore have names of their own.
_ADDRESSES = {
  "gs": ("STORAGE_EMULATOR_HOST", "TENSORSTORE_GCS_HTTP_URL"),
  "s3": ("AWS_ENDPOINT_URL",),
}
_VARIABLES = {
  "GOOGLE_CLOUD_PROJECT": "test",
  "AWS_ACCESS_KEY_ID": "test",
  "AWS_SECRET_ACCESS_KEY": "test",
  "AWS_REGION": "us-east-1",
  "AWS_DEFAULT_REGION": "us-east-1",
  "AWS_EC2_METADATA_DISABLED": "true",
}


@contextlib.contextmanager
def served(log):
  """Runs both servers; yields the variables that lead clients to them."""
  ports = {scheme: _free_port() for scheme in SCHEMES}
  commands = {
    "gs": [str(HERE / "gcs_server.py"), str(ports["gs"]), BUCKET],
    "s3": ["-m", "moto.server", "-H", "127.0.0.1", "-p", str(ports["s3"])],
  }  # fmt: skip
  variables = dict(_VARIABLES)
  for scheme, names in _ADDRESSES.items():
    for name in names:
      variables[name] = f"http://127.0.0.1:{ports[scheme]}"
  with contextlib.ExitStack() as stack:
    file = stack.enter_context(open(log, "w"))
    for scheme in SCHEMES:
      server = subprocess.Popen(
        [sys.executable, *commands[scheme]], stdout=file, stderr=file
      )
      stack.callback(server.wait)
      stack.callback(server.kill)
    for port in ports.values():
      _wait_for(port)
    stack.enter_context(_set(variables))
    import fsspec

    with contextlib.suppress(FileExistsError):
      fsspec.filesystem("s3").mkdir(BUCKET)
    yield variables


@contextlib.contextmanager
def _set(variables):
  before = {name: os.environ.get(name) for name in variables}
  os.environ.update(variables)
  yield
  for name, value in before.items():
    if value is None:
      del os.environ[name]
    else:
      os.environ[name] = value


def _free_port():
  with socket.socket() as probe:
    probe.bind(("127.0.0.1", 0))
    return probe.getsockname()[1]


def _wait_for(port):
  for _ in range(600):
    with contextlib.suppress(OSError):
      socket.create_connection(("127.0.0.1", port), 1).close()
      return
    time.sleep(0.1)
  raise TimeoutError(f"no server at port {port}")
