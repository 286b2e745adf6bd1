"""Composition of the built-in music: harmony, melody and accompaniment.

Everything is in beats and MIDI pitches; `synth.py` turns it into sound. A song
is a form of four-bar phrases (such as A A B A). Each letter has a progression
of chords, one per bar, and a melody that grows from a short motif: stated,
answered on the next chord, contrasted, and closed by a cadence. The cadence is
open (on the dominant) where the song continues and closed (on the tonic) where
it rests. Strong beats fall on chord tones; between them the melody moves by
step.
"""

from typing import NamedTuple

import numpy as np

from mmdcodec.errors import UserError

NAMES = ("C", "C#", "D", "Eb", "E", "F", "F#", "G", "Ab", "A", "Bb", "B")
SCALES = {"major": (0, 2, 4, 5, 7, 9, 11), "minor": (0, 2, 3, 5, 7, 8, 10)}
FORMS = ("AABA", "ABAB", "AABB", "ABAC", "AABC")

# Degrees of the scale; 0 is the tonic. The dominant chord in minor is major.
PROGRESSIONS = {
  "major": (
    (0, 4, 5, 3),
    (0, 5, 3, 4),
    (5, 3, 0, 4),
    (0, 3, 1, 4),
    (0, 2, 3, 4),
    (3, 0, 1, 4),
    (0, 3, 0, 4),
    (1, 4, 0, 5),
  ),
  "minor": (
    (0, 5, 2, 6),
    (0, 6, 5, 4),
    (0, 3, 4, 0),
    (0, 5, 3, 4),
    (0, 2, 6, 3),
    (3, 0, 5, 4),
    (5, 6, 0, 4),
    (0, 3, 6, 2),
  ),
}

# Note lengths of one bar in beats; negative lengths are rests.
_RHYTHMS = {
  4: (
    (1, 1, 1, 1),
    (1, 0.5, 0.5, 1, 1),
    (1.5, 0.5, 1, 1),
    (0.5, 0.5, 1, 0.5, 0.5, 1),
    (2, 0.5, 0.5, 1),
    (1, 0.5, 0.5, 0.5, 0.5, 1),
    (1.5, 0.5, 1.5, 0.5),
    (-0.5, 0.5, 0.5, 0.5, 1, 1),
    (0.75, 0.25, 1, 0.5, 0.5, 1),
  ),
  3: (
    (1, 1, 1),
    (2, 1),
    (1, 0.5, 0.5, 1),
    (1.5, 0.5, 1),
    (0.5, 0.5, 0.5, 0.5, 1),
  ),
}
# Register of a melody, in steps of the scale from its tonic.
_LOW, _HIGH = -2, 9
_CADENCES = {4: ((1, 1, 2), (0.5, 0.5, 3), (2, 2)), 3: ((1, 2), (0.5, 0.5, 2))}


def random_for(seed: int, purpose: str) -> np.random.Generator:
  """Returns an independent generator for each purpose of a seed.

  Raises:
    UserError: the seed is not a non-negative integer.
  """
  if seed != int(seed) or seed < 0:
    raise UserError(f"the seed must be a whole number from 0, not {seed}.")
  return np.random.default_rng([int(seed), *purpose.encode()])


class Note(NamedTuple):
  """A note.

  Attributes:
    onset: in seconds in `Song.melody`, in beats in this module.
    duration: in the unit of the onset.
    pitch: MIDI pitch.
    velocity: 0 to 1.
  """

  onset: float
  duration: float
  pitch: int
  velocity: float = 0.8


class Chord(NamedTuple):
  """A triad: the degree of its root and its pitch classes, root first."""

  degree: int
  classes: tuple[int, int, int]

  @property
  def name(self) -> str:
    """Name such as C, Am or Bdim."""
    third = (self.classes[1] - self.classes[0]) % 12
    fifth = (self.classes[2] - self.classes[0]) % 12
    kind = "dim" if fifth == 6 else "m" if third == 3 else ""
    return NAMES[self.classes[0]] + kind


def chord(degree: int, tonic: int, mode: str) -> Chord:
  """The triad on a degree of the scale; in minor, the dominant is major."""
  scale = SCALES[mode]
  root, third, fifth = (scale[(degree + i) % 7] for i in (0, 2, 4))
  if mode == "minor" and degree == 4:
    third += 1
  root, third, fifth = ((tonic + p) % 12 for p in (root, third, fifth))
  return Chord(degree, (root, third, fifth))


def harmony(rng: np.random.Generator, mode: str, form: str) -> list[int]:
  """Degree of each bar's chord, four bars per letter of the form."""
  table = PROGRESSIONS[mode]
  picks = rng.permutation(len(table))
  letters = {x: list(table[i]) for x, i in zip("ABC", picks, strict=False)}
  # A song establishes its tonic before it leaves it.
  if letters["A"][0] != 0:
    letters["A"] = [0, *letters["A"][1:]]
  degrees = []
  for i, letter in enumerate(form):
    phrase = list(letters[letter])
    if i == len(form) - 1:
      phrase[2:] = [4, 0]
    degrees += phrase
  return degrees


def melody(
  rng: np.random.Generator,
  degrees: list[int],
  form: str,
  *,
  tonic: int,
  mode: str,
  beats: int,
) -> list[Note]:
  """Composes the melody of one pass of the form.

  Args:
    rng: NumPy generator.
    degrees: scale degree of each bar's chord.
    form: letters of the phrases.
    tonic: pitch class of the key.
    mode: "major" or "minor".
    beats: beats per bar, 3 or 4.

  Returns:
    Notes in beats.
  """
  materials = {letter: _material(rng, beats) for letter in sorted(set(form))}
  # Repetitions start on the same step, so that a phrase is recognisable.
  starts = dict(zip("ABC", rng.permutation((0, 2, 4)) + (0, 3, 2), strict=True))
  # The tonic lies from G3 to F#4, so melodies lie between about D3 and B5.
  home = 55 + (tonic - 7) % 12
  notes: list[Note] = []
  for i, letter in enumerate(form):
    closed = i == len(form) - 1 or form[i + 1] != letter
    bars = degrees[4 * i : 4 * i + 4]
    step = int(starts[letter])
    for bar, degree in enumerate(bars):
      rhythm, offsets = materials[letter][(0, 0, 1, 2)[bar]]
      end = None
      if bar == 3:
        end = 0 if closed and degree in (0, 3, 5) else degree
        offsets = np.linspace(-len(rhythm) + 1, 0, len(rhythm)).astype(int)
        offsets = offsets if step < end else -offsets
      steps = _fit_bar(rhythm, offsets, degree, step, end)
      at = (4 * i + bar) * beats
      for length, s in zip(rhythm, steps, strict=True):
        if length > 0:
          pitch = _pitch(s, degree, home, mode)
          notes.append(Note(at, length, pitch, _accent(at % beats, beats)))
          step = s
        at += abs(length)
  return notes


def harmonize(
  notes: list[Note], bars: int, *, tonic: int, mode: str, beats: int
) -> list[int]:
  """Chooses chords (degrees), one per bar, that fit a melody in beats."""
  degrees: list[int] = []
  options = (0, 3, 4, 5, 1) if mode == "major" else (0, 3, 4, 5, 6)
  for bar in range(bars):
    scores = []
    for degree in options:
      classes = chord(degree, tonic, mode).classes
      score = 0.1 * (degree == 0) - 0.1 * (degrees[-1:] == [degree])
      for n in notes:
        inside = min(n.onset + n.duration, (bar + 1) * beats)
        inside -= max(n.onset, bar * beats)
        strong = 1.5 if n.onset % beats < 0.1 else 1.0
        if inside > 0:
          score += strong * inside * (n.pitch % 12 in classes)
      scores.append(score)
    degrees.append(options[int(np.argmax(scores))])
  return degrees


def accompaniment(
  rng: np.random.Generator, chords: list[Chord], *, beats: int, style: str
) -> list[Note]:
  """Plays chords in close position, moving each voice as little as possible.

  Args:
    rng: NumPy generator.
    chords: one chord per bar.
    beats: beats per bar.
    style: "held", "pulse" (a chord per beat) or "broken" (eighth notes).
  """
  notes, hand = [], [55, 59, 62]
  order = rng.permutation([(0, 1, 2, 1), (0, 2, 1, 2), (2, 1, 0, 1)])[0]
  for bar, c in enumerate(chords):
    hand = _nearest_voicing(hand, c.classes)
    at = bar * beats
    if style == "held":
      notes += [Note(at, beats, p, 0.6) for p in hand]
    elif style == "pulse":
      for b in range(beats):
        loud = 0.7 if b % 2 == 0 else 0.55
        notes += [Note(at + b, 0.8, p, loud) for p in hand]
    else:
      for j in range(2 * beats):
        p = hand[order[j % len(order)]]
        notes.append(Note(at + j / 2, 0.9, p, 0.7 if j % 4 == 0 else 0.55))
  return notes


def bass_line(
  rng: np.random.Generator, chords: list[Chord], *, beats: int, style: str
) -> list[Note]:
  """Bass in the style "roots" (root and fifth), "eighths" or "walking"."""
  notes = []
  for bar, c in enumerate(chords):
    root, third, fifth = (_in_register(p, 31) for p in c.classes)
    at = bar * beats
    following = chords[min(bar + 1, len(chords) - 1)].classes[0]
    if style == "eighths":
      for j in range(2 * beats):
        notes.append(Note(at + j / 2, 0.45, root, 0.9 if j % 4 == 0 else 0.7))
    elif style == "walking":
      lead = _in_register(following, 31) + int(rng.choice((-1, 1, 2)))
      walk = [root, third, fifth, lead] if beats == 4 else [root, fifth, lead]
      for b, p in enumerate(walk):
        notes.append(Note(at + b, 0.9, p, 0.85 if b % 2 == 0 else 0.75))
    else:
      half = beats - 2
      notes.append(Note(at, half, root, 0.9))
      notes.append(Note(at + half, 1.8, fifth if bar % 2 else root, 0.75))
  return notes


def drum_hits(
  rng: np.random.Generator, bars: int, *, beats: int, style: str
) -> list[tuple[float, str, float]]:
  """Returns hits `(beat, drum, velocity)`, with a fill in every fourth bar.

  Styles: "rock", "dance" (kick on every beat), "soft".
  """
  hits: list[tuple[float, str, float]] = []
  backbeat = "clap" if style == "dance" else "snare"
  ghost = rng.random() < 0.5
  for bar in range(bars):
    at = bar * beats
    if bar % 8 == 0 and style != "soft":
      hits.append((at, "crash", 0.5))
    for b in range(beats):
      if style == "dance" or (b == 0) or (style == "rock" and b == 2):
        hits.append((at + b, "kick", 0.95 if b == 0 else 0.85))
      if (beats == 4 and b % 2) or (beats == 3 and b):
        loud = 0.8 if style != "soft" else 0.35
        hits.append((at + b, backbeat if beats == 4 else "hat", loud))
      hats = {"dance": ("hat", "open"), "rock": ("hat", "hat")}
      on, off = hats.get(style, ("hat", None))
      hits.append((at + b, on, 0.5))
      if off:
        hits.append((at + b + 0.5, off, 0.3 if off == "hat" else 0.35))
    if style == "rock" and ghost and beats == 4:
      hits.append((at + 2.5, "kick", 0.7))
    if bar % 4 == 3 and style != "soft":
      for j in range(4):
        hits.append((at + beats - 1 + j / 4, "snare", 0.45 + 0.12 * j))
  return hits


def _material(
  rng: np.random.Generator, beats: int
) -> list[tuple[tuple[float, ...], np.ndarray]]:
  """Rhythm and steps of the motif, contrast and cadence of a phrase."""
  picks = rng.permutation(len(_RHYTHMS[beats]))[:2]
  rhythms = [_RHYTHMS[beats][i] for i in picks]
  rhythms.append(_CADENCES[beats][rng.integers(len(_CADENCES[beats]))])
  out = []
  for rhythm in rhythms:
    # Mostly steps; after a leap the next note moves back.
    moves = rng.choice((-2, -1, -1, 1, 1, 2, 3), size=len(rhythm))
    for j in range(1, len(moves)):
      if abs(moves[j - 1]) > 1:
        moves[j] = -np.sign(moves[j - 1])
    out.append((rhythm, np.cumsum(moves) - moves[0]))
  return out


def _fit_bar(
  rhythm: tuple[float, ...],
  offsets: np.ndarray,
  degree: int,
  before: int,
  end: int | None,
) -> list[int]:
  """Steps of the scale for one bar, with chord tones on strong beats."""
  tones = [degree + i + 7 * o for o in range(-3, 4) for i in (0, 2, 4)]
  # Start near the last note, biased towards the middle of the register (4).
  aim = before + 0.4 * (4 - before)
  first = min(tones, key=lambda s: (abs(s - aim), s))
  steps, at = [], 0.0
  for length, offset in zip(rhythm, offsets, strict=True):
    step = int(first + offset)
    if at % 2 == 0 or length >= 1.5:
      step = min(tones, key=lambda s: (abs(s - step), s))
    while step > _HIGH:
      step -= 7
    while step < _LOW:
      step += 7
    if steps and abs(step - steps[-1]) > 5:
      near = step - 7 * int(np.sign(step - steps[-1]))
      step = near if _LOW <= near <= _HIGH else step
    steps.append(step)
    at += abs(length)
  if end is not None:
    around = steps[-2] if len(steps) > 1 else before
    ends = [end + 7 * o for o in range(-2, 3) if _LOW <= end + 7 * o <= _HIGH]
    steps[-1] = min(ends, key=lambda s: abs(s - around))
  return steps


def _pitch(step: int, degree: int, home: int, mode: str) -> int:
  """MIDI pitch of a step of the scale; raises the leading tone in minor."""
  pitch = home + 12 * (step // 7) + SCALES[mode][step % 7]
  if mode == "minor" and degree == 4 and step % 7 == 6:
    pitch += 1
  return pitch


def _nearest_voicing(
  hand: list[int], classes: tuple[int, int, int]
) -> list[int]:
  """Three pitches of these classes with the least movement from `hand`."""
  best, cost = hand, np.inf
  for inversion in range(3):
    order = [classes[(inversion + i) % 3] for i in range(3)]
    for low in (order[0] + 48, order[0] + 36, order[0] + 60):
      pitches = [low]
      for p in order[1:]:
        pitches.append(pitches[-1] + (p - pitches[-1]) % 12)
      moved = sum(abs(a - b) for a, b in zip(pitches, hand, strict=True))
      # Avoid muddy low chords and the register of the melody.
      moved += 4 * (max(0, 50 - pitches[0]) + max(0, pitches[2] - 68))
      if moved < cost:
        best, cost = pitches, moved
  return best


def _in_register(pitch_class: int, low: int) -> int:
  return low + (pitch_class - low) % 12


def _accent(beat: float, beats: int) -> float:
  return 0.95 if beat == 0 else 0.85 if beat == beats // 2 else 0.72
