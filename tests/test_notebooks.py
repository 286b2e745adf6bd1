"""The notebooks of `colab/`: they equal their sources, and they run.

With untrained models of the tests, at the size that MMDCODEC_SIZE=tiny makes.

Must catch: a notebook that was edited, or holds outputs; a cell that fails; an
example that no longer shows what its text says; a name that the API reference
leaves out.
"""

import re
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


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> dict[str, str]:
  """Bundles of a music model and of a MusicLM, not trained."""
  import random_music
  import random_musiclm

  from mmdcodec import bundle

  folder = tmp_path_factory.mktemp("models")
  bundle.save(folder / "musiclm", *random_musiclm.musiclm())
  music = random_music.random_music(folder / "codec", seed=1)
  bundle.save(folder / "music", *music)
  return {
    "MMDCODEC_CODEC": str(folder / "music"),
    "MMDCODEC_MUSIC": str(folder / "music"),
    "MMDCODEC_MUSICLM": str(folder / "musiclm"),
  }


@pytest.mark.slow
@each_notebook
def test_a_notebook_runs(source, models, tmp_path, compile_fast):
  """Catches a cell that fails, and one that shows something else."""
  done, _ = notebooks.run(source, tmp_path, **models)
  told = notebooks.printed(done)
  pictures = sum(
    "image/png" in output.get("data", {})
    for cell in done.cells
    for output in cell.get("outputs", [])
  )
  CHECKS[source.stem](told, pictures)


def _check_codec(told, pictures):
  assert "as all at once: True" in told and "same codes: True" in told
  # The codes, and the spectrograms of the original and of three rates.
  assert pictures == 5


def _check_independence(told, pictures):
  assert pictures == 5
  for name in ("Linen", "NNX", "Equinox"):
    before, after = re.findall(rf"{name}, .*dHSIC (-?[\d.]+)", told)
    assert float(after) < 0.7 * float(before), name
  rising = re.search(r"dhsic \[([^\]]*)\]", told)[1].split()
  rising = [float(each) for each in rising]
  assert rising[-1] > rising[0]


def _check_train(told, pictures):
  # Curves and two spectrograms.
  assert pictures == 3 and "step 12 in" in told


def _check_generate(told, pictures):
  assert pictures == 2 and "in all (1, 4000, 1)" in told


def _check_musiclm(told, pictures):
  assert "as above: True" in told and "codec, another clip" in told
  # Tokens of three stages, two spectrograms, one figure of six.
  assert pictures == 6


CHECKS = {
  "codec": _check_codec,
  "independence": _check_independence,
  "train": _check_train,
  "generate": _check_generate,
  "musiclm": _check_musiclm,
}
