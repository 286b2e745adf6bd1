"""Damaged data sets: the error names the set, the shard and what to do."""

import json
import shutil

import numpy as np
import pytest
import soundfile

from mmdcodec.data import (
  dataset_folder,
  records,
  shard_files,
  token_records,
  tokenization,
)
from mmdcodec.data.record_source import SUMMARY, Source, describe
from mmdcodec.data.token_records import TokenSource
from mmdcodec.errors import UserError

LABELS = {"caption": "", "tags": "", "path": "a.wav", "position": 0.0}


@pytest.fixture(scope="module")
def audio(tmp_path_factory):
  """A data set of three shards of two records."""
  folder = tmp_path_factory.mktemp("audio")
  rng = np.random.default_rng(0)
  for i in range(6):
    x = rng.uniform(-0.5, 0.5, 16000)
    soundfile.write(folder / f"{i}.wav", x, 8000)
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(records, "_SHARD", 80_000)
    out = folder / "set"
    records.prepare(folder, out, rate=8000, workers=1, progress=False)
  assert len(shard_files.find(out)) == 3
  return out


@pytest.fixture(scope="module")
def tokens(tmp_path_factory):
  """A token data set of two shards."""
  out = tmp_path_factory.mktemp("tokens") / "set"
  out.mkdir()
  serialize = dataset_folder.serializer(token_records.features())
  rng = np.random.default_rng(0)
  for i in range(2):
    name = f"tokens-train.array_record-{i:05d}-of-00002"
    writer = dataset_folder.shard_writer(out / name)
    for _ in range(3):
      codes = rng.integers(0, 1024, (5000, 4))
      record = token_records.record(codes, np.zeros(9), LABELS)
      writer.write(serialize(record))
    writer.close()
  summary = {
    "kind": "tokens", "records": 6, "frames": 30000, "seconds": 60.0,
    "tokenizer": "codec", "hash": "abc", "rate": 24000, "frame_rate": 500.0,
    "window": None, "codebooks": 4, "codebook_sizes": [1024] * 4,
    "shards": shard_files.marks(out),
  }  # fmt: skip
  (out / SUMMARY).write_text(json.dumps(summary))
  return out


@pytest.fixture(params=["audio", "tokens"])
def given(request, tmp_path):
  """A copy of a data set, and the function that reads all of it."""
  shutil.copytree(request.getfixturevalue(request.param), tmp_path / "set")
  kind = Source if request.param == "audio" else TokenSource

  def read():
    source = kind(tmp_path / "set")
    return [source[i] for i in range(len(source))]

  return tmp_path / "set", read


def flip_a_bit(content):
  place = len(content) // 3
  return content[:place] + bytes([content[place] ^ 4]) + content[place + 1 :]


def forget_marks(folder):
  """As data sets of earlier versions were."""
  summary = json.loads((folder / SUMMARY).read_text())
  del summary["shards"]
  (folder / SUMMARY).write_text(json.dumps(summary))


@pytest.mark.parametrize("marked", [True, False])
@pytest.mark.parametrize(
  "change",
  [
    lambda content: None,
    lambda content: b"",
    lambda content: content[: len(content) // 2],
    lambda content: bytes(len(content)),
    flip_a_bit,
  ],
  ids=["deleted", "emptied", "halved", "zeroed", "a bit flipped"],
)
def test_a_damaged_shard_is_named(given, change, marked):
  folder, read = given
  if not marked:
    forget_marks(folder)
    assert read()
  shard = shard_files.find(folder)[1]
  content = change(shard.read_bytes())
  shard.unlink() if content is None else shard.write_bytes(content)
  with pytest.raises(UserError) as error:
    read()
  message = str(error.value)
  assert message.startswith(f"{folder}: shard {shard.name} ")
  assert "make it again with `mmdcodec" in message and "\n" not in message


def test_hidden_files_are_no_shards(given):
  """What macOS writes beside each file on a disk of another system."""
  folder, read = given
  expected = len(read())
  for shard in shard_files.find(folder):
    shard.with_name(f"._{shard.name}").write_bytes(b"\0\5\x16\7")
  assert len(read()) == expected


def test_exchanged_shards_are_noticed(given):
  """Token data sets of one audio data set are aligned by their order."""
  folder, read = given
  one, other, *_ = shard_files.find(folder)
  one.rename(folder / "x")
  other.rename(one)
  (folder / "x").rename(other)
  with pytest.raises(UserError, match=f"{one.name} is not the one"):
    read()


def test_shards_of_another_data_set(given, audio, tokens):
  folder, read = given
  forget_marks(folder)
  mine = shard_files.find(folder)[0]
  other = tokens if "audio" in mine.name else audio
  shutil.copy(shard_files.find(other)[0], mine)
  with pytest.raises(UserError, match="belongs to another|records are there"):
    read()
  mine.rename(folder / mine.name.replace("-of-", "-of-1"))
  with pytest.raises(UserError, match="is missing and"):
    read()
  for shard in shard_files.find(folder):
    shard.unlink()
  with pytest.raises(UserError, match="has no shards; copy it again"):
    read()


@pytest.mark.parametrize(
  "change",
  [
    {"records": None}, {"records": 0}, {"seconds": "x"}, {"rate": -1},
    {"seconds": 1e400}, {"kind": "toast"}, {"kind": []}, {"shards": 3},
    {"shards": [1]}, "{", "", "[]",
  ],
)  # fmt: skip
def test_a_damaged_summary_is_named(given, change):
  folder, read = given
  text = change
  if isinstance(change, dict):
    summary = json.loads((folder / SUMMARY).read_text()) | change
    text = json.dumps(summary)
  describe(folder)
  (folder / SUMMARY).write_text(text)
  with pytest.raises(UserError, match="made by `mmdcodec"):
    describe(folder)
  with pytest.raises(UserError, match="made by `mmdcodec"):
    read()


@pytest.mark.parametrize("sizes", [None, [], [1024], "abcd", [1.5] * 4])
def test_damaged_sizes_of_codebooks(tokens, tmp_path, sizes):
  summary = json.loads((tokens / SUMMARY).read_text())
  (tmp_path / SUMMARY).write_text(
    json.dumps(summary | {"codebook_sizes": sizes})
  )
  with pytest.raises(UserError, match="is damaged .codebook_sizes"):
    TokenSource(tmp_path)


@pytest.mark.parametrize("name", ["tokenizer", "hash", "window"])
def test_what_a_summary_of_tokens_lacks_is_named(tokens, tmp_path, name):
  summary = json.loads((tokens / SUMMARY).read_text())
  del summary[name]
  (tmp_path / SUMMARY).write_text(json.dumps(summary))
  with pytest.raises(UserError, match=f"is damaged .{name} in"):
    describe(tmp_path)


@pytest.mark.parametrize("size, count", [(None, 4), ("x", 4), (64, 2.5)])
def test_damaged_sizes_of_codebooks_of_earlier_versions(tmp_path, size, count):
  summary = {"kind": "tokens", "codec": "0123", "codebook_size": size}
  summary |= {"records": 1, "seconds": 1, "rate": 24000, "frame_rate": 75}
  text = json.dumps(summary | {"codebooks": count})
  (tmp_path / SUMMARY).write_text(text)
  with pytest.raises(UserError, match="is damaged .codebook_sizes"):
    describe(tmp_path)


def test_the_rest_of_a_finished_run_is_removed(tmp_path):
  """A kill after the last rename left a hidden folder for ever."""
  for name, shard, stays in (("a", None, False), ("b", "shard-00000-9", True)):
    (folder := tmp_path / name).mkdir()
    (folder / "settings.json").write_text("{}")
    if shard:
      (folder / shard).touch()
    tokenization._remove_emptied(folder)
    assert folder.exists() == stays
