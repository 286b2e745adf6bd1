"""The plan of a song of the built-in music: tempo, key, form, instruments."""

from typing import Any

import numpy as np

from mmdcodec.audio import composition, instruments
from mmdcodec.audio.composition import random_for
from mmdcodec.errors import UserError

# Beats per minute.
TEMPOS = {"slow": (60, 84), "mid-tempo": (88, 116), "fast": (120, 168)}
STYLES = {
  "chord_style": ("held", "pulse", "broken"),
  "bass_style": ("roots", "eighths", "walking"),
  "drum_style": ("rock", "dance", "soft"),
}


def plan(
  seed: int,
  choices: dict[str, Any],
  melody_tags: dict[str, Any] | None = None,
) -> dict[str, Any]:
  """Samples all properties of a song, then replaces those that were chosen.

  Every property is sampled whether it is chosen or not, so that a choice does
  not change the others.

  Args:
    seed: a whole number, at least 0.
    choices: see `synth.render`; None values count as not given.
    melody_tags: tags of the song whose melody is played, if any.

  Raises:
    UserError: an unknown choice, an impossible value, or a contradiction.
  """
  rng = random_for(seed, "plan")
  names, voices = composition.NAMES, tuple(instruments.VOICES)
  plan: dict[str, Any] = {
    "speed": str(rng.choice(list(TEMPOS))),
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
  for name, options in STYLES.items():
    plan[name] = options[rng.integers(len(options))]
  for part, odds in (("chords", 0.85), ("bass", 0.85)):
    plan[part] = plan[part] if rng.random() < odds else False
  place_in_range = rng.random()
  fixed = {k: v for k, v in choices.items() if v is not None}
  if melody_tags is not None:
    inherited = ("tempo", "speed", "key", "mode", "beats", "form")
    plan.update({name: melody_tags[name] for name in inherited})
    for name in inherited[:5]:
      if fixed.get(name, plan[name]) != plan[name]:
        raise UserError(
          f"the melody of a Song keeps its {name} ({plan[name]}); pass a list"
          f" of notes to choose another."
        )
  if fixed.get("bass") is True:
    fixed["bass"] = plan["bass"] or "synth"
  if fixed.get("chords") is True:
    fixed["chords"] = plan["chords"] or "keys"
  allowed: dict[str, tuple] = {
    "speed": tuple(TEMPOS),
    "key": names,
    "mode": ("major", "minor"),
    "beats": (3, 4),
    "timbre": voices,
    "chords": (False, *voices),
    "bass": (False, *instruments.BASSES),
    "drums": (True, False),
    "form": composition.FORMS,
    **STYLES,
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
    low, high = TEMPOS[plan["speed"]]
    plan["tempo"] = int(low + place_in_range * (high - low) + 0.5)
  tempo = plan["tempo"]
  speed = "slow" if tempo < 86 else "mid-tempo" if tempo < 118 else "fast"
  if fixed.get("speed", speed) != speed:
    raise UserError(
      f"a tempo of {tempo} is {speed}, not {fixed['speed']}; give only one of"
      " speed and tempo."
    )
  plan["speed"] = speed
  return plan


def balanced(seed: int, songs: int) -> list[dict[str, Any]]:
  """Chooses traits so that each of their values is as frequent as the others.

  The traits do not depend on each other: with and without drums, with and
  without bass, three speeds, four families of the melody's instrument.

  Args:
    seed: a whole number, at least 0.
    songs: number of songs.

  Returns:
    Choices of each song for `plan`.
  """
  rng = random_for(seed, "balanced")
  families: dict[str, list[str]] = {}
  for name, voice in instruments.VOICES.items():
    families.setdefault(voice.family, []).append(name)

  def spread(values: list[Any]) -> list[Any]:
    at = rng.permutation(np.arange(songs) % len(values))
    return [values[i] for i in at]

  columns = {
    "drums": spread([True, False]),
    "bass": spread([True, False]),
    "speed": spread([*TEMPOS]),
    "timbre": [
      str(rng.choice(families[family])) for family in spread([*families])
    ],
  }
  return [
    {name: column[i] for name, column in columns.items()} for i in range(songs)
  ]
