"""Instruments and drums of the built-in music: each note as samples.

A voice is a function `(hz, held, rate, velocity, rng) -> float64 [samples]`. It
plays a key held for `held` seconds and then released, with peak 1, ending at 0.
Velocity (0 to 1) sets the brightness; the caller sets the loudness. Harmonics
that would alias are left out.

Tones are synthesized in four ways: additive (sums of harmonics), plucked string
(Karplus and Strong 1983), FM (Chowning 1973) and resonated noise.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from scipy import signal


class Voice(NamedTuple):
  """A timbre: its function, its family, and its names in captions."""

  play: Callable[..., np.ndarray]
  family: str
  names: tuple[str, ...]


def envelope(
  held: float,
  rate: int,
  *,
  attack: float,
  release: float,
  decay: float = 0.1,
  sustain: float = 0.8,
) -> np.ndarray:
  """Envelope of attack, decay, sustain and release.

  The attack is linear, the decay exponential and the release a raised cosine,
  to avoid clicks.

  Args:
    held: seconds until the release.
    rate: Hz.
    attack: seconds.
    release: seconds.
    decay: seconds.
    sustain: level that the decay approaches.

  Returns:
    float64 `[samples]`, ending at 0.
  """
  n = max(8, round(held * rate))
  t = np.arange(n) / rate
  e = sustain + (1 - sustain) * np.exp(-np.maximum(t - attack, 0) / decay)
  e *= np.minimum(1, t / attack)
  m = max(8, round(release * rate))
  return np.append(e, e[-1] * (0.5 + 0.5 * np.cos(np.pi * np.arange(m) / m)))


def harmonics(
  phase: np.ndarray,
  amplitudes: Sequence[float],
  fade: np.ndarray | None = None,
) -> np.ndarray:
  """Sum of sin(k phase) by the Chebyshev recurrence.

  Args:
    phase: radians of the fundamental `[samples]`.
    amplitudes: amplitudes of harmonics 1, 2, ...
    fade: `[samples]`; harmonic k is multiplied by fade ** (k - 1), so that
      upper harmonics decay first, as in struck and plucked strings.

  Returns:
    float64 `[samples]`.
  """
  twice = 2 * np.cos(phase)
  before, now = np.zeros_like(phase), np.sin(phase)
  y, gain = amplitudes[0] * now, fade
  for amplitude in amplitudes[1:]:
    before, now = now, twice * now - before
    y += amplitude * now if gain is None else amplitude * gain * now
    gain = None if gain is None or fade is None else gain * fade
  return y


def _phase(
  hz: float, n: int, rate: int, vibrato: float = 0.0, speed: float = 5.0
) -> np.ndarray:
  t = np.arange(n) / rate
  phase = 2 * np.pi * hz * t
  if vibrato:
    # Vibrato grows during the first quarter of a second; depth in semitones.
    depth = hz * vibrato / 17 / speed * np.minimum(1, t / 0.25)
    phase += depth * np.sin(2 * np.pi * speed * t)
  return phase


def _below_nyquist(
  amplitudes: Sequence[float] | np.ndarray, hz: float, rate: int
) -> list[float]:
  return list(amplitudes)[: max(1, int(0.45 * rate / hz))]


def _peak(y: np.ndarray) -> np.ndarray:
  return y / max(1e-9, np.abs(y).max())


def organ(
  hz: float, held: float, rate: int, velocity: float, rng: np.random.Generator
) -> np.ndarray:
  """Additive: drawbars, no decay."""
  e = envelope(held, rate, attack=0.02, release=0.09, sustain=1.0)
  bars = [1, 0.7, 0.5, 0.35, 0.1, 0.25 * velocity, 0.05, 0.2 * velocity]
  phase = _phase(hz, len(e), rate, vibrato=0.08, speed=6.3)
  return _peak(e * harmonics(phase, _below_nyquist(bars, hz, rate)))


def flute(
  hz: float, held: float, rate: int, velocity: float, rng: np.random.Generator
) -> np.ndarray:
  """Additive: few harmonics, vibrato and a little breath."""
  e = envelope(held, rate, attack=0.05, release=0.1, sustain=0.85)
  tone = harmonics(
    _phase(hz, len(e), rate, vibrato=0.2, speed=5.1),
    _below_nyquist([1, 0.3 * velocity + 0.1, 0.1, 0.04], hz, rate),
  )
  b, a = signal.butter(1, [0.3 * 2 * 3000 / rate, 0.8], "band")
  breath = signal.lfilter(b, a, rng.normal(size=len(e)))
  return _peak(e * (tone + 0.03 * breath))


def strings(
  hz: float, held: float, rate: int, velocity: float, rng: np.random.Generator
) -> np.ndarray:
  """Additive: two detuned sawtooth-like sections, slow attack, vibrato."""
  attack = min(0.12, 0.4 * held)
  e = envelope(held, rate, attack=attack, release=0.22, sustain=0.9)
  k = np.arange(1, 15)
  bars = _below_nyquist(
    np.exp(-k * (0.28 - 0.12 * velocity)) / k**0.6, hz, rate
  )
  y = harmonics(_phase(hz * 1.002, len(e), rate, 0.18, 5.4), bars)
  y += harmonics(_phase(hz * 0.998, len(e), rate, 0.15, 4.7) + 1.0, bars)
  return _peak(e * y)


def keys(
  hz: float, held: float, rate: int, velocity: float, rng: np.random.Generator
) -> np.ndarray:
  """Additive: two slowly beating strings whose high harmonics decay first."""
  e = envelope(
    held, rate, attack=0.004, release=0.15, decay=0.9 * (220 / hz) ** 0.4 + 0.1
  )
  e *= np.linspace(1, 0.6, len(e))
  k = np.arange(1, 13)
  bars = _below_nyquist(k ** -(1.6 - 0.7 * velocity), hz, rate)
  fade = np.exp(-np.arange(len(e)) / rate * 1.1)
  y = harmonics(_phase(hz, len(e), rate), bars, fade)
  y += 0.6 * harmonics(_phase(hz * 1.0007, len(e), rate), bars, fade)
  return _peak(e * y)


def pluck(
  hz: float,
  held: float,
  rate: int,
  velocity: float,
  rng: np.random.Generator,
  ring: float = 1.8,
  damping: float = 0.3,
) -> np.ndarray:
  """Plucked string: noise circulates in a loop of one period and loses highs.

  The loop is one recursive filter. Its taps are a lowpass
  [1 - damping, damping], which delays by `damping` samples, and a linear
  interpolation for the rest of the period, which keeps it in tune.
  """
  release = 0.12
  n = round((held + release) * rate)
  period = rate / hz
  delay = int(period - damping)
  rest = period - damping - delay
  gain = 10 ** (-3 * period / rate / (ring * (220 / hz) ** 0.5))
  loop = np.convolve([1 - damping, damping], [1 - rest, rest])
  a = np.zeros(delay + 3)
  a[0], a[delay:] = 1, -gain * loop
  burst = rng.uniform(-1, 1, delay)
  # A harder pluck is brighter. The plucked position acts as a comb filter.
  burst = signal.lfilter([1], [1, -(0.85 - 0.6 * velocity)], burst)
  burst -= np.roll(burst, max(1, delay // 5))
  x = np.zeros(n)
  x[:delay] = (burst - burst.mean())[:n]
  y = signal.lfilter([1], a, x)
  return _peak(y * _lift(n, rate, release))


def electric(
  hz: float, held: float, rate: int, velocity: float, rng: np.random.Generator
) -> np.ndarray:
  """FM electric piano: a mellow body and a tine that fades quickly."""
  e = envelope(held, rate, attack=0.003, release=0.15, decay=0.7, sustain=0.25)
  t = np.arange(len(e)) / rate
  phase = 2 * np.pi * hz * t
  body = np.sin(
    phase + (0.4 + 1.4 * velocity) * np.exp(-t / 0.5) * np.sin(phase)
  )
  tine_ratio = max(1, min(14, int(0.3 * rate / hz)))
  tine = np.sin(phase + 0.4 * np.exp(-t / 0.08) * np.sin(tine_ratio * phase))
  return _peak(e * (body + 0.35 * velocity * tine))


def bell(
  hz: float, held: float, rate: int, velocity: float, rng: np.random.Generator
) -> np.ndarray:
  """FM bell: an inharmonic strike, then a long, nearly pure tone."""
  e = envelope(
    held + 0.3, rate, attack=0.002, release=0.3, decay=0.5, sustain=0.05
  )
  t = np.arange(len(e)) / rate
  index = min(1.0, 0.1 * rate / hz / 3.5) * (0.6 + 1.2 * velocity)
  strike = index * np.exp(-t / 0.12) * np.sin(2 * np.pi * 3.5 * hz * t)
  return _peak(e * np.sin(2 * np.pi * hz * t + strike))


def brass(
  hz: float, held: float, rate: int, velocity: float, rng: np.random.Generator
) -> np.ndarray:
  """FM brass: the modulation index follows the loudness."""
  attack = min(0.07, 0.3 * held)
  e = envelope(
    held, rate, attack=attack, release=0.09, decay=0.15, sustain=0.75
  )
  phase = _phase(hz, len(e), rate, vibrato=0.1, speed=5.6)
  index = min(1.2 + 2.4 * velocity, 0.35 * rate / hz)
  return _peak(e * np.sin(phase + index * e * np.sin(phase)))


def wind(
  hz: float, held: float, rate: int, velocity: float, rng: np.random.Generator
) -> np.ndarray:
  """Noise through sharp resonances at the first three harmonics."""
  e = envelope(held, rate, attack=0.05, release=0.15, sustain=0.9)
  noise = rng.normal(size=len(e) + rate // 20)
  y: Any = 0.0
  for k, gain in ((1, 1.0), (2, 0.35 + 0.3 * velocity), (3, 0.15)):
    if k * hz < 0.45 * rate:
      # Two poles: bandwidth of 1% of the frequency, at least 6 Hz.
      r = np.exp(-np.pi * max(6.0, 0.01 * hz) / rate)
      w = 2 * np.pi * k * hz / rate
      tone = signal.lfilter([1, 0, -1], [1, -2 * r * np.cos(w), r * r], noise)
      y = y + gain * tone / tone.std()
  y = y[-len(e) :] + 0.08 * noise[-len(e) :]
  return _peak(e * y)


def bass_synth(
  hz: float, held: float, rate: int, velocity: float, rng: np.random.Generator
) -> np.ndarray:
  """Additive bass: a sawtooth that darkens while it sounds."""
  e = envelope(held, rate, attack=0.006, release=0.05, decay=0.3, sustain=0.7)
  k = np.arange(1, 17)
  bars = _below_nyquist(1 / k ** (1.3 - 0.3 * velocity), hz, rate)
  fade = 0.75 + 0.2 * np.exp(-np.arange(len(e)) / rate / 0.2)
  return _peak(e * harmonics(_phase(hz, len(e), rate), bars, fade))


def bass_pluck(
  hz: float, held: float, rate: int, velocity: float, rng: np.random.Generator
) -> np.ndarray:
  """Plucked bass string, dark and long."""
  y = pluck(hz, held, rate, 0.5 * velocity, rng, ring=2.5, damping=0.5)
  low = signal.butter(1, min(0.9, 2 * 900 / rate))
  return _peak(signal.lfilter(*low, y))


def _lift(n: int, rate: int, release: float) -> np.ndarray:
  """An envelope with a short linear attack and a raised-cosine release."""
  e = np.ones(n)
  m = min(n, round(release * rate))
  e[n - m :] = 0.5 + 0.5 * np.cos(np.pi * np.arange(m) / m)
  m = min(n, max(1, round(0.001 * rate)))
  e[:m] *= np.arange(m) / m
  return e


VOICES = {
  "organ": Voice(organ, "additive", ("an organ", "a drawbar organ")),
  "flute": Voice(flute, "additive", ("a flute-like tone", "a breathy flute")),
  "strings": Voice(
    strings, "additive", ("bowed synth strings", "a synth string section")
  ),
  "keys": Voice(keys, "additive", ("piano-like keys", "a synthetic piano")),
  "pluck": Voice(
    pluck, "plucked", ("plucked strings", "a plucked string, guitar-like")
  ),
  "fm": Voice(electric, "fm", ("an FM electric piano", "electric piano tones")),
  "bell": Voice(bell, "fm", ("FM bells", "bell tones")),
  "brass": Voice(brass, "fm", ("FM synth brass", "a brassy synthesizer")),
  "wind": Voice(wind, "noise", ("whistling noise", "windy, airy noise tones")),
}

# Voices whose chords do not mask the melody.
CHORD_VOICES = ("organ", "strings", "keys", "pluck", "fm")
BASSES = {"synth": bass_synth, "string": bass_pluck}


def drum(name: str, rate: int, rng: np.random.Generator) -> np.ndarray:
  """Returns one hit of kick, snare, hat, open, clap or crash; peak 1."""
  seconds = {
    **{"kick": 0.35, "snare": 0.25, "hat": 0.09},
    **{"open": 0.35, "clap": 0.25, "crash": 1.4},
  }
  n = round(seconds[name] * rate)
  t = np.arange(n) / rate
  noise = rng.normal(size=n)
  if name == "kick":
    sweep = 48 * t + 90 * 0.03 * (1 - np.exp(-t / 0.03))
    y = np.sin(2 * np.pi * sweep) * np.exp(-t / 0.11)
    y += 0.15 * noise * np.exp(-t / 0.004)
  elif name == "snare":
    bright = _highpass(noise, 1200, rate) * np.exp(-t / 0.07)
    y = 0.8 * np.sin(2 * np.pi * 185 * t) * np.exp(-t / 0.05) + bright
  elif name == "clap":
    claps = sum(
      np.exp(-np.maximum(t - d, 0) / w) * (t >= d)
      for d, w in ((0, 0.006), (0.011, 0.006), (0.022, 0.06))
    )
    y = _highpass(noise, 900, rate) * claps
  elif name == "crash":
    y = _highpass(noise, 3500, rate) * np.exp(-t / 0.4)
  else:
    y = _highpass(noise, 6500, rate)
    y *= np.exp(-t / (0.02 if name == "hat" else 0.1))
  return _peak(y * _lift(n, rate, 0.02))


def _highpass(x: np.ndarray, hz: float, rate: int) -> np.ndarray:
  return signal.lfilter(*signal.butter(2, min(0.8, 2 * hz / rate), "high"), x)
