"""Codes audio streams that arrive in arrays of any size.

The steps and their state are in `mmdcodec.models.streaming`.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from mmdcodec.errors import UserError
from mmdcodec.models import streaming
from mmdcodec.models.codec import Codec
from mmdcodec.nn.conv import frames
from mmdcodec.tokenizers import validation


class Streamer:
  """Codes one or more streams with one codec, fed with arrays of any size.

  Input is buffered until there is enough for a step, so nothing is compiled
  for the size of an array. Steps have 1 frame, or `block` frames if that much
  has arrived; the first step of a stream has its own size. Encoder and decoder
  are independent, so you may use only one of them.

  One stream:

    streamer = codec.streamer()
    for x in microphone:
      codes = streamer.encode(x)  # [frames that are ready, codebooks]
      y = streamer.decode(codes)
    codes = streamer.encode(last=True)  # the rest; a new clip may follow
    y = streamer.decode(codes, last=True)

  With several streams, `encode` and `decode` take a list of arrays (None or
  empty for a stream without new input) and return a list of arrays; `last` is a
  list too.

  Attributes:
    latency: `streaming.Latency` of the "encoder" and the "decoder".
  """

  def __init__(
    self,
    model: Codec,
    variables: Any,
    batch: int = 1,
    *,
    block: int = 32,
    codebooks: int | None = None,
  ):
    """Starts with empty streams.

    Args:
      model: the codec.
      variables: the codec's variables.
      batch: number of streams.
      block: frames of a large step.
      codebooks: number of codebooks to use, from the first; None: all.

    Raises:
      UserError: the codec cannot be streamed, or batch or block is below 1.
    """
    for name, value in ("batch", batch), ("block", block):
      if value < 1:
        raise UserError(f"{name} is {value}; expected 1 or more.")
    self.latency = streaming.latency(model)
    self.batch, self.model = batch, model
    model, variables = streaming.without_weight_norm(model, variables)
    books = model.codebooks if codebooks is None else codebooks
    self._encoder = _Side(
      functools.partial(
        streaming.compiled_encode_step, model, variables, codebooks=codebooks
      ),
      streaming.encoder_state(model, variables, batch),
      unit=model.stride,
      empty=np.zeros((0, books), np.int32),
      steps=(self.latency["encoder"].start, block),
      ahead=streaming.overlap(model),
    )
    self._decoder = _Side(
      functools.partial(streaming.compiled_decode_step, model, variables),
      streaming.decoder_state(model, variables, batch),
      unit=1,
      empty=np.zeros((0, model.channels), np.float32),
      steps=(self.latency["decoder"].start, block),
      late=streaming.overlap(model),
    )

  def encode(self, x: Any = None, *, last: Any = False) -> Any:
    """Takes audio and returns the codes that are ready.

    Args:
      x: float [n, channels] ([n] for a mono codec) at the codec's rate, any n;
        None for no input. With several streams, a list of these.
      last: whether the clip ends with x. The remaining codes are then returned,
        and the next call begins a new clip. With several streams, a list of
        these or one for all.

    Returns:
      int32 [frames, codebooks], or a list of these.

    Raises:
      UserError: x has another shape or is not finite, or has no codes.
    """
    found = self._feed(self._encoder, x, last, validation.audio)
    for codes in [found] if self.batch == 1 else found:
      validation.made(self.model, codes)
    return found

  def decode(self, codes: Any = None, *, last: Any = False) -> Any:
    """Takes codes and returns the audio that is ready.

    Args:
      codes: int [n, k], any n, the same k until all streams have ended; None
        for no input. With several streams, a list of these.
      last: as in `encode`.

    Returns:
      float32 [samples, channels], or a list of these.

    Raises:
      UserError: codes have another shape, or are not this codec's integers.
    """
    return self._feed(self._decoder, codes, last, validation.codes)

  def _feed(
    self,
    side: "_Side",
    arrays: Any,
    last: Any,
    check: Callable[[Codec, Any], np.ndarray],
  ) -> Any:
    if self.batch == 1:
      arrays = [arrays]
    elif arrays is None:
      arrays = [None] * self.batch
    # A single value, which may be a NumPy bool, applies to all streams.
    last = [last] * self.batch if np.ndim(last) == 0 else last
    for values, what in (arrays, "array or None"), (last, "value of last"):
      sized: Any = values if np.iterable(values) else None
      count = "no list" if sized is None else len(sized)
      if count != self.batch:
        raise UserError(
          f"there are {self.batch} streams: expected a list with one {what} for"
          f" each, not {count}."
        )
    arrays = [None if x is None else check(self.model, x) for x in arrays]
    out = side.feed(arrays, [bool(end) for end in last])
    return out[0] if self.batch == 1 else out


class _Side:
  """The encoder or decoder of a Streamer, with its buffered input."""

  def __init__(
    self,
    step: Callable,
    state: streaming.State,
    *,
    unit: int,
    empty: np.ndarray,
    steps: tuple[int, int],
    ahead: int = 0,
    late: int = 0,
  ):
    """Begins with an empty buffer.

    Args:
      step: (state, x, lengths, start) -> (y, state).
      state: the initial state.
      unit: rows of x per frame.
      empty: y with no rows.
      steps: frames of the first step of a stream, and of a large step.
      ahead: rows of x after those of a step, which it sees but does not take.
      late: rows of y that a step returns before those of its frames.
    """
    self.ahead, self.late = ahead, late
    self.step, self.state, self.unit, self.empty = step, state, unit, empty
    self.start, block = steps
    self.sizes = sorted({1, self.start, max(self.start, block)}, reverse=True)
    batch = len(jax.tree.leaves(state)[0])
    self.held: list[np.ndarray | None] = [None] * batch
    # Of each stream, the late rows in case it ends now.
    self.tails = [empty] * batch
    self.fresh = np.ones(batch, bool)
    self.width: int | None = None

  def feed(
    self, arrays: Sequence[np.ndarray | None], last: Sequence[bool]
  ) -> list[np.ndarray]:
    """Buffers arrays, runs all possible steps and returns their output.

    Raises:
      UserError: an array has a different width from earlier ones.
    """
    arrays = [None if x is None or not len(x) else x for x in arrays]
    self.width = self._width(arrays)
    for i, x in enumerate(arrays):
      if x is not None:
        held = self.held[i]
        self.held[i] = x if held is None else np.concatenate([held, x])
    out = [[self.empty] for _ in arrays]
    for size in self.sizes:
      while True:
        take = [self._take(i, size, end) for i, end in enumerate(last)]
        if not any(take):
          break
        self._run(size, np.array(take), out)
    for i, end in enumerate(last):
      if end:
        out[i].append(self.tails[i])
        self.tails[i] = self.empty
        self.held[i], self.fresh[i] = None, True
    return [np.concatenate(pieces) for pieces in out]

  def _width(self, arrays: Sequence[np.ndarray | None]) -> int | None:
    """Returns the common width of all streams; None if not known yet."""
    found = {x.shape[1] for x in arrays if x is not None}
    if any(x is not None for x in self.held) or not self.fresh.all():
      found.add(self.width)
    if len(found) > 1:
      counts = " and ".join(map(str, sorted(found)))
      raise UserError(
        f"codes have {counts} codebooks; expected the same number in all"
        " streams until all of them have ended."
      )
    return next(iter(found), None)

  def _take(self, i: int, size: int, end: bool) -> int:
    """Returns how many rows stream i gives to a step of `size` frames."""
    held = self.held[i]
    have = 0 if held is None else len(held)
    full = size * self.unit
    least = self.start if self.fresh[i] else 1
    if size < least:
      return 0
    if have >= full + (0 if end else self.ahead):
      return full
    return have if end and size == least else 0

  def _run(
    self, size: int, take: np.ndarray, out: list[list[np.ndarray]]
  ) -> None:
    """Runs a step of `size` frames on the first `take` [batch] rows."""
    dtype = next(x.dtype for x in self.held if x is not None)
    full = size * self.unit
    x = np.zeros((len(take), full + self.ahead, self.width or 0), dtype)
    seen = np.zeros(len(take), np.int64)
    for i, count in enumerate(take):
      held = self.held[i]
      if count and held is not None:
        seen[i] = min(len(held), full + self.ahead)
        x[i, : seen[i]] = held[: seen[i]]
        self.held[i] = held[count:]
    first = self.fresh & (take > 0)
    y, self.state = self.step(self.state, x, seen, first)
    self.fresh &= take == 0
    y = np.asarray(y)
    rows = (y.shape[1] - self.late) // size
    for i, count in enumerate(take):
      if count:
        end = frames(count, self.unit) * rows
        out[i].append(y[i, self.late if first[i] else 0 : end])
        self.tails[i] = y[i, end : end + self.late]
