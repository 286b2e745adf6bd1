"""Features of clips of any length from a network that takes short windows.

The network always gets windows of one length, so that it compiles few programs
and its memory is bounded. Where the windows of a clip begin depends only on the
clip's own length, so its features do not depend on the rest of the batch.
"""

from collections.abc import Callable, Iterator

import numpy as np

from mmdcodec.platform import bucket

# (x float32 [n, span, channels], valid samples int32 [n]) -> [n, ...].
Network = Callable[[np.ndarray, np.ndarray], np.ndarray]

# Windows that the network gets at a time.
BATCH = 8


def of_frames(
  network: Network,
  x: np.ndarray,
  lengths: np.ndarray,
  *,
  stride: int,
  span: int,
  edge: int,
  batch: int = BATCH,
) -> tuple[np.ndarray, np.ndarray]:
  """Features per frame, from windows that overlap.

  A frame that two windows hold is taken from the one in which it is farther
  from the border, so that it has context on both sides.

  Args:
    network: returns [n, span, dim] for `span * stride` samples.
    x: float32 [batch, samples, channels].
    lengths: valid samples [batch]; the rest is 0.
    stride: samples per frame.
    span: frames in a window.
    edge: frames at each border of a window that are taken from its neighbour;
      less than half of `span`.
    batch: windows at a time.

  Returns:
    (float32 [batch, frames, dim], valid bool [batch, frames]); an item of n
    samples has ceil(n / stride) valid frames.
  """
  hop = span - 2 * edge
  frames = -(-lengths // stride)
  # One window, and as many more as the frames beyond it need.
  counts = 1 + np.maximum(-(-(frames - span) // hop), 0)
  windows = _run(
    network, x, lengths, counts, span * stride, hop * stride, batch
  )
  found: np.ndarray | None = None
  for i, outputs in enumerate(windows):
    if found is None:
      found = np.zeros((len(x), frames.max(), outputs.shape[-1]), np.float32)
    frame = np.arange(frames[i])
    window = np.clip((frame - edge) // hop, 0, counts[i] - 1)
    found[i, : frames[i]] = outputs[window, frame - window * hop]
  assert found is not None
  return found, np.arange(frames.max()) < frames[:, None]


def of_windows(
  network: Network,
  x: np.ndarray,
  lengths: np.ndarray,
  *,
  span: int,
  hop: int,
  counts: np.ndarray,
  batch: int = BATCH,
) -> tuple[np.ndarray, np.ndarray]:
  """One row of features per window; row i describes samples from i * hop on.

  Args:
    network: returns [n, dim] for `span` samples.
    x: float32 [batch, samples, channels].
    lengths: valid samples [batch]; the rest is 0.
    span: samples of a window.
    hop: samples between the beginnings of windows.
    counts: windows of each item [batch]; each begins before the item's end.
    batch: windows at a time.

  Returns:
    (float32 [batch, windows, dim], valid bool [batch, windows]).
  """
  rows = [*_run(network, x, lengths, counts, span, hop, batch)]
  found = np.zeros((len(x), counts.max(), rows[0].shape[-1]), np.float32)
  for i, outputs in enumerate(rows):
    found[i, : counts[i]] = outputs
  return found, np.arange(counts.max()) < counts[:, None]


def _run(
  network: Network,
  x: np.ndarray,
  lengths: np.ndarray,
  counts: np.ndarray,
  span: int,
  hop: int,
  batch: int,
) -> Iterator[np.ndarray]:
  """Yields the network's outputs [windows, ...] of each item."""
  places = [
    (i, j * hop) for i, count in enumerate(counts) for j in range(count)
  ]
  waiting: list[np.ndarray] = []
  item = 0
  for start in range(0, len(places), batch):
    some = places[start : start + batch]
    # A window of padding has length 1, because some networks need a sample.
    rows = min(batch, bucket(len(some)))
    cut = np.zeros((rows, span, x.shape[2]), np.float32)
    valid = np.ones(rows, np.int32)
    for row, (i, begin) in enumerate(some):
      piece = x[i, begin : min(begin + span, lengths[i])]
      cut[row, : len(piece)], valid[row] = piece, len(piece)
    waiting += [*np.asarray(network(cut, valid), np.float32)[: len(some)]]
    while item < len(counts) and len(waiting) >= counts[item]:
      yield np.stack(waiting[: counts[item]])
      waiting, item = waiting[counts[item] :], item + 1
