"""Built-in music in which melodies return with other instruments.

A group has several melodies that share tempo, key, mode and meter, and each of
them is played in several settings: other instruments, accompaniment, drums and
room. So within a group only the melody and its chords tell the songs of one
setting apart.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from mmdcodec.audio import instruments, song_plan, synth

MELODIES, SETTINGS = 4, 2
# What the melodies of a group share, and what a setting is.
_MUSIC = ("tempo", "key", "mode", "beats", "form")
_SETTING = (
  *("timbre", "chords", "bass", "drums", "reverb"),
  *song_plan.STYLES,
)
# Seeds of one group lie together; those of different evaluations do not meet.
_STRIDE = 1000
# Notes are composed at any rate; a low one is fast.
_NOTES_RATE = 4000


class Played(NamedTuple):
  """A melody in a setting.

  Attributes:
    audio: float32 [samples, 1].
    rate: Hz.
    tags: properties of the song, see `synth.Song`.
  """

  audio: np.ndarray
  rate: int
  tags: dict[str, Any]


# groups x melodies x settings
Groups = list[list[list[Played]]]


def render(
  groups: int,
  *,
  seconds: float,
  rate: int = 24000,
  seed: int = 0,
  show: Callable[[int, int], None] = lambda done, total: None,
) -> Groups:
  """Renders groups of melodies in several settings.

  Args:
    groups: number of groups, which share nothing.
    seconds: length of each song.
    rate: Hz.
    seed: seed of all; other seeds give other groups.
    show: called with (songs done, total).
  """
  found, done, total = [], 0, groups * MELODIES * SETTINGS
  show(done, total)
  for group in range(groups):
    start = (seed * 10_000 + group + 1) * _STRIDE
    plan = song_plan.plan(start, {})
    music = {name: plan[name] for name in _MUSIC}
    settings = _settings(start)
    melodies = []
    for i in range(MELODIES):
      notes = synth.render(
        start + 1 + i, seconds=seconds, rate=_NOTES_RATE, **music
      )
      played = []
      for j, setting in enumerate(settings):
        # A seed of its own, or songs with the same melody would share the
        # noise of their drums and of their room.
        song = synth.render(
          start + 100 + SETTINGS * i + j,
          seconds=seconds,
          rate=rate,
          melody=notes,
          **setting,
        )
        played.append(Played(song.audio, song.rate, song.tags))
        show(done := done + 1, total)
      melodies.append(played)
    found.append(melodies)
  return found


def _settings(start: int) -> list[dict[str, Any]]:
  """Settings whose melody instruments are of different families."""
  found: dict[str, dict[str, Any]] = {}
  seed = start + 500
  while len(found) < SETTINGS:
    plan = song_plan.plan(seed, {})
    family = instruments.VOICES[plan["timbre"]].family
    found.setdefault(family, {name: plan[name] for name in _SETTING})
    seed += 1
  return [*found.values()]
