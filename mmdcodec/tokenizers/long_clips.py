"""Clips of any length through a loaded codec, in constant memory.

Short clips are coded as a whole, padded to one of a few lengths; longer ones,
and those of which the end is not known yet, in pieces (see
`mmdcodec.tokenizers.piecewise`). Either way the programs are compiled once, for
any number of clips, and the codes and the audio are the same.

`codec` is a `mmdcodec.tokenizers.loaded_codec.LoadedCodec` everywhere.
"""

from collections.abc import Iterable, Iterator

import numpy as np

from mmdcodec.errors import UserError
from mmdcodec.models.codec import NO_SCALE
from mmdcodec.nn.conv import frames
from mmdcodec.tokenizers import piecewise, validation

# Clips of more frames are cut: at most a quarter of the work is padding.
WHOLE = 4 * piecewise.BLOCK


def encode_array(codec, x, lengths, codebooks):
  """Codes of a batch in pieces.

  Args:
    codec: the codec; `blocks.cuttable`.
    x: [batch, samples, channels].
    lengths: [batch] valid samples.
    codebooks: use the first so many only.

  Returns:
    (codes [batch, frames, codebooks], scale [batch, chunks] or None).
  """
  way = piecewise.way(codec.model)
  pieces = piecewise.cut(x, lengths, way.samples)
  out = list(way.encode(codec.variables, pieces, codebooks))
  most = sum(count for _, count, _ in out).max()
  codes = np.concatenate([codes for codes, _, _ in out], 1)[:, :most]
  if out[0][2] is None:
    return codes, None
  scale = np.concatenate([scale for _, _, scale in out], 1)
  return codes, scale[:, : frames(x.shape[1], codec.model.chunk[1])]


def decode_array(codec, codes, scale, length):
  """Audio of a batch in pieces.

  Args:
    codec: the codec; `blocks.cuttable`.
    codes: int32 [batch, frames, k].
    scale: [batch, chunks] or None.
    length: samples to return.

  Returns:
    float32 [batch, length, channels].
  """
  way = piecewise.way(codec.model)
  if codec.model.normalize and scale is None:
    raise UserError(NO_SCALE)
  if codec.model.chunk is None:
    codes = codes[:, : frames(length, codec.model.stride)]
  ends = np.full(len(codes), codes.shape[1])
  pieces = (
    (piece, count, _scale_of(scale, i, way))
    for i, (piece, count) in enumerate(piecewise.cut(codes, ends, way.size))
  )
  audio = [x for x, _ in way.decode(codec.variables, pieces, length)]
  return np.concatenate(audio, 1)[:, :length]


def encode_blocks(
  codec, parts: Iterable[np.ndarray], codebooks: int | None
) -> Iterator[tuple[np.ndarray, np.ndarray | None]]:
  """See `LoadedCodec.encode_blocks`."""
  way = piecewise.way(codec.model)
  parts = (validation.audio(codec.model, part) for part in parts)
  held, parts = _take(parts, WHOLE * codec.model.stride if way else None)
  if parts is None:
    x = np.concatenate([np.zeros((0, codec.channels), np.float32), *held])
    codes, scale = codec.encode(x, codebooks=codebooks, return_scale=True)
    yield codes[0], None if scale is None else scale[0]
    return
  pieces = piecewise.gather(parts, way.samples)
  for codes, count, scale in way.encode(codec.variables, pieces, codebooks):
    count = int(count[0])
    if scale is not None:
      scale = scale[0, : frames(count, way.per_chunk)]
    yield codes[0, :count], scale


def decode_blocks(
  codec,
  parts: Iterable[tuple[np.ndarray, np.ndarray | None]],
  length: int | None,
) -> Iterator[np.ndarray]:
  """See `LoadedCodec.decode_blocks`."""
  model, scales = codec.model, []
  way = piecewise.way(model)

  def codes_of(parts):
    for codes, scale in parts:
      scales.extend(() if scale is None else np.ravel(scale))
      yield validation.codes(model, codes)

  held, parts = _take(codes_of(parts), WHOLE if way else None)
  if parts is None:
    codes = np.concatenate(held or [np.zeros((0, codec.codebooks), np.int32)])
    scale = np.array(scales, np.float32)[None] if scales else None
    yield codec.decode(codes, scale=scale, length=length)[0]
    return
  if model.normalize and not scales:
    raise UserError(NO_SCALE)
  if length is not None and model.chunk is None:
    parts = _first(parts, frames(length, model.stride))

  def triples():
    for piece, count in piecewise.gather(parts, way.size):
      scale = None
      if scales:
        now, scales[: way.chunks] = scales[: way.chunks], []
        scale = _scale_of(np.array([now], np.float32), 0, way)
      yield piece, count, scale

  done = 0
  for x, count in way.decode(codec.variables, triples(), length):
    x = x[0, : count[0]]
    x = x if length is None else x[: length - done]
    done += len(x)
    if len(x):
      yield x
    if done == length:
      return
  if length is not None:
    raise UserError(f"length is {length}; the codes hold {done} samples only.")


def _scale_of(scale, i, way):
  """Scale [batch, way.chunks] of piece i; 1 where there is no chunk."""
  if scale is None:
    return None
  now = scale[:, i * way.chunks : (i + 1) * way.chunks]
  short = way.chunks - now.shape[1]
  return np.pad(now, ((0, 0), (0, short)), constant_values=1)


def _take(parts, most):
  """(arrays, None) of at most `most` rows in all, or ([], all of them)."""
  held, count = [], 0
  parts = iter(parts)
  for part in parts:
    held.append(part)
    count += len(part)
    if most is not None and count > most:
      return [], _chain(held, parts)
  return held, None


def _chain(held, parts):
  """Everything in `held`, which is let go, and then in `parts`."""
  held.reverse()
  while held:
    yield held.pop()
  yield from parts


def _first(parts, count):
  """The first `count` rows; the rest is not asked for."""
  for part in parts:
    yield part[:count]
    count -= len(part)
    if count <= 0:
      return
