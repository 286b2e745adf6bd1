"""Saves and loads trained models.

A bundle is a folder with a few files, none of them executable:

    config.json          {"kind": "codec", "model": {...}, ...}
    model.safetensors    arrays by path, "params/encoder/conv_in/kernel"; in 8
                         bits with ".../kernel.int8_scale" beside it, see
                         `mmdcodec.store.scaled`
    discriminators.safetensors    for continuing the training of a codec
    tokenizer.json       the text tokenizer of a music model

A codec whose decoder alone was trained further has "codes", the hash that
stands for its codes; see `mmdcodec.tokenizers.loaded_codec`.

A model may contain other models: a music model ("lm") contains its codec, with
the config under "codec" and the arrays under "codec/". A language model that
was trained without a codec is a "stage" of a hierarchy, such as MusicLM's. The
hierarchy itself ("musiclm") has the configs of all its parts under "parts". A
model that ships with the package names those that ship by themselves instead,
see `mmdcodec.packaged`.

`load` opens a bundle, or the best checkpoint of a training workdir. Loading
uses only these files and builds no training task.
"""

import difflib
import importlib
import pathlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import mmdcodec
from mmdcodec import folders, packaged
from mmdcodec.errors import UserError
from mmdcodec.models import low_rank, weights
from mmdcodec.store import atomic, inputs, paths, scaled, tensors, uploads
from mmdcodec.store import workdir as run_files
from mmdcodec.tokenizers.interface import AudioCodec, Tokenizer
from mmdcodec.tokenizers.loaded_codec import fingerprint, flatten

CONFIG_FILE, WEIGHTS_FILE = "config.json", "model.safetensors"
DISCRIMINATORS_FILE = "discriminators.safetensors"
# Parts that may be packaged models, and of what kind these must be.
PACKAGED_KINDS = {"codec": "codec", "joint": "mulan"}
# What to do about damaged files.
_AGAIN = "copy the folder, export or convert again"
# Files of other libraries, which are copied unchanged.
ASSETS = ("tokenizer.json",)
_REQUIRED = (CONFIG_FILE, WEIGHTS_FILE)
_OPTIONAL = (DISCRIMINATORS_FILE, *ASSETS)
# The loader of each kind, "module:callable", which is called with config,
# variables and assets.
LOADERS = {
  "codec": "mmdcodec.tokenizers.stereo_codec:open_codec",
  "lm": "mmdcodec.generation.musicgen:LoadedMusic",
  "stage": "mmdcodec.generation.stage:Stage",
  "musiclm": "mmdcodec.generation.musiclm:LoadedMusicLM",
  "text": "mmdcodec.tokenizers.loaded_text:LoadedText",
  "mulan": "mmdcodec.tokenizers.mulan:Mulan",
  "semantic": "mmdcodec.tokenizers.semantic:SemanticTokenizer",
  "clap": "mmdcodec.tokenizers.clap:Clap",
  "tagger": "mmdcodec.tokenizers.loaded_tagger:LoadedTagger",
  "melody_embedding": "mmdcodec.tokenizers.melody_embedding:Melody",
}


class Contents(NamedTuple):
  """The contents of a bundle or workdir.

  Attributes:
    config: the model's config.
    variables: nested dicts of arrays.
    assets: contents of other files, by name.
    discriminators: their parameters, or None.
  """

  config: dict[str, Any]
  variables: dict[str, Any]
  assets: dict[str, bytes]
  discriminators: dict[str, Any] | None


def save(
  folder: str | pathlib.Path,
  config: Mapping[str, Any],
  variables: Mapping[str, Any],
  *,
  assets: Mapping[str, bytes] | None = None,
  discriminators: Mapping[str, Any] | None = None,
  force: bool = False,
) -> None:
  """Writes a bundle.

  Args:
    folder: output folder; it must be empty or absent, unless force.
    config: JSON-compatible, with `kind` and `model`.
    variables: nested dicts of arrays.
    assets: contents of other files, by name; the names must be in ASSETS.
    discriminators: their parameters, if the model was trained with any.
    force: whether to replace a bundle in the folder.

  Raises:
    UserError: the folder holds something else.
    ValueError: an asset has another name.
  """
  assets = assets or {}
  if other := {*assets} - {*ASSETS}:
    raise ValueError(f"a bundle has no files {sorted(other)}")
  config = {**config, "mmdcodec": mmdcodec.__version__}
  arrays = {WEIGHTS_FILE: variables, DISCRIMINATORS_FILE: discriminators}
  with folders.replacing(
    folder, _REQUIRED, optional=_OPTIONAL, force=force
  ) as fresh:
    atomic.write_json(fresh / CONFIG_FILE, config)
    for name, contents in assets.items():
      (fresh / name).write_bytes(contents)
    for name, tree in arrays.items():
      if tree is not None:
        tensors.write(fresh / name, flatten(jax.device_get(tree)))


def check_out(folder: str | pathlib.Path, *, force: bool) -> None:
  """Raises UserError unless `save` may write to a folder; see there."""
  folders.check(folder, _REQUIRED, optional=_OPTIONAL, force=force)


def export(
  workdir: str | pathlib.Path,
  folder: str | pathlib.Path,
  *,
  step: int | None = None,
  dtype: str | None = None,
  force: bool = False,
) -> int:
  """Makes a bundle from a training run.

  Args:
    workdir: the run's workdir.
    folder: output folder.
    step: step of the checkpoint; by default the best one, or the last if none
      was evaluated.
    dtype: type in which the parameters are stored: "bfloat16" halves the file,
      "int8" with a scale for each row halves it again, but for the encoder of
      a codec, which it leaves at 16 bits; None: as they were trained.
      Statistics keep their type: they are few, and sums of many rows need the
      digits.
    force: whether to replace a bundle in the folder.

  Returns:
    The step that was exported.

  Raises:
    UserError: there is no such checkpoint, the run does not describe a model
      that can be read, or the folder holds something else.
  """
  found = _read_workdir(paths.of(workdir), step)
  _check(workdir, found)
  save(
    folder,
    found.config,
    stored_as(dtype, found.variables),
    assets=found.assets,
    discriminators=found.discriminators,
    force=force,
  )
  return found.config["training"]["step"]


def stored_as(dtype: str | None, variables: dict[str, Any]) -> dict[str, Any]:
  """Converts the float parameters of a model and of its parts.

  Args:
    dtype: type of the result, such as "bfloat16"; "int8" has scales, see
      `scaled`, and is only for files; None leaves all as it is.
    variables: collections by name, or those of the parts by theirs.
  """
  if dtype is None:
    return variables
  if dtype == "int8":
    return scaled.pack_parameters(jax.device_get(variables))

  def convert(path: tuple[Any, ...], leaf: np.ndarray) -> np.ndarray:
    # Parts have parameters of their own: "codec" / "params" / ...
    parameter = any(key.key == "params" for key in path)
    floats = jnp.issubdtype(leaf.dtype, jnp.floating)
    return leaf.astype(dtype) if parameter and floats else leaf

  return jax.tree_util.tree_map_with_path(convert, variables)


def _read_workdir(workdir: pathlib.Path, step: int | None = None) -> Contents:
  """Reads the complete model of a checkpoint; see `read` and `export`."""
  # Orbax takes a second to import, and bundles do not need it.
  from mmdcodec.store.checkpoints import Checkpoints

  training = run_files.read_config(workdir)
  info = run_files.read_info(workdir)
  checkpoints = Checkpoints(
    workdir, best=info.best_metric, best_mode=info.best_mode, read_only=True
  )
  try:
    if step is None:
      step = checkpoints.best_step()
    state = checkpoints.restore_arrays(step)
  finally:
    checkpoints.close()
  config = {
    "kind": info.kind,
    "model": training["model"],
    "training": {"step": int(state["step"]), "config": training},
  }
  if codes := run_files.read_codes(workdir):
    config["codes"] = codes
  parts = info.parts
  if target := run_files.read_target(workdir):
    config["target"] = target
    without_codec = (
      not training.get("codec") and not (workdir / "codec").exists()
    )
    if info.kind == "lm" and without_codec:
      parts = ()
      config |= {
        "kind": "stage",
        "target": {"frame_rate": training["data"]["frame_rate"], **target},
        "streams": run_files.read_streams(workdir),
      }
  variables = dict(state["collections"])
  params = state["params"] if state["ema"] is None else state["ema"]
  variables = low_rank.whole(
    {"params": params, **variables}, info.low_rank_scale
  )
  for part in parts:
    if not (workdir / part).is_dir():
      raise UserError(
        f"{workdir} has no {part}, which belongs to the model: continue the run"
        f" with --config.{part}=PATH, a bundle or workdir."
      )
    found = read(workdir / part)
    config[part], variables[part] = found.config, found.variables
  adversary = (state.get("extra") or {}).get("adversary", {})
  return Contents(
    config, variables, read_assets(workdir), adversary.get("params")
  )


def read_assets(folder: pathlib.Path) -> dict[str, bytes]:
  """Reads the files of ASSETS that a bundle or workdir has, by name."""
  files = [folder / name for name in ASSETS]
  return {
    file.name: inputs.read_bytes(file) for file in files if file.is_file()
  }


def _read_arrays(path: pathlib.Path) -> dict[str, Any]:
  """Reads the arrays of a safetensors file as nested dicts."""
  return tensors.nested(path, tensors.read(path, _AGAIN))


def read(path: str | pathlib.Path, *, discriminators: bool = False) -> Contents:
  """Reads the model at a path as NumPy arrays.

  Args:
    path: path of a bundle, a workdir or public weights, as for `load`.
    discriminators: whether to read their parameters as well.

  Raises:
    UserError: there is no model at the path, it is damaged, or its config or
      weights are not those of a model.
  """
  from mmdcodec.convert import hub

  path = hub.find(path)
  found = _read(path, discriminators)
  if not discriminators:
    found = found._replace(discriminators=None)
  _check(path, found)
  return found


def _check(path: str | pathlib.Path, found: Contents) -> None:
  """Checks what was read, before it is used or becomes a bundle."""
  # Loaders of other kinds, added to LOADERS, make their own checks. A kind may
  # be anything that JSON has, also a list, which is no key.
  if found.config.get("kind") in [*weights.SHAPES]:
    weights.check(path, found.config, found.variables, found.discriminators)
  if found.config.get("kind") == "musiclm":
    weights.check_parts(path, found.config, found.variables)


def _read(path: pathlib.Path, discriminators: bool) -> Contents:
  """Reads the files of a bundle, a workdir or public weights; see `read`."""
  from mmdcodec import convert

  config = None
  if (path / CONFIG_FILE).is_file():
    config = run_files.read_file(path / CONFIG_FILE, _AGAIN)
    if convert.is_public(config):
      return Contents(*convert.read(path), None)
  else:
    uploads.check_finished(path)
  if (path / WEIGHTS_FILE).is_file():
    if config is None:
      if found := convert.read_release(path):
        return Contents(*found, None)
      raise UserError(f"{path} has no {CONFIG_FILE}; {_AGAIN}.")
    found = Contents(
      config, _read_arrays(path / WEIGHTS_FILE), read_assets(path), None
    )
    found = _with_packaged(path, found)
    # Optional: they may be larger than the codec, which works without them.
    if discriminators and (path / DISCRIMINATORS_FILE).is_file():
      critics = _read_arrays(path / DISCRIMINATORS_FILE)
      found = found._replace(discriminators=critics)
    return found
  if config is not None and "kind" in config:
    raise UserError(f"{path} has no {WEIGHTS_FILE}; {_AGAIN}.")
  if config is not None:
    return _read_workdir(path)
  if not path.exists():
    names = packaged.names()
    near = difflib.get_close_matches(str(path), names, n=1, cutoff=0.75)
    raise UserError(
      f"{path} holds no model: there is no such folder, and the packaged models"
      f" are {', '.join(names)}{f'; did you mean {near[0]}?' if near else '.'}"
    )
  raise UserError(
    f"{path} holds no model: expected a bundle (a folder with {CONFIG_FILE} and"
    f" {WEIGHTS_FILE}) or the --workdir of a training run."
  )


def _with_packaged(path: pathlib.Path, found: Contents) -> Contents:
  """Puts in the packaged models that a model names; see `mmdcodec.packaged`.

  Args:
    path: of the bundle, for errors.
    found: its contents; the config may be anything that JSON has.

  Raises:
    UserError: there is no such model, it is of another kind, or a music model
      learned from another codec.
  """
  whole = found.config.get("kind") == "musiclm"
  parts: Any = found.config.get("parts") if whole else found.config
  keys = (*PACKAGED_KINDS,) if whole else ("codec",)
  named = {
    key: str(parts[key]["packaged"])
    for key in (keys if isinstance(parts, dict) else ())
    if isinstance(parts.get(key), dict) and "packaged" in parts[key]
  }
  if not named:
    return found
  configs, variables, assets = {**parts}, {**found.variables}, found.assets
  for key, name in named.items():
    folder = packaged.find(name)
    if folder is None:
      raise UserError(
        f"{path} needs the packaged {key} {name!r}, which this version of"
        f" mmdcodec does not have; it has {', '.join(packaged.names())}."
      )
    part = _read(folder, False)
    if part.config.get("kind") != PACKAGED_KINDS[key]:
      raise UserError(
        f"{path} names the packaged {name!r} as its {key}, which is a model of"
        f" kind {part.config.get('kind')!r}; {_AGAIN}."
      )
    configs[key], variables[key] = part.config, part.variables
    assets = {**assets, **part.assets}
  if whole:
    # Whether its parts fit is checked where they are opened.
    config = {**found.config, "parts": configs}
    return Contents(config, variables, assets, None)
  hashed = fingerprint(configs["codec"], variables["codec"])
  target = found.config.get("target")
  if isinstance(target, dict) and target.get("hash", hashed) != hashed:
    raise UserError(
      f"{path} was trained on the codes of another codec than this version's"
      f" {named['codec']!r} ({hashed}); install the version that it came with."
    )
  return Contents(configs, variables, assets, None)


def load(path: str | pathlib.Path) -> Any:
  """Opens a trained model.

  Args:
    path: path of a bundle, of a training workdir (for its best checkpoint, with
      averaged weights if the run has them), or of public weights that
      `mmdcodec.convert` can read; or the name of a packaged model, such as
      "small", "small_music" or "small_musiclm"; or an id on the Hugging Face
      Hub, such as "facebook/encodec_24khz".

  Returns:
    An object of the class in LOADERS: a `LoadedCodec`, a `LoadedMusic`, a
    `LoadedMusicLM`, ...

  Raises:
    UserError: there is no model at the path, or it is damaged.
  """
  return opened(path, read(path))


def opened(path: str | pathlib.Path, contents: Contents) -> Any:
  """Opens what `read` has read at a path; see `load`."""
  config, variables, assets, _ = contents
  kind = config.get("kind")
  if not isinstance(kind, str) or kind not in LOADERS:
    raise UserError(
      f"{path} holds a model of kind {kind!r}; this version can load"
      f" {', '.join(sorted(LOADERS))}."
    )
  module, name = LOADERS[kind].split(":")
  loader = getattr(importlib.import_module(module), name)
  return loader(config, variables, assets)


def read_codec(
  path: str | pathlib.Path,
) -> tuple[dict[str, Any], dict[str, Any]]:
  """Reads config and variables of a codec, or of a music model's codec.

  Raises:
    UserError: there is no model at the path, or it is damaged.
  """
  found = read(path)
  if found.config.get("kind") == "lm":
    return {**found.config["codec"], "kind": "codec"}, found.variables["codec"]
  if found.config.get("kind") == "musiclm":
    return found.config["parts"]["codec"], found.variables["codec"]
  return found.config, found.variables


def load_tokenizer(path: str | pathlib.Path) -> Tokenizer:
  """Opens a tokenizer, or a music model's codec; see `load`.

  Raises:
    UserError: there is no model at the path, it is damaged, or it is not a
      tokenizer.
  """
  model = load(path)
  tokenizer = getattr(model, "codec", model)
  if not isinstance(tokenizer, Tokenizer):
    raise UserError(
      f"{path} holds no tokenizer; expected a codec, another tokenizer or a"
      " music model."
    )
  return tokenizer


def load_codec(path: str | pathlib.Path) -> AudioCodec:
  """Opens a codec, or a music model's codec; see `load`.

  Raises:
    UserError: there is no model at the path, it is damaged, or it cannot
      decode.
  """
  codec = load_tokenizer(path)
  if not isinstance(codec, AudioCodec):
    raise UserError(
      f"{path} holds a {codec.kind} tokenizer, which cannot turn codes into"
      " audio; expected a codec or a music model."
    )
  return codec
