"""What importing costs, and the settings on the command line."""

import ast
import importlib
import importlib.machinery
import importlib.util
import json
import pathlib
import re
import subprocess
import sys

import pytest

import mmdcodec
from mmdcodec import __main__
from mmdcodec.errors import UserError
from mmdcodec.train import config_files

HEAVY = (
  "soundfile", "soxr", "librosa", "grain", "orbax", "tensorflow_datasets",
  "matplotlib", "optax", "scipy", "tensorflow", "torch", "ml_collections",
)  # fmt: skip


def _imported(statement: str) -> set[str]:
  code = f"import sys, json; {statement}; print(json.dumps(list(sys.modules)))"
  out = subprocess.run(
    [sys.executable, "-c", code], capture_output=True, text=True, check=True
  )
  return {name.split(".")[0] for name in json.loads(out.stdout)}


def test_the_package_imports_nothing_heavy():
  """Catches a file, data or plotting library pulled in by `import mmdcodec`."""
  found = _imported("import mmdcodec")
  assert not found & {*HEAVY, "jax", "flax"}, found & {*HEAVY, "jax", "flax"}


def test_models_import_with_jax_flax_and_numpy():
  """Catches a model module that needs more than an importer has at hand."""
  # Flax itself imports these.
  own = _imported("import flax.linen")
  found = _imported(
    "import mmdcodec.models.codec, mmdcodec.quantize.residual,"
    " mmdcodec.losses.spectral, mmdcodec.audio.transforms"
  )
  assert not (found - own) & set(HEAVY), (found - own) & set(HEAVY)


def test_every_folder_says_what_its_files_do():
  """Catches a file that the map in its folder's `__init__.py` leaves out."""
  package = pathlib.Path(mmdcodec.__file__).parent
  missing = []
  for init in package.glob("*/__init__.py"):
    text = ast.get_docstring(ast.parse(init.read_text()))
    missing += [
      str(path.relative_to(package))
      for path in init.parent.glob("*.py")
      if path != init and not re.search(rf"\b{path.stem}\b", text)
    ]
  # The verbs of the command are listed by `mmdcodec --help`.
  assert not [name for name in missing if not name.startswith("cli/")]


def test_public_names_resolve():
  """Catches a public name whose module moved."""
  for name in mmdcodec.__all__:
    assert getattr(mmdcodec, name) is not None
  with pytest.raises(AttributeError, match="no_such_name"):
    mmdcodec.no_such_name  # noqa: B018


def _names():
  folder = pathlib.Path(__import__("mmdcodec.configs").configs.__file__).parent
  names = sorted(p.stem for p in folder.glob("*.py"))
  return [n for n in names if n not in ("__init__", "common")]


@pytest.mark.parametrize("name", _names())
def test_every_config_describes_a_run(name):
  """Catches a config that names a missing preset, or whose step can't trace."""
  import jax

  from mmdcodec.parallel import mesh
  from mmdcodec.train import program as program_lib
  from mmdcodec.train.task import make_task

  full = config_files.parse([f"--config={name}"])
  make_task(full.to_dict())
  config = config_files.parse([f"--config={name}:tiny"]).to_dict()
  task = make_task(config)
  one = mesh.make_mesh(devices=jax.devices()[:1])
  program = program_lib.make_program(task, config, one)
  _, metrics = jax.eval_shape(
    program.step, program.abstract, task.batch_shapes(config["batch"])
  )
  assert metrics["loss"].shape == ()


def test_overrides_reach_the_config():
  """Catches an override that is lost, or loses to the file's own value."""
  config = config_files.parse(
    [
      "--config.optimizer.learning_rate=0.5",
      "--config=soundstream_24khz:tiny",
      "--config.data.gain_db=(-3.0, 3.0)",
      "--config.model.codebooks=3",
    ]
  )
  assert config.optimizer.learning_rate == 0.5
  assert tuple(config.data.gain_db) == (-3.0, 3.0)
  assert config.model.codebooks == 3


def test_a_space_may_take_the_place_of_the_equals_sign():
  """Catches `--config codec_small`, as people type it, being refused."""
  words = "--config codec_small:tiny --config.steps 3 --config.batch=5".split()
  config = config_files.parse(words)
  assert config.steps == 3 and config.batch == 5
  with pytest.raises(UserError, match="did you mean codec_small?"):
    config_files.parse(["--config", "codec_smal"])


@pytest.mark.parametrize(
  "arguments, words",
  [
    (
      ["--config=soundstream_24khz", "--config.optimizer.warmups=1"],
      "did you mean",
    ),
    (["--config=soundstream_24khz", "--config.optimizer.x=1"], "no key 'x'"),
    (["--config=soundstream_24khz", "--config.steps=many"], "a whole number"),
    (["--config=soundstream_25khz"], "soundstream_24khz"),
    (["--config=missing.py"], "missing.py"),
    (["--steps=3"], "--steps=3"),
    ([], "--config"),
  ],
)
def test_mistakes_on_the_command_line_are_named(arguments, words):
  """Catches a traceback, or a mistake that is silently ignored."""
  with pytest.raises(UserError) as error:
    config_files.parse(arguments)
  assert words in str(error.value)
  assert "\n" not in str(error.value)


def test_a_checkout_that_is_not_installed(monkeypatch):
  """Catches `python -m mmdcodec` that lacks the configs beside it."""
  name = "mmdcodec.configs"
  monkeypatch.delitem(sys.modules, name)
  monkeypatch.setitem(sys.modules, f"{name}.overfit", None)
  del sys.modules[f"{name}.overfit"]
  with monkeypatch.context() as context:
    context.setattr(importlib.util, "find_spec", lambda name: None)
    __main__.find_configs()
  monkeypatch.setattr(sys, "meta_path", [importlib.machinery.PathFinder])
  found = importlib.import_module(f"{name}.overfit")
  root = pathlib.Path(mmdcodec.__file__).resolve().parent.parent
  assert pathlib.Path(found.__file__) == root / "configs" / "overfit.py"
