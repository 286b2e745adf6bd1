"""Captions and tags: tables, sidecars, FMA and MusicCaps look-alikes.

Must catch: a caption on the wrong audio, a table whose paths are relative to
something else, lost tags or columns, FMA's two header rows misread, ids of
MusicCaps with "-" and "_" split apart, and a table for other audio accepted
without a word.
"""

import json

import numpy as np
import pytest
import soundfile

from mmdcodec.data import records
from mmdcodec.data.record_source import Source
from mmdcodec.errors import UserError

RATE = 8000


def audio(folder, *names):
  for name in names:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    x = np.random.default_rng(len(name)).uniform(-0.3, 0.3, (RATE, 1))
    soundfile.write(path, x, RATE)


def labels(folder, out, **kwargs):
  """Prepares; returns {path: (caption, tags)}."""
  records.prepare(folder, out, rate=RATE, progress=False, **kwargs)
  source = Source(out)
  rows = [source[i] for i in range(len(source))]
  return {r["path"]: (r["caption"], json.loads(r["tags"])) for r in rows}


@pytest.mark.parametrize("place", ["beside", "above", "elsewhere"])
def test_csv_with_paths_relative_to_it_or_to_the_folder(tmp_path, place):
  folder = tmp_path / "music" / "train"
  audio(folder, "a.wav", "sub/b.ogg", "none.wav")
  table, prefix = {
    "beside": (folder / "captions.csv", ""),
    "above": (tmp_path / "music" / "manifest.csv", "train/"),
    "elsewhere": (tmp_path / "x.csv", ""),
  }[place]
  table.write_text(
    "split,file,seconds,title,caption\n"
    f'train,{prefix}a.wav,1.0,Ä,"Slow, sad tune"\n'
    f"valid,{prefix}sub/b.ogg,1.0,,Rock\n"
    f"test,{prefix}c.wav,1.0,,Not there\n",
    encoding="utf-8-sig",
  )
  assert labels(folder, tmp_path / "out", captions=table) == {
    "a.wav": (
      "Slow, sad tune",
      {"split": "train", "seconds": "1.0", "title": "Ä"},
    ),
    "sub/b.ogg": ("Rock", {"split": "valid", "seconds": "1.0"}),
    "none.wav": ("", {}),
  }
  only = labels(
    folder, tmp_path / "only", captions=table, only={"split": "valid"}
  )
  assert only.keys() == {"sub/b.ogg"}


def test_same_names_in_different_folders_keep_their_own_captions(tmp_path):
  audio(tmp_path / "in", "one/a.wav", "two/a.wav", "three/a.wav")
  audio(tmp_path / "in", "b.wav", "one/b.wav", "one/c.wav", "c/c.wav")
  audio(tmp_path / "in", "sub/d.wav", "sub/d.ogg", "sub/d.flac")
  table = tmp_path / "in" / "t.tsv"
  table.write_text(
    "path\ttext\none/a.wav\tfirst\ntwo/a.wav\tsecond\nb.wav\ttop\n"
    "one/c.wav\tthird\nd.wav\tas wav\nd.ogg\tas ogg\n"
  )
  found = labels(tmp_path / "in", tmp_path / "out", captions=table)
  assert found["one/a.wav"][0] == "first"
  assert found["two/a.wav"][0] == "second"
  assert found["b.wav"][0] == "top" and found["one/c.wav"][0] == "third"
  assert found["sub/d.wav"][0] == "as wav"
  assert found["sub/d.ogg"][0] == "as ogg"
  for other in ("three/a.wav", "one/b.wav", "c/c.wav", "sub/d.flac"):
    assert found[other][0] == ""


def test_a_name_of_several_files_labels_none_of_them(tmp_path):
  folder = tmp_path / "in"
  audio(folder, "x/01.wav", "y/01.wav", "y/01.flac", "z/02.ogg", "z/03.wav")
  audio(folder, "v/03.flac", "04.wav", "z/04.wav", "z/05.wav", "z/05.ogg")
  table = tmp_path / "t.csv"
  table.write_text(
    "path,caption\n01.wav,one\n02.mp3,two\n03.wav,three\n04.wav,four\n"
    f"05,five\n{folder}/z/05.ogg,by path\n"
  )
  report = records.prepare(
    folder, tmp_path / "out", rate=RATE, progress=False, captions=table
  )
  source = Source(tmp_path / "out")
  found = {r["path"]: r["caption"] for r in map(source.__getitem__, range(10))}
  assert {path: caption for path, caption in found.items() if caption} == {
    "z/02.ogg": "two",
    "z/03.wav": "three",
    "04.wav": "four",
    "z/05.ogg": "by path",
  }
  # Both x/01.wav and y/01.wav; z/05.wav.
  assert report.ambiguous == 3 and "ambiguous 3: files" in str(report)


def test_json_lines_and_sidecars(tmp_path):
  folder = tmp_path / "in"
  audio(folder, "a.wav", "b.wav", "c.wav", "d.wav", "e.wav")
  (folder / "a.json").write_text('{"caption": "beside", "tags": {"key": 1}}')
  (folder / "b.wav.json").write_text('{"text": "b", "tempo": 90, "_by": 1}')
  (folder / "c.txt").write_text("  plain words \n")
  (folder / "d.json").write_text("{broken")  # the audio is good none the less
  table = tmp_path / "in" / "captions.jsonl"
  rows = [
    {"path": "a.wav", "caption": "from the table", "tags": {"mood": ["sad"]}},
    {"path": "e", "description": "by stem"},
  ]
  table.write_text("\n".join(map(json.dumps, rows)) + "\n\n")
  beside = {
    "a.wav": ("beside", {"key": 1}),
    "b.wav": ("b", {"tempo": 90}),
    "c.wav": ("plain words", {}),
    "d.wav": ("", {}),
    "e.wav": ("", {}),
  }
  assert labels(folder, tmp_path / "out1") == beside
  both = beside | {
    "a.wav": ("from the table", {"key": 1, "mood": ["sad"]}),
    "e.wav": ("by stem", {}),
  }
  assert labels(folder, tmp_path / "out2", captions=table) == both


@pytest.mark.parametrize(
  "name, text, message",
  [
    ("t.csv", "path,caption\nx.wav,other music\n", "no row names any of the 1"),
    ("t.csv", "title,caption\na,b\n", "no column names the audio files"),
    ("t.jsonl", '{"path": "a.wav"\n{oops\n', "line 1"),
    ("t.json", '["a.wav"]', "expected an object"),
    ("t.json", "null", "expected a JSON list"),
    ("t.json", "[" * 5000, "64 levels"),
    ("t.csv", 'path,"caption\na.wav,x\n', "line 1: a quote opens"),
    ("t.csv", "path,caption,caption\na.wav,x,y\n", "two columns named"),
    ("t.csv", "", "no row names any"),
    ("t.csv", "path,caption\na.wav,\udcff\n", "UTF-8"),
    ("none.csv", None, "no such file"),
  ],
)
def test_tables_that_do_not_fit_are_named(tmp_path, name, text, message):
  audio(tmp_path / "in", "a.wav")
  if text is not None:
    (tmp_path / name).write_bytes(text.encode(errors="surrogateescape"))
  with pytest.raises(UserError, match=message):
    labels(tmp_path / "in", tmp_path / "out", captions=tmp_path / name)


def test_fma(tmp_path):
  """The layout of fma_small and fma_metadata (Defferrard et al. 2017)."""
  audio(
    tmp_path / "fma_small",
    "000/000002.mp3",
    "000/000140.mp3",
    "133/133297.mp3",
    "133/133999.mp3",
  )
  # A download cut short is what FMA is known for.
  (tmp_path / "fma_small" / "133" / "133297.mp3").write_bytes(b"")
  metadata = tmp_path / "fma_metadata"
  metadata.mkdir()
  (metadata / "genres.csv").write_text(
    "genre_id,#tracks,parent,title,top_level\n"
    "21,12201,0,Hip-Hop,21\n17,19894,0,Folk,17\n33,1800,17,Freak-Folk,17\n"
  )
  biography = "x" * 200_000  # longer than the csv module takes unasked
  (metadata / "tracks.csv").write_text(
    ",album,artist,artist,set,set,track,track,track,track\n"
    ",title,bio,name,split,subset,genre_top,genres,tags,title\n"
    "track_id,,,,,,,,,\n"
    f'2,AWOL,{biography},AWOL,training,small,Hip-Hop,[21],"[]",Food\n'
    '140,Niris,,Nicky Cook,validation,small,Folk,"[33, 17]",'
    "\"['guitar', 'lo-fi']\",\"Queen, Wires\"\n"
    "133297,,,,training,small,Rock,[12],[],\n"
    "3,AWOL,,AWOL,test,medium,Hip-Hop,[21],[],Electric\n"
  )
  found = labels(
    tmp_path / "fma_small",
    tmp_path / "out",
    captions=metadata / "tracks.csv",
  )
  assert found == {
    "000/000002.mp3": (
      "Hip-Hop",
      {
        "album": "AWOL",
        "artist": "AWOL",
        "genre": "Hip-Hop",
        "genres": ["Hip-Hop"],
        "split": "training",
        "subset": "small",
        "title": "Food",
      },
    ),
    "000/000140.mp3": (
      "Folk, Freak-Folk, guitar, lo-fi",
      {
        "album": "Niris",
        "artist": "Nicky Cook",
        "genre": "Folk",
        "genres": ["Freak-Folk", "Folk"],
        "split": "validation",
        "subset": "small",
        "tags": ["guitar", "lo-fi"],
        "title": "Queen, Wires",
      },
    ),
    "133/133999.mp3": ("", {}),
  }
  assert records.builder_for(metadata / "tracks.csv") is records.Fma
  assert (tmp_path / "out" / "fma-train.array_record-00000-of-00001").exists()


def test_musiccaps(tmp_path):
  """The published CSV, and clips named as the tools that fetch them do."""
  audio(
    tmp_path / "clips",
    "-0Gj8-vB1q4.wav",
    "sub/_0vJ_ab-cd1_30_40.wav",
    "[zzzzzzzzzz0]-[10-20].wav",
    "unknown.wav",
  )
  table = tmp_path / "musiccaps-public.csv"
  header = (
    "ytid,start_s,end_s,audioset_positive_labels,aspect_list,caption,"
    "author_id,is_balanced_subset,is_audioset_eval\n"
  )
  row = '{},30,40,"/m/0140xf,/m/04rlf","[\'slow tempo\', ""80\'s""]",'
  row += '"A ballad, {}.",4,{},True\n'
  ids = ("-0Gj8-vB1q4", "_0vJ_ab-cd1", "zzzzzzzzzz0", "not there 1")
  table.write_text(header + "".join(row.format(i, i, i[0] == "-") for i in ids))
  found = labels(tmp_path / "clips", tmp_path / "out", captions=table)
  assert {path: caption for path, (caption, _) in found.items()} == {
    "-0Gj8-vB1q4.wav": "A ballad, -0Gj8-vB1q4.",
    "sub/_0vJ_ab-cd1_30_40.wav": "A ballad, _0vJ_ab-cd1.",
    "[zzzzzzzzzz0]-[10-20].wav": "A ballad, zzzzzzzzzz0.",
    "unknown.wav": "",
  }
  assert found["-0Gj8-vB1q4.wav"][1] == {
    "ytid": "-0Gj8-vB1q4",
    "start_s": "30",
    "end_s": "40",
    "author_id": "4",
    "is_balanced_subset": "True",
    "is_audioset_eval": "True",
    "aspects": ["slow tempo", "80's"],
    "audioset": ["/m/0140xf", "/m/04rlf"],
  }
  balanced = labels(
    tmp_path / "clips",
    tmp_path / "balanced",
    captions=table,
    only={"is_balanced_subset": "True"},
  )
  assert balanced.keys() == {"-0Gj8-vB1q4.wav"}
  assert records.builder_for(table) is records.MusicCaps
