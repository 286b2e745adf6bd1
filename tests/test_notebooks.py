"""The notebooks of `colab/`: they equal their sources.

Must catch: a notebook that was edited, or holds outputs; a name that the API
reference leaves out.
"""

import sys
import types

import notebooks
import public_names
import pytest

each_notebook = pytest.mark.parametrize(
  "source", notebooks.SOURCES, ids=lambda source: source.stem
)
NAMES = {"codec", "independence", "train", "generate", "musiclm"}


@each_notebook
def test_a_notebook_is_that_of_its_source(source):
  """Catches an edit of one of the two, and outputs that were kept."""
  kept = source.with_suffix(".ipynb").read_text()
  assert kept == notebooks.text(notebooks.make(source)), (
    "run python tests/notebooks.py"
  )
  assert '"outputs": []' in kept and '"output_type"' not in kept
  assert f"/blob/main/colab/{source.stem}.ipynb)" in kept


def test_all_notebooks_begin_with_the_same_cell():
  """Catches a first cell that was mended in one notebook only."""
  assert {source.stem for source in notebooks.SOURCES} == NAMES
  first = {
    next(c.source for c in notebooks.make(s).cells if c.cell_type == "code")
    for s in notebooks.SOURCES
  }
  assert len(first) == 1


@pytest.mark.parametrize(
  "runtime, jax",
  [
    ("cpu", "jax"),
    ("CUDA Version: 12.4", "jax[cuda12]"),
    ("CUDA Version: 13.0", "jax[cuda13]"),
    ("tpu", "jax[tpu]"),
  ],
)
@pytest.mark.parametrize("checkout", [True, False])
def test_the_first_cell_installs(monkeypatch, tmp_path, runtime, jax, checkout):
  """Catches JAX for another accelerator, and a checkout that is ignored."""
  first = next(
    cell.source
    for cell in notebooks.make(notebooks.SOURCES[0]).cells
    if cell.cell_type == "code"
  )
  (tmp_path / "colab").mkdir()
  monkeypatch.chdir(tmp_path / "colab")
  if checkout:
    (tmp_path / "mmdcodec").mkdir()
    (tmp_path / "mmdcodec" / "bundle.py").touch()
  gpu = runtime.startswith("CUDA")
  ran = []
  fakes = {
    "importlib.util.find_spec": lambda name: None,
    "shutil.which": lambda name: name if gpu else None,
    "subprocess.run": lambda *a, **k: types.SimpleNamespace(stdout=runtime),
    "subprocess.check_call": ran.append,
    "glob.glob": lambda form: ["/dev/accel0"] if runtime == "tpu" else [],
  }
  with monkeypatch.context() as patch:
    for name, fake in fakes.items():
      patch.setattr(name, fake)
    exec(first, {})
  (command,) = ran
  assert command[:4] == [sys.executable, "-m", "pip", "install"]
  package = f"{tmp_path}[colab]" if checkout else "mmdcodec[colab] @ git+https"
  assert command[-2].startswith(package) and command[-1] == jax
  # It does nothing where the library is there.
  exec(first, {})
  assert len(ran) == 1


@each_notebook
def test_all_names_are_in_the_reference(source):
  """Catches a name that the API reference leaves out."""
  names = public_names.used(notebooks.code(source))
  assert len(names) > 3
  assert not names - public_names.documented()


def test_the_form_has_a_plain_fallback(monkeypatch):
  """Catches a notebook that needs ipywidgets."""
  code = notebooks.code(notebooks.FOLDER / "generate.py")
  begin = code.index("def make(")
  shown = []
  music = types.SimpleNamespace(
    rate=8000, generate=lambda texts, **options: [_Silence()]
  )
  scope = {
    "SECONDS": 1.0,
    "music": music,
    "display": shown.append,
    "Audio": lambda x, rate: (x, rate),
    "np": types.SimpleNamespace(clip=lambda x, low, high: x),
  }
  monkeypatch.setitem(sys.modules, "ipywidgets", None)
  exec(code[begin:], scope)
  assert shown == [("silence", 8000)]


class _Silence:
  T = "silence"
