"""Which configs ship with the package; light, for help texts."""

import importlib.util
import pathlib


def folder() -> pathlib.Path | None:
  """Returns the folder of `mmdcodec.configs`; None if it is not installed."""
  spec = importlib.util.find_spec("mmdcodec.configs")
  if spec is None or spec.origin is None:
    return None
  return pathlib.Path(spec.origin).parent


def names() -> list[str]:
  """Returns the names that `--config=NAME` takes, sorted."""
  found = folder()
  files = found.glob("*.py") if found else ()
  return sorted({path.stem for path in files} - {"__init__", "common"})
