"""Codecs that code in chunks, piece by piece: only the overlap is carried."""

import functools
from collections.abc import Iterable, Iterator
from typing import Any

import jax
import numpy as np

from mmdcodec.models import chunks, streaming
from mmdcodec.models.codec import Codec
from mmdcodec.nn.conv import frames, mask_after
from mmdcodec.tokenizers.pieces import CodedPiece, Coder, Piece, with_next


class ChunkCoder(Coder):
  """For codecs that code in chunks: a piece is a number of chunks."""

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
    """Valid samples of each chunk of a piece: [batch] -> [batch, chunks]."""
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
  """Codes [chunks, per_chunk, codebooks] and scale [chunks, 1] or None."""

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
  """Audio [chunks, per_chunk * stride, channels] of `ends` frames each."""

  def run(model: Codec, codes: Any, scale: Any, ends: Any) -> Any:
    z = mask_after(model.quantizer.decode(codes), ends)
    x = model.decoder(z, ends)
    return x if scale is None else x * scale[..., None]

  return model.apply(variables, codes, scale, ends, method=run)
