"""Built-in music as prompts and as teacher, for measures of music models.

The captions of built-in music are accurate, so a piece that was made from one
can be judged by classifiers that learned from songs. They learn from what a
model's codec makes of the songs, to be used to its sound.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from mmdcodec.audio import instruments, song_captions, song_plan, synth
from mmdcodec.evaluate import traits

# Phrasings of balanced prompts, and the traits that all of them tell.
BALANCED_PHRASINGS = (*song_captions.WHOLE_BAND[:3], 3, 5, 6)
BALANCED_TRAITS = ("drums", "bass", "speed", "melody")
# Seed of the songs that classifiers learn from.
_LEARNED = 1_000_003
# Songs coded at a time.
BATCH = 16

Progress = Callable[[int, int], None]


def captions(
  tags: Sequence[dict[str, Any]], *, balanced: bool = False
) -> list[str]:
  """Makes captions that tell all traits, using each phrasing in turn.

  Args:
    tags: tags of songs.
    balanced: whether to use those that say "no drums", too; not all of them
      tell the chords.
  """
  phrasings = BALANCED_PHRASINGS if balanced else song_captions.WHOLE_BAND
  return [
    song_captions.caption(each, phrasings[i % len(phrasings)])
    for i, each in enumerate(tags)
  ]


def prompts(count: int, seed: int = 0) -> tuple[list[str], dict[str, list]]:
  """Makes balanced prompts.

  Returns:
    (texts, values of each trait in `BALANCED_TRAITS`).
  """
  tags = []
  for i, choices in enumerate(song_plan.balanced(seed, count)):
    plan = song_plan.plan(seed + i, choices)
    family = instruments.VOICES[plan["timbre"]].family
    tags.append({**plan, "seed": seed + i, "family": family})
  told = traits.of_songs(tags)
  return captions(tags, balanced=True), {k: told[k] for k in BALANCED_TRAITS}


def used_codebooks(music: Any) -> int | None:
  """How many codebooks of its codec a model makes; None for all.

  Without a fine stage, the music of a MusicLM has fewer than the codec, and so
  may that of other language models.
  """
  if not hasattr(music, "parts"):
    return getattr(music.model, "codebooks", None)
  last = [*music.parts.stages.values()][-1].model
  return last.first_codebook + last.codebooks


def through_codec(music: Any, x: np.ndarray) -> np.ndarray:
  """Codes audio [batch, samples, channels] as a model's pieces are coded.

  Returns:
    float32 [batch, samples], the mean of the channels.
  """
  codes = music.codec.encode(x)[..., : used_codebooks(music)]
  y = music.codec.decode(codes, length=x.shape[1])
  return np.asarray(y).mean(-1)


def classifiers(
  music: Any,
  *,
  songs: int,
  seconds: float,
  show: Progress = lambda done, total: None,
) -> tuple[traits.Classifiers, dict[str, float]]:
  """Trains classifiers on balanced songs, as a model's codec sounds.

  Args:
    music: a music model.
    songs: how many songs to learn from; a third as many more are tried.
    seconds: their length.
    show: shows the progress.

  Returns:
    (the classifiers, share of other songs that they hear right, by trait).
  """
  total = songs + max(songs // 3, 4)
  heard, tags = [], []
  chosen = song_plan.balanced(_LEARNED, total)
  for start in range(0, total, BATCH):
    some = [
      synth.render(_LEARNED + i, seconds=seconds, rate=music.rate, **chosen[i])
      for i in range(start, min(start + BATCH, total))
    ]
    x = np.stack([song.audio for song in some])
    x = np.repeat(x, music.channels, axis=2)
    heard.append(traits.features(through_codec(music, x), music.rate))
    tags += [song.tags for song in some]
    show(min(start + BATCH, total), total)
  rows, told = np.concatenate(heard), traits.of_songs(tags)
  told = {name: told[name] for name in BALANCED_TRAITS}
  first = {name: values[:songs] for name, values in told.items()}
  found = traits.Classifiers(rows[:songs], first)
  right = {
    name: float(np.mean(np.array(values) == np.array(told[name][songs:])))
    for name, values in found(rows[songs:]).items()
  }
  return found, right
