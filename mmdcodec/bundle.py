"""Trained models on disk.

A bundle is a folder with two or three files and nothing executable in them:

    config.json          {"kind": "codec", "model": {...}, ...}
    model.safetensors    arrays by path, "params/encoder/conv_in/kernel"
    discriminators.safetensors    of a codec trained with them, to train on

`load` opens a bundle, or a training workdir at its best checkpoint.
"""

import contextlib
import json
import pathlib
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import flax
import jax
import jax.numpy as jnp

import mmdcodec
from mmdcodec.errors import UserError
from mmdcodec.models.loaded import LoadedCodec, flatten

CONFIG_FILE, WEIGHTS_FILE = "config.json", "model.safetensors"
DISCRIMINATORS_FILE = "discriminators.safetensors"

LOADERS: dict[str, Callable] = {"codec": LoadedCodec}


def save(
  folder: str | pathlib.Path,
  config: dict,
  variables: dict,
  *,
  discriminators: dict | None = None,
  force: bool = False,
) -> None:
  """Writes a bundle.

  Args:
    folder: made; it must not hold anything yet, unless force.
    config: JSON-able, with `kind` and `model`.
    variables: nested dicts of arrays.
    discriminators: parameters, if the model was trained with some.
    force: replace a bundle that is there.

  Raises:
    UserError: the folder is in use.
  """
  import safetensors.numpy

  config = {**config, "mmdcodec": mmdcodec.__version__}
  arrays = {WEIGHTS_FILE: variables, DISCRIMINATORS_FILE: discriminators}
  with replacing(
    folder,
    (CONFIG_FILE, WEIGHTS_FILE),
    optional=(DISCRIMINATORS_FILE,),
    force=force,
  ) as fresh:
    (fresh / CONFIG_FILE).write_text(json.dumps(config, indent=2) + "\n")
    for name, tree in arrays.items():
      if tree is not None:
        safetensors.numpy.save_file(flatten(jax.device_get(tree)), fresh / name)


@contextlib.contextmanager
def replacing(
  folder: str | pathlib.Path,
  required: Sequence[str],
  *,
  optional: Sequence[str] = (),
  force: bool = False,
  what: str = "bundle",
) -> Iterator[pathlib.Path]:
  """A folder to write to, which takes its place when all is in it.

  Args:
    folder: made; it must not hold anything yet, unless force.
    required: names of files; a folder that holds them all, and nothing but
      them and the optional ones, may be replaced.
    optional: names of further files.
    force: replace it.
    what: it is, for the error.

  Yields:
    A folder beside it. Who opens `folder` finds all of it or none.

  Raises:
    UserError: the folder is in use, or holds public weights.
  """
  from mmdcodec import convert

  folder = pathlib.Path(folder).resolve()
  if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
    convert.spare(folder)
    found = {p.name for p in folder.iterdir()} if folder.is_dir() else set()
    ours = {*required} <= found <= {*required, *optional}
    if not (force and ours):
      raise UserError(
        f"{folder} exists already; "
        + (
          f"give --force to replace the {what} in it."
          if ours
          else f"it is no {what}, so choose another name."
        )
      )
  folder.parent.mkdir(parents=True, exist_ok=True)
  fresh = pathlib.Path(tempfile.mkdtemp(prefix=".bundle-", dir=folder.parent))
  fresh.chmod(0o755)
  try:
    yield fresh
  except BaseException:
    shutil.rmtree(fresh)
    raise
  if folder.exists():
    shutil.rmtree(folder)
  fresh.rename(folder)


def export(
  workdir: str | pathlib.Path,
  folder: str | pathlib.Path,
  *,
  step: int | None = None,
  force: bool = False,
) -> int:
  """Makes a bundle of a training run.

  Args:
    workdir: of the run.
    folder: of the bundle.
    step: which checkpoint; the best one by default, the last if none was
      evaluated.
    force: replace a bundle that is there.

  Returns:
    The step that was exported.
  """
  config, variables, discriminators = _read_workdir(pathlib.Path(workdir), step)
  save(folder, config, variables, discriminators=discriminators, force=force)
  return config["training"]["step"]


def _read_json(path: pathlib.Path) -> dict:
  try:
    found = json.loads(path.read_text())
  except (OSError, ValueError) as error:
    raise UserError(f"{path} can't be read as JSON: {error}.") from None
  if not isinstance(found, dict):
    raise UserError(f"{path} holds no settings, but a {type(found).__name__}.")
  return found


def _read_workdir(
  workdir: pathlib.Path, step: int | None = None
) -> tuple[dict, dict, dict | None]:
  from mmdcodec.train import program, settings
  from mmdcodec.train.checkpoint import Checkpoints

  training = _read_json(workdir / settings.CONFIG_FILE)
  if "task" not in training:
    raise UserError(
      f"{workdir} is no --workdir of a training run: its"
      f" {settings.CONFIG_FILE} names no task."
    )
  task = program.make_task(training)
  checkpoints = Checkpoints(
    workdir, best=task.best, best_mode=task.best_mode, read_only=True
  )
  try:
    if step is None:
      step = checkpoints.best_step()
    state = checkpoints.restore_arrays(step)
    step = int(state["step"])
  finally:
    checkpoints.close()
  params = state["params"] if state["ema"] is None else state["ema"]
  config = {
    "kind": training["task"],
    "model": training["model"],
    "training": {"step": step, "config": training},
  }
  carried = state.get("carried") or {}
  discriminators = carried.get("adversary", {}).get("params")
  return config, {"params": params, **state["collections"]}, discriminators


def _read_arrays(path: pathlib.Path) -> dict:
  """Nested dicts of the arrays in a safetensors file."""
  import safetensors
  import safetensors.numpy

  try:
    flat = safetensors.numpy.load_file(path)
  except safetensors.SafetensorError as error:
    raise UserError(f"{path} is damaged: {error}.") from None
  return flax.traverse_util.unflatten_dict(flat, sep="/")


def _read(
  path: str | pathlib.Path, *, discriminators: bool = False
) -> tuple[dict, dict, dict | None]:
  """Configuration, variables, and discriminators if there are and if asked."""
  from mmdcodec import convert
  from mmdcodec.convert import hub

  path = hub.find(path)
  if (path / CONFIG_FILE).is_file():
    config = _read_json(path / CONFIG_FILE)
    if convert.is_public(config):
      return *convert.read(path), None
  if (path / WEIGHTS_FILE).is_file():
    config = _read_json(path / CONFIG_FILE)
    variables = _read_arrays(path / WEIGHTS_FILE)
    # Larger than many a codec, which works without them.
    if discriminators and (path / DISCRIMINATORS_FILE).is_file():
      return config, variables, _read_arrays(path / DISCRIMINATORS_FILE)
    return config, variables, None
  if (path / CONFIG_FILE).is_file():
    return _read_workdir(path)
  raise UserError(
    f"{path} is no model: expected a bundle (a folder with {CONFIG_FILE} and"
    f" {WEIGHTS_FILE}) or the --workdir of a training run."
  )


def load_variables(path: str | pathlib.Path) -> tuple[dict, dict | None]:
  """What a bundle or workdir holds for further training, as NumPy arrays.

  Args:
    path: of a bundle or workdir.

  Returns:
    Parameters and collections of the model; parameters of its discriminators,
    or None.

  Raises:
    UserError: there is no model at the path, or it is damaged.
  """
  return _read(path, discriminators=True)[1:]


def load(path: str | pathlib.Path) -> Any:
  """Opens a trained model.

  Args:
    path: of a bundle, or of a training workdir (its best checkpoint, averaged
      weights if the run keeps them). Or of public weights that
      `mmdcodec.convert` knows, or their id on the Hugging Face Hub,
      "facebook/encodec_24khz".

  Returns:
    A `LoadedCodec`.

  Raises:
    UserError: there is no model at the path, or it is damaged.
  """
  config, variables, _ = _read(path)
  kind = config.get("kind")
  if kind not in LOADERS:
    raise UserError(
      f"{path} holds a model of kind {kind!r}; this version knows"
      f" {sorted(LOADERS)}."
    )
  model = LOADERS[kind](config, variables)
  _check_complete(path, model)
  return model


def _check_complete(path, model: LoadedCodec) -> None:
  """Every array that the model needs is there, in its shape."""
  x = jnp.zeros((1, model.model.stride, model.channels))
  wanted = jax.eval_shape(model.model.init, jax.random.key(0), x)
  wanted = flax.traverse_util.flatten_dict(wanted, sep="/")
  found = flax.traverse_util.flatten_dict(model.variables, sep="/")
  wrong = sorted(
    name
    for name in {*wanted, *found}
    if name not in wanted
    or name not in found
    or wanted[name].shape != found[name].shape
  )
  if wrong:
    raise UserError(
      f"the weights of {path} do not fit its config: {', '.join(wrong[:5])}"
      + (f" and {len(wrong) - 5} more" if len(wrong) > 5 else "")
      + " missing, left over or of another shape."
    )
