"""Entropy coding of codes by counting, in integers.

A code is coded by range coding with the probabilities that the codes before it
suggest. Several *experts* count: one what was there at all ("adaptive"), others
what followed the same code of the previous frame, or stood above the same codes
of earlier codebooks ("conditional"). Every expert backs off to one that knows
less,

    p_e(x | context) = (n(context, x) + b p_parent(x)) / (n(context) + b)

and the mixture trusts each by how well it predicted so far (Bayesian weights
with a fixed share, Herbster and Warmuth 1998). Counting begins anew in every
call, so that every chunk decodes by itself.

All of it is done in integers, and the coder gets integers that sum to exactly
the number that it would scale them to: no rounding decides a probability, and
bytes decode alike on every machine. Each codebook has bytes of its own and is
conditioned on those below it only, so that the upper ones can be dropped; one
in which there is nothing to learn is packed.
"""

import functools
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from mmdcodec.bitstream import packing
from mmdcodec.errors import UserError

# Bits of constriction's probabilities. It adds one to each that it is given.
_PRECISION = 24
_ONE = 1 << 20  # an expert's probability of 1
_TRUST = 1 << 16  # all weights together
_SHARE = 7  # 2^-7 of the trust is shared out anew after every code
_BACKOFF = 24
_BATCH = 64
# Followers of a context from which on they are kept as a row, too.
_MANY = 32


def encode(codes: np.ndarray, size: int, coding: str) -> list[bytes]:
  """Codes a chunk.

  Args:
    codes: integers [frames, codebooks] in [0, size), at least one frame.
    size: entries of a codebook, 2 to 2^14.
    coding: "adaptive" or "conditional".

  Returns:
    bytes of every codebook.
  """
  return [
    _encode_codebook(codes, k, size, coding == "conditional")
    for k in range(codes.shape[1])
  ]


def decode(
  parts: Sequence[bytes], frames: int, size: int, coding: str
) -> np.ndarray:
  """Undoes `encode`.

  Args:
    parts: bytes of every codebook, or of the first ones.
    frames: number of frames.
    size: entries of a codebook.
    coding: as it was encoded.

  Returns:
    int32 codes [frames, codebooks].

  Raises:
    ValueError: the bytes are none that `encode` makes.
  """
  codes = np.zeros((frames, len(parts)), np.int32)
  for k, data in enumerate(parts):
    codes[:, k] = _decode_codebook(
      data, codes, k, size, coding == "conditional"
    )
  return codes


@functools.cache
def _family():
  """Probabilities of each code, as they are given."""
  from constriction import stream

  # Never the default, which has changed between versions.
  return stream.model.Categorical(perfect=False)


def _encode_codebook(codes, k: int, size: int, conditional: bool) -> bytes:
  from constriction import stream

  coder = stream.queue.RangeEncoder()
  symbols = codes[:, k].astype(np.int32)
  rows, plain = np.zeros((_BATCH, size), np.float32), symbols.tolist()

  def put(t: int, row: np.ndarray) -> int:
    rows[t % _BATCH] = row
    if (t + 1) % _BATCH == 0 or t + 1 == len(plain):
      first = t // _BATCH * _BATCH
      coder.encode(symbols[first : t + 1], _family(), rows[: t + 1 - first])
    return plain[t]

  _predict(codes, k, size, conditional, put)
  data = coder.get_compressed().astype("<u4").tobytes()
  # Codes that follow no rule are packed; the length tells.
  if len(data) >= packing.packed_bytes(len(codes), 1, size):
    data = packing.pack_codes(symbols, size)
  return data


def _decode_codebook(
  data: bytes, codes, k: int, size: int, conditional: bool
) -> Sequence[int]:
  from constriction import stream

  if len(data) == packing.packed_bytes(len(codes), 1, size):
    try:
      return packing.unpack_codes(
        data, frames=len(codes), codebooks=1, size=size
      )[:, 0]
    except UserError as error:
      raise ValueError(str(error).rstrip(".")) from None
  if not data or len(data) % 4:
    raise ValueError(f"{len(data)} bytes are not whole words")
  coder = stream.queue.RangeDecoder(
    np.frombuffer(data, "<u4").astype(np.uint32)
  )
  row = np.zeros((1, size), np.float32)

  def get(_: int, given: np.ndarray) -> int:
    row[0] = given
    try:
      return int(coder.decode(_family(), row)[0])
    except AssertionError as error:
      raise ValueError("the coder refuses them") from error

  out = _predict(codes, k, size, conditional, get)
  if not coder.maybe_exhausted():
    raise ValueError("bytes are left over")
  return out


def _predict(
  codes: np.ndarray,
  k: int,
  size: int,
  conditional: bool,
  code: Callable[[int, np.ndarray], int],
) -> list[int]:
  """Goes through a codebook, predicts each code, and learns it.

  Args:
    codes: [frames, codebooks], of which those below k are known.
    k: which codebook.
    size: entries of it.
    conditional: whether to condition.
    code: gets the frame and the counts [size] (float32 integers that sum to
      2^24 - size) and returns the code.

  Returns:
    The codes of the codebook.
  """
  total = (1 << _PRECISION) - size
  below = [codes[:, j].tolist() for j in range(max(0, k - 2), k)][::-1]
  parents = _parents(k) if conditional else ()
  tables: list[dict] = [{} for _ in parents]  # of each expert, by context
  scratch = np.zeros(size, np.float32)
  trust = [_TRUST // (len(parents) + 1)] * (len(parents) + 1)
  plain, seen = np.zeros(size, np.float32), 0
  row, out, counted = np.zeros(size, np.float32), [], [0] * size
  for t, keys in enumerate(_contexts(k, out, below, len(codes), conditional)):
    found = [
      table.get(key) or _Seen() for table, key in zip(tables, keys, strict=True)
    ]
    # Each expert's part of the total, then what it leaves to those behind it.
    whole = sum(trust)
    parts = [total * weight // whole for weight in trust]
    parts[0] += total - sum(parts)
    each = [0] * len(found)
    for e in range(len(found) - 1, -1, -1):
      number = found[e].number
      part = parts[e + 1]
      if number:
        each[e] = part // (number + _BACKOFF)
        part -= each[e] * number
      first, second = parents[e]
      half = part // 2
      parts[first] += half
      parts[second] += part - half
    one = parts[0] // (seen + size)
    np.multiply(plain, one, out=row)
    # What is left over by rounding goes to code 0.
    rest = parts[0] - one * seen
    row += rest // size
    row[0] += rest % size
    for here, times in zip(found, each, strict=True):
      if times and here.row is not None:
        # Whole numbers below 2^24: float32 holds them exactly.
        row += np.multiply(here.row, np.float32(times), out=scratch)
      elif times:
        for x, number in here.counts.items():
          row[x] += times * number
    x = code(t, row)
    out.append(x)
    # How probable each found it.
    chance = [((counted[x] << 20) + _ONE) // (seen + size)]
    for here, (first, second) in zip(found, parents, strict=True):
      behind = chance[first] + chance[second] >> 1
      count = here.counts.get(x, 0)
      chance.append(
        ((count << 20) + _BACKOFF * behind) // (here.number + _BACKOFF)
      )
    if parents:
      mean = sum(map(int.__mul__, trust, chance)) // whole + 1
      trust = [w * p // mean for w, p in zip(trust, chance, strict=True)]
      new = (_TRUST >> _SHARE) // len(trust)
      trust = [w - (w >> _SHARE) + new for w in trust]
    counted[x] += 1
    plain[x] += 1
    seen += 1
    for table, key, here in zip(tables, keys, found, strict=True):
      table[key] = here
      here.learn(x, size)
  return out


class _Seen:
  """What followed a context.

  Attributes:
    number: of codes that followed.
    counts: code -> number.
    row: the same, float32 [size], where so many codes followed that going
      through them is slow; else None.
  """

  __slots__ = ("counts", "number", "row")

  def __init__(self):
    self.number, self.counts, self.row = 0, {}, None

  def learn(self, x: int, size: int) -> None:
    counts = self.counts
    counts[x] = counts.get(x, 0) + 1
    self.number += 1
    if self.row is not None:
      self.row[x] += 1
    elif len(counts) > max(_MANY, size >> 6):
      self.row = np.zeros(size, np.float32)
      self.row[list(counts)] = list(counts.values())


def _parents(k: int) -> tuple[tuple[int, int], ...]:
  """The two experts to which each conditional expert backs off.

  Expert 0 is the one without a context. See `_contexts`.
  """
  if k == 0:
    return (0, 0), (0, 0), (1, 2)
  return (0, 0), (0, 0), (0, 0), (1, 2), (2, 3)


def _contexts(
  k: int, own: list[int], below: list[list[int]], frames: int, conditional: bool
) -> Iterator[tuple]:
  """The context of each conditional expert, frame after frame.

  Those are a, the code of the previous frame; b and c, the codes one and two
  codebooks below; and pairs of them. Where there are not two codebooks below,
  another code stands for c: the next one of the codebook below, which is known
  already, or the last but one of the only codebook.
  """
  if not conditional:
    yield from [()] * frames
    return
  b = below[0] if k else None
  c = below[1] if k > 1 else [*b[1:], -1] if k else None
  for t in range(frames):
    a = own[t - 1] if t else -1
    if k:
      yield a, b[t], c[t], (a, b[t]), (b[t], c[t])
    else:
      older = own[t - 2] if t > 1 else -1
      yield a, older, (a, older)
