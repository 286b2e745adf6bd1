"""Stores that do not answer any more: runs that used them start again."""

import signal

import pytest
from toy_task import Toy, toy_config

from mmdcodec.cli.main import main
from mmdcodec.errors import StoreGone, Unreachable, UserError
from mmdcodec.parallel import peers
from mmdcodec.store import orbax_stores, paths, urls
from mmdcodec.store.checkpoints import Checkpoints
from mmdcodec.train import loop, preemption

URL = paths.of("memory://run")


@pytest.mark.parametrize("method, code", [("save", 75), ("wait", 75)])
def test_during_a_run(tmp_path, monkeypatch, capsys, method, code):
  """Catches a run that nobody starts again, and a traceback."""

  def gone(self, *args):
    raise Unreachable("gs://run: cannot be written (no answer).")

  monkeypatch.setattr(loop, "make_task", Toy)
  monkeypatch.setattr(Checkpoints, method, gone)
  args = ["--config=encodec_24khz:tiny", f"--workdir={tmp_path}"]
  assert main(["train", *args, "--config.steps=2"]) == code
  said = capsys.readouterr().err
  assert said == "mmdcodec: gs://run: cannot be written (no answer).\n"


def test_at_the_start(tmp_path, monkeypatch):
  """Catches a misspelt store that is tried for ever."""

  def gone(self):
    raise Unreachable("gs://run: cannot be read (no answer).")

  monkeypatch.setattr(loop, "make_task", Toy)
  monkeypatch.setattr(Checkpoints, "latest", property(gone))
  args = ["--config=encodec_24khz:tiny", f"--workdir={tmp_path}"]
  assert main(["train", *args, "--config.steps=2"]) == 2


class Begun(Exception):
  """A run has gone past its wait for the store."""


@pytest.fixture
def outage(monkeypatch):
  """A store that does not answer a number of times; returns that number."""
  left = [0]

  def info(path):
    left[0] -= 1
    if left[0] >= 0:
      raise Unreachable(f"{path}: cannot be read (no answer).")
    raise FileNotFoundError

  def begin(workdir):
    raise Begun

  monkeypatch.setattr(paths.Url, "info", info)
  monkeypatch.setattr(urls, "_PAUSE", 0.01)
  monkeypatch.setattr(urls, "PATIENCE", 0.2)
  monkeypatch.setattr(loop.orbax_stores, "prepare", lambda folder: None)
  monkeypatch.setattr(loop.agreement, "check_shared", begin)
  return left


@pytest.mark.parametrize(
  "failures, error", [(0, Begun), (3, Begun), (10**6, Unreachable)]
)
def test_an_outage_at_the_start(outage, failures, error):
  """Catches a run that an outage ends for good, and a wait without end."""
  outage[0], said = failures, []
  with pytest.raises(error):
    loop.train(toy_config(), URL, log=said.append)
  assert len(said) == (failures > 0)
  assert all("waiting up to" in line and "no answer" in line for line in said)


def test_a_signal_during_an_outage(outage):
  """Catches a run that nobody can stop."""
  outage[0] = 10**6

  def interrupt(line):
    signal.raise_signal(signal.SIGTERM)

  with pytest.raises(preemption.Preempted):
    loop.train(toy_config(), URL, log=interrupt)


@pytest.mark.parametrize(
  "error, gone",
  [
    (ConnectionError("no route to host"), True),
    (RuntimeError("UNAVAILABLE: failed to connect after 32 attempts"), True),
    (TimeoutError(), True),
    (PermissionError(13, "Permission denied"), False),
    (RuntimeError("PERMISSION_DENIED: HTTP response code: 403"), False),
    (OSError("Forbidden: https://storage.googleapis.com"), False),
    (RuntimeError("Unable to locate credentials"), False),
  ],
)
@pytest.mark.parametrize(
  "place", [URL._asking, lambda: orbax_stores.errors_of(URL)]
)
def test_refusals(place, error, gone):
  """Catches a run without rights that is started again for ever."""
  with pytest.raises(UserError) as found, place():
    raise error
  assert isinstance(found.value, Unreachable) == gone


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
