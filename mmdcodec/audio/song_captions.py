"""Captions of the built-in music, made from its tags."""

from typing import Any

from mmdcodec.audio import instruments
from mmdcodec.audio.composition import random_for

SPEEDS = {
  "slow": ("slow", "unhurried", "leisurely"),
  "mid-tempo": ("mid-tempo", "moderately paced", "medium-speed"),
  "fast": ("fast", "quick", "up-tempo"),
}
# Phrasings that name every instrument.
WHOLE_BAND = (0, 1, 2, 4, 6)


def caption(tags: dict[str, Any], phrasing: int | None = None) -> str:
  """Describes a song in one sentence.

  Args:
    tags: `Song.tags`.
    phrasing: index of the phrasing; None samples one with the song's seed.
  """
  rng = random_for(tags["seed"], "words")

  def one_of(options: tuple[str, ...]) -> str:
    return options[rng.integers(len(options))]

  speed = one_of(SPEEDS[tags["speed"]])
  mode, bpm = tags["mode"], f"{tags['tempo']} bpm"
  key = f"{tags['key']} {mode}"
  lead = one_of(instruments.VOICES[tags["timbre"]].names)
  bare = lead.split(" ", 1)[1] if lead.startswith(("a ", "an ")) else lead
  noun = one_of(("tune", "song", "piece"))
  noun = "waltz" if tags["beats"] == 3 else noun
  backing = []
  if tags["chords"]:
    voice = one_of(instruments.VOICES[tags["chords"]].names)
    voice = "the same sound" if tags["chords"] == tags["timbre"] else voice
    backing.append(f"chords on {voice}")
  backing += ["a bass"] if tags["bass"] else []
  backing += ["drums"] if tags["drums"] else []
  band = _list(backing)
  over = f" over {band}" if band else ", alone"
  rhythm = [
    "bass" if tags["bass"] else "no bass",
    "drums" if tags["drums"] else "no drums",
  ]
  phrasings = (
    f"{speed} {mode} {noun}, {bare}{over}, {bpm}",
    f"{lead} playing a {speed} {noun} in {key}"
    f"{', with ' + band if band else ', alone'}",
    f"a {speed} instrumental {noun} in {key}, {bpm}; the melody is played by"
    f" {lead}, {'accompanied by ' + band if band else 'unaccompanied'}",
    f"{bare}, {speed}, {mode} key, {rhythm[0]}, {rhythm[1]}",
    f"{noun} at {bpm} in a {mode} key: {lead}{over}",
    f"{speed} {noun} led by {lead}, {' and '.join(rhythm)}",
    f"{mode} {noun}, {speed}, with a melody on {lead}"
    f"{' and ' + band if band else ' and nothing else'}",
  )
  if phrasing is None:
    phrasing = int(rng.integers(len(phrasings)))
  text = phrasings[phrasing % len(phrasings)]
  return text.replace("a up-", "an up-").replace("a unh", "an unh")


def _list(words: list[str]) -> str:
  if len(words) < 2:
    return "".join(words)
  return f"{', '.join(words[:-1])} and {words[-1]}"
