"""Codes of audio of any length, in constant memory, as of the whole clip.

Audio and codes are lists of *pieces*: (array [batch, size, width], lengths
[batch]), every piece of the same size, with fewer valid samples only where a
clip ends, and zeros after that. Every function here maps an iterator of pieces
to another one, so a clip is never in memory as a whole, and its programs are
compiled once for any length, and the kernels computed once a call, without
weight norm. What crosses from one piece to the next:

  causal codec      the state of `mmdcodec.models.streaming`.
  codec that looks  the LSTM carries its state; a convolutional part runs over
  ahead             windows, pieces with as much before and after them as its
                    outputs reach (`mmdcodec.models.receptive_field`),
                    and what a false edge of the window has touched is
                    dropped.
  chunks            nothing but the overlap: every chunk is coded on its own.

A codec that normalises over the whole clip (time_group norm or loudness,
without chunks) can't be cut: `cuttable` is False.
"""

import functools
from collections.abc import Iterable, Iterator

import jax
import numpy as np
from jax import lax

from mmdcodec.models import chunks, receptive_field, streaming
from mmdcodec.models.codec import Codec
from mmdcodec.nn.conv import STREAM, frames, mask_after

# Frames of a piece: 3 to 5 seconds, long enough that what a step costs does not
# count, short enough for the caches of a CPU and 64 channels of a GPU.
BLOCK = 256

Piece = tuple[np.ndarray, np.ndarray]
Pieces = Iterator[Piece]


def cuttable(model: Codec) -> bool:
  """True unless the codec must see all of a clip at once."""
  whole = model.normalize or model.norm == "time_group"
  return model.chunk is not None or not whole


def cut(x: np.ndarray, lengths: np.ndarray, size: int) -> Pieces:
  """Pieces of an array [batch, time, width] that is there as a whole."""
  for start in range(0, x.shape[1], size):
    piece = x[:, start : start + size]
    short = size - piece.shape[1]
    valid = np.clip(lengths - start, 0, size)
    yield np.pad(piece, ((0, 0), (0, short), (0, 0))), valid


def gather(blocks: Iterable[np.ndarray], size: int) -> Pieces:
  """Pieces of one clip that arrives in blocks [time, width] of any size."""
  held, count = [], 0
  for block in blocks:
    held.append(np.asarray(block))
    count += len(block)
    if count < size:
      continue
    x, held, count = np.concatenate(held), [], count % size
    for start in range(0, len(x) - size + 1, size):
      yield x[None, start : start + size], np.array([size])
    held = [x[len(x) - count :].copy()]
  if count:
    yield from cut(np.concatenate(held)[None], np.array([count]), size)


def with_next(pieces: Pieces) -> Iterator[tuple[Piece, Piece]]:
  """Each piece and the one after it, which is empty after the last."""
  here = None
  for piece in pieces:
    if here is not None:
      yield here, piece
    here = piece
  if here is not None:
    yield here, jax.tree.map(np.zeros_like, here)


def windows(pieces: Pieces, before: int, after: int) -> Iterator:
  """Pieces with their surroundings.

  Args:
    pieces: of at least `before + after` samples each.
    before: samples that must be seen before a piece.
    after: samples that must be seen after it.

  Yields:
    (x [batch, before + size + after, width], valid samples in x [batch], where
    the piece starts in it, valid samples of the piece [batch]). The first
    window starts with its piece.
  """
  past = None
  for (x, lengths), (coming, more) in with_next(pieces):
    if past is None:
      parts, start = [x, coming[:, : before + after]], 0
    else:
      parts, start = [past, x, coming[:, :after]], before
    window = np.concatenate(parts, 1)
    ahead = np.minimum(more, window.shape[1] - start - x.shape[1])
    valid = np.where(lengths > 0, start + lengths + ahead, 0)
    yield window, valid, start, lengths
    past = x[:, x.shape[1] - before :]


def way(model: Codec, size: int | None = None):
  """The way to code in pieces that suits a codec, or None if none does.

  Args:
    model: the codec.
    size: frames of a piece at the least; BLOCK by default.

  Returns:
    Stream, Windows or Chunks: objects with

      size, samples: of a piece of codes and of audio
      encode(variables, pieces, codebooks=None): pieces of audio -> iterator of
        (codes [batch, size, codebooks], valid frames [batch], scale [batch,
        chunks] or None)
      decode(variables, pieces, length=None): such triples -> iterator of
        (audio [batch, samples, channels], valid samples [batch])
  """
  size = BLOCK if size is None else size
  if not cuttable(model):
    return None
  if model.chunk is not None:
    return Chunks(model, size)
  causal = streaming.obstacle(model) is None
  return (Stream if causal else Windows)(model, size)


class Stream:
  """Pieces of a causal codec: large steps of a stream."""

  def __init__(self, model: Codec, size: int):
    """Args as of `way`."""
    least = [path.start for path in streaming.latency(model).values()]
    self.model, self.size = model, max(size, *least)
    self.samples = self.size * model.stride

  def encode(self, variables, pieces, codebooks=None):
    """See `way`."""
    model, variables = streaming.without_weight_norm(self.model, variables)
    state = None
    for x, lengths in pieces:
      start = np.full(len(x), state is None)
      if state is None:
        state = streaming.encoder_state(model, variables, len(x))
      codes, state = streaming.compiled_encode_step(
        model, variables, state, x, lengths, start, codebooks=codebooks
      )
      yield np.asarray(codes), frames(lengths, model.stride), None

  def decode(self, variables, pieces, length=None):
    """See `way`."""
    model, variables = streaming.without_weight_norm(self.model, variables)
    state = None
    for codes, lengths, _ in pieces:
      start = np.full(len(codes), state is None)
      if state is None:
        state = streaming.decoder_state(model, variables, len(codes))
      x, state = streaming.compiled_decode_step(
        model, variables, state, codes, lengths, start
      )
      yield np.asarray(x), lengths * model.stride


class Windows:
  """Pieces of a codec that looks ahead.

  Attributes:
    around: frames (before, after) that each convolutional part needs.
  """

  def __init__(self, model: Codec, size: int):
    """Args as of `way`."""
    n, stride = model.network, model.stride
    parts = (_encoder_front, _encoder_back, _decoder_front, _decoder_back)
    layers = (
      *receptive_field.encoder_layers(n),
      *receptive_field.decoder_layers(n),
    )
    self.around = {
      part: receptive_field.frames_around(path, n, step)
      for part, path, step in zip(
        parts, layers, (stride, 1, 1, stride), strict=True
      )
    }
    self.model, self.size = model, max(size, *map(sum, self.around.values()))
    self.samples = self.size * stride

  def encode(self, variables, pieces, codebooks=None):
    """See `way`."""
    model, variables = streaming.without_weight_norm(self.model, variables)
    stride = model.stride
    h = self._run(model, variables, pieces, _encoder_front, unit=stride)
    h = ((x, frames(lengths, stride)) for x, lengths in h)
    h = self._carry(model, variables, h, _encoder_recurrent)
    h = self._run(model, variables, h, _encoder_back, codebooks)
    for codes, lengths in h:
      yield codes, lengths, None

  def decode(self, variables, pieces, length=None):
    """See `way`."""
    model, variables = streaming.without_weight_norm(self.model, variables)
    h = ((codes, lengths) for codes, lengths, _ in pieces)
    h = self._run(model, variables, h, _decoder_front)
    h = self._carry(model, variables, h, _decoder_recurrent)
    for x, lengths in self._run(model, variables, h, _decoder_back):
      yield x, lengths * model.stride

  def _run(self, model, variables, pieces, part, *options, unit=1):
    """A convolutional part over windows of pieces, `unit` samples a frame."""
    before, after = self.around[part]
    for x, valid, start, lengths in windows(
      pieces, before * unit, after * unit
    ):
      y = _inside(
        model, part, self.size, options, variables, x, valid, start // unit
      )
      yield np.asarray(y), lengths

  def _carry(self, model, variables, pieces, part):
    """The LSTM over pieces, with its state carried from one to the next."""
    state = None
    for x, lengths in pieces:
      if state is None:
        state = streaming.zero_state(model, variables, part, x)
      y, state = _recurrent(model, part, variables, state, x, lengths)
      yield np.asarray(y), lengths


@functools.partial(jax.jit, static_argnums=(0, 1, 2, 3))
def _inside(model, part, size, options, variables, x, lengths, start):
  """What a part makes of `size` frames from `start` on, in a window."""
  y = model.apply(variables, x, lengths, *options, method=part)
  unit = model.stride if part is _decoder_back else 1
  return lax.dynamic_slice_in_dim(y, start * unit, size * unit, 1)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _recurrent(model, part, variables, state, x, lengths):
  y, kept = model.apply(
    {**variables, STREAM: state}, x, lengths, method=part, mutable=[STREAM]
  )
  return y, kept.get(STREAM, {})


def _encoder_front(model, x, lengths):
  return model.encoder.front(mask_after(x, lengths), lengths)


def _encoder_recurrent(model, x, lengths):
  return model.encoder.recurrent(x, lengths)


def _encoder_back(model, x, lengths, codebooks):
  z = model.encoder.back(mask_after(x, lengths), lengths)
  return mask_after(model.quantizer.encode(z, codebooks), lengths)


def _decoder_front(model, codes, lengths):
  z = mask_after(model.quantizer.decode(codes), lengths)
  return model.decoder.front(z, lengths)


def _decoder_recurrent(model, x, lengths):
  return model.decoder.recurrent(x, lengths)


def _decoder_back(model, x, lengths):
  return model.decoder.back(mask_after(x, lengths), lengths)


class Chunks:
  """Pieces of a codec that codes in chunks: so many chunks of it."""

  def __init__(self, model: Codec, size: int):
    """Args as of `way`."""
    self.model, self.per_chunk = model, frames(model.chunk[0], model.stride)
    self.chunks = frames(size, self.per_chunk)
    self.size = self.chunks * self.per_chunk
    self.samples = self.chunks * model.chunk[1]

  def encode(self, variables, pieces, codebooks=None):
    """See `way`."""
    model, variables = streaming.without_weight_norm(self.model, variables)
    size, hop = model.chunk
    places = np.arange(self.chunks)[:, None] * hop + np.arange(size)
    for (x, lengths), (coming, more) in with_next(pieces):
      x = np.concatenate([x, coming[:, : size - hop]], 1)[:, places]
      ends = self._ends(lengths + np.minimum(more, size - hop))
      codes, scale = _encode_chunks(
        model,
        codebooks,
        variables,
        x.reshape(-1, *x.shape[2:]),
        ends.reshape(-1),
      )
      last = chunks.frame_lengths(lengths, size, hop, model.stride)
      if scale is not None:
        scale = np.asarray(scale).reshape(len(x), self.chunks)
      codes = np.asarray(codes).reshape(len(x), self.size, -1)
      yield codes, np.where(more > 0, self.size, last), scale

  def decode(self, variables, pieces, length=None):
    """See `way`.

    Args:
      variables: of the codec.
      pieces: triples as `encode` gives them.
      length: samples of the clips, if known: one that ends inside of an overlap
        needs them to be exact.
    """
    model, variables = streaming.without_weight_norm(self.model, variables)
    hop, stride = model.chunk[1], model.stride
    samples = np.vectorize(model.samples_of, otypes=[np.int64])
    pairs = (((codes, scale), lengths) for codes, lengths, scale in pieces)
    carried = None
    for ((codes, scale), lengths), (_, more) in with_next(pairs):
      lengths = np.where(
        more > 0, self.samples + samples(more), samples(lengths)
      )
      if length is not None:
        lengths = np.minimum(lengths, length)
        length = max(0, length - self.samples)
      ends = frames(self._ends(lengths), stride)
      x = _decode_chunks(
        model,
        variables,
        codes.reshape(-1, self.per_chunk, codes.shape[2]),
        None if scale is None else scale.reshape(-1, 1),
        ends.reshape(-1),
      )
      x = np.asarray(x).reshape(len(codes), self.chunks, -1, x.shape[2])
      x, carried = chunks.join(x, hop, ends * stride, carried)
      if more.any():
        x = x[:, : self.samples]
      yield x, np.minimum(lengths, x.shape[1])

  def _ends(self, lengths):
    """Valid samples of each chunk of a piece: [batch] -> [batch, chunks]."""
    size, hop = self.model.chunk
    return np.clip(lengths[:, None] - np.arange(self.chunks) * hop, 0, size)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _encode_chunks(model, codebooks, variables, x, lengths):
  """Codes [chunks, per_chunk, codebooks] and scale [chunks, 1] or None."""

  def run(model, x, lengths):
    z, scale = model.analyse(x, lengths)
    codes = model.quantizer.encode(z, codebooks)
    return mask_after(codes, frames(lengths, model.stride)), scale

  return model.apply(variables, x, lengths, method=run)


@functools.partial(jax.jit, static_argnums=0)
def _decode_chunks(model, variables, codes, scale, ends):
  """Audio [chunks, per_chunk * stride, channels] of `ends` frames each."""

  def run(model, codes, scale, ends):
    z = mask_after(model.quantizer.decode(codes), ends)
    x = model.decoder(z, ends)
    return x if scale is None else x * scale[..., None]

  return model.apply(variables, codes, scale, ends, method=run)
