"""Measures what tokens say about music, beside mel frames and a codec.

Two questions about built-in music: are the tokens of a melody alike whatever
plays it (`melody_abx`), and what can a linear classifier read off the features
behind them (`probes`)? And one about real music with captions or tags: which of
their words can it read off (`tag_probes`)?
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from mmdcodec.audio import synth
from mmdcodec.evaluate import (
  mel_tokens,
  melody_abx,
  melody_pairs,
  probes,
  tag_probes,
)
from mmdcodec.evaluate.bootstrap import Measure
from mmdcodec.evaluate.clips import Clip
from mmdcodec.evaluate.melody_abx import Measured
from mmdcodec.tokenizers.interface import AudioCodec, Tokenizer

RATE = 24000
# Share of the songs that the probes learn from, and mel frames are fitted to.
_TRAIN = 2 / 3
# Songs for the probes to one group of melodies.
_SONGS_PER_GROUP = 15
# Seeds of songs for probes lie far beyond those of melodies.
_SONGS = 1 << 40

Progress = Callable[[str], Callable[[int, int], None]]
Accuracy = dict[str, Measure]


class Row(NamedTuple):
  """One kind of tokens.

  Attributes:
    name: what they are.
    frame_rate: rows of codes per second.
    codebooks: codes in a row.
    size: codes of the first codebook.
    measured: distances of melodies.
  """

  name: str
  frame_rate: float
  codebooks: int
  size: int
  measured: Measured


class Result(NamedTuple):
  """All results.

  Attributes:
    rows: kinds of tokens; the last one is chance.
    probed: accuracy of the probes by kind of features; the last one is chance.
    about: what was run.
    tagged: ROC-AUC of each word about real music, and their mean, by kind of
      features; empty without real music.
  """

  rows: list[Row]
  probed: dict[str, Accuracy]
  about: dict[str, Any]
  tagged: dict[str, Accuracy]


def measure(
  tokenizer: Tokenizer,
  codec: AudioCodec | None,
  *,
  songs: int,
  seconds: float,
  about: dict[str, Any],
  clips: Sequence[Clip] = (),
  progress: Progress = lambda things: lambda done, total: None,
) -> Result:
  """Measures a tokenizer on built-in music, and on real music if there is any.

  Args:
    tokenizer: the tokenizer.
    codec: codec to compare with, if any.
    songs: number of songs for the probes; a fifteenth as many groups of
      melodies, at least two.
    seconds: length of a song.
    about: what was run, to keep with the results.
    clips: real music with captions or tags, at the tokenizer's rate.
    progress: see `mmdcodec.progress.counter`.

  Raises:
    UserError: captions and tags of the clips have too little in common.
  """
  known = tag_probes.labels(clips) if clips else {}
  tags, audio = _render_songs(songs, seconds, progress("songs"))
  groups = melody_pairs.render(
    max(2, songs // _SONGS_PER_GROUP),
    seconds=seconds,
    rate=RATE,
    show=progress("songs with melodies in pairs"),
  )
  train = round(_TRAIN * songs)
  mel = mel_tokens.fitted(
    audio[:train],
    RATE,
    levels=tokenizer.codebooks,
    size=tokenizer.codebook_size,
  )
  kinds: list[tuple[str, Tokenizer, int | None]] = [
    (tokenizer.kind, tokenizer, None),
    ("k-means of mel frames", mel, None),
  ]
  if codec is not None:
    kinds.append(("codec", codec, None))
    if codec.codebooks > 1:
      kinds.append(("codec, first codebook", codec, 1))
  rows, show = [], progress("kinds of tokens compared")
  for done, (name, model, books) in enumerate(kinds):
    show(done, len(kinds))
    codes = melody_abx.encode(model, groups, books)
    about_it = (model.frame_rate, books or model.codebooks)
    size = model.codebook_sizes[0]
    rows.append(Row(name, *about_it, size, melody_abx.measure(codes)))
    if done == 0:
      random = melody_abx.measure(melody_abx.shuffled(codes))
      chance = Row("chance", *about_it, size, random)
  rows.append(chance)
  show(len(kinds), len(kinds))
  probed, tagged = {}, {}
  for name, model, books in kinds:
    if books is not None:
      continue
    name = _FEATURES.get(name, name)
    heard = probes.describe(model, audio, RATE)
    if heard is None:
      continue
    probed[name] = probes.accuracy(heard, tags, train)
    if clips:
      real = [clip.audio for clip in clips]
      described = probes.describe(model, real, tokenizer.rate)
      assert described is not None
      tagged[name] = tag_probes.area(described, known)
  probed["most frequent answer"] = probes.chance(tags, train)
  if clips:
    half = Measure(0.5, 0.5, 0.5)
    tagged["chance"] = dict.fromkeys(("mean", *known), half)
  about = {**about, "hash": tokenizer.hash, "groups": len(groups)}
  about |= {"train": train, "test": songs - train}
  return Result(rows, probed, about, tagged)


# Names of features by those of tokens.
_FEATURES = {
  "k-means of mel frames": "mel statistics",
  "codec": "codec latents",
}


def _render_songs(
  count: int, seconds: float, show: Callable[[int, int], None]
) -> tuple[list[dict], list[np.ndarray]]:
  """Renders songs for the probes: tags and audio [samples, 1] of each."""
  tags, audio = [], []
  for i in range(count):
    show(i, count)
    song = synth.render(_SONGS + i, seconds=seconds, rate=RATE)
    tags.append(song.tags)
    audio.append(song.audio)
  show(count, count)
  return tags, audio
