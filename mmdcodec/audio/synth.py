"""Built-in music: songs with accurate captions, generated from a seed.

`render(seed)` plans a song (`song_plan`), composes it (`composition`), plays it
(`instruments`) and describes it (`song_captions`). Nothing is downloaded, and a
seed gives the same song everywhere (up to rounding in the libraries' sines).
Every part has its own random numbers: with `timbre="fm"` or `drums=False` a
seed keeps its melody.
"""

import math
from typing import Any, NamedTuple

import numpy as np
from scipy import signal

from mmdcodec.audio import composition, instruments, song_plan
from mmdcodec.audio.composition import Note, random_for
from mmdcodec.audio.song_captions import caption
from mmdcodec.errors import UserError

PEAK = 10 ** (-3 / 20)  # -3 dB of full scale

# Below, high notes have no harmonics left.
_MIN_RATE = 4000

# Loudness of the parts (root mean square, before the final peak).
_LEVELS = {"melody": 0.13, "chords": 0.06, "bass": 0.09, "drums": 0.08}


class Song(NamedTuple):
  """A rendered song.

  Attributes:
    audio: float32 `[samples, 1]`, peak at -3 dB of full scale.
    rate: Hz.
    caption: one sentence that describes the audio accurately.
    tags: all properties of the song; JSON-serializable.
    melody: notes, with onset and duration in seconds.
  """

  audio: np.ndarray
  rate: int
  caption: str
  tags: dict[str, Any]
  melody: list[Note]


def render(
  seed: int,
  *,
  seconds: float | None = None,
  rate: int = 24000,
  melody: "Song | list[Note] | None" = None,
  **choices: Any,
) -> Song:
  """Composes and plays a song.

  Args:
    seed: a whole number, at least 0.
    seconds: length; the form is repeated or cut to it, with a short fade. None
      plays the form of 16 bars once, with a last chord.
    rate: Hz, at least 4000.
    melody: a melody to play instead of a new one. A Song also brings its tempo,
      key, mode, meter and chords. A list of notes gets chords that fit it, in
      the chosen or the seed's tempo, key, mode and meter.
    **choices: properties to fix instead of sampling: tempo (beats per minute,
      40 to 240), speed ("slow", "mid-tempo", "fast"), key ("C", "C#", "D",
      "Eb", ...), mode ("major", "minor"), beats (in a bar: 3, 4), timbre (of
      the melody: `instruments.VOICES`), chords (a timbre, or False), bass
      ("synth", "string", or False), drums (True, False), form ("AABA", ...),
      chord_style, bass_style, drum_style, reverb (0 to 1).

  Returns:
    A Song.

  Raises:
    UserError: an unknown choice, an impossible value, or a speed and a tempo
      that contradict each other.
  """
  if rate < _MIN_RATE:
    raise UserError(f"rate must be at least {_MIN_RATE} Hz, not {rate}.")
  source = melody if isinstance(melody, Song) else None
  plan = song_plan.plan(seed, choices, source.tags if source else None)
  beat = 60 / plan["tempo"]
  tonic = composition.NAMES.index(plan["key"])
  key: dict[str, Any] = {"tonic": tonic, "mode": plan["mode"]}
  beats, form = plan["beats"], plan["form"]
  score = random_for(seed, "score")
  degrees = composition.harmony(score, plan["mode"], form)
  composed = composition.melody(score, degrees, form, beats=beats, **key)
  bars = len(degrees)
  if seconds is not None:
    if not seconds * rate >= 1:
      raise UserError(f"seconds must hold a sample, which {seconds} do not.")
    bars = math.ceil(seconds / (beat * beats))
  if melody is None:
    notes = _perform(
      _repeat(composed, len(degrees) * beats, bars * beats), seed
    )
    notes = [
      n._replace(onset=n.onset * beat, duration=n.duration * beat * 0.92)
      for n in notes
    ]
  else:
    notes = list(melody.melody if isinstance(melody, Song) else melody)
    if seconds is None:
      end = max((n.onset + n.duration for n in notes), default=beat)
      bars = max(1, math.ceil(end / (beat * beats) - 0.1))
    if source:
      degrees = list(source.tags["degrees"])
    else:
      grid = [
        n._replace(onset=n.onset / beat, duration=n.duration / beat)
        for n in notes
      ]
      degrees = composition.harmonize(grid, bars, beats=beats, **key)
  sequence = [degrees[i % len(degrees)] for i in range(bars)]
  if seconds is None and melody is None:
    # A last chord on the tonic, and a bar to let it ring.
    sequence.append(0)
    last = composition.Note(bars * beats * beat, 2 * beat, notes[-1].pitch, 0.7)
    home = 12 * round((notes[-1].pitch - tonic) / 12) + tonic
    notes.append(last._replace(pitch=home))
  length = len(sequence) * beats * beat + 1.0 if seconds is None else seconds
  notes = _within(notes, length)
  audio = _mix(seed, plan, notes, sequence, key, beat, length, rate)
  chords = [composition.chord(d, **key).name for d in sequence]
  tags = _tags(seed, plan, degrees, chords)
  return Song(audio, rate, caption(tags), tags, notes)


def _tags(
  seed: int, plan: dict[str, Any], degrees: list[int], chords: list[str]
) -> dict[str, Any]:
  return {
    **plan,
    "seed": int(seed),
    "family": instruments.VOICES[plan["timbre"]].family,
    "meter": f"{plan['beats']}/4",
    "degrees": list(degrees),
    "harmony": chords,
  }


def _repeat(notes: list[Note], period: int, beats: int) -> list[Note]:
  """Repeats a melody of `period` beats to fill `beats` beats."""
  out: list[Note] = []
  for start in range(0, math.ceil(beats), period):
    out += [n._replace(onset=n.onset + start) for n in notes]
  return [n for n in out if n.onset < beats]


def _perform(notes: list[Note], seed: int) -> list[Note]:
  """Varies timing and loudness a little, with an arch over each phrase."""
  rng = random_for(seed, "touch")
  out = []
  for n in notes:
    arch = 0.06 * math.sin(math.pi * (n.onset % 16) / 16)
    velocity = n.velocity + arch + 0.04 * rng.normal()
    onset = max(0.0, n.onset + 0.012 * float(np.clip(rng.normal(), -2, 2)))
    out.append(
      n._replace(onset=onset, velocity=round(min(1.0, max(0.3, velocity)), 3))
    )
  return out


def _within(notes: list[Note], length: float) -> list[Note]:
  """Cuts notes at the end of the song; drops those shorter than 50 ms."""
  notes = [
    n._replace(duration=min(n.duration, length - n.onset)) for n in notes
  ]
  return [n for n in notes if n.duration >= 0.05]


def _mix(
  seed: int,
  plan: dict[str, Any],
  notes: list[Note],
  sequence: list[int],
  key: dict[str, Any],
  beat: float,
  length: float,
  rate: int,
) -> np.ndarray:
  """Plays all parts and masters them: float32 `[samples, 1]`.

  Times are in seconds; `sequence` holds the degree of each bar's chord.
  """
  samples = round(length * rate)
  beats = plan["beats"]
  chords = [composition.chord(d, **key) for d in sequence]
  rng = random_for(seed, "parts")
  parts = {
    "chords": composition.accompaniment(
      rng, chords, beats=beats, style=plan["chord_style"]
    ),
    "bass": composition.bass_line(
      rng, chords, beats=beats, style=plan["bass_style"]
    ),
  }
  hits = composition.drum_hits(
    rng, len(chords), beats=beats, style=plan["drum_style"]
  )
  mix = _play(plan["timbre"], notes, samples, rate, seed)
  mix = _LEVELS["melody"] * _unit_loudness(mix, rate)
  for part, voice in (("chords", plan["chords"]), ("bass", plan["bass"])):
    if voice:
      timed = [
        n._replace(onset=n.onset * beat, duration=n.duration * beat)
        for n in parts[part]
      ]
      y = _play(voice, _within(timed, length), samples, rate, seed)
      mix += _LEVELS[part] * _unit_loudness(y, rate)
  wet = _reverb(mix, plan["reverb"], rate, seed)
  if plan["drums"]:
    y = _drums(hits, beat, samples, rate, seed)
    wet += _LEVELS["drums"] * _unit_loudness(y, rate)
  # Removes inaudible lows, limits peaks gently and fades out without a click.
  low = signal.butter(2, 2 * 28 / rate, "high", output="sos")
  y = signal.sosfilt(low, np.tanh(1.2 * wet))
  fade = min(samples, round(0.25 * rate))
  y[samples - fade :] *= 0.5 + 0.5 * np.cos(np.pi * np.arange(fade) / fade)
  y *= PEAK / max(1e-9, np.abs(y).max())
  return y.astype(np.float32)[:, None]


def _play(
  voice: str, notes: list[Note], samples: int, rate: int, seed: int
) -> np.ndarray:
  """Sums notes, rendering each pitch, length and velocity only once."""
  rng = random_for(seed, f"voice {voice}")
  out = np.zeros(samples)
  made: dict[tuple, np.ndarray] = {}
  for n in notes:
    # Rounded lengths and velocities, so that a song has few kinds of notes.
    kind = (n.pitch, max(2, round(n.duration * 50)), round(n.velocity * 6))
    if kind not in made:
      hz = 440 * 2 ** ((n.pitch - 69) / 12)
      play = instruments.BASSES.get(voice)
      play = play or instruments.VOICES[voice].play
      made[kind] = play(hz, kind[1] / 50, rate, kind[2] / 6, rng)
    y = made[kind]
    start = round(n.onset * rate)
    y = y[: samples - start]
    out[start : start + len(y)] += n.velocity**1.5 * y
  return out


def _drums(
  hits: list[tuple[float, str, float]],
  beat: float,
  samples: int,
  rate: int,
  seed: int,
) -> np.ndarray:
  rng = random_for(seed, "drums")
  out = np.zeros(samples)
  kit: dict[tuple[str, int], np.ndarray] = {}
  for at, name, velocity in hits:
    jitter = 0.003 * float(np.clip(rng.normal(), -2, 2))
    touch = 1 + 0.08 * rng.normal()
    # Two takes of every drum: a single repeated take sounds mechanical.
    take = (name, int(rng.integers(2)))
    if take not in kit:
      own = random_for(seed, f"drum {take}")
      kit[take] = instruments.drum(name, rate, own)
    start = max(0, round((at * beat + jitter) * rate))
    y = kit[take][: max(0, samples - start)]
    out[start : start + len(y)] += velocity * touch * y
  return out


def _unit_loudness(y: np.ndarray, rate: int) -> np.ndarray:
  """Scales the parts that are not silent to a root mean square of 1."""
  size = max(1, rate // 20)
  blocks = y[: len(y) // size * size].reshape(-1, size)
  power = np.mean(blocks**2, axis=1) if len(blocks) else np.array([0.0])
  loud = power[power > 1e-3 * power.max()] if power.max() > 0 else power
  return y / max(1e-9, math.sqrt(loud.mean()) if len(loud) else 0.0)


def _reverb(y: np.ndarray, amount: float, rate: int, seed: int) -> np.ndarray:
  """Adds the reverb of a small to medium room: decaying dark noise."""
  if not amount:
    return y.copy()
  rng = random_for(seed, "room")
  n = round((0.4 + 1.2 * amount) * rate)
  t = np.arange(n) / rate
  tail = rng.normal(size=n) * np.exp(-6.9 * t / t[-1])
  tail *= np.minimum(1, t / 0.01)
  tail = signal.lfilter(*signal.butter(1, min(0.9, 2 * 3500 / rate)), tail)
  tail *= 0.45 * amount / math.sqrt(np.sum(tail**2))
  return y + signal.oaconvolve(y, tail)[: len(y)]
