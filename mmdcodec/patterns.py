"""Codebook patterns: which codes a language model predicts in each step.

A codec has K codes per frame. Predicting them one at a time is exact but K
times as slow; predicting several in a step treats them as independent given
the past. A pattern assigns (frame, codebook) entries to steps (Copet et al.
2023, "MusicGen", arXiv 2306.05284, section 2.3):

    delay(4)(frames=6)      step s holds frame s - k of codebook k

The independence loss acts on the entries that share a step (`Pattern.groups`;
arXiv 2406.02315, algorithm 1).
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mmdcodec import bounds
from mmdcodec.bounds import Check, either, list_of, one_of, whole
from mmdcodec.errors import UserError

Entry = tuple[int, int]  # (frame, codebook)


@dataclasses.dataclass(frozen=True)
class Pattern:
  """An arrangement of codes [frames, codebooks] in steps.

  A sequence of tokens [batch, steps + 1, codebooks] begins with an empty step,
  from which the model predicts the first one. Where a step has no entry for a
  codebook, the token is the special one.

  Attributes:
    frames: number of frames.
    codebooks: number of codebooks.
    steps: entries (frame, codebook) of each step. Every entry is in exactly one
      step; a step has at most one entry per codebook, with frames in order.
  """

  frames: int
  codebooks: int
  steps: tuple[tuple[Entry, ...], ...]

  def __post_init__(self) -> None:
    """Checks the steps.

    Raises:
      ValueError: an entry is missing, repeated or out of order.
    """
    last = [-1] * self.codebooks
    count = 0
    for number, step in enumerate(self.steps):
      seen: set[int] = set()
      for frame, codebook in step:
        if not (0 <= frame < self.frames and 0 <= codebook < self.codebooks):
          raise ValueError(
            f"step {number} holds frame {frame} of codebook {codebook}; there"
            f" are {self.frames} frames and {self.codebooks} codebooks"
          )
        if codebook in seen:
          raise ValueError(f"step {number} holds codebook {codebook} twice")
        if frame != last[codebook] + 1:
          raise ValueError(
            f"step {number} holds frame {frame} of codebook {codebook} after"
            f" frame {last[codebook]}; frames must come one after the other"
          )
        seen.add(codebook)
        last[codebook] = frame
        count += 1
    if count != self.frames * self.codebooks:
      raise ValueError(
        f"{self.frames * self.codebooks - count} entries are in no step"
      )

  @functools.cached_property
  def frame_of(self) -> np.ndarray:
    """The frame of each token, int32 [steps + 1, codebooks]; -1 for none."""
    table = np.full((len(self.steps) + 1, self.codebooks), -1, np.int32)
    for number, step in enumerate(self.steps, start=1):
      for frame, codebook in step:
        table[number, codebook] = frame
    return table

  @functools.cached_property
  def step_of(self) -> np.ndarray:
    """The step of each code, int32 [frames, codebooks], from 1."""
    table = np.zeros((self.frames, self.codebooks), np.int32)
    step, codebook = np.nonzero(self.frame_of >= 0)
    table[self.frame_of[step, codebook], codebook] = step
    return table

  @functools.cached_property
  def frame_of_step(self) -> np.ndarray:
    """The last frame of each step, int32 [steps].

    Of a step without any, that of the step before.
    """
    last = self.frame_of[1:].max(axis=1)
    steps = np.where(last >= 0, np.arange(len(last)), 0)
    return np.maximum(last[np.maximum.accumulate(steps)], 0)

  def build(self, codes: jax.Array, special: int) -> jax.Array:
    """Arranges codes in steps.

    Args:
      codes: [..., frames, codebooks].
      special: the token for entries without a code.

    Returns:
      tokens [..., steps + 1, codebooks].

    Raises:
      ValueError: codes have a wrong shape.
    """
    if codes.shape[-2:] != (self.frames, self.codebooks):
      raise ValueError(
        f"codes {codes.shape} do not end in ({self.frames}, {self.codebooks})"
      )
    at = np.maximum(self.frame_of, 0)
    tokens = jnp.asarray(codes)[..., at, np.arange(self.codebooks)]
    return jnp.where(self.frame_of >= 0, tokens, special)

  def revert(self, tokens: jax.Array) -> jax.Array:
    """The inverse of `build`.

    Args:
      tokens: [..., steps + 1, codebooks].

    Returns:
      codes [..., frames, codebooks].

    Raises:
      ValueError: tokens have a wrong shape.
    """
    if tokens.shape[-2:] != self.frame_of.shape:
      raise ValueError(
        f"tokens {tokens.shape} do not end in {self.frame_of.shape}"
      )
    return jnp.asarray(tokens)[..., self.step_of, np.arange(self.codebooks)]

  def revert_logits(self, logits: jax.Array) -> jax.Array:
    """Arranges logits by frame.

    Args:
      logits: [..., steps, codebooks, size], computed from
        `tokens[..., :-1, :]`; each step predicts the next one.

    Returns:
      [..., frames, codebooks, size].

    Raises:
      ValueError: logits have a wrong shape.
    """
    if logits.shape[-3:-1] != (len(self.steps), self.codebooks):
      raise ValueError(
        f"logits {logits.shape} are not [..., {len(self.steps)},"
        f" {self.codebooks}, size]"
      )
    return jnp.asarray(logits)[
      ..., self.step_of - 1, np.arange(self.codebooks), :
    ]

  @functools.cached_property
  def groups(self) -> tuple[tuple[tuple[int, ...], np.ndarray], ...]:
    """The codes that share a step, grouped by their set of codebooks.

    Each group is (codebooks, frames int32 [steps, len(codebooks)]), largest set
    first. Steps with a single code are left out, and so are steps whose
    codebooks are a subset of another step's, as at the ends of a delayed clip.
    """
    kinds: dict[tuple[int, ...], list] = {}
    for row in self.frame_of[1:]:
      held = tuple(int(k) for k in np.nonzero(row >= 0)[0])
      kinds.setdefault(held, []).append(row[list(held)])
    whole = [
      held
      for held in kinds
      if len(held) > 1 and not any(set(held) < set(other) for other in kinds)
    ]
    whole.sort(key=lambda held: (-len(held), held))
    return tuple((held, np.stack(kinds[held])) for held in whole)


# Makes the pattern for a number of frames.
PatternMaker = Callable[[int], Pattern]


def _from_times(
  frames: int, codebooks: int, time: Callable[[int, int], tuple]
) -> Pattern:
  """Returns the pattern whose steps are the distinct times, in order."""
  steps: dict[tuple, list[Entry]] = {}
  for frame in range(frames):
    for codebook in range(codebooks):
      steps.setdefault(time(frame, codebook), []).append((frame, codebook))
  return Pattern(
    frames, codebooks, tuple(tuple(steps[at]) for at in sorted(steps))
  )


def _check_delays(codebooks: int, delays: Sequence[int] | None) -> list[int]:
  delays = [0] * codebooks if delays is None else [int(d) for d in delays]
  if len(delays) != codebooks or min(delays, default=0) < 0:
    raise ValueError(
      f"delays are {delays}; expected {codebooks} numbers, none negative"
    )
  return delays


def delay(
  codebooks: int,
  delays: Sequence[int] | None = None,
  *,
  flatten_first: int = 0,
  empty_initial: int = 0,
) -> PatternMaker:
  """Delays codebook k by `delays[k]` steps: MusicGen's pattern.

  Codebooks with the same delay are predicted together: (0, 1, 1, 1) is the
  partial delay, (0, 0, 1, 1, 2, 2, 3, 3) the delay for stereo.

  Args:
    codebooks: number of codebooks.
    delays: one per codebook, ascending; 0, 1, 2, ... by default.
    flatten_first: number of initial frames that are predicted code by code.
    empty_initial: number of empty steps before the first code.

  Raises:
    ValueError: delays are negative, descending or too few or many.
  """
  delays = _check_delays(
    codebooks, range(codebooks) if delays is None else delays
  )
  if delays != sorted(delays):
    raise ValueError(f"delays must ascend, but are {delays}")

  def make(frames: int) -> Pattern:
    flat = min(flatten_first, frames)
    steps: list[tuple[Entry, ...]] = [()] * empty_initial
    steps += [((t, k),) for t in range(flat) for k in range(codebooks)]
    for start in range(flat, frames + delays[-1]):
      steps.append(
        tuple(
          (start - late, k)
          for k, late in enumerate(delays)
          if flat <= start - late < frames
        )
      )
    return Pattern(frames, codebooks, tuple(steps))

  return make


def parallel(codebooks: int) -> PatternMaker:
  """Predicts all codes of a frame in one step."""
  return delay(codebooks, [0] * codebooks)


def unroll(
  codebooks: int,
  flattening: Sequence[int] | None = None,
  delays: Sequence[int] | None = None,
) -> PatternMaker:
  """Predicts frame after frame, each in several steps.

  Args:
    codebooks: number of codebooks.
    flattening: group of each codebook, 0, 1, 2, ... by default. A group shares
      a step; the groups of a frame follow one another.
    delays: delay of each codebook in frames; the same within a group.

  Raises:
    ValueError: a list has a wrong length, or delays differ within a group.
  """
  groups = list(range(codebooks)) if flattening is None else list(flattening)
  late = _check_delays(codebooks, delays)
  if len(groups) != codebooks:
    raise ValueError(f"flattening is {groups}; expected {codebooks} numbers")
  for a, b in zip(groups, late, strict=True):
    if any(a == c and b != d for c, d in zip(groups, late, strict=True)):
      raise ValueError("codebooks of one group must have the same delay")
  held = [
    [k for k in range(codebooks) if groups[k] == group]
    for group in sorted(set(groups))
  ]

  def make(frames: int) -> Pattern:
    # Every group takes a step at every time, even after its last frame, as in
    # the public models; at the same time, the most delayed group comes first.
    times = frames + max(late)
    steps = sorted(
      (t + late[codes[0]], t, i)
      for t in range(times)
      for i, codes in enumerate(held)
      if t + late[codes[0]] < times
    )
    return Pattern(
      frames,
      codebooks,
      tuple(tuple((t, k) for k in held[i] if t < frames) for _, t, i in steps),
    )

  return make


def flatten(codebooks: int) -> PatternMaker:
  """Predicts one code per step, frame by frame: the exact joint model."""
  return unroll(codebooks)


def coarse_first(
  codebooks: int, delays: Sequence[int] | None = None
) -> PatternMaker:
  """Predicts the first codebook of all frames, then the others together.

  Args:
    codebooks: number of codebooks.
    delays: delays of the other codebooks, relative to one another.
  """
  late = _check_delays(codebooks - 1, delays)

  def make(frames: int) -> Pattern:
    return _from_times(
      frames,
      codebooks,
      lambda t, k: (0, t) if k == 0 else (1, t + late[k - 1]),
    )

  return make


def grouped(codebooks: int, sizes: int | Sequence[int]) -> PatternMaker:
  """Predicts groups of codebooks one after the other, each flattened.

  This is the order of AudioLM's and MusicLM's stages: with sizes (4, 8), the
  coarse codes of all frames come first, then the fine ones.

  Args:
    codebooks: number of codebooks.
    sizes: codebooks in each group; one number if all are equal.
  """
  if isinstance(sizes, int):
    sizes = [sizes] * (codebooks // sizes if sizes > 0 else 0)
  if sum(sizes) != codebooks or min(sizes, default=0) < 1:
    raise ValueError(
      f"{codebooks} codebooks are no whole groups of {list(sizes)}"
    )
  group_of = np.repeat(np.arange(len(sizes)), sizes).tolist()

  def make(frames: int) -> Pattern:
    return _from_times(frames, codebooks, lambda t, k: (group_of[k], t, k))

  return make


# Options of the makers in a config, besides the number of codebooks.
OPTIONS: dict[str, Check] = {
  "delays": list_of(whole(0, 1 << 16), 4096),
  "flattening": list_of(whole(0, 1 << 16), 4096),
  "flatten_first": whole(0, 1 << 20),
  "empty_initial": whole(0, 1 << 16),
  "sizes": either(whole(1, 4096), list_of(whole(1, 4096), 4096)),
}

# Name in a config -> maker, and its options.
MAKERS: dict[str, tuple[Callable[..., PatternMaker], tuple[str, ...]]] = {
  "parallel": (parallel, ()),
  "delay": (delay, ("delays", "flatten_first", "empty_initial")),
  "unroll": (unroll, ("flattening", "delays")),
  "flatten": (flatten, ()),
  "coarse_first": (coarse_first, ("delays",)),
  "grouped": (grouped, ("sizes",)),
}


def make(name: str, codebooks: int, **options: Any) -> PatternMaker:
  """Creates the pattern maker that a config names.

  Args:
    name: one of MAKERS.
    codebooks: number of codebooks.
    **options: options of the maker; 0 or an empty value means the default.

  Raises:
    UserError: the name is unknown, or the pattern has no such option.
  """
  bounds.check("the pattern", name, one_of(tuple(MAKERS)))
  maker, takes = MAKERS[name]
  given = {key: value for key, value in options.items() if value}
  for key in given:
    if key not in takes:
      raise UserError(
        f"the pattern {name!r} has no {key}, but got {given[key]}; it takes"
        f" {' and '.join(takes) or 'nothing'}."
      )
    bounds.check(f"{key} of the pattern {name!r}", given[key], OPTIONS[key])
  try:
    return maker(codebooks, **given)
  except (TypeError, ValueError) as error:
    raise UserError(f"the pattern {name!r}: {error}.") from None
