"""`--config=NAME[:argument]` and `--config.key=value` on a command line."""

import importlib.util
import pathlib

from absl import flags
from ml_collections import config_flags

from mmdcodec.errors import UserError


def _locate(name: str) -> str:
  """A file, or the name of one that ships with the package, to a file."""
  path = pathlib.Path(name)
  if path.suffix == ".py":
    if not path.is_file():
      raise UserError(f"there is no config file {name}.")
    return str(path)
  folder = pathlib.Path(importlib.util.find_spec("mmdcodec.configs").origin)
  folder = folder.parent
  found = folder / f"{name}.py"
  if not found.is_file():
    names = sorted(
      p.stem
      for p in folder.glob("*.py")
      if p.stem not in ("__init__", "common")
    )
    raise UserError(
      f"there is no config named {name!r}; the shipped ones are"
      f" {', '.join(names)}, and a path that ends in .py works as well."
    )
  return str(found)


def parse(arguments: list[str]):
  """Reads a config and its overrides.

  Args:
    arguments: `--config=FILE_OR_NAME[:argument]` and any number of
      `--config.key=value`.

  Returns:
    A locked `ConfigDict`.

  Raises:
    UserError: no such config, an unknown key, a value of the wrong type.
  """
  located = []
  for argument in arguments:
    if argument.startswith("--config="):
      name, colon, rest = argument.removeprefix("--config=").partition(":")
      argument = f"--config={_locate(name)}{colon}{rest}"
    elif not argument.startswith("--config."):
      raise UserError(
        f"{argument!r} is not understood; expected --config=NAME_OR_FILE,"
        " --workdir=DIR and --config.key=value."
      )
    located.append(argument)
  if not any(argument.startswith("--config=") for argument in located):
    raise UserError(
      "which config? Give --config=NAME (such as codec_small) or a .py file."
    )
  # Flags of their own: the process's may hold those of other programs.
  values = flags.FlagValues()
  # --config=... first: overrides apply to it wherever they stand.
  located.sort(key=lambda argument: not argument.startswith("--config="))
  try:
    holder = config_flags.DEFINE_config_file(
      "config",
      lock_config=True,
      flag_values=values,
      # Overrides are looked up there, by default in those of the process.
      sys_argv=["mmdcodec", *located],
    )
    values(["mmdcodec", *located], known_only=False)
    return values[holder.name].value
  except (
    flags.Error,
    AttributeError,
    KeyError,
    TypeError,
    ValueError,
  ) as error:
    raise UserError(" ".join(str(error).split()).strip("'\"")) from None
