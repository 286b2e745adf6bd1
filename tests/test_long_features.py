"""Features of long clips, from windows of one length."""

import numpy as np
import pytest

from mmdcodec.tokenizers import long_features

STRIDE, SPAN, EDGE = 3, 8, 2


def blurred(x, lengths):
  """Means of 3 samples, averaged over frames up to 2 away, but in the window.

  So a frame is right only with its true neighbours.
  """
  assert x.shape[1] == STRIDE * SPAN
  valid = np.arange(x.shape[1]) < lengths[:, None]
  assert not x[~valid].any()
  means = x.reshape(len(x), SPAN, STRIDE).mean(-1)
  wide = np.pad(means, ((0, 0), (EDGE, EDGE)))
  return np.stack([wide[:, k : k + SPAN] for k in range(2 * EDGE + 1)], -1)


def whole(clip):
  """The same of a whole clip."""
  frames = -(-len(clip) // STRIDE)
  means = np.pad(clip, (0, frames * STRIDE - len(clip)))
  wide = np.pad(means.reshape(frames, STRIDE).mean(-1), EDGE)
  return np.stack([wide[k : k + frames] for k in range(2 * EDGE + 1)], -1)


@pytest.mark.parametrize("batch", [1, 3, 8])
def test_windows_give_the_frames_of_the_whole_clip(batch):
  """Catches a frame from the wrong window or without its context."""
  rng = np.random.default_rng(0)
  lengths = np.array([1, 23, 24, 25, 36, 37, 150, 151])
  x = rng.normal(size=(len(lengths), 200, 1)).astype(np.float32)
  x[np.arange(200) >= lengths[:, None]] = 0
  options = dict(stride=STRIDE, span=SPAN, edge=EDGE, batch=batch)
  rows, valid = long_features.of_frames(blurred, x, lengths, **options)
  np.testing.assert_array_equal(valid.sum(1), -(-lengths // STRIDE))
  for clip, length, row, ok in zip(x, lengths, rows, valid, strict=True):
    want = whole(clip[:length, 0])
    np.testing.assert_allclose(row[ok], want, atol=1e-6)
    assert not row[~ok].any()


def test_a_row_per_window():
  """Catches a window that begins at a wrong place or ends too late."""
  x = np.arange(1, 101, dtype=np.float32)[None, :, None] * np.ones((2, 1, 1))
  lengths, counts = np.array([100, 15]), np.array([10, 2])
  x[1, 15:] = 0
  ends = lambda x, n: np.stack([x[:, 0, 0], x.max((1, 2)), n], -1)
  rows, valid = long_features.of_windows(
    ends, x, lengths, span=20, hop=10, counts=counts, batch=4
  )
  np.testing.assert_array_equal(valid.sum(1), counts)
  np.testing.assert_array_equal(rows[1, :2], [[1, 15, 15], [11, 15, 5]])
  np.testing.assert_array_equal(rows[0, 8:], [[81, 100, 20], [91, 100, 10]])
