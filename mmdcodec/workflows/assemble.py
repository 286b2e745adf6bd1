"""Makes one bundle of the parts of a MusicLM: what `mmdcodec assemble` does.

`take_apart` is its inverse.
"""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from mmdcodec import bundle
from mmdcodec.errors import UserError
from mmdcodec.generation import musiclm_parts
from mmdcodec.generation.musiclm_parts import KINDS, Parts

Path = str | pathlib.Path


def assemble(
  folder: Path,
  *,
  codec: Path,
  stages: Sequence[Path],
  semantic: Path | None = None,
  joint: Path | None = None,
  melody: Path | None = None,
  force: bool = False,
) -> Parts:
  """Writes a bundle of kind "musiclm", after checking that its parts fit.

  Args:
    folder: output folder.
    codec: bundle, workdir or public weights of the codec.
    stages: bundles or workdirs of the stages in any order: they know by their
      tokens which ones they are.
    semantic: semantic tokenizer, with codebooks.
    joint: joint embedding of music and text, with codebooks.
    melody: melody embedding, with codebooks.
    force: whether to replace a bundle in the folder.

  Returns:
    The parts, opened.

  Raises:
    UserError: there is no such model, one is given twice or is missing, or they
      do not fit; see `musiclm_parts.check_parts`.
  """
  bundle.check_out(folder, force=force)
  configs: dict[str, Any] = {}
  variables: dict[str, Any] = {}
  configs["codec"], variables["codec"] = bundle.read_codec(codec)
  _check_kind(codec, "codec", configs["codec"])
  assets: dict[str, bytes] = {}
  tokenizers = {"semantic": semantic, "joint": joint, "melody": melody}
  for key, path in tokenizers.items():
    if path is None:
      continue
    found = bundle.read(path)
    _check_kind(path, key, found.config)
    configs[key], variables[key] = found.config, found.variables
    if key == "joint":
      assets = found.assets
  given: dict[str, Path] = {}
  for path in stages:
    found = bundle.read(path)
    if found.config.get("kind") != "stage":
      raise UserError(
        f"{path} is no stage but a model of kind"
        f" {found.config.get('kind')!r}; train one with `mmdcodec train"
        " --config=musiclm_semantic`, musiclm_coarse or musiclm_fine."
      )
    try:
      place = musiclm_parts.place_of(found.config)
    except UserError as error:
      raise UserError(f"{path} cannot be a stage: {error}") from None
    if place in given:
      raise UserError(
        f"{given[place]} and {path} are both the {place} stage; give one of"
        " them."
      )
    given[place] = path
    key = f"{place}_lm"
    configs[key], variables[key] = found.config, found.variables
  parts = musiclm_parts.open_parts(configs, variables, assets)
  config = {"kind": "musiclm", "parts": configs}
  bundle.save(folder, config, variables, assets=assets, force=force)
  return parts


def take_apart(model: Path, folders: Mapping[str, Path]) -> None:
  """Writes bundles of the parts of a MusicLM.

  Args:
    model: path or name of the MusicLM.
    folders: folder of each part that is wanted, by its key; a bundle there is
      replaced.

  Raises:
    UserError: there is no such model, or it has no such part.
  """
  found = bundle.read(model)
  parts = found.config["parts"]
  for key, folder in folders.items():
    if key not in parts:
      raise UserError(f"{model} has no {key}; it has {', '.join(parts)}.")
    bundle.save(
      folder,
      parts[key],
      found.variables[key],
      # Only a joint embedding has files of other libraries.
      assets=found.assets if key == "joint" else None,
      force=True,
    )


def _check_kind(path: Path, key: str, config: dict[str, Any]) -> None:
  """Checks that a model can be the part that it is given for."""
  kind = config.get("kind")
  if kind not in KINDS[key]:
    raise UserError(
      f"{path}, given as --{key}, is a model of kind {kind!r}; expected"
      f" {' or '.join(map(repr, KINDS[key]))}."
    )
