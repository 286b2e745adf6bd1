"""The folder that `mmdcodec evaluate` writes: results.json and a page."""

import pathlib
import shlex
from collections.abc import Mapping
from typing import Any

from mmdcodec.errors import UserError
from mmdcodec.store import paths, uploads

# Everything that an evaluation may write.
OUTPUTS = (
  "results.json", "clips.csv", "report.html", "curves.png",
  "codebook_us*.png", "dependence.png", "spectrogram-[0-9]*.png",
  "audio/[0-9]*-original.flac", "audio/[0-9]*-reconstruction.flac",
  "audio/[0-9]*-sample.flac",
)  # fmt: skip


def check(folder: str | pathlib.Path, *, force: bool) -> None:
  """Checks that results can be written to a folder, before work begins.

  Raises:
    UserError: it holds results and `force` is False, or it holds other files.
  """
  folder = paths.of(folder)
  if folder.exists() and not folder.is_dir():
    raise UserError(f"{folder} is a file; expected the name of a folder.")
  uploads.check_writable(folder)
  if not folder.exists() or not any(folder.iterdir()):
    return
  if not (folder / "results.json").is_file():
    raise UserError(
      f"{folder} holds something other than results; choose another folder."
    )
  if not force:
    raise UserError(f"{folder} holds results; give --force to replace them.")


def prepare(folder: str | pathlib.Path) -> pathlib.Path:
  """Makes a folder, without the files of an earlier evaluation.

  Raises:
    UserError: it cannot be made.
  """
  folder = paths.of(folder)
  try:
    folder.mkdir(parents=True, exist_ok=True)
  except OSError as error:
    raise UserError(f"{folder} cannot be made: {error.strerror}.") from None
  for pattern in OUTPUTS:
    for path in folder.glob(pattern):
      path.unlink()
  return folder


def command(what: str, options: Mapping[str, Any]) -> str:
  """The command that measures again, for the page.

  Args:
    what: what was measured, as in `mmdcodec evaluate WHAT`.
    options: by name; those that are None were not given.
  """
  words = ["mmdcodec", "evaluate", what]
  for name, value in options.items():
    if name == "prompt":
      for prompt in value or ():
        words += ["--prompt", prompt]
    elif value is not None:
      many = value if isinstance(value, list) else [value]
      words += [f"--{name}", *map(str, many)]
  return shlex.join(words)


def chosen(about: Mapping[str, Any], *names: str) -> dict[str, Any]:
  """The options among what is known about a run."""
  return {name: about[name] for name in names if name in about}
