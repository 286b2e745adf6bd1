"""Measures of a MusicLM, on models that obey and on models that do not.

Must catch: a prompt of another piece, chance that is none, borders at other
moments, spans that are compared with prompts far away, stages that are given
other tokens than they should be, and bits of padding.
"""

import math

import numpy as np
import pytest
from fake_stages import RATE, fake_musiclm

from mmdcodec.errors import UserError
from mmdcodec.evaluate import (
  adherence,
  built_in,
  multiple,
  musiclm,
  musiclm_report,
  musiclm_time,
  oracle,
  seams,
)
from mmdcodec.evaluate.musiclm import Setting

DIM = 8


def vector(text):
  """A direction for a text."""
  seed = np.frombuffer(text.encode(), np.uint8)
  found = np.random.default_rng(seed).normal(size=DIM)
  return found / np.linalg.norm(found)


class Joint:
  """Embeds audio as its first samples."""

  def embed_text(self, texts):
    """See `Mulan`."""
    return np.stack([vector(text) for text in texts])

  def embed_audio(self, x, rate=None):
    """See `Mulan`."""
    return np.stack([each[:DIM, 0] for each in x])


class Obedient:
  """Writes the embedding of what it is told into all of its audio.

  Attributes:
    lag: by how many pieces its prompts are shifted.
  """

  rate, channels, lag = RATE, 1, 0

  def __init__(self):
    self.joint, self.calls = Joint(), []

  def takes(self, name):
    """See `LoadedMusicLM`."""
    return True

  def generate(
    self, texts=None, *, seconds, seed, guidance, story=None, **more
  ):
    """See `LoadedMusicLM`."""
    self.calls.append((seed, guidance))
    story = story or [(0, texts)]
    times = [time for time, _ in story] + [seconds]
    if "melody" in more:
      return np.roll(np.stack(more["melody"]), self.lag, axis=0)
    parts = []
    for k, (_, each) in enumerate(story):
      each = np.roll(np.array(each, object), self.lag)
      size = round(times[k + 1] * RATE) - round(times[k] * RATE)
      rows = [np.resize(vector(text), size) for text in each]
      parts.append(np.stack(rows)[..., None])
    return np.concatenate(parts, axis=1)


def nobody(heard):
  """Classifiers that always hear the same."""
  return {"drums": ["with"] * len(heard)}


def test_consistency():
  """Catches prompts of other pieces, and others that include the own."""
  music = Obedient()
  found = musiclm.consistency(Setting(music, 20, 1.0, guidance=2.0))
  own = found.values["pieces"]
  assert own["own"] == pytest.approx(1) and own["p"] < 0.001
  assert own["chance"] < 0.5 and own["things"] == 20
  # Pieces have seeds of their own, whatever the batch.
  assert music.calls == [(0, 2.0), (16, 2.0)]
  music.lag = 1
  found = musiclm.consistency(Setting(music, 20, 1.0)).values["pieces"]
  assert found["own"] < 0.5 and found["p"] > 0.01
  # Given prompts are repeated, and music that has them is compared.
  audio = np.stack([vector(text)[:, None] for text in "abc"])
  found = musiclm.consistency(Setting(music, 4, 1.0), [*"abc"], audio)
  real = found.values["music with these captions"]
  assert real["own"] == pytest.approx(1) and real["things"] == 3
  assert [text for text, _ in found.pieces] == [*"abca"]


def test_prompts_of_several_pieces():
  """Catches "other" prompts that are the piece's own."""
  found = musiclm.consistency(Setting(Obedient(), 8, 1.0), ["a", "b"])
  assert found.values["pieces"]["own"] == pytest.approx(1)
  between = float(vector("a") @ vector("b"))
  assert found.values["pieces"]["chance"] == pytest.approx(between)
  with pytest.raises(UserError, match="all 8 pieces have the prompt 'a'"):
    musiclm.consistency(Setting(Obedient(), 8, 1.0), ["a"])


def test_stories():
  """Catches spans at other times, and prompts of other stories."""
  music = Obedient()
  found = musiclm_time.story(Setting(music, 24, 1.0), nobody)
  own = found.values["joint embedding"]
  assert own["own"] > 0.5 and own["p"] < 0.01 and own["things"] == 8
  single = [each["p"] for each in found.values.values()]
  corrected = [each["p_holm"] for each in found.values.values()]
  assert corrected == multiple.holm(single) != single
  # What is always the same follows nobody.
  drums = found.values["drums"]
  assert drums["low"] <= 0 <= drums["high"] or drums["p"] > 0.01
  assert len(found.pieces[0][1]) == round(4.5 * RATE)
  assert " / " in found.pieces[0][0]


def test_margins_are_to_the_neighbours():
  """Catches neighbours that are two spans away, and pairs without news."""
  alike = np.zeros((1, 3, 3))
  alike[0] = [[0.9, 0.4, -9.0], [0.2, 0.8, 0.6], [-9.0, 0.5, 0.7]]
  want = np.mean([0.5, np.mean([0.6, 0.2]), 0.2])
  assert adherence.story_likeness(alike).own == pytest.approx(want)
  told = np.array([["a", "b", "b"], ["a", "a", "a"]])
  heard = np.array([["a", "a", "b"], ["a", "b", "a"]])
  pairs = adherence.trait_likeness(told, heard)
  np.testing.assert_array_equal(
    pairs[0], [[1, 0, 0], [1, 0, np.nan], [0, np.nan, 1]]
  )
  # The second story has one trait throughout; of the first, the last span's
  # neighbour tells the same.
  found = adherence.story_likeness(pairs)
  assert found.things == 1 and found.own == pytest.approx(np.mean([1, -1]))
  assert adherence.story_likeness(pairs[1:]) is None


def test_melodies():
  """Catches melodies of other pieces."""
  music = Obedient()
  music.rate = 4000
  found = musiclm.melody(Setting(music, 8, 2.0)).values["pieces"]
  assert found["own"] == 1 and found["chance"] < 0.6 and found["p"] < 0.01
  music.lag = 1
  found = musiclm.melody(Setting(music, 8, 2.0)).values["pieces"]
  assert found["own"] < 0.6 and found["p"] > 0.01


def test_drift():
  """Catches parts of other pieces, and an interval of another part."""
  told = {"drums": ["with", "without"], "bass": ["with", "with"]}
  heard = {
    "drums": np.array(
      [[["with"] * 2, ["with", "without"]], [["without"] * 2, ["with"] * 2]]
    ),
    "bass": np.array([[["with"] * 2] * 2] * 2),
  }
  first, second = adherence.drift(told, heard, 30.0)
  assert first.share == first.low == 1 and first.start == 0
  # Drums: a half of the first piece, none of the second.
  assert second.share == pytest.approx((0.25 + 1) / 2) and second.start == 30
  assert second.low < second.share < second.high
  # Within each piece: half a trait of two is lost, and a whole one.
  assert first.change == first.change_low == first.change_high == 0
  assert second.change == pytest.approx(second.share - 1)
  ends = second.change_low, second.change_high
  assert ends == pytest.approx((-0.5, -0.25))


def test_long_pieces(monkeypatch):
  """Catches clips that reach the wrong part or piece."""
  music = Obedient()

  def counts(clips):
    # Pieces are 30 clips long; drums from the second half of each on.
    return {"drums": ["with" if i % 30 >= 15 else "without" for i in clips]}

  given = []
  monkeypatch.setattr(
    musiclm_time,
    "hear",
    lambda classifiers, clips, rate: (
      given.append(clips) or classifiers(range(len(clips)))
    ),
  )
  # Clips that are not of whole samples.
  setting = Setting(music, 24, 0.5 + 0.6 / RATE)
  found = musiclm_time.drift(setting, counts).values["parts"]
  told = built_in.prompts(3, musiclm.PROMPTS + 4)[1]["drums"]
  without = told.count("without") / 3
  assert without != 0.5
  shares = [part["share"] for part in found]
  np.testing.assert_allclose(shares, [without] * 5 + [1 - without] * 5)
  starts = [part["start"] for part in found]
  np.testing.assert_allclose(starts, 1.5 * np.arange(10), atol=0.05)
  assert given[0].shape == (90, RATE // 2, 1)


def test_seams():
  """Catches borders at other moments, and ranks that are not uniform."""
  random = np.random.default_rng(0)
  values = [random.random(3000) for _ in range(4)]
  borders = np.arange(5, 60, 5.0)
  even = seams.compare(values, 50.0, borders)
  assert even.borders == 44 and even.low < 0.5 < even.high
  assert even.above < 0.2 and even.p > 0.01
  for row in values:
    row[np.round(borders * 50).astype(int) + 1] += 1
  found = seams.compare(values, 50.0, borders)
  assert found.rank == 1 and found.above == 1 and found.p < 0.01
  # The same peaks elsewhere are none of the borders'.
  aside = seams.compare(values, 50.0, borders + 1.0)
  assert aside.p > 0.01 and aside.rank < 0.6
  assert seams.compare(values, 50.0, []) is None


def test_what_changes_at_a_moment():
  """Catches moments that are one off, and falls that count as rises."""
  rate = 1000
  x = np.full((1000, 1), 0.1)
  x[500:] = 0.2
  change = seams.level_change(x, rate)
  assert len(change) == 50 and change.argmax() == 25
  assert change[25] == pytest.approx(20 * math.log10(2))
  noise = 0.01 * np.random.default_rng(0).normal(size=(1000, 1))
  noise[500:] *= 30
  for way, place in ((1, 25), (-1, 25)):
    found = seams.flux(noise[::way], rate)
    assert len(found) == 50
    high = abs(int(found.argmax()) - place) <= 1
    assert high == (way == 1)
  codes = np.array([[1, 2], [1, 2], [1, 3], [4, 5]])
  np.testing.assert_array_equal(seams.code_change(codes), [0, 0, 0.5, 1])


def test_borders_are_those_of_the_stages():
  """Catches borders of another stage, or at the wrong rate."""
  music = fake_musiclm()
  found = musiclm_time.borders(music, 4.0)
  # Windows of 1.6 s and 0.8 s that overlap by half, and chunks of 0.3 s,
  # of which 0.075 s are the last ones of the one before.
  np.testing.assert_allclose(found["semantic"], [1.6, 2.4, 3.2])
  np.testing.assert_allclose(found["coarse"][:3], [0.8, 1.2, 1.6], atol=0.05)
  np.testing.assert_allclose(found["fine"][:3], [0.3, 0.525, 0.75])
  music.generate("a", seconds=4.0)
  calls = music.parts.stages["semantic"].sampler.calls
  ends = [window.end / 25 for _, window, _, _ in calls]
  np.testing.assert_allclose(ends[:-1], found["semantic"])
  values = musiclm_time.find_seams(Setting(music, 8, 0.6)).values
  assert {"coarse: level", "fine: codes"} <= {*values}
  single = [each["p"] for each in values.values()]
  found = [each["p_holm"] for each in values.values()]
  assert found == multiple.holm(single) != single
  # With another overlap, or none, borders are elsewhere.
  more = musiclm_time.borders(music, 4.0, 0.15)["fine"]
  np.testing.assert_allclose(more[:3], [0.3, 0.45, 0.6])
  none = musiclm_time.borders(music, 4.0, 0)["fine"]
  np.testing.assert_allclose(none[:3], [0.3, 0.6, 0.9])


def test_several_tests_at_once():
  """Catches a correction that is not that of R's `p.adjust(..., "holm")`."""
  p = [0.01, 0.04, 0.03, 0.005]
  np.testing.assert_allclose(multiple.holm(p), [0.03, 0.06, 0.06, 0.02])
  assert multiple.holm([0.9, 0.8]) == [1.0, 1.0] and multiple.holm([]) == []


def noise(count=3, seconds=2.0):
  random = np.random.default_rng(0)
  shape = (count, round(seconds * RATE), 1)
  return random.uniform(-0.5, 0.5, shape).astype(np.float32)


def test_the_oracle_path():
  """Catches tokens that are made where they should be given."""
  music, audio = fake_musiclm(), noise()
  codes = music.codec.encode(audio)
  found = oracle.ways(music, audio, [5, 6, 7], 1.0)
  assert [*found] == [
    oracle.CODEC, oracle.COARSE_ONLY, oracle.FINE, oracle.COARSE, oracle.BOTH,
    oracle.EVERY,
  ]  # fmt: skip
  np.testing.assert_array_equal(found[oracle.CODEC], codes)
  np.testing.assert_array_equal(found[oracle.FINE][..., :2], codes[..., :2])
  joint = music.joint_tokens(audio=audio)
  fine = music.make_fine(joint, codes[..., :2], seed=[5, 6, 7])
  np.testing.assert_array_equal(found[oracle.FINE][..., 2:], fine)
  semantic = music.semantic.encode(audio, RATE)
  coarse = music.make_coarse(joint, semantic, seed=[5, 6, 7])
  np.testing.assert_array_equal(found[oracle.COARSE], coarse)
  np.testing.assert_array_equal(found[oracle.BOTH][..., :2], coarse)
  assert (found[oracle.EVERY][..., :2] != coarse).mean() > 0.5
  short = oracle.ways(fake_musiclm(["fine_lm"]), audio, [5, 6, 7], 1.0)
  assert [*short] == [oracle.CODEC, oracle.COARSE, oracle.EVERY]
  assert short[oracle.CODEC].shape[2] == 2
  plain = ["semantic", "semantic_lm", "melody"]
  assert oracle.COARSE not in oracle.ways(
    fake_musiclm(plain), audio, [5, 6, 7], 1.0
  )
  # Without a joint embedding, there are no true tokens at the top.
  audiolm = oracle.ways(fake_musiclm(["joint", "melody"]), audio, [5] * 3, 1.0)
  assert oracle.EVERY not in audiolm and [*audiolm][-1] == oracle.FREE


def test_distances_of_the_oracle_path():
  """Catches originals of other clips."""
  audio = noise(seconds=4.0)
  same = oracle.compare(audio, audio, RATE)
  assert same["mel_distance"].value == 0 and same["chroma"].value == 1
  other = oracle.compare(audio, audio[[1, 2, 0]], RATE)
  assert other["mel_distance"].value > 1 and other["chroma"].value < 0.6
  with pytest.raises(UserError, match="needs two"):
    oracle.measure(fake_musiclm(), audio[:1])


def test_what_can_be_measured():
  """Catches measures that are left out without a word."""
  music = fake_musiclm(["melody"])
  missing = musiclm_report.possible(music, [], [])
  assert {*missing} == {"melody", "likelihood", "oracle"}
  left = musiclm_report.choose(None, missing)
  assert left == ["consistency", "story", "seams", "drift"]
  for only, words in ((["melody"], "no melody"), (["fad"], "no measure")):
    with pytest.raises(UserError, match=words):
      musiclm_report.choose(only, missing)


def test_prompts_of_built_in_music():
  """Catches traits of another prompt."""
  texts, told = built_in.prompts(24, 3)
  for text, drums, bass in zip(texts, told["drums"], told["bass"], strict=True):
    assert ("drums" in text and "no drums" not in text) == (drums == "with")
    assert ("bass" in text and "no bass" not in text) == (bass == "with")
  assert told["drums"].count("with") == 12
  assert [*told] == [*built_in.BALANCED_TRAITS]
