"""Built-in music: songs with captions that are true, from a seed alone.

`render(seed)` composes a song (`composition.py`), plays it (`instruments.py`)
and says what it did (`captions.py`). Nothing is downloaded, and a seed gives
the same song everywhere (to the last bits of the libraries' sines). What is
drawn for one thing does not depend on what is asked for another: with
`timbre="fm"` or `drums=False` the seed's tune stays as it was.
"""

import contextlib
import json
import math
import os
import queue
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
from scipy import signal

from mmdcodec.audio import composition, instruments
from mmdcodec.audio.composition import Note, stream
from mmdcodec.audio.song_captions import caption
from mmdcodec.errors import UserError
from mmdcodec.platform import cpus
from mmdcodec.store import atomic

PEAK = 10 ** (-3 / 20)  # -3 dB of full scale

_TEMPOS = {"slow": (60, 84), "mid-tempo": (88, 116), "fast": (120, 168)}
_STYLES = {
  "chord_style": ("held", "pulse", "broken"),
  "bass_style": ("roots", "eighths", "walking"),
  "drum_style": ("rock", "dance", "soft"),
}
# Loudness of the parts (root mean square, before the final peak).
_LEVELS = {"melody": 0.13, "chords": 0.06, "bass": 0.09, "drums": 0.08}


class Song(NamedTuple):
  """A rendered song.

  Attributes:
    audio: float32 `[samples, 1]`, peak at -3 dB of full scale.
    rate: Hz.
    caption: one sentence, true of the audio.
    tags: what the caption is made of, and more; JSON-able.
    melody: list of `Note`: seconds, seconds, MIDI pitch, velocity.
  """

  audio: np.ndarray
  rate: int
  caption: str
  tags: dict
  melody: list


def render(
  seed: int,
  *,
  seconds: float | None = None,
  rate: int = 24000,
  melody: "Song | list[Note] | None" = None,
  **choices,
) -> Song:
  """Composes and plays a song.

  Args:
    seed: a whole number, at least 0.
    seconds: length; the form is repeated or cut (with a short fade) to it.
      None plays the form of 16 bars once, with a last chord.
    rate: Hz.
    melody: plays this tune instead of composing one. A Song also gives its
      tempo, key, mode, meter and chords; a list of notes is taken to be in
      the seed's unless those are among the choices, and gets chords that fit.
    **choices: fixed instead of drawn: tempo (beats per minute, 40 to 240),
      speed ("slow", "mid-tempo", "fast"), key ("C", "C#", "D", "Eb", ...),
      mode ("major", "minor"), beats (in a bar: 3, 4), timbre (of the melody:
      `instruments.VOICES`), chords (a timbre, or False), bass ("synth",
      "string", or False), drums (True, False), form ("AABA", ...),
      chord_style, bass_style, drum_style, reverb (0 to 1).

  Returns:
    A Song.

  Raises:
    UserError: an unknown choice, a value that is not possible, or a speed and
      a tempo that contradict each other.
  """
  plan = _plan(seed, melody, choices)
  beat = 60 / plan["tempo"]
  tonic = composition.NAMES.index(plan["key"])
  where = {"tonic": tonic, "mode": plan["mode"]}
  beats, form = plan["beats"], plan["form"]
  score = stream(seed, "score")
  degrees = composition.harmony(score, plan["mode"], form)
  tune = composition.melody(score, degrees, form, beats=beats, **where)
  bars = len(degrees)
  if seconds is not None:
    if not seconds > 0:
      raise UserError(f"seconds must be more than 0, not {seconds}.")
    bars = math.ceil(seconds / (beat * beats))
  if melody is None:
    notes = _perform(_repeat(tune, len(degrees) * beats, bars * beats), seed)
    notes = [
      n._replace(onset=n.onset * beat, duration=n.duration * beat * 0.92)
      for n in notes
    ]
  else:
    notes = list(melody.melody if isinstance(melody, Song) else melody)
    if seconds is None:
      end = max((n.onset + n.duration for n in notes), default=beat)
      bars = max(1, math.ceil(end / (beat * beats) - 0.1))
    if isinstance(melody, Song):
      degrees = list(melody.tags["degrees"])
    else:
      grid = [
        n._replace(onset=n.onset / beat, duration=n.duration / beat)
        for n in notes
      ]
      degrees = composition.harmonize(grid, bars, beats=beats, **where)
  sequence = [degrees[i % len(degrees)] for i in range(bars)]
  if seconds is None and melody is None:
    # Home, and a bar to ring in.
    sequence.append(0)
    last = composition.Note(bars * beats * beat, 2 * beat, notes[-1].pitch, 0.7)
    home = 12 * round((notes[-1].pitch - tonic) / 12) + tonic
    notes.append(last._replace(pitch=home))
  length = len(sequence) * beats * beat + 1.0 if seconds is None else seconds
  notes = _within(notes, length)
  audio = _mix(seed, plan, notes, sequence, where, beat, length, rate)
  chords = [composition.chord(d, **where).name for d in sequence]
  tags = _tags(seed, plan, degrees, chords)
  return Song(audio, rate, caption(tags), tags, notes)


def write_songs(
  folder: str | os.PathLike,
  *,
  songs: int,
  seconds: float | None = 20.0,
  rate: int = 24000,
  seed: int = 0,
  workers: int | None = None,
  progress: Callable[[int, int], None] | None = None,
  **choices,
) -> list[Path]:
  """Renders songs into `song_00000.flac`, ... each with its `.json`.

  The sidecar holds `{"caption", "tags", "_request"}` and is written after its
  song: a run that was stopped goes on with the songs that lack one, or were
  made for another request (seed, seconds, rate and choices).

  Args:
    folder: made if it does not exist.
    songs: how many.
    seconds: length of each; None is one form each.
    rate: Hz.
    seed: of the set; sets of different seeds share no song.
    workers: processes; None is one per CPU, 1 renders in this process.
    progress: called with (songs done, songs) after each.
    **choices: see `render`.

  Returns:
    Paths of the songs.

  Raises:
    UserError: see `render`; or a process that renders songs ended early.
  """
  _plan(seed, None, choices)
  folder = Path(folder)
  folder.mkdir(parents=True, exist_ok=True)
  jobs = []
  for i in range(songs):
    own = int(np.random.SeedSequence([seed, i]).generate_state(1)[0])
    path = folder / f"song_{i:05d}.flac"
    jobs.append((path, own, seconds, rate, choices))
  missing = [job for job in jobs if not _is_written(*job)]
  report = progress or (lambda done, songs: None)
  written = songs - len(missing)
  report(written, songs)
  workers = min(workers or cpus(), len(missing))
  if workers <= 1:
    for i, job in enumerate(missing, 1):
      _write_song(*job)
      report(written + i, songs)
  else:
    for i, _ in enumerate(_in_processes(missing, workers), 1):
      report(written + i, songs)
  return [job[0] for job in jobs]


def _in_processes(jobs, workers):
  """Runs `_write_song` in other processes; yields after each song.

  Not multiprocessing: forked children would inherit the locks of the threads
  that JAX holds, and spawned ones run the caller's script a second time.
  """
  code = "from mmdcodec.audio import synth; synth._serve()"
  command = [sys.executable, "-c", code]
  env = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
  finished, pool = queue.Queue(), []

  def follow(process):
    for line in process.stdout:
      finished.put(line)
    finished.put(process)

  try:
    for i in range(workers):
      process = subprocess.Popen(
        command,
        env=env,
        text=True,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
      )
      pool.append(process)
      share = [(str(path), *rest) for path, *rest in jobs[i::workers]]
      # One that died already is noticed by its exit status.
      with contextlib.suppress(BrokenPipeError):
        process.stdin.write(json.dumps(share))
        process.stdin.close()
      threading.Thread(target=follow, args=(process,), daemon=True).start()
    running, made = workers, 0
    while running:
      item = finished.get()
      if isinstance(item, str):
        made += 1
        yield item
      else:
        running -= 1
        status = item.wait()
        if status or not running and made < len(jobs):
          raise UserError(
            f"a process that renders songs ended early, with status {status},"
            f" when {made} of {len(jobs)} were made (-9 is what a lack of"
            " memory leads to); run it again to go on, with fewer workers."
          )
  finally:
    for process in pool:
      if process.poll() is None:
        process.kill()
      process.wait()


def _serve():
  """What a process of `_in_processes` does."""
  for path, *rest in json.load(sys.stdin):
    _write_song(Path(path), *rest)
    print(path, flush=True)


def _write_song(path, seed, seconds, rate, choices):
  from mmdcodec.audio import files

  song = render(seed, seconds=seconds, rate=rate, **choices)
  files.write(path, song.audio, rate=rate)
  request = _request(seed, seconds, rate, choices)
  sidecar = {"caption": song.caption, "tags": song.tags, "_request": request}
  atomic.write_json(path.with_suffix(".json"), sidecar, indent=1)


def _is_written(path, seed, seconds, rate, choices):
  from mmdcodec.audio import files

  try:
    made_for = json.loads(path.with_suffix(".json").read_text())["_request"]
    files.info(path)
  except (OSError, ValueError, KeyError, TypeError, UserError):
    return False
  return made_for == _request(seed, seconds, rate, choices)


def _request(seed, seconds, rate, choices) -> dict:
  """All that a song depends on, as it comes back from JSON."""
  choices = {k: v for k, v in sorted(choices.items()) if v is not None}
  request = {"seed": seed, "seconds": seconds, "rate": rate, **choices}
  return json.loads(json.dumps(request, default=str))


def _plan(seed, melody, choices) -> dict:
  """Draws everything, then puts the choices in place of what was drawn."""
  rng = stream(seed, "plan")
  names, voices = composition.NAMES, tuple(instruments.VOICES)
  plan = {
    "speed": str(rng.choice(list(_TEMPOS))),
    "key": names[rng.integers(12)],
    "mode": ("major", "minor")[rng.integers(2)],
    "beats": 3 if rng.random() < 0.15 else 4,
    "timbre": voices[rng.integers(len(voices))],
    "chords": instruments.CHORD_VOICES[rng.integers(5)],
    "bass": ("synth", "string")[rng.integers(2)],
    "drums": bool(rng.random() < 0.7),
    "form": composition.FORMS[rng.integers(len(composition.FORMS))],
    "reverb": round(float(rng.uniform(0.1, 0.5)), 2),
  }
  for name, options in _STYLES.items():
    plan[name] = options[rng.integers(len(options))]
  for part, odds in (("chords", 0.85), ("bass", 0.85)):
    plan[part] = plan[part] if rng.random() < odds else False
  where_in_range = rng.random()
  fixed = {k: v for k, v in choices.items() if v is not None}
  if isinstance(melody, Song):
    known = ("tempo", "speed", "key", "mode", "beats", "form")
    plan.update({name: melody.tags[name] for name in known})
    for name in known[:5]:
      if fixed.get(name, plan[name]) != plan[name]:
        raise UserError(
          f"the melody of a Song keeps its {name} ({plan[name]}); pass a list"
          f" of notes to choose another."
        )
  if fixed.get("bass") is True:
    fixed["bass"] = plan["bass"] or "synth"
  if fixed.get("chords") is True:
    fixed["chords"] = plan["chords"] or "keys"
  allowed = {
    "speed": tuple(_TEMPOS),
    "key": names,
    "mode": ("major", "minor"),
    "beats": (3, 4),
    "timbre": voices,
    "chords": (False, *voices),
    "bass": (False, *instruments.BASSES),
    "drums": (True, False),
    "form": composition.FORMS,
    **_STYLES,
  }
  for name, value in fixed.items():
    if name in ("tempo", "reverb"):
      low, high = (40, 240) if name == "tempo" else (0, 1)
      if isinstance(value, str) or not low <= value <= high:
        raise UserError(f"{name} must be from {low} to {high}, not {value}.")
    elif name not in allowed:
      known = ", ".join([*allowed, "tempo", "reverb"])
      raise UserError(f"unknown choice {name!r}; the choices are {known}.")
    elif value not in allowed[name]:
      options = ", ".join(map(str, allowed[name]))
      raise UserError(f"{name} must be one of {options}, not {value!r}.")
  plan.update(fixed)
  if "tempo" not in plan:
    low, high = _TEMPOS[plan["speed"]]
    plan["tempo"] = int(low + where_in_range * (high - low) + 0.5)
  tempo = plan["tempo"]
  speed = "slow" if tempo < 86 else "mid-tempo" if tempo < 118 else "fast"
  if fixed.get("speed", speed) != speed:
    raise UserError(
      f"a tempo of {tempo} is {speed}, not {fixed['speed']}; give only one of"
      " speed and tempo."
    )
  plan["speed"] = speed
  return plan


def _tags(seed, plan, degrees, chords) -> dict:
  return {
    **plan,
    "seed": int(seed),
    "family": instruments.VOICES[plan["timbre"]].family,
    "meter": f"{plan['beats']}/4",
    "degrees": list(degrees),
    "harmony": chords,
  }


def _repeat(notes, period, beats):
  """Repeats a tune of `period` beats until `beats` are full."""
  out = []
  for start in range(0, math.ceil(beats), period):
    out += [n._replace(onset=n.onset + start) for n in notes]
  return [n for n in out if n.onset < beats]


def _perform(notes, seed):
  """Human timing and touch: some milliseconds, some loudness, an arch."""
  rng = stream(seed, "touch")
  out = []
  for n in notes:
    arch = 0.06 * math.sin(math.pi * (n.onset % 16) / 16)
    velocity = n.velocity + arch + 0.04 * rng.normal()
    onset = max(0.0, n.onset + 0.012 * float(np.clip(rng.normal(), -2, 2)))
    out.append(
      n._replace(onset=onset, velocity=round(min(1.0, max(0.3, velocity)), 3))
    )
  return out


def _within(notes, length):
  """Notes of at least 50 ms inside of the song."""
  notes = [
    n._replace(duration=min(n.duration, length - n.onset)) for n in notes
  ]
  return [n for n in notes if n.duration >= 0.05]


def _mix(seed, plan, notes, sequence, where, beat, length, rate):
  """All parts, reverb, and the last touches; float32 `[samples, 1]`."""
  samples = round(length * rate)
  beats = plan["beats"]
  chords = [composition.chord(d, **where) for d in sequence]
  rng = stream(seed, "parts")
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
  # Nothing below hearing, gently limited peaks, no click at either end.
  low = signal.butter(2, 2 * 28 / rate, "high", output="sos")
  y = signal.sosfilt(low, np.tanh(1.2 * wet))
  fade = min(samples, round(0.25 * rate))
  y[samples - fade :] *= 0.5 + 0.5 * np.cos(np.pi * np.arange(fade) / fade)
  y *= PEAK / max(1e-9, np.abs(y).max())
  return y.astype(np.float32)[:, None]


def _play(voice, notes, samples, rate, seed):
  """Adds up notes; equal ones (pitch, length, touch) are made once."""
  rng = stream(seed, f"voice {voice}")
  out = np.zeros(samples)
  made = {}
  for n in notes:
    # Steps of 20 ms and three touches: a song has few different notes.
    key = (n.pitch, max(2, round(n.duration * 50)), round(n.velocity * 6))
    if key not in made:
      hz = 440 * 2 ** ((n.pitch - 69) / 12)
      play = instruments.BASSES.get(voice)
      play = play or instruments.VOICES[voice].play
      made[key] = play(hz, key[1] / 50, rate, key[2] / 6, rng)
    y = made[key]
    start = round(n.onset * rate)
    y = y[: samples - start]
    out[start : start + len(y)] += n.velocity**1.5 * y
  return out


def _drums(hits, beat, samples, rate, seed):
  rng = stream(seed, "drums")
  out = np.zeros(samples)
  kit = {}
  for at, name, velocity in hits:
    jitter = 0.003 * float(np.clip(rng.normal(), -2, 2))
    touch = 1 + 0.08 * rng.normal()
    # Two takes of every drum: the same sample twice in a row is a machine.
    take = (name, int(rng.integers(2)))
    if take not in kit:
      own = stream(seed, f"drum {take}")
      kit[take] = instruments.drum(name, rate, own)
    start = max(0, round((at * beat + jitter) * rate))
    y = kit[take][: max(0, samples - start)]
    out[start : start + len(y)] += velocity * touch * y
  return out


def _unit_loudness(y, rate):
  """Scales to a root mean square of 1 over what sounds."""
  size = max(1, rate // 20)
  blocks = y[: len(y) // size * size].reshape(-1, size)
  power = np.mean(blocks**2, axis=1) if len(blocks) else np.array([0.0])
  loud = power[power > 1e-3 * power.max()] if power.max() > 0 else power
  return y / max(1e-9, math.sqrt(loud.mean()) if len(loud) else 0.0)


def _reverb(y, amount, rate, seed):
  """A small to middling room: noise that dies away, dark, after the sound."""
  if not amount:
    return y.copy()
  rng = stream(seed, "room")
  n = round((0.4 + 1.2 * amount) * rate)
  t = np.arange(n) / rate
  tail = rng.normal(size=n) * np.exp(-6.9 * t / t[-1])
  tail *= np.minimum(1, t / 0.01)
  tail = signal.lfilter(*signal.butter(1, min(0.9, 2 * 3500 / rate)), tail)
  tail *= 0.45 * amount / math.sqrt(np.sum(tail**2))
  return y + signal.oaconvolve(y, tail)[: len(y)]
