"""Stores that do not answer any more: runs that used them start again."""

import signal
import socket

import pytest
from toy_task import Toy, toy_config

from mmdcodec.cli.main import main
from mmdcodec.errors import StoreGone, UnknownServer, Unreachable, UserError
from mmdcodec.parallel import agreement, peers
from mmdcodec.store import orbax_stores, paths, urls
from mmdcodec.store.checkpoints import Checkpoints
from mmdcodec.train import loop, opening, preemption, same_data

URL = paths.of("memory://run")


@pytest.mark.parametrize(
  "method, error", [("save", Unreachable), ("wait", UnknownServer)]
)
def test_during_a_run(tmp_path, monkeypatch, capsys, method, error):
  """Catches a run that nobody starts again, and a traceback."""

  def gone(self, *args):
    raise error("gs://run: cannot be written (no answer).")

  monkeypatch.setattr(opening, "make_task", Toy)
  monkeypatch.setattr(Checkpoints, method, gone)
  args = ["--config=encodec_24khz:tiny", f"--workdir={tmp_path}"]
  assert main(["train", *args, "--config.steps=2"]) == 75
  said = capsys.readouterr().err
  assert said == "mmdcodec: gs://run: cannot be written (no answer).\n"


@pytest.mark.parametrize("error, code", [(Unreachable, 75), (UnknownServer, 2)])
def test_at_the_start(tmp_path, monkeypatch, error, code):
  """Catches an outage that ends a run for good, and a misspelt server.

  That one would be tried for ever.
  """

  def gone(self):
    raise error("gs://run: cannot be read (no answer).")

  monkeypatch.setattr(opening, "make_task", Toy)
  monkeypatch.setattr(Checkpoints, "latest", property(gone))
  args = ["--config=encodec_24khz:tiny", f"--workdir={tmp_path}"]
  assert main(["train", *args, "--config.steps=2"]) == code


class Begun(Exception):
  """A run has gone past its wait for the store."""


@pytest.fixture
def outage(monkeypatch):
  """Stores that do not answer a number of times; returns number and error."""
  left = [0, Unreachable, []]

  def info(path):
    left[0] -= 1
    left[2].append(str(path))
    if left[0] >= 0:
      raise left[1](f"{path}: cannot be read (no answer).")
    raise FileNotFoundError

  def begin(workdir):
    raise Begun

  monkeypatch.setattr(paths.Url, "info", info)
  monkeypatch.setattr(urls, "_PAUSE", 0.01)
  monkeypatch.setattr(urls, "PATIENCE", 0.2)
  monkeypatch.setattr(opening.orbax_stores, "prepare", lambda folder: None)
  monkeypatch.setattr(loop.agreement, "check_shared", begin)
  return left


@pytest.mark.parametrize(
  "failures, error", [(0, Begun), (3, Begun), (10**6, StoreGone)]
)
@pytest.mark.parametrize("place", ["workdir", "data set"])
def test_an_outage_at_the_start(tmp_path, outage, place, failures, error):
  """Catches a run that an outage ends for good, and a wait without end."""
  outage[0], said, config = failures, [], toy_config()
  if place == "data set":
    config.data.train = "memory://a/x=1,memory://songs/a=1,memory://songs/b=2"
  with pytest.raises(error):
    loop.train(config, URL if place == "workdir" else tmp_path, log=said.append)
  assert len(said) == (failures > 0)
  asked = {str(URL)} if place == "workdir" else {"memory://songs/b"}
  if place == "data set" and error is Begun:
    asked.add("memory://a/x")
  assert {*outage[2]} == asked and len(outage[2]) >= min(failures + 1, 4)
  assert all("waiting up to" in line and "no answer" in line for line in said)


def test_a_server_that_nobody_knows(outage):
  """Catches a wait of minutes for a name that is misspelt."""
  outage[:2], said = [10**6, UnknownServer], []
  with pytest.raises(UnknownServer):
    loop.train(toy_config(), URL, log=said.append)
  assert not said and len(outage[2]) == 1


def test_a_signal_during_an_outage(outage):
  """Catches a run that nobody can stop."""
  outage[0] = 10**6

  def interrupt(line):
    signal.raise_signal(signal.SIGTERM)

  with pytest.raises(preemption.Preempted):
    loop.train(toy_config(), URL, log=interrupt)


@pytest.mark.parametrize(
  "error, kind",
  [
    (ConnectionError("no route to host"), Unreachable),
    (RuntimeError("UNAVAILABLE: failed to connect for good"), Unreachable),
    (TimeoutError(), Unreachable),
    (socket.gaierror(socket.EAI_AGAIN, "Try again"), Unreachable),
    (socket.gaierror(socket.EAI_NONAME, "Name not known"), UnknownServer),
    (PermissionError(13, "Permission denied"), UserError),
    (RuntimeError("PERMISSION_DENIED: HTTP response code: 403"), UserError),
    (OSError("Forbidden: https://storage.googleapis.com"), UserError),
    (RuntimeError("Unable to locate credentials"), UserError),
    (ValueError('Parameter validation failed: bucket name "A B"'), UserError),
  ],
)
@pytest.mark.parametrize(
  "place", [URL._asking, lambda: orbax_stores.errors_of(URL)]
)
def test_refusals(place, error, kind):
  """Catches a run without rights that is started again for ever."""
  with pytest.raises(UserError) as found, place():
    raise RuntimeError("try 3 failed") from error
  assert type(found.value) is kind


def test_a_client_that_asks_a_server_that_nobody_knows(monkeypatch):
  """Catches an error of a real client that does not tell why."""
  monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
  monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")

  def unknown(*args, **kwargs):
    raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

  monkeypatch.setattr(socket, "getaddrinfo", unknown)
  s3fs = pytest.importorskip("s3fs")
  monkeypatch.setattr(s3fs.S3FileSystem, "retries", 1)
  system = s3fs.S3FileSystem(
    endpoint_url="http://nowhere.invalid", skip_instance_cache=True,
    config_kwargs={"retries": {"total_max_attempts": 1}},
  )  # fmt: skip
  monkeypatch.setattr(urls, "system_of", lambda scheme: system)
  with pytest.raises(UnknownServer):
    paths.Url("s3:", "music", "run").exists()


def test_an_outage_that_only_one_process_meets(monkeypatch):
  """Catches a mistake of the user's that is none, with the code of one."""
  tries = iter((Unreachable("no answer"), FileNotFoundError()))

  def info(path):
    raise next(tries)

  monkeypatch.setattr(paths.Url, "info", info)
  with pytest.raises(Unreachable):
    same_data.fingerprint("memory://songs/a")

  def write(path, text):
    raise Unreachable("no answer")

  monkeypatch.setattr(agreement.jax, "process_count", lambda: 2)
  monkeypatch.setattr(agreement, "_tidy", lambda folder: None)
  monkeypatch.setattr(paths.Url, "write_text", write)
  monkeypatch.setattr(paths.Url, "unlink", write)
  with pytest.raises(Unreachable):
    agreement.check_shared(URL)


def test_several_processes(monkeypatch):
  """Catches the code of a mistake for the whole run."""
  leaves = []
  monkeypatch.setattr(peers.jax, "process_count", lambda: 2)
  monkeypatch.setattr(
    peers.atexit, "register", lambda *given: leaves.append(given)
  )
  with pytest.raises(StoreGone), peers.together():
    raise StoreGone("x")
  assert leaves == [(peers._leave, 75)]
