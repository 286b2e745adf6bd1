"""Parses `--config=NAME[:argument]` and `--config.key=value`."""

import ast
import contextlib
import difflib
import functools
import operator
import pathlib
from collections.abc import Callable
from typing import Any

from absl import flags
from ml_collections import ConfigDict, config_flags

from mmdcodec.errors import UserError
from mmdcodec.store import inputs, renamed
from mmdcodec.train import config_names

# What the keys of a config take, by the type of their value.
_KINDS: dict[type, str] = {
  bool: "True or False",
  int: "a whole number",
  float: "a number",
}


def _locate(name: str) -> str:
  """Finds a config by its path, or a shipped config by its name."""
  path = pathlib.Path(name)
  if path.suffix == ".py":
    # Absolute, because the file may refer to itself for its task.
    return str(inputs.check(path).absolute())
  folder = config_names.folder()
  if folder is None:
    raise UserError(
      f"the config {name!r} is looked for in mmdcodec.configs, which is not"
      " installed: run `pip install -e .` in the sources of mmdcodec, or give a"
      " path that ends in .py."
    )
  found = folder / f"{renamed.CONFIGS.get(name, name)}.py"
  if not found.is_file():
    names = config_names.names()
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.7)
    hint = f" (did you mean {near[0]}?)" if near else ""
    raise UserError(
      f"there is no config named {name!r}{hint}; expected one of"
      f" {', '.join(names)}, or a path that ends in .py."
    )
  return str(found)


def parse(arguments: list[str]) -> ConfigDict:
  """Reads a config and its overrides.

  Args:
    arguments: `--config=FILE_OR_NAME[:argument]` and any number of
      `--config.key=value`, or with a space for the equals sign. Keys of earlier
      versions are renamed.

  Returns:
    A locked `ConfigDict`.

  Raises:
    UserError: an unknown config or key, or a value of the wrong type.
  """
  files, overrides = [], []
  for argument in _joined(arguments):
    if argument.startswith("--config="):
      name, colon, rest = argument.removeprefix("--config=").partition(":")
      files.append(f"--config={_locate(name)}{colon}{rest}")
    elif argument.startswith("--config."):
      overrides.append(argument.removeprefix("--config."))
    else:
      raise UserError(
        f"{argument!r} is not understood; expected --config=NAME_OR_FILE,"
        " --workdir=DIR and --config.key=value."
      )
  if not files:
    raise UserError(
      "which config? Give --config=NAME (such as codec_small) or a .py file."
    )
  try:
    config = _parse(config_flags.DEFINE_config_file, files, lock_config=False)
    renamed.update(config)
    config.lock()
    for i, override in enumerate(overrides):
      key, equals, value = override.partition("=")
      key = renamed.update_key(key, config)
      overrides[i] = f"--config.{key}{equals}{value}"
    return _parse(config_flags.DEFINE_config_dict, overrides, config=config)
  except flags.IllegalFlagValueError as error:
    raise UserError(_expectation(str(error), overrides, config)) from None
  except (
    flags.Error,
    AttributeError,
    ImportError,
    KeyError,
    OSError,
    SyntaxError,
    TypeError,
    ValueError,
  ) as error:
    raise UserError(_sentence(error)) from None


def _joined(arguments: list[str]) -> list[str]:
  """Writes `--config NAME` and `--config.key VALUE` with an equals sign."""
  found: list[str] = []
  for argument in arguments:
    last = found[-1] if found else ""
    open_ended = last == "--config" or last.startswith("--config.")
    if open_ended and "=" not in last and not argument.startswith("--"):
      found[-1] = f"{last}={argument}"
    else:
      found.append(argument)
  return found


def _expectation(said: str, overrides: list[str], config: ConfigDict) -> str:
  """Returns what a key takes, for an override of another type."""
  for override in overrides:
    if not said.startswith(f"flag {override}: "):
      continue
    key, _, value = override.removeprefix("--config.").partition("=")
    shown = value if len(value) < 60 else f"{value[:56]}..."
    given = f"--config.{key}={shown}"
    with contextlib.suppress(KeyError, AttributeError, TypeError):
      old = functools.reduce(operator.getitem, key.split("."), config)
      if isinstance(old, ConfigDict):
        one = next(iter(old), "KEY")
        return (
          f"{given}: {key} is a group of settings; give one of them, such"
          f" as --config.{key}.{one}=VALUE."
        )
      kind = _KINDS.get(type(old), f"a {type(old).__name__}")
      return f"{given}: expected {kind}, such as {old!r}."
  return said.rstrip(".") + "."


def _sentence(error: Exception) -> str:
  """Returns what the flags of ml_collections say, without their quoting."""
  said = str(error)
  # The text of a KeyError is the repr of its message, and others quote it so.
  with contextlib.suppress(SyntaxError, ValueError, TypeError):
    while said[:1] in ("'", '"'):
      said = ast.literal_eval(said)
  key, _, hint = said.partition("\n")
  key = key.strip("'\"")
  if hint.startswith("Did you mean"):
    return f"the config has no key {key!r}; d{hint[1:]}"
  if isinstance(error, KeyError | AttributeError) and " " not in said:
    return f"the config has no key {key!r}."
  return " ".join(said.split())


def _parse(
  define: Callable, arguments: list[str], **options: Any
) -> ConfigDict:
  """Returns the value of a flag `config` after parsing the arguments."""
  # Separate flags: those of the process may belong to other programs.
  values = flags.FlagValues()
  arguments = ["mmdcodec", *arguments]
  holder = define(
    "config",
    flag_values=values,
    # Read for overrides; the default is the command line of the process.
    sys_argv=arguments,
    **options,
  )
  values(arguments, known_only=False)
  return values[holder.name].value
