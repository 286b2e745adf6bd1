"""`mmdcodec evaluate joint`.

Must catch: numbers of other clips' texts, tags that hardly anyone has, a bridge
that changes nothing, and agreement of codes by chance alone.
"""

import dataclasses
import json

import numpy as np
import pytest

from mmdcodec.cli import main as cli
from mmdcodec.errors import UserError
from mmdcodec.evaluate import bootstrap, joint, joint_report
from mmdcodec.evaluate.clips import Clip

WORDS = ("slow", "fast")


class Known:
  """Hears the first number of a clip, and reads the length of a text."""

  rate = 8000

  def __init__(self, noise=0.0):
    self.noise = noise

  def _vectors(self, at):
    x = np.stack([np.cos(at), np.sin(at)], 1)
    x += self.noise * np.random.default_rng(1).standard_normal(x.shape)
    return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)

  def embed_audio(self, x, rate=None):
    """Of one clip."""
    return self._vectors(np.array([x[0, 0]]))

  def embed_text(self, texts):
    """Of any number."""
    return self._vectors(np.array([0.01 * len(text) for text in texts]))


def clips(count=24):
  found = []
  for i in range(count):
    caption = (10 + 5 * i) * "a"
    # Tags that are as long as their captions.
    word = WORDS[i >= count // 2] + (i >= count // 2) * 90 * "!"
    x = np.full((10, 1), 0.01 * len(caption), np.float32)
    found.append(
      Clip(f"{i}", x, f"{i}", caption, dict(speed=word, rare=i == 0))
    )
  return found


def test_a_perfect_model():
  result = joint.measure(Known(), clips())
  assert result.to_audio["none"].r1.value == 1
  assert result.to_text["none"].median_rank == bootstrap.Measure(1, 1, 1)
  np.testing.assert_allclose(result.chance["r1"], 1 / 24)
  np.testing.assert_allclose(result.gaps["none"]["own"], 1, atol=1e-6)
  # One clip has the other tag, which is too few.
  assert {*result.tags} == {"speed"} and result.values == {"speed": 2}
  assert result.tags["speed"]["none"].value > 0.85
  assert not result.agreements and "same text" in result.alike
  worse = joint.measure(Known(0.5), clips())
  found = worse.to_audio["none"].r10
  assert found.low < found.value < found.high and found.value <= 1
  with pytest.raises(UserError, match="have a caption"):
    joint.measure(Known(), [Clip("a", np.zeros((10, 1)))] * 3)


def test_songs_with_the_same_traits_count():
  tags = dict(drums=True, bass=False, chords=False, speed="slow", family="bell")
  plain = clips(6)
  same = [dataclasses.replace(clip, tags=tags) for clip in plain[:2]]
  assert "same text" in joint.measure(Known(), same + plain[2:]).alike
  others = [
    dataclasses.replace(clip, tags={**tags, "family": clip.name})
    for clip in plain[2:]
  ]
  result = joint.measure(Known(), same + others)
  assert "family" not in result.alike and "melody" in result.alike
  # Two of six queries have two right answers.
  np.testing.assert_allclose(result.chance["r1"], (4 + 2 * 2) / 36)
  np.testing.assert_allclose(result.own_chance["r1"], 1 / 6)


def test_the_command(tmp_path, dataset, model, capsys, fails):
  """Tables, the page and results.json of a model with codes and bridge."""
  from test_mulan_tokenizer import fitted

  from mmdcodec import bundle

  config, variables = fitted()
  bundle.save(tmp_path / "mulan", config, variables)
  words = ["evaluate", "joint", "--model", tmp_path / "mulan"]
  words += ["--audio", dataset, "--seconds", 1, "--out", tmp_path / "out"]
  assert not cli.main([str(word) for word in words])
  printed = capsys.readouterr().out
  for name in (*joint_report.BRIDGES.values(), "chance", "first 2"):
    assert name in printed
  found = json.loads((tmp_path / "out/results.json").read_text())
  assert {*found["to_audio"]} == {"none", "shift", "mapper"}
  assert found["gaps"]["shift"]["gap"] != found["gaps"]["none"]["gap"]
  assert [each["levels"] for each in found["agreements"]] == [1, 2]
  assert "Retrieval" in (tmp_path / "out/report.html").read_text()
  wrong = ["evaluate", "joint", "--model", model, "--audio", dataset]
  assert "joint embedding" in fails(*wrong)
