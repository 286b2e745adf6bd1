"""Token data sets: made, resumed, and shared between processes.

Must catch: codes that depend on the records beside them, on padding, on the
number of processes or on an interruption; codes of two codecs in one data set;
audio taken for tokens; captions on the wrong codes.
"""

import contextlib
import io
import json
import os

import numpy as np
import pytest
import soundfile
from random_codec import each_topology, write_random_codec
from teller import RATE, STRIDE, Teller, few_records, make, make_songs, song

import mmdcodec
from mmdcodec.cli.main import main
from mmdcodec.data import (
  dataset_folder,
  pipeline,
  record_encoder,
  records,
  report,
  token_records,
  token_shards,
  tokenization,
)
from mmdcodec.data.record_source import Source, describe
from mmdcodec.data.token_batches import fixed_token_batches, token_batches
from mmdcodec.data.token_records import TokenSource
from mmdcodec.errors import UserError
from mmdcodec.store import locks


@pytest.fixture(scope="module")
def few():
  """Shards of three records and two devices: small, and several of each."""
  with few_records():
    yield


@pytest.fixture(scope="module")
def audio(tmp_path_factory):
  """Songs 0 to 10, see `teller`."""
  return make_songs(tmp_path_factory.mktemp("teller"))


@pytest.fixture(scope="module")
def told(audio, few, tmp_path_factory):
  """Their tokens, by a `Teller`."""
  out = tmp_path_factory.mktemp("told") / "tokens"
  tokenization.tokenize(audio, out, Teller(), batch=2)
  return out


def content(folder):
  """Bytes of every file in a data set."""
  return {path.name: path.read_bytes() for path in folder.iterdir()}


@each_topology
def test_codes_are_those_of_each_record_alone(
  tmp_path, model, few, compile_fast
):
  """Catches padding and batch mates that change codes, false conversions.

  Among the records are one coded in pieces, for its length, and several that
  share a batch with it.
  """
  random = np.random.default_rng(0)
  lengths = (1.0, 0.3, 2.9, 0.01, 0.6)
  songs = {
    f"{i}": 0.2 * random.standard_normal((round(16000 * s), 2))
    for i, s in enumerate(lengths)
  }
  dataset = make(tmp_path, songs, rate=16000, channels=2)
  codec = mmdcodec.load(model)
  tokenization.tokenize(dataset, tmp_path / "tokens", codec, batch=2)
  source, made = Source(dataset), TokenSource(tmp_path / "tokens")
  assert len(source) == len(made) == len(lengths)
  for i, seconds in enumerate(lengths):
    record, found = source[i], made[i]
    x, rate = soundfile.read(io.BytesIO(record["audio"]), dtype="float32")
    alone = codec.encode(x, rate=rate)[0]
    assert len(alone) == round(seconds * RATE / STRIDE)
    assert found["codes"].dtype == np.int32
    np.testing.assert_array_equal(found["codes"], alone)
    for name in ("caption", "tags", "path", "position"):
      assert found[name] == record[name]
  # Not equal because they are all the same.
  assert len(np.unique(made[2]["codes"])) > 8


def test_records_keep_their_order_captions_and_places(told, audio):
  """Catches records shuffled by threads, and a summary that does not fit."""
  made = TokenSource(told)
  assert len(made) == 11 and made.seconds == Source(audio).seconds
  for i in range(11):
    found = made[i]
    np.testing.assert_array_equal(found["codes"][:, 0], i)
    np.testing.assert_array_equal(found["codes"][:, 1], range(60 + 7 * i))
    assert found["caption"] == f"the song {i:02}"
    assert found["path"] == f"{i:02}.wav" and json.loads(found["tags"]) == {}
  about = describe(told, "tokens")
  assert about["frames"] == sum(60 + 7 * i for i in range(11))
  assert (about["tokenizer"], about["hash"]) == ("teller", "teller")
  assert (about["codebooks"], about["codebook_sizes"]) == (2, [1024, 1024])


def test_tfds_reads_it(told):
  """Catches a description that does not fit the shards."""
  import tensorflow_datasets as tfds

  builder = tfds.builder_from_directory(told)
  source = builder.as_data_source("train")
  assert len(source) == builder.info.splits["train"].num_examples == 11
  found = np.frombuffer(source[7]["codes"], "<u2").reshape(-1, 2)
  assert len(found) == source[7]["frames"] == 60 + 49
  np.testing.assert_array_equal(found[:, 0], 7)


def test_bytes_do_not_depend_on_the_process():
  """Catches TFDS's order of features, which is new in every process."""
  audio = {"caption": "", "tags": "", "path": "", "position": 0.0}
  record = token_records.record(np.zeros((3, 2), int), np.zeros(2, int), audio)
  data = dataset_folder.serializer(token_records.features())(record)
  places = [data.index(name.encode()) for name in sorted(record)]
  assert places == sorted(places)


def test_a_killed_run_goes_on_where_it_was(tmp_path, audio, told):
  """Catches work done twice, half a shard kept, and what looks finished."""
  out = tmp_path / "tokens"
  with pytest.raises(RuntimeError, match="killed"):
    tokenization.tokenize(audio, out, Teller(dies_at=7), batch=2)
  assert os.listdir(tmp_path) == [".tokens.unfinished"]
  kept = (tmp_path / ".tokens.unfinished").glob("shard-*")
  assert sorted(p.name[:11] for p in kept) == ["shard-00000", "shard-00001"]
  shown, codec = [], Teller()
  tokenization.tokenize(
    audio, out, codec, batch=2, show=lambda *done: shown.append(done)
  )
  assert codec.seen == 5
  assert shown == [(6, 11), (8, 11), (9, 11), (11, 11)]
  assert content(out) == content(told)
  assert os.listdir(tmp_path) == ["tokens"]


def test_records_of_one_code_are_named(tmp_path, few):
  """Catches silence that trains a language model without a word."""
  songs = {f"{i:02}": song(i, 60) for i in range(7)}
  for i in (1, 5):  # the first and last frames may differ
    songs[f"{i:02}"][2 * STRIDE : -3 * STRIDE] = 1000 * i + 7
  songs["03"][: 50 * STRIDE] = 3007  # a sixth of it does not
  dataset = make(tmp_path, songs)
  wanted = [("01.wav", "from 0.0 s"), ("05.wav", "from 0.0 s")]
  for dies in (10**9, 3):
    out = tmp_path / f"tokens{dies}"
    with contextlib.suppress(RuntimeError):
      tokenization.tokenize(dataset, out, Teller(dies_at=dies), batch=1)
    # One that was killed goes on, and still knows what it found before.
    if dies == 3:
      tokenization.tokenize(dataset, out, Teller(), batch=1)
    assert describe(out)["constant"] == 2
    found = report.read_notes(out / report.NOTES)
    assert found == {"constant": wanted}
    assert "constant  2: records" in report.kind_lines(found)[0]


@pytest.mark.parametrize("change", ["codec", "batch", "audio"])
def test_shards_of_other_settings_are_not_kept(tmp_path, audio, change):
  """Catches codes of two codecs, or of two data sets, in one."""
  out = tmp_path / "tokens"
  with pytest.raises(RuntimeError, match="killed"):
    tokenization.tokenize(audio, out, Teller(dies_at=7), batch=2)
  codec, batch = Teller("other" if change == "codec" else "teller"), 2
  if change == "batch":
    batch = 3
  if change == "audio":
    songs = {f"{i:02}": song(20, 60 + 7 * i) for i in range(11)}
    audio = make(tmp_path / "other", songs)
  tokenization.tokenize(audio, out, codec, batch=batch)
  assert codec.seen == 11
  assert describe(out)["hash"] == codec.hash
  first = TokenSource(out)[0]["codes"]
  np.testing.assert_array_equal(first[:, 0], 20 if change == "audio" else 0)


def test_any_number_of_processes_makes_the_same(tmp_path, audio, told):
  """Catches records left out or doubled, and an order by who was faster."""
  for count in (2, 3, 5):
    out = tmp_path / f"tokens{count}"
    unfinished = tmp_path / f".tokens{count}.unfinished"
    settings = tokenization._settings(Source(audio), {"": Teller()}, 2)
    tokenization._begin(unfinished, settings).release()
    workers = [Teller() for _ in range(count)]
    for i, codec in reversed(list(enumerate(workers))):
      token_shards.write_share(
        Source(audio), {"": codec}, unfinished,
        batch=2, process_index=i, process_count=count,
      )  # fmt: skip
    assert sum(codec.seen for codec in workers) == 11
    assert max(codec.seen for codec in workers) <= {2: 6, 3: 6, 5: 3}[count]
    # All is there: the run itself has only to put it together.
    tokenization.tokenize(audio, out, Teller(dies_at=0), batch=2)
    assert content(out) == content(told)


def test_a_share_that_is_missing_is_noticed(tmp_path, audio, few, monkeypatch):
  """Catches half a data set, of hosts that do not see the same folder."""
  monkeypatch.setattr(token_shards, "write_share", lambda *_, **__: None)
  with pytest.raises(UserError, match="only 0 of 4 shards"):
    tokenization.tokenize(audio, tmp_path / "tokens", Teller(), batch=2)
  assert not (tmp_path / "tokens").exists()


def test_two_runs_do_not_write_one_data_set(tmp_path, audio):
  """Catches shards of one run removed by the other."""
  (tmp_path / ".tokens.unfinished").mkdir()
  with locks.exclusive(tmp_path / ".tokens.unfinished"):
    with pytest.raises(UserError, match="another process"):
      tokenization.tokenize(audio, tmp_path / "tokens", Teller())


def test_reading_does_not_run_ahead(audio, few):
  """Catches memory that grows with the data set."""
  drawn = []

  def batches():
    for i in range(99):
      drawn.append(i)
      yield range(i % 11, i % 11 + 1)

  encoded = record_encoder.encoded(Source(audio), [Teller()], batches(), 1)
  names = [record["path"] for _ in range(10) for record in next(encoded)[0]]
  assert names == [f"{i:02}.wav" for i in range(10)]
  # Two batches for each of two devices in work, and as many that wait.
  assert len(drawn) <= 10 + 8
  encoded.close()


def test_shards_share_the_work_and_stay_few(monkeypatch):
  """Catches one shard for many processes, and folders of a million files."""
  monkeypatch.setattr(token_shards, "_LEAST", 128)
  for number in (1, 127, 128, 1000, 200_000, 30_000_000):
    shards = token_shards.divide(number)
    assert (shards[0].start, shards[-1].stop) == (0, number)
    assert [s.start for s in shards[1:]] == [s.stop for s in shards[:-1]]
    assert len(shards) <= max(1024, number / 4096 + 1)
  assert len(token_shards.divide(2000)) >= 8


@pytest.mark.parametrize(
  "changes, words",
  [
    ({"normalize": True}, "loudness"),
    ({"chunk": (8000, 7920), "chunk_seconds": 1.0}, "chunks of 1 s"),
    ({"size": 70000}, "65536"),
  ],
)
def test_codecs_that_do_not_suit_are_refused(tmp_path, audio, changes, words):
  """Catches codes that do not hold all of the audio, or wrap in 16 bits."""
  with pytest.raises(UserError, match=words):
    tokenization.tokenize(audio, tmp_path / "tokens", Teller(**changes))
  assert not os.listdir(tmp_path)


def test_audio_and_tokens_are_told_apart(told, audio, tmp_path):
  """Catches one read, or replaced, as the other."""
  size = {"batch": 2, "seconds": 1.0, "rate": RATE}
  for use in (
    lambda: Source(told),
    lambda: pipeline.batches(told, **size),
    lambda: pipeline.fixed_batches(told, count=1, **size),
    lambda: tokenization.tokenize(told, tmp_path / "x", Teller()),
  ):
    with pytest.raises(UserError, match="of tokens; .*`mmdcodec prepare"):
      use()
  for use in (
    lambda: TokenSource(audio),
    lambda: token_batches(
      audio, batch=2, frames=3, process_index=0, process_count=1
    ),
    lambda: fixed_token_batches(audio, batch=2, frames=3, count=1),
  ):
    with pytest.raises(UserError, match="of audio; .*`mmdcodec tokenize"):
      use()
  with pytest.raises(UserError, match="is not replaced"):
    tokenization.tokenize(audio, audio, Teller(), force=True)
  with pytest.raises(UserError, match="is not replaced"):
    records.prepare(audio.parent / "in", told, force=True, progress=False)
  assert describe(audio)["kind"] == "audio"


@each_topology
def test_the_command(tmp_path, dataset, model, fails, capsys, compile_fast):
  """Catches a command that fails late, with a traceback, or says too little."""
  out, missing = tmp_path / "tokens", tmp_path / "missing"
  command = ["tokenize", str(dataset), str(out), "--model", model]
  assert main([*command, "--batch=3"]) == 0
  (line,) = capsys.readouterr().out.splitlines()
  name = mmdcodec.load(model).hash
  for words in ("3 records", "36 s of audio", "4 codebooks of 32", name):
    assert words in line
  assert main(["info", str(out)]) == 0
  table = capsys.readouterr().out
  for words in ("tokens", "14,400 at 400 Hz", "4 x 32", name, "tunes"):
    assert words in table
  assert "--force" in fails(*command)
  assert "no such folder" in fails("tokenize", missing, out, "--model", model)
  assert "missing" in fails("tokenize", dataset, out, "--model", missing)
  assert "batch" in fails(*command, "--batch=0")
  assert "belong together" in fails(*command, "--process-id=0")
  stereo = write_random_codec(tmp_path / "stereo", 0, "encodec_stereo_tiny")
  assert "loudness" in fails("tokenize", dataset, missing, "--model", stereo)
  assert sorted(os.listdir(tmp_path)) == ["stereo", "tokens"]
