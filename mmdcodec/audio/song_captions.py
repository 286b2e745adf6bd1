"""Captions of the built-in music: what the tags say, in plain words."""

from mmdcodec.audio import instruments
from mmdcodec.audio.composition import stream

SPEEDS = {
  "slow": ("slow", "unhurried", "leisurely"),
  "mid-tempo": ("mid-tempo", "moderately paced", "medium-speed"),
  "fast": ("fast", "quick", "up-tempo"),
}
# Phrasings that say who plays, all of them.
WHOLE_BAND = (0, 1, 2, 4, 6)


def caption(tags: dict, phrasing: int | None = None) -> str:
  """A sentence that says what the tags say.

  Args:
    tags: of a Song.
    phrasing: which of the ways to put it; None draws one from the seed.

  Returns:
    The sentence.
  """
  rng = stream(tags["seed"], "words")

  def one_of(options):
    return options[rng.integers(len(options))]

  speed = one_of(SPEEDS[tags["speed"]])
  mode, bpm = tags["mode"], f"{tags['tempo']} bpm"
  key = f"{tags['key']} {mode}"
  lead = one_of(instruments.VOICES[tags["timbre"]].names)
  bare = lead.split(" ", 1)[1] if lead.startswith(("a ", "an ")) else lead
  tune = one_of(("tune", "song", "piece"))
  tune = "waltz" if tags["beats"] == 3 else tune
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
    f"{speed} {mode} {tune}, {bare}{over}, {bpm}",
    f"{lead} playing a {speed} {tune} in {key}"
    f"{', with ' + band if band else ', alone'}",
    f"a {speed} instrumental {tune} in {key}, {bpm}; the melody is played by"
    f" {lead}, {'accompanied by ' + band if band else 'unaccompanied'}",
    f"{bare}, {speed}, {mode} key, {rhythm[0]}, {rhythm[1]}",
    f"{tune} at {bpm} in a {mode} key: {lead}{over}",
    f"{speed} {tune} led by {lead}, {' and '.join(rhythm)}",
    f"{mode} {tune}, {speed}, with a melody on {lead}"
    f"{' and ' + band if band else ' and nothing else'}",
  )
  if phrasing is None:
    phrasing = int(rng.integers(len(phrasings)))
  text = phrasings[phrasing % len(phrasings)]
  return text.replace("a up-", "an up-").replace("a unh", "an unh")


def _list(words):
  return " and ".join(
    [", ".join(words[:-1]), words[-1]] if words[1:] else words
  )
