"""Captions: what is cut, lost, or given to the wrong file without a word.

Must catch: a caption cut at a comma or grown by the rows after an open quote; a
row that ends the run, or is passed over without a note; a value that is no text
as a caption; rows whose file is spelled otherwise and rows of no file; sidecars
that cannot be read; silence that is not named.
"""

import json
import os
import unicodedata

import numpy as np
import pytest
import soundfile

from mmdcodec.cli import main as cli
from mmdcodec.data import (
  captions,
  fma,
  musiccaps,
  record_writer,
  records,
  report,
)
from mmdcodec.data.captions import Label, Notes
from mmdcodec.data.record_source import Source, describe
from mmdcodec.errors import UserError

RATE = 8000


def read(tmp_path, text, *names, name="t.csv", encoding="utf-8"):
  """Reads a table; returns {file: caption} and the notes.

  The files need not exist.
  """
  folder = tmp_path / "music"
  folder.mkdir(exist_ok=True)
  data = text.encode(encoding) if isinstance(text, str) else text
  (tmp_path / name).write_bytes(data)
  paths = [folder / name for name in names or ("a.wav", "b.wav", "c.wav")]
  labels = captions.labels(folder, tmp_path / name, paths)
  found = {str(p.relative_to(folder)): labels(p).caption for p in paths}
  return found, labels.notes


HEAD = "file,caption\n"
REST = "b.wav,two\nc.wav,three\n"


@pytest.mark.parametrize(
  "row, line, reason",
  [
    ("a.wav,calm piano, slow, sad\n", 2, "has 4 cells for 2 columns"),
    ('a.wav,"warm pad\n', 2, "a quote opens and never closes"),
    ('a.wav,"warm" pad\n', 2, "text follows a closing quote"),
    ('a.wav,"warm pad\nx.wav,"x"\n', 2, "text follows a closing quote"),
    ('a.wav,"warm, slow\n\n\n', 2, "a quote opens and never closes"),
    ('x.wav,"a\nb"\na.wav,caf\udce9\n', 4, "is not in UTF-8"),
  ],
)
def test_a_bad_row_costs_itself_and_is_named(tmp_path, row, line, reason):
  data = (HEAD + row + REST).encode(errors="surrogateescape")
  found, notes = read(tmp_path, data)
  assert found == {"a.wav": "", "b.wav": "two", "c.wav": "three"}
  (note,) = notes.unread
  assert note.where == f"t.csv, line {line}" and reason in note.what


@pytest.mark.parametrize("lines, read_whole", [(900, True), (1100, False)])
def test_a_quote_is_not_followed_for_ever(tmp_path, lines, read_whole):
  """Catches minutes in a table with a stray quote on every line."""
  words = "line\n" * lines
  found, notes = read(tmp_path, HEAD + f'a.wav,"{words}"\n' + REST)
  assert found["a.wav"] == (words.strip() if read_whole else "")
  assert found["b.wav"] == "two"
  assert (notes == Notes()) == read_whole


@pytest.mark.parametrize(
  "text, caption",
  [
    ('file, caption\na.wav, "warm, slow"\n', "warm, slow"),
    ('file,caption,,\na.wav,"one\ntwo",,\n', "one\ntwo"),
    ('file,caption\na.wav,say "hi"\n', 'say "hi"'),
    ('file,caption\na.wav,"say ""hi"""\n', 'say "hi"'),
    (",file,caption\n0,a.wav,indexed\n", "indexed"),
    ("file;caption;mood\na.wav;slow, sad\n", "slow, sad"),
    ("file\tcaption\na.wav\tslow, sad\n", "slow, sad"),
    ("file,caption\r\na.wav,dos\r\n", "dos"),
    ("file,caption\na.wav,NaN\n", ""),
    ("file,caption\na.wav,naïve nan\n", "naïve nan"),
  ],
)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_a_good_row_is_read_whole(tmp_path, text, caption, encoding):
  found, notes = read(tmp_path, text, "a.wav", encoding=encoding)
  assert found == {"a.wav": caption} and notes == Notes()


@pytest.mark.parametrize(
  "rows, captions",
  [
    ('a.wav\t"Hi" he said\tx\nb.wav\tno\tx\n', ('"Hi" he said', "no")),
    ('a.wav\t"Hi\tx\nb.wav\tno\tx\n', ('"Hi', "no")),
    ('a.wav\t"Hi\tx\nb.wav\tsay "no"\tx\n\n', ('"Hi', 'say "no"')),
    ('a.wav\t"Hi\tx\nb.wav\tno\t"\n', ('"Hi', "no")),
    ('a.wav\t"Hi"\tx\r\nb.wav\tno\tx\n', ("Hi", "no")),
    (
      'a.wav\t"say ""Hi\t""\n\nor"\tx\nb.wav\tno\tx',
      ('say "Hi\t"\n\nor', "no"),
    ),
  ],
)
def test_texts_between_tabs_need_no_quotes(tmp_path, rows, captions):
  """Each sentence of Common Voice that begins with a quote was lost."""
  text = "path\tsentence\tage\n" + rows
  found, notes = read(tmp_path, text, "a.wav", "b.wav", name="t.tsv")
  assert (*found.values(),) == captions and notes == Notes()


def test_a_quote_between_tabs_that_is_a_mistake(tmp_path):
  text = 'path\ttext\na.wav\t"one\nsaid "two"\tb\tc\nb.wav\tno\n'
  found, notes = read(tmp_path, text, "a.wav", "b.wav", name="t.tsv")
  assert found == {"a.wav": "", "b.wav": "no"} and notes.unread


def test_two_columns_of_one_name(tmp_path):
  """A tag that is there twice made the whole table useless."""
  text = "file,mood,caption,mood\na.wav,sad,slow,glad\nb.wav,calm\n"
  found, notes = read(tmp_path, text, "a.wav", "b.wav")
  assert found == {"a.wav": "slow", "b.wav": ""}
  (note,) = notes.unread
  assert note.where == "t.csv, line 1" and "'mood'" in note.what
  found = captions.labels(tmp_path, tmp_path / "t.csv", [tmp_path / "a.wav"])
  assert found(tmp_path / "a.wav").tags == {"mood": "sad"}


@pytest.mark.parametrize(
  "value, caption, kind, words",
  [
    ('["one", "two"]', "one", "further", "has 2 captions"),
    ('["one", null]', "one", None, ""),
    ("NaN", "", None, ""),
    ("null", "", None, ""),
    ('"None"', "", None, ""),
    ('{"en": "one"}', "", "unread", "the caption is {'en': 'one'}"),
    ("7", "", "unread", "the caption is 7; expected a text"),
    ("[[1]]", "", "unread", "expected a text"),
    ("[" * 900 + "]" * 900, "", "unread", "64 levels"),
    ("9" * 5000, "", "unread", "as JSON"),
    (r'"caf\ud800"', "", "unread", "half a character"),
    (r'"caf\u00e9 \ud83c\udfb5"', "café 🎵", None, ""),
  ],
  ids=["list", "null in it", "nan", "null", "none", "object", "number"]
  + ["nested", "deep", "long", "half", "escaped"],
)
@pytest.mark.parametrize("beside", [False, True])
def test_values_that_are_no_text(tmp_path, value, caption, kind, words, beside):
  row = f'{{"file": "a.wav", "caption": {value}}}\n'
  if beside:
    (tmp_path / "music").mkdir()
    (tmp_path / "music" / "a.json").write_text(row)
    row = '{"file": "a.wav"}\n'
  last = '{"file": "b.wav", "caption": "two", "tempo": NaN}\n'
  found, notes = read(tmp_path, row + last, name="t.jsonl")
  assert found == {"a.wav": caption, "b.wav": "two", "c.wav": ""}
  assert [bool(notes.unread), bool(notes.further)] == [
    kind == "unread",
    kind == "further",
  ]
  for note in notes.unread + notes.further:
    assert words in note.what
    assert note.where.endswith("a.json" if beside else "t.jsonl, line 1")


@pytest.mark.parametrize("row", ["null", '"x"', "{oops", "[]", "\udcff"])
def test_rows_of_json_that_are_no_object(tmp_path, row):
  last = '{"file": "b.wav", "caption": "two"}\n'
  data = f"{row}\n\n{last}".encode(errors="surrogateescape")
  found, notes = read(tmp_path, data, name="t.jsonl")
  assert found["b.wav"] == "two"
  assert [note.where for note in notes.unread] == ["t.jsonl, line 1"]


NFC = unicodedata.normalize("NFC", "Été/Ångström.wav")
NFD = unicodedata.normalize("NFD", NFC)


@pytest.mark.parametrize(
  "row, file",
  [
    (NFC, NFD),
    (NFD, NFC),
    ("Sub\\a.wav", "Sub/a.wav"),
    ("music\\Sub\\a.wav", "Sub/a.wav"),
    ("SUB/A.WAV", "Sub/a.wav"),
    ("sub/a.m4a", "Sub/a.wav"),
    ("A.MP3", "Sub/a.flac"),
    ("Sub/a", "Sub/a.wav"),
    ("01. Song.mp3", "x/01. Song.wav"),
    ("01. Song", "x/01. Song.wav"),
    ("./Sub/../a.wav", "a.wav"),
  ],
)
def test_a_file_in_another_spelling_is_found(tmp_path, row, file):
  found, notes = read(tmp_path, HEAD + f"{row},one\n", file)
  assert found == {file: "one"} and notes == Notes()


def test_the_closest_spelling_counts(tmp_path):
  names = ("a.wav", "A.wav", "a.flac", "01.wav", "x/b.wav")
  rows = "A.wav,upper\na.wav,lower\na.mp3,any\n01. Song,other\nb.mp3,b\n"
  found, notes = read(tmp_path, HEAD + rows, *names)
  assert list(found.values()) == ["lower", "upper", "", "", "b"]
  assert [note.where for note in notes.unmatched] == ["t.csv, line 5"]
  assert [note.where for note in notes.ambiguous] == [
    str(tmp_path / "music" / "a.flac")
  ]


def test_rows_of_no_file_and_of_one_file_are_named(tmp_path):
  rows = "a.wav,one\na.wav,two\na.wav,one\nnone.wav,x\na.mp3,y\n,z\nb.wav,b\n"
  found, notes = read(tmp_path, HEAD + rows, "a.wav", "b.wav")
  assert found == {"a.wav": "one", "b.wav": "b"}
  assert notes.further == [("t.csv, line 3", "a.wav is also in t.csv, line 2")]
  assert notes.unmatched == [
    ("t.csv, line 5", "none.wav"),
    ("t.csv, line 6", "a.mp3"),
  ]
  assert notes.unread == [("t.csv, line 7", "names no audio file")]


@pytest.mark.parametrize(
  "name, data, caption, reason",
  [
    ("a.txt", "häuslich".encode("cp1252"), "", "line 1 is not in UTF-8"),
    ("a.txt", "häuslich".encode("utf-16"), "häuslich", None),
    ("a.txt", "\ufeffhäuslich\r\n".encode(), "häuslich", None),
    ("a.wav.txt", b"\x00\xff\xfe", "", "not in UTF-8"),
    ("a.TXT", b"house", "house", None),
    ("a.wav.JSON", b'{"caption": "house"}', "house", None),
    ("a.JSON", b"null", "", "expected an object with a caption, not None"),
    ("a.json", b"null", "", "expected an object with a caption, not None"),
    ("a.json", b"[" * 5000, "", "64 levels"),
    ("a.json", '{"caption": "häuslich"}'.encode("cp1252"), "", "UTF-8"),
    ("a.json", b'{"caption": "cut', "", "cannot be read as JSON"),
    ("a.json", None, "", "is a pipe"),
    ("a.txt", None, "", "is a pipe"),
  ],
)
def test_sidecars(tmp_path, name, data, caption, reason):
  path, notes = tmp_path / "a.wav", Notes()
  if data is None:
    os.mkfifo(tmp_path / name)
  else:
    (tmp_path / name).write_bytes(data)
  assert captions.sidecar(path, notes) == Label(caption)
  if reason is None:
    assert notes == Notes()
  else:
    (note,) = notes.unread
    assert note.where == str(tmp_path / name) and reason in note.what
    # The next sidecar takes its place.
    (tmp_path / "a.wav.txt").unlink(missing_ok=True)
    (tmp_path / "a.wav.txt").write_text("good")
    assert captions.sidecar(path).caption == "good"


@pytest.mark.parametrize(
  "cell",
  [
    "[" * 300,
    "[[1], {}]",
    "{'a': 1}",
    "[1] * 9",
    '"""["""',
    "\x00",
    "1" * 9999,
  ],
  ids=["deep", "nested", "dict", "sum", "quote", "nul", "long"],
)
def test_cells_of_fma_and_musiccaps(tmp_path, cell):
  quoted = '"' + cell.replace('"', '""') + '"'
  paths = [tmp_path / "000002.wav", tmp_path / "000003.wav"]
  (tmp_path / "genres.csv").write_text(
    "genre_id,title\n21,Hip-Hop\n²,Odd\n17,Folk\n"
  )
  table = tmp_path / "tracks.csv"
  table.write_text(
    ",set,track,track\n,split,genres,tags\ntrack_id,,,\n"
    f"2,train,{quoted},[]\n²,train,[],[]\n3,train,[17],[]\n4,train,[],[]\n"
  )
  labels = fma.labels(tmp_path, table, paths)
  assert [labels(path).caption for path in paths] == ["", "Folk"]
  assert [note.where for note in labels.notes.unread] == [
    "genres.csv, line 3",
    "tracks.csv, line 4",
    "tracks.csv, line 5",
  ]
  assert labels.notes.unmatched == [("tracks.csv, line 7", "4")]
  table = tmp_path / "musiccaps.csv"
  table.write_text(
    "ytid,aspect_list,caption\n"
    f'aaaaaaaaaaa,{quoted},one\nbad,"[]",a, comma\nbbbbbbbbbbb,"[\'x\']",two\n'
  )
  paths = [tmp_path / f"{c * 11}.wav" for c in "abz"]
  labels = musiccaps.labels(tmp_path, table, paths)
  assert [labels(path).caption for path in paths] == ["one", "two", ""]
  assert [note.where for note in labels.notes.unread] == [
    "musiccaps.csv, line 3"
  ]


def test_a_row_of_musiccaps_that_ends_before_its_id(tmp_path):
  table = tmp_path / "musiccaps.csv"
  table.write_text(f"caption,ytid\ncut\nwhole,{'a' * 11}\n")
  path = tmp_path / f"{'a' * 11}.wav"
  labels = musiccaps.labels(tmp_path, table, [path])
  assert labels(path).caption == "whole"
  assert labels.notes.unread == [("musiccaps.csv, line 2", "has no ytid")]


@pytest.mark.parametrize(
  "data",
  [
    b"PK\3\4\x14\0\6\0" + bytes(99),  # of Excel
    b"PAR1\x15\4\x15\0\n",
    "file,caption\n".encode("utf-16-le"),  # without its mark
    b"SQLite format 3\0",
  ],
)
def test_a_table_that_is_no_text_is_refused(tmp_path, data):
  (table := tmp_path / "t.csv").write_bytes(data)
  with pytest.raises(UserError, match="not a text in UTF-8, such as a CSV"):
    records.builder_for(table).labels(tmp_path, table, [])


def test_a_table_that_is_a_pipe_is_refused(tmp_path):
  os.mkfifo(table := tmp_path / "t.csv")
  assert records.builder_for(table) is records.AudioFolder
  with pytest.raises(UserError, match="is a pipe"):
    captions.labels(tmp_path, table, [tmp_path / "a.wav"])


@pytest.mark.parametrize(
  "x, silent",
  [
    ([0] * 9, True),
    ([5000, 5001] * 9, True),
    ([-10, 10] * 9, True),
    ([-32768, 32767] * 9, False),
    ([-11, 11] + [0] * 99, False),
  ],
)
def test_silence_is_what_is_not_heard(x, silent):
  x = np.array(x, np.int16)[:, None]
  assert record_writer.is_silent(x) == silent
  stereo = np.concatenate([x, np.zeros_like(x)], axis=1)
  assert record_writer.is_silent(stereo) == silent


@pytest.mark.parametrize("line", ["[1]", "null", '{"kind": "silent"}', "{"])
def test_damaged_notes_are_refused(tmp_path, line):
  (path := tmp_path / "notes.jsonl").write_text(line + "\n")
  with pytest.raises(UserError, match="notes.jsonl"):
    report.read_notes(path)


def test_a_report_keeps_to_its_lines():
  """Names in tables may hold anything, such as codes for a terminal."""
  made = report.Report()
  made.notes.unmatched.append(captions.Note("t.csv, line 2", "\x1b[2J\n" * 99))
  made.skipped.append(("a\nb.wav", "damaged"))
  text = str(made)
  assert len(text.splitlines()) == 8 and "\x1b" not in text
  assert max(map(len, text.splitlines())) < 200
  assert r"a\nb.wav: damaged" in text


def test_prepare_reports_all_of_it_and_goes_on(tmp_path, capsys):
  folder = tmp_path / "in"
  folder.mkdir()
  noise = np.random.default_rng(0).uniform(-0.3, 0.3, (RATE, 1))
  for name in "abcde":
    soundfile.write(folder / f"{name}.wav", noise, RATE)
  half = np.concatenate([noise, noise * 0, noise])
  soundfile.write(folder / "f.wav", half, RATE)
  (folder / "b.txt").write_bytes(b"caf\xe9")
  (folder / "c.json").write_text("null")
  (folder / "d.txt").write_text("beside")
  (tmp_path / "t.csv").write_text(
    "file,caption\na.wav,calm, slow\nE.WAV,loud\nnone.wav,x\nE.WAV,soft\n"
  )
  out = tmp_path / "out"
  argv = ["prepare", folder, out, "--captions", tmp_path / "t.csv"]
  argv += ["--rate", RATE, "--seconds", 1, "--quiet"]
  assert cli.main([str(each) for each in argv]) == 0
  printed = capsys.readouterr().out
  for line in (
    "files     6, 2 with a caption, 4 without",
    "unread    3: rows and sidecar files that could not be read",
    "  t.csv, line 2: has 3 cells for 2 columns",
    "  b.txt: line 1 is not in UTF-8",
    "  c.json: expected an object with a caption",
    "unmatched 1: rows that name no audio file",
    "  t.csv, line 4: none.wav",
    "further   1: rows",
    "silent    1: records in which nothing is heard",
    "  f.wav: 1.0 s to 2.0 s",
  ):
    assert line in printed, printed
  source = Source(out)
  found = [source[i] for i in range(len(source))]
  assert len(found) == 8  # silence is kept
  assert {r["path"]: r["caption"] for r in found} == {
    "a.wav": "",
    "b.wav": "",
    "c.wav": "",
    "d.wav": "beside",
    "e.wav": "loud",
    "f.wav": "",
  }
  lines = (out / "notes.jsonl").read_text().splitlines()
  kinds = [json.loads(line)["kind"] for line in lines]
  about = describe(out)
  for kind in ("unread", "unmatched", "further", "ambiguous", "silent"):
    assert about[kind] == kinds.count(kind)
  assert about["captioned"] == 2 and about["skipped"] == 0
