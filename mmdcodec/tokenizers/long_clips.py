"""Encodes and decodes clips of any length in constant memory.

Short clips are coded as a whole, padded to one of a few lengths. Longer clips
and clips of unknown length are coded in pieces (see
`mmdcodec.tokenizers.piecewise`). Codes and audio are the same either way, and
the programs are compiled once for any number of clips.
"""

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np

from mmdcodec.errors import UserError
from mmdcodec.models.codec import NO_SCALE, Codec
from mmdcodec.nn.conv import frames
from mmdcodec.tokenizers import pieces, piecewise, validation
from mmdcodec.tokenizers.pieces import CodedPiece, Coder

# Clips with more frames are cut, so at most a quarter of the work is padding.
WHOLE = 4 * piecewise.BLOCK

Blocks = Iterable[tuple[np.ndarray, np.ndarray | None]]


def encode_array(
  model: Codec,
  variables: Any,
  x: np.ndarray,
  lengths: np.ndarray,
  codebooks: int | None,
) -> tuple[np.ndarray, np.ndarray | None]:
  """Encodes a batch in pieces.

  Args:
    model: a codec for which `piecewise.can_cut` holds.
    variables: the codec's variables.
    x: [batch, samples, channels].
    lengths: [batch] valid samples.
    codebooks: number of codebooks to use, from the first; None: all.

  Returns:
    (codes [batch, frames, codebooks], scale [batch, chunks] or None).
  """
  coder = piecewise.make_coder(model)
  cut = pieces.cut(x, lengths, coder.samples)
  out = list(coder.encode(variables, cut, codebooks))
  most = int(np.sum([count for _, count, _ in out], axis=0).max())
  codes = np.concatenate([codes for codes, _, _ in out], 1)[:, :most]
  scales = [scale for _, _, scale in out if scale is not None]
  if not scales or model.chunk is None:
    return codes, None
  scale = np.concatenate(scales, 1)
  return codes, scale[:, : frames(x.shape[1], model.chunk[1])]


def decode_array(
  model: Codec,
  variables: Any,
  codes: np.ndarray,
  scale: np.ndarray | None,
  length: int,
) -> np.ndarray:
  """Decodes a batch in pieces.

  Args:
    model: a codec for which `piecewise.can_cut` holds.
    variables: the codec's variables.
    codes: int32 [batch, frames, k].
    scale: [batch, chunks] or None.
    length: number of samples to return.

  Returns:
    float32 [batch, length, channels].
  """
  coder = piecewise.make_coder(model)
  if model.normalize and scale is None:
    raise UserError(NO_SCALE)
  if model.chunk is None:
    codes = codes[:, : frames(length, model.stride)]
  ends = np.full(len(codes), codes.shape[1])
  cut = (
    (piece, count, _scale_of(scale, i, coder))
    for i, (piece, count) in enumerate(pieces.cut(codes, ends, coder.size))
  )
  audio = [x for x, _ in coder.decode(variables, cut, length)]
  return np.concatenate(audio, 1)[:, :length]


def decode_parts(
  coder: Coder, variables: Any, parts: Iterable[np.ndarray]
) -> Iterator[np.ndarray]:
  """Decodes a batch of codes that arrive in parts; yields the audio.

  Args:
    coder: the codec's coder.
    variables: the codec's variables.
    parts: int32 [batch, any number of frames, codebooks].
  """
  batch = 1

  def rows() -> Iterator[np.ndarray]:
    nonlocal batch
    for part in parts:
      batch, count, books = part.shape
      yield part.swapaxes(0, 1).reshape(count, batch * books)

  def coded() -> Iterator[CodedPiece]:
    # Puts the items side by side, like one clip with more columns.
    for x, count in pieces.gather(rows(), coder.size):
      codes = x[0].reshape(coder.size, batch, -1).swapaxes(0, 1)
      yield codes, np.repeat(count, batch), None

  for x, count in coder.decode(variables, coded()):
    if count[0]:
      yield x[:, : count[0]]


def encode_blocks(
  model: Codec,
  variables: Any,
  blocks: Iterable[np.ndarray],
  codebooks: int | None,
  encode_whole: Callable[..., Any],
) -> Iterator[tuple[np.ndarray, np.ndarray | None]]:
  """Encodes a clip block by block; see `LoadedCodec.encode_blocks`.

  Args:
    model: the codec.
    variables: the codec's variables.
    blocks: float32 [samples, channels].
    codebooks: number of codebooks to use, from the first; None: all.
    encode_whole: `LoadedCodec.encode`, for short clips.
  """
  checked = (validation.audio(model, part) for part in blocks)
  most = WHOLE * model.stride if piecewise.can_cut(model) else None
  held, parts = _take(checked, most)
  if parts is None:
    x = np.concatenate([np.zeros((0, model.channels), np.float32), *held])
    codes, scale = encode_whole(x, codebooks=codebooks, return_scale=True)
    yield codes[0], None if scale is None else scale[0]
    return
  coder = piecewise.make_coder(model)
  cut = pieces.gather(parts, coder.samples)
  for codes, counts, scale in coder.encode(variables, cut, codebooks):
    count = int(counts[0])
    if scale is not None:
      scale = scale[0, : frames(count, coder.per_chunk)]
    yield validation.made(model, codes[0, :count]), scale


def decode_blocks(
  model: Codec,
  variables: Any,
  blocks: Blocks,
  length: int | None,
  decode_whole: Callable[..., np.ndarray],
) -> Iterator[np.ndarray]:
  """Decodes a clip block by block; see `LoadedCodec.decode_blocks`.

  Args:
    model: the codec.
    variables: the codec's variables.
    blocks: (codes [frames, codebooks], scale).
    length: number of samples to return; None: those of all frames.
    decode_whole: `LoadedCodec.decode`, for short clips.
  """
  scales: list[float] = []

  def checked() -> Iterator[np.ndarray]:
    for codes, scale in blocks:
      scales.extend(() if scale is None else np.ravel(scale))
      yield validation.codes(model, codes)

  most = WHOLE if piecewise.can_cut(model) else None
  held, parts = _take(checked(), most)
  if parts is None:
    codes = np.concatenate(held or [np.zeros((0, model.codebooks), np.int32)])
    scale = np.array(scales, np.float32)[None] if scales else None
    yield decode_whole(codes, scale=scale, length=length)[0]
    return
  if model.normalize and not scales:
    raise UserError(NO_SCALE)
  if length is not None and model.chunk is None:
    parts = _first(parts, frames(length, model.stride))
  coder = piecewise.make_coder(model)

  def coded() -> Iterator[CodedPiece]:
    for piece, count in pieces.gather(parts, coder.size):
      scale = None
      if scales:
        now, scales[: coder.chunks] = scales[: coder.chunks], []
        scale = _scale_of(np.array([now], np.float32), 0, coder)
      yield piece, count, scale

  done = 0
  for x, count in coder.decode(variables, coded(), length):
    x = x[0, : count[0]]
    x = x if length is None else x[: length - done]
    done += len(x)
    if len(x):
      yield x
    if done == length:
      return
  if length is not None:
    raise UserError(f"length is {length}; the codes hold only {done} samples.")


def _scale_of(
  scale: np.ndarray | None, i: int, coder: Coder
) -> np.ndarray | None:
  """Returns scale [batch, coder.chunks] of piece i, 1 beyond the last chunk."""
  if scale is None:
    return None
  now = scale[:, i * coder.chunks : (i + 1) * coder.chunks]
  short = coder.chunks - now.shape[1]
  return np.pad(now, ((0, 0), (0, short)), constant_values=1)


def _take(
  parts: Iterable[np.ndarray], most: int | None
) -> tuple[list[np.ndarray], Iterator[np.ndarray] | None]:
  """Returns (arrays, None) up to `most` rows in all, else ([], iterator)."""
  held: list[np.ndarray] = []
  count, parts = 0, iter(parts)
  for part in parts:
    held.append(part)
    count += len(part)
    if most is not None and count > most:
      return [], _chain(held, parts)
  return held, None


def _chain(
  held: list[np.ndarray], parts: Iterator[np.ndarray]
) -> Iterator[np.ndarray]:
  """Yields `held`, releasing each array, and then `parts`."""
  held.reverse()
  while held:
    yield held.pop()
  yield from parts


def _first(parts: Iterable[np.ndarray], count: int) -> Iterator[np.ndarray]:
  """Yields the first `count` rows without reading further parts."""
  for part in parts:
    yield part[:count]
    count -= len(part)
    if count <= 0:
      return
