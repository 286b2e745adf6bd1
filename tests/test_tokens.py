"""Token data sets: made, resumed, shared between processes, and read.

Must catch: codes that depend on the records beside them, on padding, on the
number of processes or on an interruption; codes of two codecs in one data set
or one run; audio taken for tokens; captions on the wrong codes; batches that
leave records out or depend on the number of hosts.
"""

import contextlib
import copy
import io
import json
import os
import types

import chex
import jax
import numpy as np
import pytest
import soundfile
from random_codec import each_topology, write_random_codec

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
from mmdcodec.data.token_batches import (
  crop,
  fixed_token_batches,
  token_batches,
)
from mmdcodec.data.token_records import TokenSource
from mmdcodec.errors import UserError
from mmdcodec.models import lm_presets
from mmdcodec.models.condition import Condition
from mmdcodec.models.melody_condition import Melody
from mmdcodec.store import locks
from mmdcodec.tokenizers.interface import Tokenizer
from mmdcodec.tokenizers.loaded_codec import LoadedCodec

RATE, STRIDE = 8000, 20
HOST = {"process_index": 0, "process_count": 1}


class Teller(Tokenizer):
  """A tokenizer whose codes of a frame are its song and its number.

  Args:
    name: its hash.
    dies_at: encoding this song, or a later one, raises.
    size: of its codebooks.
    **changes: fields of its model.
  """

  kind, rate, channels, frame_rate = "teller", RATE, 1, RATE / STRIDE

  def __init__(self, name="teller", dies_at=10**9, size=1024, **changes):
    self.hash, self.codebook_sizes = name, (size, size)
    fields = {"normalize": False, "chunk": None, "chunk_seconds": 0.0}
    self.model = types.SimpleNamespace(**(fields | changes))
    self.calls, self.dies_at = [], dies_at

  @property
  def seen(self):
    """Number of records encoded."""
    return sum(self.calls)

  def on(self, device):
    """Another one with the same list of calls, as weights elsewhere are."""
    return copy.copy(self)

  check_codes_suffice = LoadedCodec.check_codes_suffice

  def encode(self, x, rate=None, *, lengths=None):
    """Reads off what `song` wrote."""
    told = np.rint(x[:, ::STRIDE, 0] * 32768).astype(np.int32)
    songs = told[lengths > 1, 0] // 1000  # the others only fill the batch
    if songs.max() >= self.dies_at:
      raise RuntimeError("killed")
    self.calls.append(len(songs))
    return np.stack([told // 1000, told % 1000], -1)


def song(number, frames):
  """Audio of which a `Teller` tells the number and the frames."""
  x = np.repeat(number * 1000 + np.arange(frames), STRIDE)
  return x.astype(np.int16)


def make(folder, songs, rate=RATE, channels=1):
  """A data set of audio: one record for each of `songs`, name -> samples."""
  (folder / "in").mkdir(parents=True)
  for name, x in songs.items():
    soundfile.write(folder / "in" / f"{name}.wav", x, rate)
    (folder / "in" / f"{name}.txt").write_text(f"the song {name}")
  records.prepare(
    folder / "in", folder / "audio",
    rate=rate, channels=channels, seconds=8.0, progress=False,
  )  # fmt: skip
  return folder / "audio"


@pytest.fixture(scope="module")
def few():
  """Shards of three records and two devices: small, and several of each."""
  with pytest.MonkeyPatch.context() as patch:
    devices = jax.local_devices()[:2]
    patch.setattr(jax, "local_devices", lambda: devices)
    patch.setattr(token_shards, "_LEAST", 3)
    yield


@pytest.fixture(scope="module")
def audio(tmp_path_factory):
  """Songs 0 to 10 of 60, 67, ... frames; their names sort as they count."""
  folder = tmp_path_factory.mktemp("teller")
  return make(folder, {f"{i:02}": song(i, 60 + 7 * i) for i in range(11)})


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
    lambda: token_batches(audio, batch=2, frames=3, **HOST),
    lambda: fixed_token_batches(audio, batch=2, frames=3, count=1),
  ):
    with pytest.raises(UserError, match="of audio; .*`mmdcodec tokenize"):
      use()
  with pytest.raises(UserError, match="is not replaced"):
    tokenization.tokenize(audio, audio, Teller(), force=True)
  with pytest.raises(UserError, match="is not replaced"):
    records.prepare(audio.parent / "in", told, force=True, progress=False)
  assert describe(audio)["kind"] == "audio"


class Caption(Condition):
  """A kind of condition that only reads: whose record a crop is of."""

  kind = "caption"

  def shapes(self):  # noqa: D102
    return {}

  def encode(self, module, arrays):  # noqa: D102
    raise NotImplementedError

  def read(self, record, start):  # noqa: D102
    return {"text": np.array(record["caption"], object)}

  def check(self, value, rate):  # noqa: D102
    return value

  def arrays(self, items, start):  # noqa: D102
    return {}


def take(datasets, count, **kwargs):
  kwargs = HOST | {
    "batch": 11, "frames": 70, "conditions": [Caption(name="caption")]
  } | kwargs  # fmt: skip
  with token_batches(datasets, **kwargs) as batches:
    return [next(batches) for _ in range(count)]


def test_crops_are_slices_from_all_over_the_records(told):
  """Catches crops at wrong places, wrong lengths, and captions of others."""
  starts = {}
  for batch in take(told, 60):
    assert batch["codes"].shape == (11, 70, 2)
    assert batch["codes"].dtype == batch["lengths"].dtype == np.int32
    for row, length, caption in zip(
      batch["codes"],
      batch["lengths"],
      batch["conditions"]["caption"]["text"],
      strict=True,
    ):
      number = row[0, 0]
      assert caption == f"the song {number:02}" and type(caption) is str
      assert length == min(70, 60 + 7 * number)
      assert not row[length:].any() and (row[:length, 0] == number).all()
      start = row[0, 1]
      np.testing.assert_array_equal(row[:length, 1], start + np.arange(length))
      starts.setdefault(number, []).append(start)
  # Song 2 has 74 frames: five places for a crop of 70. Song 0 has one.
  assert set(starts[2]) == set(range(5)) and set(starts[0]) == {0}
  # Every record once in each epoch.
  assert {len(places) for places in starts.values()} == {60}


def test_batches_go_on_exactly_on_any_number_of_hosts(told):
  """Catches a state that leaves something out, and hosts' own orders."""
  whole = take(told, 9, batch=4)

  def same(found, wanted):
    for a, b in zip(found, wanted, strict=True):
      assert a.keys() == b.keys() == {"codes", "lengths", "conditions"}
      chex.assert_trees_all_equal(a, b)

  options = {
    "batch": 4, "frames": 70, "process_count": 2,
    "conditions": [Caption(name="caption")],
  }  # fmt: skip
  shares = []
  for host in range(2):
    with token_batches(told, process_index=host, **options) as batches:
      batches.set_state(json.loads('{"index": 16}'))
      shares.append([next(batches) for _ in range(5)])
      assert batches.get_state() == {"index": 36}
  joined = [
    jax.tree.map(lambda *x: np.concatenate(x), a, b)
    for a, b in zip(*shares, strict=True)
  ]
  same(joined, whole[4:])
  songs = [row[0, 0] for batch in whole for row in batch["codes"]]
  other = [
    row[0, 0] for batch in take(told, 9, batch=4, seed=1)
    for row in batch["codes"]
  ]  # fmt: skip
  assert sorted(songs[:11]) == sorted(other[:11]) == list(range(11))
  assert songs[:11] != songs[11:22] and songs != other


def test_melodies_go_with_their_codes(tmp_path, few):
  """Catches a tune of another place, another rate, or another record."""
  pitches = 220 * 2 ** (np.array([0, 4, 7, 2, 9, 5]) / 12)
  time = np.arange(RATE) / RATE
  tune = np.concatenate([np.sin(2 * np.pi * hz * time) for hz in pitches])
  dataset = make(tmp_path, {"up": 0.3 * tune, "down": 0.3 * tune[::-1]})
  tokenization.tokenize(dataset, tmp_path / "tokens", Teller(), batch=2)
  made, want = TokenSource(tmp_path / "tokens"), np.array([9, 1, 4, 11, 6, 2])
  for record, notes in ((0, want[::-1]), (1, want)):
    # 7.8 frames a second; without those around a change.
    for second in range(6):
      found = made[record]["melody"][int(second * 7.8) + 3 : second * 8 + 5]
      assert len(found) and (found == notes[second]).all()
  # From two thirds of a half on, and begun again.
  count = len(made[1]["codes"])
  heard = Melody(name="melody", **(lm_presets.CHROMA | {"frames": 60}))
  got = crop(made, 1, 0.66, count // 2, [heard])["conditions"]["melody"]
  seconds = int(0.66 * (count - count // 2 + 1)) / made.frame_rate
  left = made[1]["melody"][round(seconds * 32_000 / 4096) :]
  assert 20 < len(left) < 40
  np.testing.assert_array_equal(got["classes"], np.resize(left, 60))
  assert got["given"]


def test_fixed_batches_are_fixed_and_cover_the_records(told):
  """Catches evaluation on other crops each time, or on the first records."""
  first, again = (
    fixed_token_batches(
      told, batch=4, frames=70, count=3, conditions=[Caption(name="caption")]
    )
    for _ in range(2)
  )
  for a, b in zip(first, again, strict=True):
    chex.assert_trees_all_equal(a, b)
  songs = [row[0, 0] for batch in first for row in batch["codes"]]
  assert set(songs) == set(range(11)) and songs == sorted(songs)
  assert first[0]["lengths"].tolist() == [60, 67, 70, 70]
  assert first[0]["conditions"]["caption"]["text"][1] == "the song 01"


def test_one_run_has_one_codec(told, audio, tmp_path):
  """Catches a model trained on codes of another codec than its own."""
  other = tmp_path / "other"
  tokenization.tokenize(audio, other, Teller("other"))
  fixed = lambda sets, **more: fixed_token_batches(
    sets, batch=4, frames=9, count=1, **more
  )
  for read in (lambda *a, **k: take(*a, 1, **k), fixed):
    with pytest.raises(UserError, match="teller teller, not of mine"):
      read(told, tokenizer_hash="mine")
    with pytest.raises(UserError, match="teller other, not of teller"):
      read({told: 1, other: 1})
    (batch,) = read([told, told], tokenizer_hash="teller")
    assert len(batch["codes"]) in (4, 11)
  (batch,) = take({told: 1, other: 0}, 1)  # not read at all
  for change, words in (
    ({"frames": 0}, "frames must be"),
    ({"batch": 0}, "batch must be"),
    ({"process_count": 2}, "multiple"),
  ):
    with pytest.raises(UserError, match=words):
      take(told, 1, **change)


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
  assert "belong together" in fails(*command, "--process_id=0")
  stereo = write_random_codec(tmp_path / "stereo", 0, "encodec_stereo_tiny")
  assert "loudness" in fails("tokenize", dataset, missing, "--model", stereo)
  assert sorted(os.listdir(tmp_path)) == ["stereo", "tokens"]
