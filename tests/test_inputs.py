"""Input files: what hangs, fills the memory, or ends in a traceback.

Must catch: a reader that opens a named pipe or a device and waits for ever; a
text too large to be one; JSON that nests so deep that Python fails; a file in
another encoding than UTF-8 that is read as garbage or ends in a traceback; a
pointer of git-lfs that is called damaged.
"""

import os
import socket
import threading

import pytest

from mmdcodec import bundle, formatting
from mmdcodec.audio import block_io, files
from mmdcodec.bitstream import decoding, ecdc, reader
from mmdcodec.cli import main as cli
from mmdcodec.convert import weights
from mmdcodec.data import captions, file_pieces, shard_files
from mmdcodec.errors import UserError
from mmdcodec.store import inputs, workdir


def refusal(read, *args):
  """Returns the message of a UserError; fails if `read` waits."""
  said = []

  def run():
    try:
      read(*args)
    except (UserError, file_pieces.Damaged) as error:
      said.append(str(error))

  # A daemon, so that a reader that waits does not keep the tests from ending.
  thread = threading.Thread(target=run, daemon=True)
  thread.start()
  thread.join(20)
  assert not thread.is_alive(), "waits for ever"
  assert len(said) == 1, "read without a word"
  return said[0]


def drained(path):
  with block_io.read(path, rate=8000, channels=1) as (_, blocks):
    list(blocks)


def opened(path):
  with reader.opened(path) as found:
    found.read()


READERS = {
  "text": inputs.read_text,
  "json": inputs.read_json,
  "info": files.info,
  "read": files.read,
  "find": files.find,
  "blocks": drained,
  "pieces": lambda p: next(
    file_pieces.pieces(p, rate=8000, channels=1, seconds=1)
  ),
  "mmdc": opened,
  "ecdc": ecdc.read,
}


@pytest.mark.parametrize("name", READERS)
def test_pipes_devices_and_sockets_are_refused(tmp_path, name):
  pipe, plug = tmp_path / "pipe.wav", tmp_path / "s.wav"
  os.mkfifo(pipe)
  with socket.socket(socket.AF_UNIX) as server:
    server.bind(str(plug))
  (link := tmp_path / "link.wav").symlink_to(pipe)
  (broken := tmp_path / "broken.wav").symlink_to(tmp_path / "nothing")
  for path, word in (
    (pipe, "pipe"),
    (link, "pipe"),
    (plug, "socket"),
    ("/dev/zero", "device"),
    (broken, "broken link"),
  ):
    if name == "pieces":
      path, word = type(tmp_path)(path), "is"
    if name == "find" and path == broken:
      word = "no such folder"
    assert word in refusal(READERS[name], path)


@pytest.mark.parametrize(
  "name", [*sorted({*READERS} - {"find"}), "table", "shards"]
)
def test_pointers_of_git_lfs_are_named(tmp_path, name):
  readers = READERS | {
    "table": lambda path: captions.labels(tmp_path, path),
    "shards": lambda path: shard_files.marks(path.parent),
  }
  path = tmp_path / "x-train.array_record-00000-of-00001"
  path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\n")
  assert "run git lfs pull" in refusal(readers[name], path)


def test_a_pipe_is_not_opened_to_see_what_it_begins_with(tmp_path):
  os.mkfifo(pipe := tmp_path / "x")
  assert decoding.begins_with(pipe, b"ECDC") is False


def test_a_pipe_as_config_is_refused(tmp_path):
  os.mkfifo(tmp_path / "config.json")
  for read in (workdir.read_config, bundle.load):
    refusal(read, tmp_path)


@pytest.mark.parametrize(
  "argv, words",
  [
    ("info x.wav", "is a pipe"),
    ("prepare x.wav out", "is a pipe"),
    ("prepare . out --captions x.wav", "is a pipe"),
    ("encode x.wav a.mmdc --model m", "give - and redirect"),
    ("decode x.wav a.wav --model m", "give - and redirect"),
    ("decode /dev/zero a.wav --model m", "is a device"),
    ("train --config=x.py --workdir=run", "is a pipe"),
    ("convert x.wav out", "is a pipe"),
    ("export x.wav out", "no --workdir"),
    ("export nothing out", "no --workdir"),
    ("tokenize x.wav out --model x.wav", "no model"),
  ],
)
def test_commands_refuse_pipes(tmp_path, monkeypatch, capsys, argv, words):
  monkeypatch.chdir(tmp_path)
  for name in ("x.wav", "x.py"):
    os.mkfifo(name)
  codes = []
  thread = threading.Thread(
    target=lambda: codes.append(cli.main(argv.split())), daemon=True
  )
  thread.start()
  thread.join(60)
  assert codes == [2]
  (line,) = capsys.readouterr().err.splitlines()
  assert line.startswith("mmdcodec: ") and words in line
  assert sorted(os.listdir()) == ["x.py", "x.wav"]


@pytest.mark.parametrize(
  "text",
  ["[" * 200_000, '{"a":' * 5000 + "1" + "}" * 5000]
  + ["[" * 900 + "]" * 900, '{"a":' * 65 + "[]" + "}" * 65],
  ids=["open lists", "objects", "lists", "65 levels"],
)
def test_deep_json_is_refused(tmp_path, text):
  for name in ("config.json", "x.safetensors.index.json"):
    (tmp_path / name).write_text(text)
    assert "64 levels" in refusal(inputs.read_object, tmp_path / name)
  assert "64 levels" in refusal(workdir.read_config, tmp_path)
  assert "64 levels" in refusal(weights.read_config, tmp_path)
  assert "64 levels" in refusal(bundle.load, tmp_path)


def test_json_that_is_wide_or_64_levels_deep_is_read():
  wide = "[" + "[[1]]," * 5000 + "{}]"
  assert len(inputs.parse_json(wide, "x")) == 5001
  assert inputs.parse_json("[" * 64 + "]" * 64, "x")


@pytest.mark.parametrize(
  "data, reason",
  [
    (b"", "as JSON"),
    (b"null", "holds null; expected a JSON object"),
    (b"[1]", "holds a list; expected a JSON object"),
    (b"{" + b"\n" * 6 + b'"a": "caf\xe9"}', "line 7 is not in UTF-8"),
    (b"\xff\xfe{", "not in UTF-8"),
    (b'{"a": ' + b"9" * 5000 + b"}", "as JSON"),
  ],
  ids=["empty", "null", "list", "latin-1", "half a UTF-16", "long number"],
)
def test_other_texts_are_refused(tmp_path, data, reason):
  (path := tmp_path / "x.json").write_bytes(data)
  said = refusal(inputs.read_object, path)
  assert said.startswith(f"{path}: ") and reason in said
  assert "\n" not in said


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_texts_with_a_mark_are_read(tmp_path, encoding):
  (path := tmp_path / "x.json").write_text('{"a": "é"}', encoding=encoding)
  assert inputs.read_object(path) == {"a": "é"}


def test_a_text_too_large_is_not_read(tmp_path):
  with (path := tmp_path / "x.json").open("wb") as file:
    file.truncate(1 << 40)
  assert "has 1099.5 GB; expected at most 33.6 MB" in refusal(
    inputs.read_object, path
  )


def test_very_long_messages_are_cut_in_the_middle():
  text = f"kind is {'a' * 5000}; expected codec."
  assert len(str(UserError(text))) < 1600
  assert str(UserError(text)).endswith("expected codec.")
  assert str(UserError("short.")) == "short."


def test_very_long_cells_of_tables_are_cut_in_the_middle():
  text = formatting.table(None, [("made from", "a" * 5000 + "z")])
  assert len(text) < 1600 and text.endswith("az")
