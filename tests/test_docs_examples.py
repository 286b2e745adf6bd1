"""Every Python block of the README and of the guides runs.

With small models in the places that the pages name, which were not trained, and
with a few seconds of music. Only what a page can't have is stood in for: a
microphone, a loudspeaker, an array of the reader's.

Must catch: an example that no longer runs, and one that runs nowhere.
"""

import pathlib
import shutil
import sys

import examples
import public_names
import pytest

import mmdcodec

ROOT = pathlib.Path(__file__).resolve().parent.parent
# Python blocks of each page.
COUNTS = {
  "README.md": 3,
  "docs/index.md": 1,
  "docs/codecs.md": 2,
  "docs/music.md": 1,
  "docs/musiclm.md": 2,
  "docs/own_music.md": 3,
  "docs/own_loss.md": 3,
  "docs/own_model.md": 3,
  "docs/tpu_pods.md": 1,
  "docs/evaluation.md": 2,
  "docs/from_pytorch.md": 2,
}
# Pages whose examples take what `_reader` has, and make long music.
WITH_A_READER = (
  "README.md",
  "docs/index.md",
  "docs/codecs.md",
  "docs/music.md",
  "docs/musiclm.md",
)


def _pages() -> set[str]:
  pages = [ROOT / "README.md", ROOT / "CONTRIBUTING.md"]
  pages += (ROOT / "docs").rglob("*.md")
  return {
    str(page.relative_to(ROOT)) for page in pages if examples.blocks(page)
  }


def test_all_pages_are_known():
  """Catches a page whose examples no test runs."""
  assert _pages() == set(COUNTS)


@pytest.mark.parametrize("page", COUNTS)
def test_all_names_are_in_the_reference(page):
  """Catches a public name that the reference leaves out."""
  code = "\n".join(code for _, code in examples.blocks(ROOT / page))
  assert not public_names.used(code) - public_names.documented()


def test_a_broken_block_is_reported(tmp_path):
  """Catches a runner that runs nothing, or hides what fails."""
  page = tmp_path / "page.md"
  page.write_text("```python\nx = 1\n```\n\n```\nnot Python\n```\n")
  scope: dict = {}
  assert examples.run(page, scope) == 1 and scope["x"] == 1
  more = "\n```python\nx += 1\ny = x.missing\n```\n"
  page.write_text(page.read_text() + more)
  with pytest.raises(AttributeError, match="missing") as error:
    examples.run(page, scope)
  assert scope["x"] == 2
  assert error.traceback[-1].lineno + 1 == 11
  assert str(error.traceback[-1].path) == str(page)


@pytest.fixture(scope="module")
def places(tmp_path_factory) -> pathlib.Path:
  """A folder with all that the pages name."""
  import random_music
  import random_musiclm
  from random_codec import write_random_codec
  from tunes import prepare_tunes

  from mmdcodec import bundle
  from mmdcodec.audio import files, synth

  folder = tmp_path_factory.mktemp("places")
  song = synth.render(0, seconds=1.0, rate=24_000)
  files.write(folder / "song.mp3", song.audio, rate=song.rate)
  prepare_tunes(folder / "Music", folder / "tunes")
  write_random_codec(folder / "codec", 0, dilations=(1,))
  music = random_music.random_music(folder / "made", seed=1)
  config, variables = random_musiclm.musiclm()
  parts = {
    name: (config["parts"][part], variables[part])
    for name, part in (("semantic", "semantic"), ("mulan", "joint"))
  }
  for name, model in {
    "mmdcodec-quickstart/music_bundle": music,
    "small_music": music,
    "runs/mine/bundle": music,
    "musicgen_small": music,
    "musiclm": (config, variables),
    **parts,
  }.items():
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    bundle.save(folder / name, *model)
  for name in ("mmdcodec-quickstart/bundle", "encodec_24khz"):
    shutil.copytree(folder / "codec", folder / name)
  return folder


def _reader() -> dict:
  """What the reader of a page has at hand."""
  import jax
  import numpy as np

  rng = np.random.default_rng(0)
  normal = lambda *shape: rng.normal(0, 0.3, shape).astype(np.float32)
  played = []
  return {
    "microphone": [normal(n, 1) for n in (500, 1, 3000)],
    "play": played.append,
    "played": played,
    "key": jax.random.key(0),
    "z": normal(2, 50, 128),
  }


@pytest.mark.slow
@pytest.mark.parametrize("page", COUNTS)
def test_the_examples_run(page, places, tmp_path, monkeypatch, capsys):
  """Catches an example that no longer runs."""
  folder = tmp_path / "reader"
  shutil.copytree(places, folder)
  (folder / "data").mkdir()
  if page != "docs/own_music.md":  # which makes it
    (folder / "tunes").rename(folder / "data" / "music")
  monkeypatch.chdir(folder)
  monkeypatch.syspath_prepend(str(folder))
  scope = {"__name__": "__main__"}
  if page in WITH_A_READER:
    scope |= _reader()
    _short(monkeypatch)
  assert examples.run(ROOT / page, scope) == COUNTS[page]
  sys.modules.pop("level_model", None)
  CHECKS.get(page, lambda scope: None)(scope)


def _short(monkeypatch):
  """Prompts as on the page, pieces of a second: the models are not trained."""
  from mmdcodec.generation import musicgen, musiclm, single_stages

  for cls, most in ((musicgen.LoadedMusic, 0.2), (musiclm.LoadedMusicLM, 1.6)):
    for name in ("generate", "stream"):
      whole = getattr(cls, name)

      def part(self, *texts, _whole=whole, _most=most, **options):
        scale = _most / options["seconds"]
        options["seconds"] = _most
        if "block" in options:
          options["block"] *= scale
        if "story" in options:
          options["story"] = [(s * scale, p) for s, p in options["story"]]
        return _whole(self, *texts, **options)

      monkeypatch.setattr(cls, name, part)
  whole = single_stages.SingleStages.make_semantic
  monkeypatch.setattr(
    single_stages.SingleStages,
    "make_semantic",
    lambda self, joint, seconds: whole(self, joint, 0.8),
  )


def _check_readme(scope):
  for name in ("again.wav", "tune.wav"):
    assert pathlib.Path(name).stat().st_size > 1000
  assert abs(float(scope["loss"])) > 0


def _check_codecs(scope):
  assert scope["coarse"].shape[2] == 2
  assert scope["y"].ndim == 2 and scope["streamer"].latency["encoder"]


def _check_musiclm(scope):
  assert scope["played"] and scope["coarse"].ndim == 3


def _check_loop(scope):
  assert 0 < float(scope["loss"]) < 100
  before, after = mmdcodec.load("encodec_24khz"), scope["codec"]
  assert before.hash != after.hash


CHECKS = {
  "README.md": _check_readme,
  "docs/index.md": lambda scope: pathlib.Path("calm.wav").stat(),
  "docs/codecs.md": _check_codecs,
  "docs/music.md": lambda scope: scope["played"][0],
  "docs/musiclm.md": _check_musiclm,
  "docs/from_pytorch.md": _check_loop,
  "docs/own_loss.md": lambda scope: pathlib.Path("runs/slow").stat(),
}
