"""What levels carry, balanced prompts, and the experiment of a hierarchy.

Must catch: pairs of a piece with itself, groups that are mixed up, levels that
are not drawn anew, or that do not share what they should.
"""

import json

import numpy as np
import pytest
from fake_stages import RATE, FakeCodec, FakeTokenizer, fake_musiclm

from mmdcodec.audio import files, song_captions, song_plan
from mmdcodec.errors import UserError
from mmdcodec.evaluate import built_in, chroma, levels
from mmdcodec.experiments import hierarchy


def tone(pitch, seconds=2.0, rate=4000):
  t = np.arange(round(seconds * rate)) / rate
  return 0.5 * np.sin(2 * np.pi * 440 * 2 ** ((pitch - 69) / 12) * t)


def test_chroma_agreement():
  """Catches other frames, octaves that differ, and unequal lengths."""
  half = np.concatenate([tone(60), tone(67)])
  tunes = [tone(60, 4.0), tone(72, 4.0), half, tone(61, 3.0)]
  found = [chroma.classes(x, 4000) for x in tunes]
  alike = chroma.agreement(found, found)
  np.testing.assert_array_equal(np.diagonal(alike), 1)
  assert alike[0, 1] == 1 and alike[0, 3] == alike[3, 2] == 0
  assert alike[0, 2] == pytest.approx(0.5, abs=0.1)


def test_silence_has_no_melody():
  """Catches silence that is taken for a C, in all frames or in some."""
  c, rest = tone(60), np.zeros(8000)
  stereo = np.stack([c, c], axis=1)
  found = [
    chroma.classes(x, 4000)
    for x in (stereo, rest, np.concatenate([c, rest]), tone(60, 0.2), rest[:99])
  ]
  alike = chroma.agreement(found, found)
  assert alike[0, 1] == alike[1, 0] == 0 and alike[1, 1] == 1
  # Half of it is a rest.
  assert (found[2] == chroma.SILENT).mean() == pytest.approx(0.5, abs=0.15)
  assert (found[2][:6] == 0).all() and (found[2][-6:] == chroma.SILENT).all()
  assert (found[3] != chroma.SILENT).any()
  assert (found[4] == chroma.SILENT).all()


class Loud:
  """Hears whether a piece is low."""

  def __call__(self, heard):
    """See `traits.Classifiers`."""
    return {"low": ["yes" if row[:20].mean() > 0 else "no" for row in heard]}


def test_what_groups_share():
  """Catches pairs of a piece with itself, and groups that are mixed up."""
  # Two groups: of one pitch each, in two timbres.
  dull = [tone(60), tone(60, 2.0) * 0.3]
  bright = [np.sign(tone(67)), np.sign(tone(67)) * 0.1]
  audio = np.stack([dull, bright]).astype(np.float32)
  own = levels.measure(audio, 4000, Loud())
  other = levels.measure_strangers(audio, 4000, Loud())
  assert own[levels.CHROMA].value == 1 and own["low"].value == 1
  # Loudness is no timbre.
  assert own[levels.TIMBRE].value == pytest.approx(0, abs=0.05)
  assert other[levels.CHROMA].value < 0.1
  assert other[levels.TIMBRE].value > 3
  mixed = audio[[0, 1, 1], [[0], [1], [0]]]
  assert levels.measure(mixed, 4000, Loud())[levels.CHROMA].low < 0.5


def test_strangers_are_as_many_as_the_groups():
  """Catches intervals that more pieces of the same groups make narrower."""
  pitches = (60, 60, 67, 63)
  audio = np.stack([np.stack([tone(p)] * 6) for p in pitches])
  found = levels.measure_strangers(audio.astype(np.float32), 4000, Loud())
  same = found[levels.CHROMA]
  # One of six pairs of groups; of four drawn groups, none or all may be alike.
  assert same.value == pytest.approx(1 / 6, abs=0.02)
  assert same.low < 0.02 and same.high > 0.4


def test_balanced_prompts():
  """Catches traits that go together, and prompts that do not tell them."""
  found = song_plan.balanced(3, 48)
  assert found == song_plan.balanced(3, 48) != song_plan.balanced(4, 48)
  plans = [song_plan.plan(i, each) for i, each in enumerate(found)]
  drums = np.array([plan["drums"] for plan in plans])
  bass = np.array([bool(plan["bass"]) for plan in plans])
  assert drums.sum() == bass.sum() == 24
  speeds = [plan["speed"] for plan in plans]
  assert {speeds.count(each) for each in song_plan.TEMPOS} == {16}
  assert 4 < (drums & bass).sum() < 20
  tags = [{**plan, "seed": i} for i, plan in enumerate(plans)]
  for each, text in zip(
    tags, built_in.captions(tags, balanced=True), strict=True
  ):
    words = song_captions.SPEEDS[each["speed"]]
    assert any(word in text for word in words)
    assert ("drums" in text and "no drums" not in text) == each["drums"]
  assert any(
    "no drums" in text for text in built_in.captions(tags, balanced=True)
  )


def test_groups_share_their_level(tmp_path):
  """Catches tokens that are not shared, or a level that is not drawn anew."""
  music = fake_musiclm()
  made = []
  decode = music.decode
  music.decode = lambda coarse, fine: (
    made.append((coarse, fine)) or decode(coarse, fine)
  )
  options = (["a", "b"], 3, 2.0, 5, 2.0, lambda what: lambda done, total: None)
  hierarchy.make_groups(music, tmp_path, *options)
  assert len(made) == 6
  for group in range(2):
    joint, semantic, coarse = made[3 * group : 3 * group + 3]
    for codes, fine in (joint, semantic):
      assert (codes[0] != codes[1]).mean() > 0.5
      assert (fine[0] != fine[1]).mean() > 0.5
    # The first piece is the same at all levels.
    for codes, fine in (semantic, coarse):
      np.testing.assert_array_equal(codes[0], joint[0][0])
      np.testing.assert_array_equal(fine[0], joint[1][0])
    np.testing.assert_array_equal(coarse[0][0], coarse[0][2])
    assert (coarse[1][0] != coarse[1][1]).mean() > 0.5
  # The semantic tokens of all pieces are those of the first.
  tokens = music.generate_tokens(["a"], seconds=2.0, seed=5, guidance=2.0)
  again = music.make_coarse(
    tokens["joint"], tokens["semantic"], seed=[7], guidance=2.0
  )
  np.testing.assert_array_equal(again[0], made[1][0][2])
  # Again: what is there is not made anew.
  (tmp_path / "semantic" / "01.txt").unlink()
  hierarchy.make_groups(music, tmp_path, *options)
  assert len(made) == 7
  for one, other in zip(made[-1], made[4], strict=True):
    np.testing.assert_array_equal(one, other)
  assert len(files.read(tmp_path / "coarse" / "00-02.flac")[0]) == 2 * RATE
  assert hierarchy.shared_of(fake_musiclm(["fine_lm"])) == ["joint", "semantic"]


@pytest.mark.soak
def test_the_experiment(tmp_path, monkeypatch):
  """Catches levels that are judged as others, and settings that are mixed."""
  # Instruments need more than 800 Hz.
  monkeypatch.setattr(FakeTokenizer, "rate", 8000)
  monkeypatch.setattr(FakeCodec, "stride", 200)
  music = fake_musiclm()
  for stage in music.parts.stages.values():
    stage.config, stage.variables = (
      {"model": {}},
      {"params": {"w": np.zeros(1)}},
    )
  given = dict(songs=12, pieces=4, seconds=2.0, groups=2, copies=3)
  found = hierarchy.run(music, tmp_path, **given)
  assert [*found["levels"]] == ["joint", "semantic", "coarse", "nothing"]
  assert {*found["traits"]} <= {*built_in.BALANCED_TRAITS}
  results = json.loads((tmp_path / "results.json").read_text())
  timbre = results["levels"]["coarse"]["timbre"]["value"]
  assert timbre == found["levels"]["coarse"]["timbre"].value
  columns, rows = hierarchy.table(found["levels"])
  assert columns[0] == "pieces share" and rows[0][0] == "joint tokens"
  assert "| joint tokens |" in (tmp_path / "table.md").read_text()
  with pytest.raises(UserError, match="other settings"):
    hierarchy.run(music, tmp_path, **given | {"copies": 2})
  with pytest.raises(UserError, match="at least 2"):
    hierarchy.run(music, tmp_path, **given | {"groups": 9})
