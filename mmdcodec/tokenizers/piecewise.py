"""Codecs applied to clips of any length, piece by piece, in constant memory.

The codes and the audio are those of the whole clip. The programs are compiled
once for clips of any length, with the kernels computed once a call instead of
weight norm in every step. What passes from one piece to the next depends on
the codec:

  StreamCoder  causal codecs: the state of `mmdcodec.models.streaming`.
  WindowCoder  codecs that look ahead: the LSTM carries its state; each
               convolutional part runs over windows, which are pieces with as
               much context as its outputs depend on
               (`mmdcodec.models.receptive_field`). Frames near a cut that is
               not the end of the clip are dropped.
  ChunkCoder   codecs with chunks: only the overlap, because every chunk is
               coded separately.

A codec that normalises over the whole clip (time_group norm, or loudness
without chunks) needs it at once: `can_cut` is False.
"""

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from mmdcodec.models import streaming
from mmdcodec.models.codec import Codec
from mmdcodec.nn.conv import frames
from mmdcodec.tokenizers.chunk_coder import ChunkCoder
from mmdcodec.tokenizers.pieces import CodedPiece, Coder, Piece
from mmdcodec.tokenizers.window_coder import WindowCoder

# Frames of a piece: 3 to 5 seconds, long enough that the cost of a call does
# not matter, short enough for the caches of a CPU and 64 channels of a GPU.
BLOCK = 256


def can_cut(model: Codec) -> bool:
  """True unless the codec must see all of a clip at once."""
  whole = model.normalize or model.norm == "time_group"
  return model.chunk is not None or not whole


def make_coder(model: Codec, size: int | None = None) -> Coder:
  """The coder that suits a codec.

  Args:
    model: a codec for which `can_cut` holds.
    size: frames of a piece, at least; BLOCK by default.
  """
  size = BLOCK if size is None else size
  if model.chunk is not None:
    return ChunkCoder(model, size)
  causal = streaming.obstacle(model) is None
  return (StreamCoder if causal else WindowCoder)(model, size)


class StreamCoder(Coder):
  """For causal codecs: pieces are large steps of a stream."""

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
