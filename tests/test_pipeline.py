"""Training batches: what is in them, in which order, and how they go on.

Must catch: crops that are not slices of the source or never reach its ends,
wrong lengths of short records, mixtures in wrong proportions, epochs in the
same order or with records left out, augmentation outside of its range, batches
that depend on the number of hosts, a resumed run that repeats or skips crops,
and threads that complain when the interpreter ends.
"""

import argparse
import collections
import io
import itertools
import json
import subprocess
import sys

import numpy as np
import pytest
import soundfile

from mmdcodec.audio import files
from mmdcodec.bench import data as bench
from mmdcodec.data import pipeline, record_order, record_writer, records
from mmdcodec.data.record_source import Source, crop, describe
from mmdcodec.errors import UserError
from mmdcodec.evaluate import clips

RATE = 8000
HOST = {"process_index": 0, "process_count": 1}


def ramp(song, samples):
  """Audio whose every sample tells the song and where it is."""
  n = np.arange(samples)
  return np.stack([n // 128 % 256 * 100 + song, n % 128 + 1], -1)


def where(crop):
  """Inverts `ramp`: (song, first sample) of a crop of it."""
  x = np.rint(crop * 32768).astype(int)
  songs = x[:, 0] % 100
  assert (songs == songs[0]).all()
  start = x[0, 0] // 100 * 128 + x[0, 1] - 1
  np.testing.assert_array_equal(x, ramp(songs[0], start + len(x))[start:])
  return int(songs[0]), int(start)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
  """Data sets of 5 and 7 records of 2 s, one of 0.5 s, and a mono tone."""
  root = tmp_path_factory.mktemp("data")

  def make(name, songs, rate=RATE, channels=2):
    (root / f"{name}_in").mkdir()
    for i, x in songs.items():
      soundfile.write(root / f"{name}_in" / f"{i:02}.wav", x, rate)
    records.prepare(
      root / f"{name}_in",
      root / name,
      rate=rate,
      channels=channels,
      seconds=2.0,
      progress=False,
    )
    return str(root / name)

  long = 2 * RATE
  tone = 0.25 * np.sin(2 * np.pi * 440 * np.arange(3 * 16000) / 16000)
  sets = {
    "five": make("five", {i: ramp(i, long).astype("int16") for i in range(5)}),
    "seven": make(
      "seven", {i: ramp(i, long).astype("int16") for i in range(10, 17)}
    ),
    "short": make("short", {20: ramp(20, RATE // 2).astype("int16")}),
    "tone": make("tone", {0: tone}, rate=16000, channels=1),
  }
  return collections.namedtuple("Data", sets)(**sets)


def take(datasets, count, **kwargs):
  kwargs = {"batch": 8, "seconds": 0.5, "rate": RATE, "channels": 2} | kwargs
  with pipeline.batches(datasets, **(HOST | kwargs)) as batches:
    return list(itertools.islice(batches, count))


def same(a, b):
  assert len(a) == len(b)
  for x, y in zip(a, b, strict=True):
    assert x.keys() == y.keys()
    for key in x:
      np.testing.assert_array_equal(x[key], y[key])


def test_crops_are_slices_of_the_source_from_all_over_it(data):
  seen = take(data.five, 100)
  places = [where(crop) for b in seen for crop in b["audio"]]
  last = 2 * RATE - RATE // 2
  starts = np.array([start for _, start in places])
  assert starts.min() >= 0 and starts.max() <= last
  # Uniform: 800 draws in 10 bins of 80, whose deviation is 8.5.
  counts = np.histogram(starts, 10, (0, last + 1))[0]
  assert counts.min() > 40 and counts.max() < 120
  for b in seen:
    assert b["audio"].dtype == np.float32 and b["lengths"].dtype == np.int32
    assert b["audio"].shape == (8, RATE // 2, 2)
    assert (b["lengths"] == RATE // 2).all()


def test_a_crop_of_the_whole_record_is_the_record(data):
  for seconds in (2.0, 2.0 - 1 / RATE):
    starts = {
      where(c)[1]
      for b in take(data.five, 10, seconds=seconds)
      for c in b["audio"]
    }
    assert starts == ({0} if seconds == 2.0 else {0, 1})


def test_short_records_are_padded_and_their_length_told(data):
  (b,) = take(data.short, 1, seconds=1.25)
  assert b["audio"].shape == (8, 10000, 2)
  assert (b["lengths"] == 4000).all()
  assert not b["audio"][:, 4000:].any()
  for row in b["audio"]:
    assert where(row[:4000]) == (20, 0)


def test_every_record_once_an_epoch_in_a_new_order(data):
  songs = [
    where(c)[0] for b in take(data.seven, 7, batch=6) for c in b["audio"]
  ]
  epochs = [tuple(songs[i : i + 7]) for i in range(0, 42, 7)]
  assert all(sorted(e) == list(range(10, 17)) for e in epochs)
  assert len(set(epochs)) > 3
  other = [
    where(c)[0]
    for b in take(data.seven, 7, batch=6, seed=1)
    for c in b["audio"]
  ]
  assert songs != other


def test_mixtures_keep_their_proportions(data):
  weighted = {data.five: 3, data.seven: 1, data.short: 0}
  for b in take(weighted, 20, batch=16):
    songs = [where(c)[0] for c in b["audio"]]
    assert abs(sum(s < 5 for s in songs) - 12) <= 1 and 20 not in songs
  songs = [
    where(c)[0] for b in take([data.five, data.seven], 30) for c in b["audio"]
  ]
  assert sum(s < 5 for s in songs) / len(songs) == pytest.approx(
    5 / 12, abs=0.02
  )


def test_gain_is_uniform_in_decibels(data):
  kwargs = {"rate": 16000, "channels": 1}
  plain = take(data.tone, 1, **kwargs)[0]["audio"]
  loud = np.concatenate(
    [b["audio"] for b in take(data.tone, 40, gain_db=(-10.0, 6.0), **kwargs)]
  )
  reference = np.sqrt(np.mean(plain**2))
  db = 20 * np.log10(np.sqrt(np.mean(loud**2, axis=(1, 2))) / reference)
  assert -10.1 < db.min() < -9 and 5 < db.max() < 6.1
  assert np.histogram(db, 4, (-10.1, 6.1))[0].min() > 40  # of 80
  # 0.25 + 18 dB is beyond full scale: scaled down, not clipped.
  (b,) = take(data.tone, 1, gain_db=(18.0, 18.0), **kwargs)
  assert np.abs(b["audio"]).max() == pytest.approx(1, abs=1e-6)
  np.testing.assert_allclose(b["audio"] / 4, plain, atol=2e-3)


def test_mixing_adds_a_second_crop(data):
  plain = take(data.seven, 30)
  mixed = take(data.seven, 30, mix=0.3)
  added = 0
  for a, b in zip(plain, mixed, strict=True):
    np.testing.assert_array_equal(a["lengths"], b["lengths"])
    for x, y in zip(a["audio"], b["audio"], strict=True):
      if not np.array_equal(x, y):
        added += 1
        where(y - x)  # raises unless it is a crop of some song
  assert 0.2 < added / 240 < 0.4
  both = {data.short: 1, data.five: 1}
  for b in take(both, 4, seconds=1.0, mix=1.0):
    assert set(b["lengths"]) <= {4000, 8000} and 8000 in b["lengths"]
    for x, length in zip(b["audio"], b["lengths"], strict=True):
      assert not x[length:].any() and x[length - 1].any()


def test_other_rates_and_channels_are_converted(data):
  (b,) = take(data.tone, 1, batch=16, rate=24000, channels=2, seconds=0.4)
  assert b["audio"].shape == (16, 9600, 2) and (b["lengths"] == 9600).all()
  n = np.arange(9600)
  wave = np.exp(2j * np.pi * 440 * n / 24000)
  for x in b["audio"]:
    np.testing.assert_array_equal(x[:, 0], x[:, 1])
    # Exactly the tone from end to end, whatever its phase.
    amplitude = 2 * np.vdot(wave, x[:, 0]) / 9600
    assert abs(amplitude) == pytest.approx(0.25, abs=2e-3)
    inner = slice(300, -300)  # the crop may touch an end of the record
    error = x[:, 0] - (amplitude * wave).real
    assert np.abs(error[inner]).max() < 2e-3
  (b,) = take(data.five, 1, rate=4000, channels=1, seconds=4.0)
  assert b["audio"].shape == (8, 16000, 1) and (b["lengths"] == 8000).all()


@pytest.mark.parametrize("place", [0.0, 0.5, 0.999999])
def test_a_resampled_crop_is_a_slice_of_the_resampled_whole(place):
  x = np.random.default_rng(0).integers(-9000, 9000, (40001, 2)).astype("int16")
  got = crop(
    io.BytesIO(record_writer.flac(x, 16000)),
    place,
    samples=6000,
    rate=24000,
    channels=2,
  )
  whole = files.resample(x / np.float32(32768), rate=16000, to=24000)
  # One more sample than 6000 * 2 / 3 is read, from one of 36001 places.
  start = int(place * 36001)
  assert start in (0, 18000, 36000)
  np.testing.assert_allclose(got, whole[start * 3 // 2 :][:6000], atol=1e-4)


@pytest.mark.parametrize("count", [1, 2, 23])
def test_a_crop_of_next_to_nothing_is_a_sample(tmp_path, count):
  """Catches an empty crop, of which a random gain finds no peak."""
  x = np.full((count, 1), 9000, np.int16)
  soundfile.write(tmp_path / "x.wav", x, 96000)
  records.prepare(
    tmp_path, tmp_path / "out", rate=96000, seconds=1.0, progress=False
  )
  options = {"rate": 4000, "channels": 1, "gain_db": (-3.0, 3.0)}
  (batch,) = take(tmp_path / "out", 1, **options)
  assert (batch["lengths"] == 1).all() and batch["audio"][:, 0].all()


def hosts(data, count, steps, state=None, **kwargs):
  """Global batches as `count` hosts make them, and their state at the end."""
  options = {"batch": 8, "seconds": 0.5, "rate": RATE, "channels": 2}
  options |= {"mix": 0.3, "gain_db": (-6.0, 0.0)} | kwargs
  shares, states = [], []
  for h in range(count):
    with pipeline.batches(
      {data.five: 2, data.seven: 1},
      process_index=h,
      process_count=count,
      **options,
    ) as batches:
      if state is not None:
        batches.set_state(state)
      shares.append([next(batches) for _ in range(steps)])
      states.append(batches.get_state())
  assert all(s == states[0] for s in states)
  whole = [
    {k: np.concatenate([s[i][k] for s in shares]) for k in shares[0][0]}
    for i in range(steps)
  ]
  return whole, states[0]


def test_any_number_of_hosts_makes_the_same_global_batches(data):
  one, state = hosts(data, 1, 8)
  assert json.loads(json.dumps(state)) == state == {"index": 64}
  for count in (2, 4, 8):
    same(hosts(data, count, 8)[0], one)
  # Two hosts leave off, four go on.
  first, state = hosts(data, 2, 5)
  second, _ = hosts(data, 4, 3, json.loads(json.dumps(state)))
  same(first + second, one)


def test_another_batch_size_goes_on_without_repeating_or_skipping(data):
  # 5 x 8 crops, then batches of 12: the same crops in the same order.
  rows = np.concatenate([b["audio"] for b in hosts(data, 1, 8)[0]])
  first, state = hosts(data, 2, 5)
  second, _ = hosts(data, 4, 2, state, batch=12)
  again = np.concatenate([b["audio"] for b in first + second])
  np.testing.assert_array_equal(again, rows)


def test_resuming_is_exact_and_threads_do_not_matter(data):
  whole = take(data.seven, 9, mix=0.5, threads=1)
  same(take(data.seven, 9, mix=0.5, threads=5), whole)
  options = {"batch": 8, "seconds": 0.5, "rate": RATE, "channels": 2}
  with pipeline.batches(data.seven, mix=0.5, **options, **HOST) as batches:
    same([next(batches) for _ in range(4)], whole[:4])
    state = batches.get_state()
    same([next(batches) for _ in range(5)], whole[4:])
    batches.set_state(state)  # back, in the same iterator
    assert batches.get_state() == state
    same([next(batches) for _ in range(5)], whole[4:])
  batches.close()
  with pytest.raises(ValueError, match="closed"):
    next(batches)


def test_fixed_batches_are_fixed_and_cover_the_records(data):
  options = {"batch": 4, "seconds": 0.5, "rate": RATE, "channels": 2}
  sets = [data.five, data.seven]
  first = pipeline.fixed_batches(sets, count=3, **options)
  same(first, pipeline.fixed_batches(sets, count=3, **options))
  assert first[0]["audio"].shape == (4, 4000, 2)
  songs = [where(c)[0] for b in first for c in b["audio"]]
  assert songs == [0, 1, 2, 3, 4, 10, 11, 12, 13, 14, 15, 16]
  many = pipeline.fixed_batches(data.five, count=5, **options)
  places = [where(c) for b in many for c in b["audio"]]
  assert len(set(places)) == 20  # four different crops of each


def test_distinct_crops_tell_their_file(tmp_path):
  """The same music twice in statistics; clips of one file that look like two.

  Must catch too: names that make a batch unfit for a device elsewhere.
  """
  (tmp_path / "in").mkdir()
  for song, seconds in (("a", 6), ("b", 2)):
    x = ramp(ord(song) - 97, seconds * RATE).astype("int16")
    soundfile.write(tmp_path / "in" / f"{song}.wav", x, RATE)
  records.prepare(
    *(tmp_path / "in", tmp_path / "out"),
    rate=RATE, channels=2, seconds=2.0, progress=False,
  )  # fmt: skip
  options = {"seconds": 0.5, "rate": RATE, "channels": 2}
  get = lambda batch, count, **more: pipeline.fixed_batches(
    str(tmp_path / "out"), batch=batch, count=count, **options, **more
  )
  assert set(get(2, 2)[0]) == {"audio", "lengths"}
  found = get(1, 9, distinct=True)
  places = [where(each["audio"][0]) for each in found]
  assert [song for song, _ in places] == [0, 0, 0, 1]
  starts = [start for _, start in places[:3]]
  # The middle of each record; ramps begin again after 2^15 samples.
  assert starts == [(6000 + 16000 * i) % 2**15 for i in range(3)]
  names = [each["source"][0] for each in found]
  assert names[0] == names[1] == names[2] != names[3]
  assert names[0].endswith("a.wav") and names[3].endswith("b.wav")
  (pair, other) = get(2, 9, distinct=True)
  assert [*pair["source"], *other["source"]] == names
  with pytest.raises(UserError, match="4 records"):
    get(5, 1, distinct=True)
  crops = clips.collect(
    tmp_path / "out", rate=RATE, channels=2, seconds=0.5, count=9
  )
  assert [clip.source for clip in crops] == names
  (tmp_path / "in" / "a.txt").write_bytes("h\u00e4uslich".encode("cp1252"))
  said: list[str] = []
  files_ = clips.collect(
    tmp_path / "in",
    rate=RATE,
    channels=2,
    seconds=0.5,
    count=9,
    log=said.append,
  )
  (line,) = said
  assert "a.txt: line 1 is not in UTF-8" in line
  assert [clip.source for clip in files_] == ["a.wav", "b.wav"]


def test_mistakes_are_named(data, tmp_path):
  good = {"batch": 8, "seconds": 0.5, "rate": RATE}
  for change, words in (
    ({"process_count": 3, "process_index": 0}, "multiple"),
    ({"seconds": 0}, "seconds must be"),
    ({"mix": 1.5}, "probability"),
    ({"gain_db": (3, -3)}, "lowest, highest"),
  ):
    with pytest.raises(UserError, match=words):
      pipeline.batches(data.five, **(HOST | good | change))
  for wrong, words in (
    (tmp_path, "is not a data set"),
    (tmp_path / "none", "no such folder"),
    ([], "at least one"),
    ({data.five: -1}, "negative"),
  ):
    with pytest.raises(UserError, match=words):
      pipeline.batches(wrong, **HOST, **good)
  about = describe(data.five)
  assert about["records"] == len(Source(data.five)) == 5
  assert (about["seconds"], about["rate"], about["channels"]) == (10, RATE, 2)


@pytest.mark.parametrize("end", ["", "raise SystemExit(3)"])
def test_the_interpreter_ends_in_silence(data, end):
  """Without an explicit close too, in the middle of decoding.

  Threads that import a package at once may wait for each other for ever, so
  all that decoding needs must be there before it begins.
  """
  code = (
    "import sys\n"
    "from mmdcodec.data.pipeline import batches\n"
    f"b = batches({data.five!r}, batch=64, seconds=1, rate={RATE},\n"
    "  process_index=0, process_count=1, threads=3)\n"
    "before = {name.partition('.')[0] for name in sys.modules}\n"
    "next(b)\n"
    "late = {name.partition('.')[0] for name in sys.modules} - before\n"
    "assert not late, late\n"
    f"{end}\n"
  )
  done = subprocess.run(
    [sys.executable, "-c", code], capture_output=True, text=True, timeout=120
  )
  assert (done.returncode, done.stderr) == (3 if "raise" in end else 0, "")


def test_bench_measures_what_it_makes(tmp_path):
  dataset = bench.make(tmp_path)
  about = describe(dataset)
  assert (about["seconds"], about["rate"]) == (300, 24000)
  crops, cpu = bench.measure(
    dataset, batch=4, seconds=0.1, rate=24000, duration=0.05
  )
  assert crops > 0 and cpu > 0


def test_the_bench_tells_the_threads_that_work(monkeypatch, capsys):
  """A machine of 64 CPUs decodes with 16 threads unless told otherwise."""
  monkeypatch.setattr(record_order, "cpus", lambda: 64)
  monkeypatch.setattr(bench, "measure", lambda *_, **__: (1.0, 1.0))
  parser = argparse.ArgumentParser()
  bench.add_arguments(parser)
  for given, threads in (([], 16), (["--threads=20"], 20)):
    bench.run(parser.parse_args(["--dataset=x", *given]))
    assert f", {threads} threads," in capsys.readouterr().out
