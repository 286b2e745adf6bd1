"""Music from a request of the page: made in blocks, until it is stopped."""

import dataclasses
import re
import threading
import time
from collections.abc import Iterator
from typing import Any

import numpy as np

from mmdcodec.audio import files
from mmdcodec.demo.models import Model
from mmdcodec.demo.piece import Piece
from mmdcodec.errors import UserError
from mmdcodec.generation.musiclm import LoadedMusicLM
from mmdcodec.generation.story import read_story

MOST_SEEDS = 4
# Characters of a prompt or story; the models' own bounds are lower.
MOST_TEXT = 4000
_BLOCK = 1.0  # seconds of music between two looks at whether to stop

Clip = tuple[np.ndarray, int]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Request:
  """What a user asks for.

  Attributes:
    prompt: what the music should be; "" for anything.
    story: lines of a time and a prompt, in place of the prompt.
    seconds: length of the music.
    seeds: numbers with commas between them: one piece for each.
    melody: audio [samples, channels] with the melody to follow, and its rate.
    audio: audio to continue, and its rate.
    temperature: None for what the model does by default, as below.
    top_k: sample from this many of the likeliest codes; 0: from all.
    guidance: weight of the conditions.
  """

  prompt: str = ""
  story: str = ""
  seconds: float = 8.0
  seeds: str = "0"
  melody: Clip | None = None
  audio: Clip | None = None
  temperature: float | None = None
  top_k: int | None = None
  guidance: float | None = None


class Making:
  """A run of a music model.

  Attributes:
    seeds: seed of each piece.
    pieces: the pieces, which grow.
    codes: int32 [pieces, frames, codebooks] of what has been made.
  """

  def __init__(
    self, model: Model, turn: threading.Lock, request: Request, *, most: float
  ):
    """Checks a request; nothing is computed yet.

    Args:
      model: makes the music.
      turn: held while something is computed.
      request: what is asked for.
      most: seconds of the longest piece.

    Raises:
      UserError: the request cannot be fulfilled.
    """
    assert model.music is not None
    self._music, self._turn = model.music, turn
    self.seeds = read_seeds(request.seeds)
    self._options = _options(model, request, self.seeds, most)
    if isinstance(self._music, LoadedMusicLM):
      # A block of a hierarchy takes long.
      self._options["progress"] = self._watch
    rate = self._music.frame_rate
    frames = max(1, round(request.seconds * rate))
    samples = round(frames * self._music.rate / rate)
    self.pieces = [
      Piece(self._music.rate, self._music.channels, samples)
      for _ in self.seeds
    ]
    self._parts: list[np.ndarray] = []
    self._stopped = threading.Event()

  def stop(self) -> None:
    """Ends the run, also from another thread; what was made remains."""
    self._stopped.set()
    for piece in self.pieces:
      piece.finish()

  @property
  def stopped(self) -> bool:
    """Whether somebody stopped it."""
    return self._stopped.is_set()

  @property
  def codes(self) -> np.ndarray | None:
    """See the class; None if nothing has been made."""
    parts = [*self._parts]
    return np.concatenate(parts, axis=1) if parts else None

  def run(self) -> Iterator[tuple[float, float]]:
    """Makes the music, one block at a time.

    Yields:
      (seconds of music made so far, seconds that it took to compute them).

    Raises:
      UserError: the model cannot do what is asked for.
    """
    stream: Any = self._music.stream(block=_BLOCK, **self._options)
    made = spent = 0.0
    try:
      while not self.stopped:
        # Others get their turn between two blocks, so that two users hear
        # their music at the same time.
        with self._turn:
          start = time.monotonic()
          try:
            chunk = None if self.stopped else next(stream, None)
          except _Stop:
            chunk = None
          spent += time.monotonic() - start
        if chunk is None or self.stopped:
          break
        for piece, audio in zip(self.pieces, chunk.audio, strict=True):
          piece.add(audio)
        self._parts.append(chunk.codes)
        made += chunk.audio.shape[1] / self._music.rate
        yield made, spent
    finally:
      stream.close()
      for piece in self.pieces:
        piece.finish()

  def _watch(self, *_: Any) -> None:
    """Is called within a block as well."""
    if self.stopped:
      raise _Stop


class _Stop(Exception):
  """Ends a block before it is complete."""


def _options(
  model: Model, request: Request, seeds: list[int], most: float
) -> dict[str, Any]:
  """Options of the model's `stream`.

  Raises:
    UserError: one is not possible.
  """
  seconds = request.seconds
  if not isinstance(seconds, int | float) or not 0 < seconds <= most:
    raise UserError(
      f"The length is {seconds} s; it must be above 0 and at most {most:g} s."
    )
  for name in ("prompt", "story"):
    if len(getattr(request, name)) > MOST_TEXT:
      raise UserError(
        f"The {name} has {len(getattr(request, name))} characters; at most"
        f" {MOST_TEXT} are read."
      )
  found: dict[str, Any] = {"seconds": float(seconds), "seed": seeds}
  for name in ("temperature", "top_k", "guidance"):
    if (value := getattr(request, name)) is not None:
      found[name] = value
  if request.story.strip() and model.takes("story"):
    found["story"] = read_story(request.story, "The story")
  if request.prompt.strip() and model.takes("text"):
    found["texts"] = [request.prompt] * len(seeds)
  # Both need one rate.
  for name in ("melody", "audio"):
    clip = getattr(request, name)
    if clip is not None and (name == "audio" or model.takes(name)):
      found[name] = files.resample(clip[0], rate=clip[1], to=model.codec.rate)
  return found


def read_seeds(text: str) -> list[int]:
  """Reads seeds with commas between them; what is there twice counts once.

  Raises:
    UserError: they are no whole numbers, or too many.
  """
  words = re.findall(r"[^\s,]+", str(text)) or ["0"]
  if len(words) > MOST_SEEDS or not all(
    re.fullmatch(r"\d{1,19}", word) for word in words
  ):
    raise UserError(
      f"The seeds are {str(text)[:60]!r}; give one to {MOST_SEEDS} whole"
      ' numbers with commas between them, such as "0, 1".'
    )
  return [*dict.fromkeys(map(int, words))]
