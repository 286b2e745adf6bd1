"""`python -m mmdcodec` is the `mmdcodec` command.

It also works in a checkout that is not installed.
"""

import importlib.util
import pathlib
import sys

from mmdcodec.cli.main import main

_CONFIGS = "mmdcodec.configs"


def find_configs() -> None:
  """Takes the configs beside the package, unless they are installed in it."""
  if importlib.util.find_spec(_CONFIGS) is not None:
    return
  folder = pathlib.Path(__file__).resolve().parent.parent / "configs"
  spec = importlib.util.spec_from_file_location(
    _CONFIGS,
    folder / "__init__.py",
    submodule_search_locations=[str(folder)],
  )
  if spec is not None and folder.is_dir():
    sys.modules[_CONFIGS] = importlib.util.module_from_spec(spec)


if __name__ == "__main__":
  find_configs()
  sys.exit(main())
