"""A fine stage in windows that go on from codes, and in independent chunks.

Must catch: windows that go on from other codes than those of the music, chunks
that know others, conditions of another moment, music that depends on how much
is made at a time or on batch mates, codes that were given and are not kept.
"""

import dataclasses

import jax
import numpy as np
import pytest
from fake_stages import FakeSampler, fake_musiclm

from mmdcodec.generation import stage_runs
from mmdcodec.generation.musiclm_parts import STAGES
from mmdcodec.generation.musiclm_stages import Hierarchy
from mmdcodec.generation.windows import Window

# Frames of a window, and of the music, and those of each item that are given:
# they end at the beginning, inside of a window, and with one.
SIZE, TOTAL, GIVEN = 12, 70, (0, 20, 24)
# Frames in a second, and the frame from which on there is another prompt.
RATE, BORDER = 40, 32


class Fine:
  """A fine stage at work on some of three items, of known coarse codes.

  Attributes:
    run: the `WindowRun` or `ChunkRun`.
    known: int [3, frames, 2], the fine codes that are given, else -1.
  """

  def __init__(self, overlap, items=(0, 1, 2)):
    self._music, random = fake_musiclm(), np.random.default_rng(0)
    self._coarse = random.integers(0, 32, (3, TOTAL, 2))
    self.known = random.integers(0, 32, (3, TOTAL, 2))
    for codes, count in zip(self.known, GIVEN, strict=True):
      codes[count:] = -1
    request = self._music.check(
      story=[(0, "a"), (BORDER / RATE, "b")], seconds=TOTAL / RATE,
      seed=[*items], overlap=overlap / RATE,
    )  # fmt: skip
    known = {"coarse": self._coarse[[*items]], "fine": self.known[[*items]]}
    request = dataclasses.replace(request, known=request.known | known)
    self.run = Hierarchy(self._music.parts, request).fine

  def alone(self, item, codes, window, start, new, *places):
    """What the stage makes of a window, for one item alone.

    Args:
      item: the item.
      codes: int [frames, 2], all that it may know, and -1.
      window: the window of these codes.
      start: the frame of the music at which the window begins.
      new: the frame from which on it is new.
      *places: are folded into the key.
    """
    stage = self._music.parts.stages["fine"]
    end = min(start + window.end - window.start, TOTAL)
    text = "a" if (new + end) / 2 < BORDER else "b"
    given = {
      "joint": self._music.joint_tokens(text),
      "coarse": self._coarse[item, start:end],
    }
    inputs = {
      each.name: each.arrays([given[each.name]], 0) for each in stage.conditions
    }
    key = jax.random.key(item)
    for number in (STAGES.index("fine"), *places):
      key = jax.random.fold_in(key, number)
    sampler = FakeSampler(stage.model)
    state = sampler.start(codes[None], key[None])
    *_, state = sampler.sample_window(state, window, inputs, None)
    return state.codes[0, window.start : window.start + end - start]


@pytest.mark.parametrize("overlap", (3, 8, 11))
def test_windows_go_on_from_the_codes_before(overlap):
  """Catches any other codes before those of a window, and other conditions."""
  fine = Fine(overlap)
  codes = fine.run.until(TOTAL)
  new = [0, *range(SIZE, TOTAL, SIZE - overlap)]
  assert fine.run.plan == [
    (Window(max(0, at - overlap), min(max(0, at - overlap) + SIZE, TOTAL)), at)
    for at in new
  ]
  for item, known in enumerate(fine.known):
    kept = known >= 0
    np.testing.assert_array_equal(codes[item][kept], known[kept])
    for window, at in fine.run.plan:
      before = codes[item].copy()
      before[max(at, GIVEN[item]) :] = -1
      if window.end > GIVEN[item]:
        found = fine.alone(item, before, window, window.start, at)
        want = codes[item, window.start : window.end]
        np.testing.assert_array_equal(found, want)
  assert Fine(overlap, items=(1,)).run.until(TOTAL)[0].tolist() == (
    codes[1].tolist()
  )


def test_chunks_know_nothing_of_each_other(monkeypatch):
  """Catches chunks that are not simply one after the other.

  And frames that differ if chunks are made one by one, by other calls, or for
  one item alone.
  """
  fine = Fine(0)
  codes = fine.run.until(TOTAL)
  starts = [*range(0, TOTAL, SIZE)]
  assert [new for _, new in fine.run.plan] == starts
  for item, known in enumerate(fine.known):
    kept = known >= 0
    np.testing.assert_array_equal(codes[item][kept], known[kept])
    for start in starts:
      if start + SIZE > GIVEN[item]:
        before = np.full((SIZE, 2), -1)
        part = known[start : start + SIZE]
        before[: len(part)] = part
        window = Window(0, SIZE)
        found = fine.alone(item, before, window, start, start, start)
        np.testing.assert_array_equal(codes[item, start:][:SIZE], found)
  for step, rows in ((1, 1), (30, 5)):
    monkeypatch.setattr(stage_runs, "ROWS", rows)
    again = Fine(0).run
    for frame in range(step, TOTAL + step, step):
      made = again.until(frame)
      # No chunk is made before it is needed.
      assert made.shape[1] == min(-(-min(frame, TOTAL) // SIZE) * SIZE, TOTAL)
      np.testing.assert_array_equal(made, codes[:, : made.shape[1]])
    np.testing.assert_array_equal(again.until(1), codes)
  alone = Fine(0, items=(2,)).run.until(TOTAL)
  np.testing.assert_array_equal(alone[0], codes[2])
