"""Stores that do not answer any more: runs that used them start again."""

import pytest
from toy_task import Toy

from mmdcodec.cli.main import main
from mmdcodec.errors import StoreGone, Unreachable, UserError
from mmdcodec.parallel import peers
from mmdcodec.store import orbax_stores, paths
from mmdcodec.store.checkpoints import Checkpoints
from mmdcodec.train import loop

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
