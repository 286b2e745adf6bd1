"""Models of the Hugging Face Hub by their id, "facebook/encodec_24khz"."""

import pathlib
import re

from mmdcodec.errors import UserError

# Never a pickle, whatever else the repository holds.
PATTERNS = [
  "config.json",
  "*.safetensors",
  "*.safetensors.index.json",
  "tokenizer.json",
]


def is_id(text: str) -> bool:
  """Whether a text that names no path here may be a model's id: OWNER/NAME."""
  word = r"[A-Za-z0-9][A-Za-z0-9._-]*"
  if not re.fullmatch(f"{word}/{word}", text):
    return False
  # "runs/smal" in a folder with "runs" is a slip, not a model of somebody's.
  return not pathlib.Path(text).parent.exists()


def find(source: str | pathlib.Path) -> pathlib.Path:
  """The folder of a model, downloaded if need be.

  Args:
    source: a path; or, if there is nothing and it looks like one, an id.

  Returns:
    The path as it is, or the folder in the Hub's cache.

  Raises:
    UserError: the model can't be had, or huggingface_hub is not installed.
  """
  path = pathlib.Path(source)
  if path.exists() or not is_id(str(source)):
    return path
  try:
    import huggingface_hub
  except ImportError:
    raise UserError(
      f"{source} is no folder here; to get a model of that name from the"
      " Hugging Face Hub, pip install 'mmdcodec[hub]'."
    ) from None
  try:
    folder = huggingface_hub.snapshot_download(
      str(source), allow_patterns=PATTERNS
    )
  except Exception as error:  # of many kinds: network, rights, names
    reason = (str(error).strip() or type(error).__name__).splitlines()[0]
    raise UserError(
      f"{source} is no folder here, and no model of that name could be had"
      f" from the Hugging Face Hub: {reason}"
    ) from None
  return pathlib.Path(folder)
