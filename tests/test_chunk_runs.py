"""Chunks of a fine stage, joined where it is seen least.

Must catch: a border at another frame than the best, codebooks that change at
different frames, music that depends on how many chunks are made at a time or on
batch mates, codes that were given and are not kept.
"""

import jax
import numpy as np
import pytest
from fake_stages import fake_musiclm

from mmdcodec.generation import stage_runs
from mmdcodec.generation.sampling import SamplingOptions
from mmdcodec.generation.token_sampler import SamplerState

# Frames of a chunk, and of the music.
SIZE, TOTAL = 12, 70


def test_the_least_change():
  """Catches a change a frame off, another count, and ties that are broken."""
  find = lambda before, after: stage_runs.splice(
    np.array(before), np.array(after)
  )
  # Of the three codebooks 2, 1, 3 and 1 change.
  before = [[0, 1, 2], [3, 4, 5], [6, 7, 8], [1, 1, 1]]
  after = [[0, 9, 9], [3, 9, 5], [7, 8, 6], [1, 1, 0]]
  assert find(before, after) == 3
  assert find(before[:3], after[:3]) == 1
  assert find(before[:1], after[:1]) == 0
  # A code that is far away is as different as one beside it.
  assert find([[0], [0], [5]], [[1], [0], [255]]) == 1
  # A frame is compared with the next one of the other chunk: two chunks with
  # the same codes meet where these codes change least.
  codes = np.array([[1, 1], [1, 2], [1, 2], [3, 3], [4, 4]])
  assert find(codes[:-1], codes[1:]) == 1


class Run:
  """A `ChunkRun` over codes of few values, so that chunks often agree.

  Attributes:
    run: the run.
    made: (item, chunk's first frame) -> codes [frames, codebooks].
    heard: (start, end) in frames of the chunks that asked for conditions.
  """

  def __init__(self, overlap, items=(0, 1, 2), given=()):
    stage = fake_musiclm().parts.stages["fine"]
    self.made, self.heard, plain = {}, set(), stage.sampler.sample_window
    coarse = np.random.default_rng(0).integers(0, 32, (3, TOTAL, 2))
    names = {}

    def sample(state, window, inputs, options, places):
      *_, made = plain(state, window, inputs, options, places=places)
      codes = np.where(state.codes < 0, made.codes % 3, state.codes)
      for key, place, row in zip(state.keys, places, codes, strict=True):
        item = names[np.asarray(jax.random.key_data(key)).tobytes()]
        self.made[item, int(place)] = row
      yield SamplerState(codes, state.keys, window.end)

    def values(start, end):
      start, end = round(start * 40), round(end * 40)
      self.heard.add((start, end))
      return {"coarse": [coarse[item, :end] for item in items]}

    stage.sampler.sample_window = sample
    keys = jax.vmap(jax.random.key)(np.array(items))
    data = np.asarray(jax.random.key_data(keys))
    names.update(
      {row.tobytes(): item for row, item in zip(data, items, strict=True)}
    )
    codes = np.full((len(items), TOTAL, 2), -1, np.int32)
    for row, known in zip(codes, given, strict=False):
      row[: len(known)] = known
    self.run = stage_runs.ChunkRun(
      stage, codes, keys, overlap=overlap, values=values,
      options=SamplingOptions(),
    )  # fmt: skip


def joined(run, item, given=()):
  """Joins all codes of chunks frame by frame; also returns where."""
  starts = [window.start for window, _ in run.run.plan]
  chunks = []
  for start in starts:
    codes = run.made.get((item, start), given[start : start + SIZE])
    chunks.append({start + i: tuple(row) for i, row in enumerate(codes)})
  music, places = dict(chunks[0]), []
  for number in range(1, len(chunks)):
    one, other = chunks[number - 1], chunks[number]
    # Where the frame before is surely the neighbour's.
    least = max(chunks[number - 2]) + 2 if number > 1 else 1
    found = {
      t: sum(a != b for a, b in zip(one[t - 1], other[t], strict=True))
      for t in range(max(least, min(other)), max(one) + 2)
    }
    best = max(t for t in found if found[t] == min(found.values()))
    places.append(best)
    music |= {t: codes for t, codes in other.items() if t >= best}
  return np.array([music[t] for t in range(TOTAL)]), places


@pytest.mark.parametrize("overlap", (3, 8, 11))
def test_the_next_chunk_begins_at_the_least_change(overlap, monkeypatch):
  """Catches any other frame, also where three chunks have a frame.

  And frames that differ if chunks are made one by one, by other calls, or for
  one item alone.
  """
  run = Run(overlap)
  codes, splices = run.run.make(), run.run.splices
  ends = [new for _, new in run.run.plan[1:]]
  for item in range(3):
    want, places = joined(run, item)
    np.testing.assert_array_equal(codes[item], want)
    assert splices[item].tolist() == places
  # If chunks begin at every frame, each adds one, and only the first more.
  assert (splices != ends)[:, 1:].any() == (overlap < 11)
  assert (splices[0] != splices[1])[1:].any() == (overlap < 11)
  # Conditions reach to the end of what is compared.
  assert run.heard == {(w.start, w.end) for w, _ in run.run.plan}
  for count, rows in ((1, 1), (3, 5)):
    monkeypatch.setattr(stage_runs, "ROWS", rows)
    again, parts = Run(overlap), []
    for _ in range(0, len(run.run.plan), count):
      parts.append(again.run.make(count))
      assert parts[-1].shape[1]
    np.testing.assert_array_equal(np.concatenate(parts, 1), codes)
    np.testing.assert_array_equal(again.run.splices, splices)
    assert again.run.make().shape == (3, 0, 2)
  alone = Run(overlap, items=(2,))
  np.testing.assert_array_equal(alone.run.make()[0], codes[2])


def test_what_is_given_is_kept():
  """Catches a chunk that takes the place of given codes, or is compared wrong.

  Codes end inside of a chunk, in an overlap, and with a chunk.
  """
  random = np.random.default_rng(0)
  given = [random.integers(0, 3, (count, 2)) for count in (7, 20, 30)]
  run = Run(3, given=given)
  codes = run.run.make()
  for item, known in enumerate(given):
    np.testing.assert_array_equal(codes[item, : len(known)], known)
    want, _ = joined(run, item, known)
    np.testing.assert_array_equal(codes[item], want)
  # What is given as a whole is not made.
  assert (2, 0) not in run.made and (2, 18) not in run.made
  assert (2, 27) in run.made


def test_without_overlap():
  """Catches chunks that are not simply one after the other."""
  run = Run(0)
  codes = run.run.make()
  assert run.run.splices.tolist() == [[12, 24, 36, 48, 60]] * 3
  for item in range(3):
    chunks = [run.made[item, start] for start in range(0, TOTAL, SIZE)]
    want = np.concatenate(chunks)[:TOTAL]
    np.testing.assert_array_equal(codes[item], want)
