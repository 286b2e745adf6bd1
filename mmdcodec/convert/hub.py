"""Finds models that are not at a path: packaged ones by name, others by id.

Ids, such as facebook/encodec_24khz, are those of the Hugging Face Hub.
"""

import pathlib
import re

from mmdcodec import packaged
from mmdcodec.errors import UserError
from mmdcodec.models import codec_presets, lm_presets
from mmdcodec.store import paths

# No pickles, even if the repository has them.
PATTERNS = [
  "config.json",
  "*.safetensors",
  "*.safetensors.index.json",
  "tokenizer.json",
  "preprocessor_config.json",
  "*stats.json",
  "vocab.txt",
  "1_Pooling/config.json",
  "adapter_config.json",
]


def is_id(text: str) -> bool:
  """Returns whether a text looks like a model id, OWNER/NAME, not a path."""
  word = r"[A-Za-z0-9][A-Za-z0-9._-]*"
  if not re.fullmatch(f"{word}/{word}", text):
    return False
  # "runs/smal" in a folder with "runs" is a typo, not an id.
  return not paths.of(text).parent.exists()


def find(source: str | pathlib.Path) -> pathlib.Path:
  """Returns the folder of a model, downloading it if necessary.

  Args:
    source: a path; if it does not exist, the name of a model that ships with
      the package (`mmdcodec.packaged`), or an id.

  Returns:
    The same path, the folder in the package, or that in the Hub's cache.

  Raises:
    UserError: the download fails, or huggingface_hub is not installed.
  """
  path = paths.of(source)
  if path.exists():
    return _check(path)
  if shipped := packaged.find(str(source)):
    return shipped
  if str(source) in (*codec_presets.PRESETS, *lm_presets.PRESETS):
    raise UserError(
      f"{source} is the name of a preset, not of weights: give the path of"
      " a model, or an id on the Hugging Face Hub, such as"
      " facebook/encodec_24khz."
    )
  if not is_id(str(source)):
    return path
  try:
    import huggingface_hub
  except ImportError:
    raise UserError(
      f"{source} is no folder here; to download a model of that name from the"
      " Hugging Face Hub, run: pip install 'mmdcodec[hub]'."
    ) from None
  try:
    folder = huggingface_hub.snapshot_download(
      str(source), allow_patterns=PATTERNS
    )
  except Exception as error:  # network, rights, names and more
    reason = (str(error).strip() or type(error).__name__).splitlines()[0]
    raise UserError(
      f"{source} is no folder here, and the download from the Hugging Face Hub"
      f" failed: {reason}"
    ) from None
  return _check(pathlib.Path(folder))


def _check(path: pathlib.Path) -> pathlib.Path:
  """Returns a folder unless it has only an adapter of a model."""
  whole = (path / "config.json").exists()
  if (path / "adapter_config.json").exists() and not whole:
    raise UserError(
      f"{path} holds only an adapter (PEFT) for another model: merge it into"
      " that model with merge_and_unload() where PEFT is installed, save the"
      " result, and give the path of that."
    )
  return path
