"""Applies codecs to clips of any length, piece by piece, in constant memory.

The codes and the audio are those of the whole clip. The programs are compiled
once for clips of any length. Weight norm is folded into the kernels once per
call, not in every step. The state carried between pieces depends on the codec:

  StreamCoder  causal codecs: the state of `mmdcodec.models.streaming`.
  WindowCoder  codecs that look ahead, and spectral ones: the state of the
               LSTM. Each convolutional part runs over windows, which are pieces
               with as much context as its outputs depend on
               (`mmdcodec.models.receptive_field`). Frames near a cut inside
               the clip are dropped.
  ChunkCoder   codecs with chunks: only the overlap, because every chunk is
               coded separately.

A codec that normalises over the whole clip (time_group norm, or loudness
without chunks) needs it all at once, and `can_cut` is False.
"""

import functools
from collections.abc import Iterable, Iterator
from typing import Any

import jax
import numpy as np

from mmdcodec import precision
from mmdcodec.models import chunks, streaming
from mmdcodec.models.codec import Codec
from mmdcodec.nn.conv import frames, mask_after
from mmdcodec.tokenizers.pieces import CodedPiece, Coder, Piece, with_next
from mmdcodec.tokenizers.window_coder import WindowCoder

# Frames in a piece, 3 to 5 seconds: long enough to hide the overhead of a call,
# short enough for the caches of a CPU and 64 channels on a GPU.
BLOCK = 256


def can_cut(model: Codec) -> bool:
  """Returns whether the codec works without the whole clip at once."""
  whole = model.normalize or model.norm == "time_group"
  return model.chunk is not None or not whole


def make_coder(model: Codec, size: int | None = None) -> Coder:
  """Creates the coder for a codec.

  Args:
    model: a codec for which `can_cut` holds.
    size: minimum number of frames in a piece; BLOCK by default.
  """
  size = BLOCK if size is None else size
  if model.chunk is not None:
    return ChunkCoder(model, size)
  # Steps of a spectral codec overlap, so windows are as good.
  causal = streaming.obstacle(model) is None and not streaming.overlap(model)
  return (StreamCoder if causal else WindowCoder)(model, size)


class StreamCoder(Coder):
  """Codes with causal codecs: pieces are large steps of a stream."""

  def __init__(self, model: Codec, size: int):
    """Takes the arguments of `make_coder`."""
    least = [path.start for path in streaming.latency(model).values()]
    self.model, self.size = model, max(size, *least)
    self.samples = self.size * model.stride

  def encode(
    self,
    variables: Any,
    pieces: Iterable[Piece],
    codebooks: int | None = None,
  ) -> Iterator[CodedPiece]:
    """Yields the codes of each piece of audio; see `Coder`."""
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

  def decode(
    self,
    variables: Any,
    pieces: Iterable[CodedPiece],
    length: int | None = None,
  ) -> Iterator[Piece]:
    """Yields the audio of each piece of codes; see `Coder`."""
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


class ChunkCoder(Coder):
  """Codes with codecs that use chunks: a piece is several chunks."""

  def __init__(self, model: Codec, size: int):
    """Takes the arguments of `make_coder`."""
    if model.chunk is None:
      raise ValueError("the codec does not code in chunks")
    self.model, self.per_chunk = model, model.frames_per_chunk
    self.chunk_size, self.hop = model.chunk
    self.chunks = frames(size, self.per_chunk)
    self.size = self.chunks * self.per_chunk
    self.samples = self.chunks * self.hop

  def encode(
    self,
    variables: Any,
    pieces: Iterable[Piece],
    codebooks: int | None = None,
  ) -> Iterator[CodedPiece]:
    """Yields the codes of each piece of audio; see `Coder`."""
    model, variables = streaming.without_weight_norm(self.model, variables)
    size, hop = self.chunk_size, self.hop
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

  def decode(
    self,
    variables: Any,
    pieces: Iterable[CodedPiece],
    length: int | None = None,
  ) -> Iterator[Piece]:
    """Yields the audio of each piece of codes; see `Coder`."""
    model, variables = streaming.without_weight_norm(self.model, variables)
    hop, stride = self.hop, model.stride
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

  def _ends(self, lengths: np.ndarray) -> np.ndarray:
    """Returns the valid samples of each chunk: [batch] -> [batch, chunks]."""
    starts = np.arange(self.chunks) * self.hop
    return np.clip(lengths[:, None] - starts, 0, self.chunk_size)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _encode_chunks(
  model: Codec,
  codebooks: int | None,
  variables: Any,
  x: jax.Array,
  lengths: jax.Array,
) -> Any:
  """Returns codes [chunks, per_chunk, codebooks], scale [chunks, 1] or None."""

  @precision.exactly
  def run(model: Codec, x: jax.Array, lengths: jax.Array) -> Any:
    z, scale = model.analyse(x, lengths)
    codes = model.quantizer.encode(z, codebooks)
    return mask_after(codes, frames(lengths, model.stride)), scale

  return model.apply(variables, x, lengths, method=run)


@functools.partial(jax.jit, static_argnums=0)
def _decode_chunks(
  model: Codec,
  variables: Any,
  codes: jax.Array,
  scale: jax.Array | None,
  ends: jax.Array,
) -> Any:
  """Returns audio [chunks, per_chunk * stride, channels], valid to `ends`."""

  def run(model: Codec, codes: Any, scale: Any, ends: Any) -> Any:
    z = mask_after(model.quantizer.decode(codes), ends)
    x = model.decoder(z, ends)
    return x if scale is None else x * scale[..., None]

  return model.apply(variables, codes, scale, ends, method=run)
