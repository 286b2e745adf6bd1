"""Coding while the audio is still arriving, with the state in the open.

Pure functions, to be used inside your own `jit`:

  state = encoder_state(model, variables, batch)
  codes, state = encode_step(model, variables, state, x, lengths, start)

and the same for the decoder. `state` is a pytree whose leaves have the batch
axis first: the last samples that each convolution saw, the overlap of each
transposed convolution, the state of the LSTM. A step takes any whole number of
frames; cut in whatever way, a clip gives the codes and the audio that it has
as a whole. The items of a batch are streams of their own: each step says for
each of them whether it begins (`start`), goes on (`lengths` = the step), ends
inside of the step (`lengths` less than that) or waits (`lengths` = 0).

Only a causal codec has a state: SoundStream and the 24 kHz EnCodec. A layer
with mirrored padding copies samples that come after the beginning, so a stream
of such a codec begins with a step of at least `latency(model)[...].start`
frames, unless it ends in that step. `Streamer` does all of this for arrays of
any size.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mmdcodec.errors import UserError
from mmdcodec.models import reach
from mmdcodec.models.codec import Codec
from mmdcodec.nn.conv import STREAM, frames, mask_after

State = Any


@dataclasses.dataclass(frozen=True)
class Latency:
  """What must have arrived before something comes out.

  Attributes:
    start: frames, before the first frame.
    steady: frames, before each further frame (1: nothing but the frame).
    stride: samples per frame.
    rate: Hz.
  """

  start: int
  steady: int
  stride: int
  rate: int

  @property
  def start_samples(self) -> int:
    """Samples before the first frame."""
    return self.start * self.stride

  @property
  def steady_samples(self) -> int:
    """Samples before each further frame."""
    return self.steady * self.stride

  @property
  def start_ms(self) -> float:
    """Milliseconds before the first frame."""
    return 1000 * self.start_samples / self.rate

  @property
  def steady_ms(self) -> float:
    """Milliseconds before each further frame."""
    return 1000 * self.steady_samples / self.rate


def obstacle(model: Codec) -> str | None:
  """Why a codec can't be streamed, as in "it ..."; None if it can."""
  reasons = {
    "looks ahead (causal=False)": not model.causal,
    "looks ahead (trim_right_ratio is not 1)": model.trim_right_ratio != 1,
    "works in chunks": model.chunk is not None,
    "measures the loudness of the whole clip": model.normalize,
    "normalises over the whole clip": model.norm == "time_group",
  }
  return next((reason for reason, holds in reasons.items() if holds), None)


def check(model: Codec) -> None:
  """Raises a UserError unless the codec can be streamed."""
  reason = obstacle(model)
  if reason:
    raise UserError(
      f"this codec can't be streamed: it {reason}. Use encode_blocks and"
      " decode_blocks, which take audio of any length in pieces, or a causal"
      " codec such as encodec_24khz or soundstream_24khz."
    )


def latency(model: Codec) -> dict[str, Latency]:
  """Latency of a stream, of the "encoder" and of the "decoder".

  In the encoder: from the first sample of a frame to its codes. In the
  decoder: from the codes of a frame to its samples, in frames of codes that
  must be there.

  Raises:
    UserError: the codec can't be streamed.
  """
  check(model)
  n = model.network
  layers = {
    "encoder": (sum(reach.encoder_layers(n), []), model.stride),
    "decoder": (sum(reach.decoder_layers(n), []), 1),
  }
  return {
    name: Latency(reach.lead(way, n, rate), 1, model.stride, model.rate)
    for name, (way, rate) in layers.items()
  }


def encoder_state(model: Codec, variables: Any, batch: int) -> State:
  """State of `batch` streams into the encoder; all of it is zero.

  Raises:
    UserError: the codec can't be streamed.
  """
  check(model)
  x = jnp.zeros((batch, model.stride, model.channels))
  return zero_state(model, variables, _encode, x, None)


def decoder_state(model: Codec, variables: Any, batch: int) -> State:
  """State of `batch` streams out of the decoder; all of it is zero.

  Raises:
    UserError: the codec can't be streamed.
  """
  check(model)
  return zero_state(
    model, variables, _decode, jnp.zeros((batch, 1, 1), jnp.int32)
  )


def encode_step(
  model: Codec,
  variables: Any,
  state: State,
  x: jax.Array,
  lengths: jax.Array,
  start: jax.Array,
  *,
  codebooks: int | None = None,
) -> tuple[jax.Array, State]:
  """Codes of the next samples of each stream.

  Args:
    model: the codec.
    variables: of the codec.
    state: from `encoder_state` or the step before.
    x: [batch, n * stride, channels], any n.
    lengths: [batch] samples that are valid: n * stride of a stream that goes
      on, fewer of one that ends here, 0 of one that waits.
    start: bool [batch], a stream begins here. With n less than
      `latency(model)["encoder"].start` it must end here, too.
    codebooks: use the first so many only.

  Returns:
    codes int32 [batch, n, codebooks], 0 after frames(lengths, stride), and the
    state.
  """
  return _step(model, variables, state, lengths, start, _encode, x, codebooks)


def decode_step(
  model: Codec,
  variables: Any,
  state: State,
  codes: jax.Array,
  lengths: jax.Array,
  start: jax.Array,
) -> tuple[jax.Array, State]:
  """Audio of the next codes of each stream.

  Args:
    model: the codec.
    variables: of the codec.
    state: from `decoder_state` or the step before.
    codes: int32 [batch, n, k], any n.
    lengths: [batch] frames that are valid: n of a stream that goes on, fewer
      of one that ends here, 0 of one that waits.
    start: bool [batch], a stream begins here. With n less than
      `latency(model)["decoder"].start` it must end here, too.

  Returns:
    audio float32 [batch, n * stride, channels], 0 after lengths * stride, and
    the state.
  """
  return _step(model, variables, state, lengths, start, _decode, codes)


def _encode(model, x, lengths, codebooks):
  z = model.encoder(mask_after(x, lengths), lengths)
  codes = model.quantizer.encode(z, codebooks)
  return mask_after(codes, frames(lengths, model.stride))


def _decode(model, codes, lengths):
  z = mask_after(model.quantizer.decode(codes), lengths)
  return model.decoder(z, lengths)


def zero_state(
  model: Codec, variables: Any, method: Callable, inputs: jax.Array, *rest
) -> State:
  """What the layers keep in `method(model, inputs, lengths, *rest)`, as zeros.

  The shapes are found without computing anything.
  """

  def run(variables, inputs):
    lengths = jnp.zeros(len(inputs), jnp.int32)
    return model.apply(
      variables, inputs, lengths, *rest, method=method, mutable=[STREAM]
    )[1].get(STREAM, {})

  shapes = jax.eval_shape(run, variables, inputs)
  return jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)


def _step(model, variables, state, lengths, start, method, inputs, *rest):
  def choose(where, a, b):
    pick = lambda a, b: jnp.where(where.reshape(-1, *(1,) * (b.ndim - 1)), a, b)
    return jax.tree.map(pick, a, b)

  lengths, start = jnp.asarray(lengths), jnp.asarray(start)
  before = choose(start, jax.tree.map(jnp.zeros_like, state), state)
  out, after = model.apply(
    {**variables, STREAM: before},
    inputs,
    lengths,
    *rest,
    method=method,
    mutable=[STREAM],
  )
  return out, choose(lengths > 0, after[STREAM], state)


# The same for every streamer of a codec: modules are compared by their fields.
compiled_encode_step = functools.partial(
  jax.jit, static_argnums=0, static_argnames="codebooks"
)(encode_step)
compiled_decode_step = jax.jit(decode_step, static_argnums=0)


class Streamer:
  """Streams of one codec, fed with arrays of any size.

  What arrives is kept until it makes a step, so nothing is compiled for the
  size of an array: there are steps of 1 frame, of `block` frames where so much
  has arrived, and one that begins a stream. Encoder and decoder are apart; you
  may use one of them only.

  One stream:

    streamer = codec.streamer()
    for x in microphone:
      codes = streamer.encode(x)  # [frames that are ready, codebooks]
      y = streamer.decode(codes)
    codes = streamer.encode(last=True)  # the rest; then a new clip may begin
    y = streamer.decode(codes, last=True)

  Several: `encode` and `decode` take a list with an array for each stream (None
  or an empty one for a stream that waits) and give a list of arrays; `last` is
  a list too.

  Attributes:
    latency: dict of the `Latency` of "encoder" and "decoder".
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
      variables: of the codec.
      batch: number of streams.
      block: frames of the larger step.
      codebooks: encode with the first so many only.

    Raises:
      UserError: the codec can't be streamed.
    """
    self.latency = latency(model)
    self.batch, self.model = batch, model
    books = model.codebooks if codebooks is None else codebooks
    self._encoder = _Side(
      functools.partial(
        compiled_encode_step, model, variables, codebooks=codebooks
      ),
      encoder_state(model, variables, batch),
      unit=model.stride,
      empty=np.zeros((0, books), np.int32),
      steps=(self.latency["encoder"].start, block),
    )
    self._decoder = _Side(
      functools.partial(compiled_decode_step, model, variables),
      decoder_state(model, variables, batch),
      unit=1,
      empty=np.zeros((0, model.channels), np.float32),
      steps=(self.latency["decoder"].start, block),
    )

  def encode(self, x=None, *, last=False):
    """Takes audio, gives the codes that are ready.

    Args:
      x: float [n, channels] ([n] of a mono codec) at the codec's rate, any n;
        None for nothing. With several streams a list of these.
      last: the clip ends with x, so the rest comes out, and a new clip begins
        with the next call. With several streams a list of these, or one for
        all.

    Returns:
      int32 [frames, codebooks], or a list of these.

    Raises:
      UserError: x has another shape, or is not finite.
    """
    return self._feed(self._encoder, x, last, self._audio)

  def decode(self, codes=None, *, last=False):
    """Takes codes, gives the audio that is ready.

    Args:
      codes: int [n, k], any n, always the same k; None for nothing. With
        several streams a list of these.
      last: as in `encode`.

    Returns:
      float32 [samples, channels], or a list of these.

    Raises:
      UserError: codes have another shape, or are not this codec's.
    """
    return self._feed(self._decoder, codes, last, self._codes)

  def _feed(self, side, arrays, last, check):
    if self.batch == 1:
      arrays, last = [arrays], [last]
    elif arrays is None:
      arrays = [None] * self.batch
    last = [last] * self.batch if isinstance(last, bool) else last
    if len(arrays) != self.batch or len(last) != self.batch:
      raise UserError(
        f"there are {self.batch} streams, but {len(arrays)} arrays and"
        f" {len(last)} values of last: give a list with one for each."
      )
    arrays = [None if x is None else check(np.asarray(x)) for x in arrays]
    out = side.feed(arrays, last)
    return out[0] if self.batch == 1 else out

  def _audio(self, x):
    return check_audio(self.model, x)

  def _codes(self, codes):
    return check_codes(self.model, codes)


def check_audio(model: Codec, x: np.ndarray) -> np.ndarray:
  """A block of audio as float32 [samples, channels].

  Raises:
    UserError: it has another shape, or is not finite.
  """
  x = np.asarray(x, np.float32)
  x = x[:, None] if x.ndim == 1 else x
  if x.ndim != 2 or x.shape[1] != model.channels:
    raise UserError(
      f"a block of audio has shape {x.shape}; expected [samples,"
      f" {model.channels}]."
    )
  if not np.isfinite(x).all():
    raise UserError("the audio holds NaN or infinite samples.")
  return x


def check_codes(model: Codec, codes: np.ndarray) -> np.ndarray:
  """A block of codes as int32 [frames, codebooks].

  Raises:
    UserError: it has another shape, or codes that the codec does not have.
  """
  codes = np.asarray(codes)
  if codes.ndim != 2 or not 1 <= codes.shape[1] <= model.codebooks:
    raise UserError(
      f"a block of codes has shape {codes.shape}; expected [frames, codebooks]"
      f" with 1 to {model.codebooks} codebooks."
    )
  if codes.size and (codes.min() < 0 or codes.max() >= model.codebook_size):
    raise UserError(
      f"codes lie in {codes.min()}..{codes.max()}; this codec's go from 0 to"
      f" {model.codebook_size - 1}."
    )
  return codes.astype(np.int32)


class _Side:
  """The encoder or the decoder of a Streamer: what waits for a step."""

  def __init__(self, step, state, *, unit, empty, steps):
    """Holds nothing yet.

    Args:
      step: (state, x, lengths, start) -> (y, state).
      state: the first.
      unit: rows of x per frame.
      empty: y without rows.
      steps: frames that begin a stream, and of the larger step.
    """
    self.step, self.state, self.unit, self.empty = step, state, unit, empty
    self.start, block = steps
    self.sizes = sorted({1, self.start, max(self.start, block)}, reverse=True)
    batch = len(jax.tree.leaves(state)[0])
    self.held, self.fresh = [None] * batch, np.ones(batch, bool)

  def feed(self, arrays, last):
    """Adds arrays, makes the steps that can be made, returns what they gave."""
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
        self.held[i], self.fresh[i] = None, True
    return [np.concatenate(pieces) for pieces in out]

  def _take(self, i, size, end):
    """Rows of stream i for a step of `size` frames; 0 to wait."""
    have = 0 if self.held[i] is None else len(self.held[i])
    full = size * self.unit
    least = self.start if self.fresh[i] else 1
    if size < least:
      return 0
    if have >= full:
      return full
    return have if end and size == least else 0

  def _run(self, size, take, out):
    width = next(x.shape[1:] for x in self.held if x is not None)
    dtype = next(x.dtype for x in self.held if x is not None)
    x = np.zeros((len(take), size * self.unit, *width), dtype)
    for i, count in enumerate(take):
      if count:
        x[i, :count] = self.held[i][:count]
        self.held[i] = self.held[i][count:]
    y, self.state = self.step(self.state, x, take, self.fresh & (take > 0))
    self.fresh &= take == 0
    rows = y.shape[1] // size
    y = np.asarray(y)
    for i, count in enumerate(take):
      if count:
        out[i].append(y[i, : frames(count, self.unit) * rows])
