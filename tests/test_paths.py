"""Paths that may be URLs: what they are, and that every command takes them.

fsspec's `memory://` stands for an object store; `test_object_store.py` has real
servers.
"""

import ast
import os
import pathlib
import pickle
import secrets

import pytest

import mmdcodec
from mmdcodec.cli.main import main
from mmdcodec.errors import UserError
from mmdcodec.store import paths, urls

BAD = "nosuch://bucket/x"


@pytest.fixture
def url():
  """A folder of its own in the store."""
  made = paths.of(f"memory://bucket/{secrets.token_hex(4)}")
  yield made
  paths.remove(made)


def test_paths_of_this_machine_are_pathlibs(tmp_path):
  """Catches a local path that is anything but pathlib's."""
  for where in (
    "runs/small",
    str(tmp_path),
    tmp_path,
    b"runs".decode(),
    "C:/x",
  ):
    assert type(paths.of(where)) is type(pathlib.Path())
    assert paths.of(where) == pathlib.Path(where)
    assert not paths.is_url(where)
  assert paths.of(f"file://{tmp_path}") == tmp_path


def test_names_of_urls_are_those_of_pathlib():
  """Catches slashes that get lost, and parts that are no URLs."""
  path = paths.of("memory://bucket/a b/run.tar/")
  assert str(path) == "memory://bucket/a b/run.tar" == path.as_posix()
  assert str(path.parent / "x.json") == "memory://bucket/a b/x.json"
  assert (path.name, path.suffix, path.stem) == ("run.tar", ".tar", "run")
  assert str(path.with_name("b")) == "memory://bucket/a b/b"
  assert str((path / "x/y").relative_to(path)) == "x/y"
  assert path.absolute() == path.resolve() == path == paths.of(path)
  assert pickle.loads(pickle.dumps(path)) == path
  assert paths.is_url(path) and paths.is_url(str(path))


def test_files(url):
  """Reads, lists and deletes objects as pathlib does files."""
  file = url / "d/e.txt"
  assert not url.exists() and not file.exists() and not url.is_dir()
  assert file.write_text("höre") == 5
  (url / "c.json").write_bytes(b"{}")
  assert file.is_file() and not file.is_dir() and file.stat().st_size == 5
  assert url.is_dir() and not url.is_file()
  assert [p.name for p in url.iterdir()] == ["c.json", "d"]
  assert [*url.glob("*/*.txt")] == [file]
  assert [*url.files()] == ["c.json", "d/e.txt"]
  with file.open() as text:
    assert text.read() == "höre"
  with file.open("rb") as data:
    assert (data.seek(2), data.read(2)) == (2, b"\xb6r")
  with pytest.raises(ValueError, match="whole"):
    file.open("a")
  (url / "d").rename(url / "f")
  assert (url / "f/e.txt").read_text() == "höre" and not file.exists()
  with pytest.raises(FileNotFoundError) as caught:
    file.read_bytes()
  assert caught.value.filename == str(file)
  assert not (url / "c.json").create(b"2") and (url / "new").create(b"2")
  paths.remove(url)
  assert not url.exists()


def test_no_folder_of_a_scheme(url, tmp_path, monkeypatch):
  """What knows files of this machine only gets an error instead of a name."""
  monkeypatch.chdir(tmp_path)
  for use in (
    open,
    os.mkdir,
    os.makedirs,
    os.path.realpath,
    pathlib.Path.chmod,
  ):
    with pytest.raises((UserError, TypeError)):
      use(url)
  assert not [*tmp_path.iterdir()]


def test_urls_that_nobody_serves(monkeypatch):
  """The error names the extra to install."""
  with pytest.raises(UserError, match=r"mmdcodec\[gcs\].*mmdcodec\[s3\]"):
    paths.of(BAD)
  with pytest.raises(UserError, match="two slashes; give gs://bucket/x"):
    paths.of("gs:/bucket/x")
  with pytest.raises(UserError, match="expected a path in a bucket"):
    paths.of("memory://")
  import fsspec

  def missing(scheme):
    raise ImportError(f"install a package for {scheme}")

  monkeypatch.setattr(fsspec, "get_filesystem_class", missing)
  urls.system_of.cache_clear()
  for scheme, extra in (("gs", "gcs"), ("gcs", "gcs"), ("s3", "s3")):
    with pytest.raises(UserError, match=rf"install 'mmdcodec\[{extra}\]'"):
      paths.of(f"{scheme}://bucket/x")
  with pytest.raises(UserError, match="not installed"):
    paths.of("abfs://bucket/x")
  urls.system_of.cache_clear()


COMMANDS = (
  f"train --config=overfit --workdir={BAD}",
  f"train --config=codec_small --workdir=w --config.data.train={BAD}",
  f"train --config=lm_small --workdir=w --config.data.train={BAD}",
  f"train --config=overfit:tiny --workdir=w --config.init_from={BAD}",
  f"prepare music {BAD}",
  f"prepare {BAD} out",
  f"prepare music out --captions {BAD}",
  f"tokenize {BAD} out --model music",
  f"tokenize data out --model {BAD}",
  f"export {BAD} out",
  f"export {BAD} out --format stablehlo",
  f"info {BAD}",
  f"encode {BAD} a.mmdc --model m",
  f"encode song.wav {BAD}.mmdc --model m",
  f"encode song.wav a.mmdc --model {BAD}",
  f"decode {BAD} a.wav --model m",
  f"generate calm {BAD}.wav --model m",
  f"generate calm a.wav --model {BAD}",
  f"evaluate --model m --audio music --out {BAD}",
  f"evaluate --model {BAD} --audio music",
  f"convert {BAD} out",
  f"cluster {BAD} data out",
  f"cluster run data {BAD}",
  f"assemble {BAD} --codec m --stages a b",
  f"assemble out --codec {BAD} --stages a b",
  f"quickstart --workdir {BAD}",
  f"quickstart --audio {BAD} --workdir w",
  f"finetune {BAD} out --model m",
  f"finetune music {BAD} --model m",
  f"experiment prompts --model m --workdir {BAD}",
  f"experiment independence --train d --valid d --workdir {BAD}",
  f"experiment factorization --train d --valid d --workdir {BAD}"
  " --codecs a=b,c=d",
)


@pytest.mark.parametrize("line", COMMANDS)
def test_commands_refuse_at_once(line, tmp_path, monkeypatch, capsys):
  """Catches a path of a command that does not go through `paths.of`."""
  monkeypatch.chdir(tmp_path)
  (tmp_path / "music").mkdir()
  for name in ("music/song.wav", "song.wav"):
    (tmp_path / name).write_bytes(b"RIFF")
  assert main(line.split()) == 2
  error = capsys.readouterr().err.strip()
  assert "nosuch:// is served by no file system" in error, error
  assert len(error.splitlines()) == 1
  assert not [*tmp_path.glob("nosuch*")] and not [*tmp_path.glob("*/nosuch*")]


# Texts of these never come from a user, or are of this machine by nature.
OWN = {
  "__main__.py": "the folder of the program",
  "audio/files.py": "what os.walk yields",
  "audio/song_files.py": "built-in music in a folder of a job",
  "bench/data.py": "a temporary folder",
  "cli/decode.py": "a temporary folder",
  "cli/main.py": "what the system could not make",
  "convert/bert.py": "a name",
  "convert/hub.py": "what the Hub's client downloaded",
  "data/audio_sources.py": "a name",
  "data/beam.py": "files of a folder of this machine",
  "data/records.py": "what TFDS made",
  "data/tokenization.py": "what TFDS names",
  "demo/server.py": "a temporary folder",
  "demo/sessions.py": "what Gradio stored",
  "demo/uploads.py": "what Gradio stored",
  "evaluate/report.py": "pictures that were just drawn",
  "experiments/arm_run.py": "in the folder of a job",
  "packaged/__init__.py": "the folder of the program",
  "parallel/analysis.py": "a temporary folder",
  "selftest/speed.py": "a temporary folder",
  "selftest/stored.py": "a file of the package",
  "selftest/training_speed.py": "a temporary folder",
  "store/atomic.py": "the folder of a path of this machine",
  "store/cached.py": "the cache",
  "store/checkpoint_folder.py": "a path of etils, for Orbax",
  "store/checkpoints.py": "a path of etils, for Orbax",
  "store/disk.py": "a disk of this machine",
  "store/locks.py": "the type of an annotation",
  "store/metrics.py": "a temporary folder",
  "store/paths.py": "this is where paths are made",
  "store/remote_locks.py": "/proc",
  "store/starts.py": "the folder of the program",
  "store/uploads.py": "a temporary folder",
  "train/config_files.py": "a file of Python code",
  "train/config_names.py": "the folder of the program",
  "train/dry_run.py": "a temporary folder",
  "train/profiling.py": "a temporary folder",
  "workflows/packaged_measures.py": "a temporary folder",
  "workflows/packaged_models.py": "a temporary folder, and links to files",
}


def _name(node):
  return getattr(node, "id", getattr(node, "attr", ""))


def test_paths_are_made_in_one_place():
  """Catches `pathlib.Path(text)`, which makes a local folder of a URL."""
  package, found = pathlib.Path(mmdcodec.__file__).parent, set()
  for file in package.rglob("*.py"):
    for node in ast.walk(ast.parse(file.read_text())):
      if isinstance(node, ast.Call) and node.args:
        # Path(text), and map(Path, texts).
        called = node.args[0] if _name(node.func) == "map" else node.func
        if _name(called) == "Path":
          found.add(file.relative_to(package).as_posix())
  new = sorted(found - set(OWN))
  assert not new, f"{new}: make paths with `paths.of`, which takes URLs too"
