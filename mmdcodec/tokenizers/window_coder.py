"""Applies codecs that look ahead piece by piece, to windows with context.

The LSTM carries its state from piece to piece. Each convolutional part, or a
whole encoder or decoder of a spectral codec, runs over windows, which are
pieces with as much context as its outputs depend on; the outputs for the
context are dropped.
"""

import functools
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import jax
import numpy as np
from jax import lax

from mmdcodec import precision
from mmdcodec.models import receptive_field, streaming
from mmdcodec.models.codec import Codec
from mmdcodec.nn.conv import STREAM, frames, mask_after
from mmdcodec.tokenizers.pieces import CodedPiece, Coder, Piece, windows


class WindowCoder(Coder):
  """Codes with codecs that look ahead.

  Attributes:
    around: (before, after), frames of context, by convolutional part.
  """

  def __init__(self, model: Codec, size: int):
    """Takes the arguments of `make_coder`."""
    around = receptive_field.contexts(model.network)
    parts = (_encoder_front, _encoder_back, _decoder_front, _decoder_back)
    if len(around) == 2:
      parts = (_encoder, _decoder)
    self.around = dict(zip(parts, around, strict=True))
    self.model, self.size = model, max(size, *map(sum, self.around.values()))
    self.samples = self.size * model.stride

  def encode(
    self,
    variables: Any,
    pieces: Iterable[Piece],
    codebooks: int | None = None,
  ) -> Iterator[CodedPiece]:
    """Yields the codes of each piece of audio; see `Coder`."""
    model, variables = streaming.without_weight_norm(self.model, variables)
    stride = model.stride
    whole = _encoder in self.around
    part, options = (_encoder, [codebooks]) if whole else (_encoder_front, [])
    h = self._run(model, variables, pieces, part, *options, unit=stride)
    h = ((x, frames(lengths, stride)) for x, lengths in h)
    if not whole:
      h = self._carry(model, variables, h, _encoder_recurrent)
      h = self._run(model, variables, h, _encoder_back, codebooks)
    for codes, lengths in h:
      yield codes, lengths, None

  def decode(
    self,
    variables: Any,
    pieces: Iterable[CodedPiece],
    length: int | None = None,
  ) -> Iterator[Piece]:
    """Yields the audio of each piece of codes; see `Coder`."""
    model, variables = streaming.without_weight_norm(self.model, variables)
    h = ((codes, lengths) for codes, lengths, _ in pieces)
    if _decoder in self.around:
      h = self._run(model, variables, h, _decoder)
    else:
      h = self._run(model, variables, h, _decoder_front)
      h = self._carry(model, variables, h, _decoder_recurrent)
      h = self._run(model, variables, h, _decoder_back)
    for x, lengths in h:
      yield x, lengths * model.stride

  def _run(
    self,
    model: Codec,
    variables: Any,
    pieces: Iterable[Piece],
    part: Callable,
    *options: Any,
    unit: int = 1,
  ) -> Iterator[Piece]:
    """Runs a convolutional part over windows of `unit` samples per frame."""
    before, after = self.around[part]
    for x, valid, start, lengths in windows(
      pieces, before * unit, after * unit
    ):
      y = _run_window(
        model, part, self.size, options, variables, x, valid, start // unit
      )
      yield np.asarray(y), lengths

  def _carry(
    self, model: Codec, variables: Any, pieces: Iterable[Piece], part: Callable
  ) -> Iterator[Piece]:
    """Runs the LSTM over pieces, carrying its state between them."""
    state = None
    for x, lengths in pieces:
      if state is None:
        state = streaming.zero_state(model, variables, part, x)
      y, state = _run_recurrent(model, part, variables, state, x, lengths)
      yield np.asarray(y), lengths


@functools.partial(jax.jit, static_argnums=(0, 1, 2, 3))
def _run_window(
  model: Codec,
  part: Callable,
  size: int,
  options: tuple,
  variables: Any,
  x: jax.Array,
  lengths: jax.Array,
  start: jax.Array,
) -> jax.Array:
  """Returns a part's output for `size` frames of a window from `start` on."""
  y: Any = model.apply(variables, x, lengths, *options, method=part)
  unit = model.stride if part in (_decoder, _decoder_back) else 1
  return lax.dynamic_slice_in_dim(y, start * unit, size * unit, 1)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _run_recurrent(
  model: Codec,
  part: Callable,
  variables: Any,
  state: streaming.State,
  x: jax.Array,
  lengths: jax.Array,
) -> tuple[jax.Array, streaming.State]:
  y, kept = model.apply(
    {**variables, STREAM: state}, x, lengths, method=part, mutable=[STREAM]
  )
  return y, kept.get(STREAM, {})


@precision.exactly
def _encoder(
  model: Codec, x: jax.Array, lengths: jax.Array, codebooks: int | None
) -> jax.Array:
  z = model.encoder(mask_after(x, lengths), lengths)
  ends = frames(lengths, model.stride)
  return mask_after(model.quantizer.encode(z, codebooks), ends)


def _decoder(model: Codec, codes: jax.Array, lengths: jax.Array) -> jax.Array:
  z = mask_after(model.quantizer.decode(codes), lengths)
  return model.decoder(z, lengths)


@precision.exactly
def _encoder_front(model: Codec, x: jax.Array, lengths: jax.Array) -> jax.Array:
  return model.encoder.front(mask_after(x, lengths), lengths)


@precision.exactly
def _encoder_recurrent(
  model: Codec, x: jax.Array, lengths: jax.Array
) -> jax.Array:
  return model.encoder.recurrent(x, lengths)


@precision.exactly
def _encoder_back(
  model: Codec, x: jax.Array, lengths: jax.Array, codebooks: int | None
) -> jax.Array:
  z = model.encoder.back(mask_after(x, lengths), lengths)
  return mask_after(model.quantizer.encode(z, codebooks), lengths)


def _decoder_front(
  model: Codec, codes: jax.Array, lengths: jax.Array
) -> jax.Array:
  z = mask_after(model.quantizer.decode(codes), lengths)
  return model.decoder.front(z, lengths)


def _decoder_recurrent(
  model: Codec, x: jax.Array, lengths: jax.Array
) -> jax.Array:
  return model.decoder.recurrent(x, lengths)


def _decoder_back(model: Codec, x: jax.Array, lengths: jax.Array) -> jax.Array:
  return model.decoder.back(mask_after(x, lengths), lengths)
