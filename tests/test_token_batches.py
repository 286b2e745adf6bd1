"""Batches of token data sets: crops, conditions, hosts, and going on.

Must catch: batches that leave records out or depend on the number of hosts,
crops at wrong places, captions and melodies of others, and codes of two codecs
in one run.
"""

import json

import chex
import jax
import numpy as np
import pytest
from teller import RATE, Teller, few_records, make, make_songs

from mmdcodec.data import tokenization
from mmdcodec.data.token_batches import crop, fixed_token_batches, token_batches
from mmdcodec.data.token_records import TokenSource
from mmdcodec.errors import UserError
from mmdcodec.models import lm_presets
from mmdcodec.models.condition import Condition
from mmdcodec.models.melody_condition import Melody

HOST = {"process_index": 0, "process_count": 1}


@pytest.fixture(scope="module")
def audio(tmp_path_factory):
  """Songs 0 to 10, see `teller`."""
  return make_songs(tmp_path_factory.mktemp("teller"))


@pytest.fixture(scope="module")
def told(audio, tmp_path_factory):
  """Their tokens, by a `Teller`, in several shards."""
  out = tmp_path_factory.mktemp("told") / "tokens"
  with few_records():
    tokenization.tokenize(audio, out, Teller(), batch=2)
  return out


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


def test_melodies_go_with_their_codes(tmp_path):
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
