"""Clips of built-in music with the same melody in other acoustics.

A melody is a number. Its notes follow from it, and so does each of its
renditions: in another key, at another speed, on another instrument, with other
accompaniment. Training takes melodies from 0 on, and measures take others, from
`HELD_OUT` on.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from mmdcodec.audio import composition, instruments, synth
from mmdcodec.audio.composition import Note, random_for

HELD_OUT = 1 << 30
# How much faster or slower than its melody a rendition is, at most.
SPEED = 1.14
# Semitones up or down by which training plays a clip faster and higher, or
# slower and lower, as a tape does; and seconds that it may begin later.
TAPE, LATER = 2, 0.25
# Beats of a melody. 5 s at the fastest speed have fewer.
_BEATS = 24


class Melodies:
  """Renditions of melodies, each rendered once if they are to be kept.

  Attributes:
    seconds: length of all melodies' renditions together.
  """

  def __init__(
    self,
    count: int,
    *,
    first: int = 0,
    renditions: int,
    rate: int,
    seconds: float,
    keep: bool = False,
  ) -> None:
    """Renders nothing yet.

    Args:
      count: number of melodies.
      first: number of the first one.
      renditions: renditions of each melody.
      rate: Hz.
      seconds: length of a clip.
      keep: keeps all renditions in memory, as integers of 16 bits.
    """
    self.first, self.renditions = first, renditions
    self.rate, self.samples = rate, round(seconds * rate)
    # Enough for a clip that begins later and is played faster.
    self.span = LATER + seconds * 2 ** (TAPE / 12) + 0.01
    self.seconds = count * renditions * seconds
    self._count = count
    self._kept: dict[tuple[int, int], np.ndarray] | None = {} if keep else None

  def __len__(self) -> int:
    """Number of melodies."""
    return self._count

  def rendition(self, melody: int, which: int) -> np.ndarray:
    """Renders a melody; float32 [samples], longer than a clip."""
    make = lambda: render(
      self.first + melody, which, rate=self.rate, seconds=self.span
    )
    if self._kept is None:
      return make()
    kept = self._kept.get((melody, which))
    if kept is None:
      kept = np.round(make() * 32767).astype(np.int16)
      self._kept[melody, which] = kept
    # Rounded the first time too, so that a clip is always the same.
    return kept.astype(np.float32) / 32767

  def clip(
    self, melody: int, which: int, rng: np.random.Generator | None = None
  ) -> np.ndarray:
    """A clip of a rendition.

    Args:
      melody: from 0 to the number of melodies.
      which: from 0 to the number of renditions.
      rng: varies beginning, pitch and speed together, and loudness; None for
        the clip as it is.

    Returns:
      float32 [samples, 1].
    """
    x = self.rendition(melody, which)
    if rng is None:
      return x[: self.samples, None]
    start = rng.uniform(0, LATER) * self.rate
    faster = 2 ** (rng.uniform(-TAPE, TAPE) / 12)
    at = start + faster * np.arange(self.samples)
    y = np.interp(at, np.arange(len(x)), x)
    gain = 10 ** (rng.uniform(-12, 3) / 20)
    return np.clip(gain * y, -1, 1).astype(np.float32)[:, None]


def melody_of(number: int) -> tuple[list[Note], dict[str, Any]]:
  """The notes of a melody.

  Returns:
    (notes in beats, in the key of C; its mode, beats in a bar, and tempo in
    beats per minute).
  """
  rng = random_for(number, "melody")
  mode = str(rng.choice(list(composition.SCALES)))
  beats = 3 if rng.random() < 0.15 else 4
  form = composition.FORMS[rng.integers(len(composition.FORMS))]
  degrees = composition.harmony(rng, mode, form)
  notes = composition.melody(
    rng, degrees, form, tonic=0, mode=mode, beats=beats
  )
  about = dict(mode=mode, beats=beats, tempo=float(rng.uniform(90, 150)))
  return [n for n in notes if n.onset < _BEATS], about


def render(number: int, which: int, *, rate: int, seconds: float) -> np.ndarray:
  """Renders one of the many renditions of a melody.

  Args:
    number: the melody.
    which: the rendition.
    rate: Hz.
    seconds: length.

  Returns:
    float32 [samples].
  """
  notes, about = melody_of(number)
  rng = np.random.default_rng([number, which])
  tempo = about["tempo"] * SPEED ** rng.uniform(-1, 1)
  tonic = int(rng.integers(12))
  up = tonic - 12 * (tonic > 6)
  beat = 60 / tempo
  played = [
    n._replace(
      onset=n.onset * beat,
      duration=n.duration * beat * 0.92,
      pitch=n.pitch + up,
    )
    for n in notes
  ]
  # A third without accompaniment. What is not chosen follows from the seed.
  alone: Mapping[str, Any] = (
    dict(chords=False, bass=False, drums=False) if rng.random() < 1 / 3 else {}
  )
  song = synth.render(
    int(rng.integers(1 << 30)),
    seconds=seconds,
    rate=rate,
    melody=[n for n in played if n.onset < seconds],
    key=composition.NAMES[tonic],
    mode=about["mode"],
    beats=about["beats"],
    tempo=tempo,
    timbre=str(rng.choice(list(instruments.VOICES))),
    **alone,
  )
  return song.audio[:, 0]
