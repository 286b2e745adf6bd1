"""Entropy coding of codes with adaptive counts, in integer arithmetic.

Each code is range coded with probabilities estimated from the codes before it.
Several *experts* count codes: one counts all codes of the codebook
("adaptive"); others count those in one context, such as the code of the
previous frame or the codes of lower codebooks ("conditional"). Every expert
backs off to one with a shorter context,

    p_e(x | context) = (n(context, x) + b p_parent(x)) / (n(context) + b)

and the mixture weights each by its predictions so far (Bayesian weights with a
fixed share, Herbster and Warmuth 1998). Every call starts with empty counts, so
that every chunk decodes independently.

All arithmetic uses integers, which sum to exactly the total that the coder
would scale them to. So rounding never changes a probability, and bytes decode
identically on every machine. Each codebook has its own bytes and is conditioned
only on lower ones, so that the upper ones can be dropped. A codebook without
structure is packed.
"""

import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from mmdcodec.bitstream import packing
from mmdcodec.errors import UserError

# Bits of constriction's probabilities. It adds 1 to each count it gets.
_PRECISION = 24
_ONE = 1 << 20  # an expert's probability of 1
_TOTAL_WEIGHT = 1 << 16  # of all experts together
_SHARE = 7  # after every code, 2^-7 of the weight is shared equally
_BACKOFF = 24
_BATCH = 64
# Contexts with more distinct codes also keep their counts as a row.
_MANY = 32


def encode(codes: np.ndarray, size: int, coding: str) -> list[bytes]:
  """Encodes the codebooks of a chunk.

  Args:
    codes: integers [frames, codebooks] in [0, size), at least one frame.
    size: entries in a codebook, 2 to 2^14.
    coding: "adaptive" or "conditional".

  Returns:
    The bytes of each codebook.
  """
  return [
    _encode_codebook(codes, k, size, coding == "conditional")
    for k in range(codes.shape[1])
  ]


def decode(
  parts: Sequence[bytes], frames: int, size: int, coding: str
) -> np.ndarray:
  """Inverse of `encode`.

  Args:
    parts: bytes of all codebooks, or of the first ones.
    frames: number of frames.
    size: entries in a codebook.
    coding: as passed to `encode`.

  Returns:
    int32 codes [frames, codebooks].

  Raises:
    ValueError: `encode` never produces such bytes.
  """
  codes = np.zeros((frames, len(parts)), np.int32)
  for k, data in enumerate(parts):
    codes[:, k] = _decode_codebook(
      data, codes, k, size, coding == "conditional"
    )
  return codes


@functools.cache
def _family() -> Any:
  """Makes the coder's model, which takes probabilities with every code."""
  from constriction import stream

  # Set explicitly: the default of `perfect` changed between versions.
  return stream.model.Categorical(perfect=False)


def _encode_codebook(
  codes: np.ndarray, k: int, size: int, conditional: bool
) -> bytes:
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
  # Codes without structure are packed; the decoder detects this by the length.
  if len(data) >= packing.packed_bytes(len(codes), 1, size):
    data = packing.pack_codes(symbols, size)
  return data


def _decode_codebook(
  data: bytes, codes: np.ndarray, k: int, size: int, conditional: bool
) -> Any:
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
  """Predicts and then counts every code of codebook k; returns its codes.

  The codebooks of `codes` below k are known. `code` takes a frame number and
  the counts [size] (float32 integers that sum to 2^24 - size), and returns the
  frame's code.
  """
  total = (1 << _PRECISION) - size
  below = [codes[:, j].tolist() for j in range(max(0, k - 2), k)][::-1]
  parents = _parents(k) if conditional else ()
  tables: list[dict] = [{} for _ in parents]  # one per expert, by context
  scratch = np.zeros(size, np.float32)
  weights = [_TOTAL_WEIGHT // (len(parents) + 1)] * (len(parents) + 1)
  plain, seen = np.zeros(size, np.float32), 0
  row, out, counted = np.zeros(size, np.float32), [], [0] * size
  for t, keys in enumerate(_contexts(k, out, below, len(codes), conditional)):
    found = [
      table.get(key) or _Seen() for table, key in zip(tables, keys, strict=True)
    ]
    # Each expert's share of the total, and the part it passes to its parents.
    whole = sum(weights)
    parts = [total * weight // whole for weight in weights]
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
    # The remainder of the integer divisions goes to code 0.
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
    # The probability that each expert gave to the code.
    chance = [((counted[x] << 20) + _ONE) // (seen + size)]
    for here, (first, second) in zip(found, parents, strict=True):
      behind = chance[first] + chance[second] >> 1
      count = here.counts.get(x, 0)
      chance.append(
        ((count << 20) + _BACKOFF * behind) // (here.number + _BACKOFF)
      )
    if parents:
      mean = sum(map(int.__mul__, weights, chance)) // whole + 1
      weights = [w * p // mean for w, p in zip(weights, chance, strict=True)]
      new = (_TOTAL_WEIGHT >> _SHARE) // len(weights)
      weights = [w - (w >> _SHARE) + new for w in weights]
    counted[x] += 1
    plain[x] += 1
    seen += 1
    for table, key, here in zip(tables, keys, found, strict=True):
      table[key] = here
      here.learn(x, size)
  return out


class _Seen:
  """Counts of the codes in one context.

  Attributes:
    number: number of codes counted.
    counts: code -> number.
    row: the same counts as float32 [size], if iterating over many distinct
      codes would be slow; else None.
  """

  __slots__ = ("counts", "number", "row")

  def __init__(self) -> None:
    self.number = 0
    self.counts: dict[int, int] = {}
    self.row: np.ndarray | None = None

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
  """Returns the two experts that each conditional expert backs off to.

  Expert 0 has no context; `_contexts` lists the others.
  """
  if k == 0:
    return (0, 0), (0, 0), (1, 2)
  return (0, 0), (0, 0), (0, 0), (1, 2), (2, 3)


def _contexts(
  k: int, own: list[int], below: list[list[int]], frames: int, conditional: bool
) -> Iterator[tuple]:
  """Yields the contexts of the conditional experts for every frame.

  These are a, the code of the previous frame; b and c, the codes one and two
  codebooks below; and pairs of them. With one codebook below, c is its next
  code, which is already known. With none, c is the code two frames before.
  """
  if not conditional:
    yield from [()] * frames
    return
  b = below[0] if k else []
  c = below[1] if k > 1 else [*b[1:], -1]
  for t in range(frames):
    a = own[t - 1] if t else -1
    if k:
      yield a, b[t], c[t], (a, b[t]), (b[t], c[t])
    else:
      older = own[t - 2] if t > 1 else -1
      yield a, older, (a, older)
