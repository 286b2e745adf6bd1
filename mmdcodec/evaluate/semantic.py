"""Measures what tokens say about music, beside mel frames and a codec.

Two questions about built-in music: are the tokens of a melody alike whatever
plays it (`melody_abx`), and what can a linear classifier read off the features
behind them (`probes`)? And one about real music with captions or tags: which of
their words can it read off (`tag_probes`)?
"""

import pathlib
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from mmdcodec.audio import synth
from mmdcodec.evaluate import (
  mel_tokens,
  melody_abx,
  melody_pairs,
  probes,
  report,
  result_folder,
  tag_probes,
)
from mmdcodec.evaluate.bootstrap import Measure
from mmdcodec.evaluate.clips import Clip
from mmdcodec.evaluate.melody_abx import Measured
from mmdcodec.store import atomic
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
    tagged["chance"] = {name: Measure(0.5, 0.5, 0.5) for name in ("mean", *known)}
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


def melodies_table(result: Result) -> tuple[list[str], list[tuple]]:
  """Returns (columns, rows): distances of melodies by kind of tokens."""
  columns = ["tokens", "Hz", "codebooks", "codes used", "same melody"]
  columns += ["other melody", "ABX error (%)", "from", "to"]
  columns += ["other songs (%)", "from", "to"]
  rows = []
  for row in result.rows:
    found = row.measured
    error = [100 * value for value in found.interval("error")]
    easy = [100 * value for value in found.interval("easy")]
    rows.append(
      (
        row.name,
        float(row.frame_rate),
        row.codebooks,
        f"{found.used}/{row.size}",
        float(found.same.mean()),
        float(found.other.mean()),
        *error,
        *easy,
      )
    )
  return columns, rows


def probes_table(result: Result) -> tuple[list[str], list[tuple]]:
  """Returns (columns, rows): accuracy in percent by kind of features."""
  columns = ["features"]
  for name in probes.PROBES:
    columns += [f"{name} (%)", "from", "to"]
  nothing = Measure(*(float("nan"),) * 3)
  rows = []
  for kind, found in result.probed.items():
    cells = [found.get(name, nothing) for name in probes.PROBES]
    rows.append((kind, *(100 * value for cell in cells for value in cell)))
  return columns, rows


def tags_table(result: Result) -> tuple[list[str], list[tuple]]:
  """Returns (columns, rows): ROC-AUC of words by kind of features."""
  kinds = list(result.tagged)
  columns = ["word"]
  for kind in kinds:
    columns += [kind, "from", "to"]
  words = list(result.tagged[kinds[0]])
  rows = []
  for word in words:
    cells = (result.tagged[kind][word] for kind in kinds)
    rows.append((word, *(value for cell in cells for value in cell)))
  return columns, rows


MELODIES = (
  "Edit distance between the tokens of two songs, 0 to 1: of the same melody"
  " and of two melodies, always with other instruments, accompaniment and room,"
  " and in the same tempo, key and mode. ABX error: how often a song is nearer"
  " to another melody than to its own one in other instruments, if tempo, key"
  " and mode are the same; 50 is chance. Other songs: likewise, if they may"
  " differ too. From, to: 95 % of bootstrap samples of the groups."
)
PROBES = (
  "Share of right answers of a linear classifier that hears mean and standard"
  " deviation of the features over a song: key (12), tempo (3), family of the"
  " melody's instrument, drums. From, to: 95 % of bootstrap samples."
)
TAGS = (
  "ROC-AUC of ridge regression that hears the same of clips of real music, for"
  " each word that some captions or tags have and others lack. Each of five"
  " parts of the clips is judged by what the others teach. 0.5 is chance. From,"
  " to: 95 % of bootstrap samples of the clips."
)


def write(result: Result, folder: str | pathlib.Path) -> pathlib.Path:
  """Writes results.json and report.html into a folder.

  Returns:
    The path of the page.
  """
  folder = result_folder.prepare(folder)
  melodies, probed = melodies_table(result), probes_table(result)
  atomic.write_json(folder / "results.json", as_json(result))
  options = result_folder.chosen(
    result.about, "model", "codec", "audio", "seconds", "clips"
  )
  first = result.rows[0]
  real = []
  if result.tagged:
    real.append(report.Table("Real music", *tags_table(result), TAGS))
  return report.write_report(
    folder / "report.html",
    [
      report.Text(
        "What was run",
        [head(result)],
        result_folder.command("semantic", options),
      ),
      report.Table("Melodies", *melodies, MELODIES),
      report.Table("Linear probes", *probed, PROBES),
      *real,
      report.environment(),
    ],
    title="What tokens say about music",
    lead=f"ABX error {100 * first.measured.error.mean():.1f}%.",
  )


def as_json(result: Result) -> dict[str, Any]:
  """Returns the contents of results.json."""
  return {
    "about": result.about,
    "tokens": {
      row.name: {
        "frame_rate": row.frame_rate,
        "codebooks": row.codebooks,
        "size": row.size,
        "used": row.measured.used,
        **{
          name: row.measured.interval(name)
          for name in ("same", "other", "error", "easy")
        },
      }
      for row in result.rows
    },
    "probes": result.probed,
    "tags": result.tagged,
  }


def head(result: Result) -> str:
  """How much was measured, in words."""
  about = result.about
  return (
    f"{about['groups']} groups of {melody_pairs.MELODIES} melodies in"
    f" {melody_pairs.SETTINGS} settings; probes learn from {about['train']}"
    f" songs and answer for {about['test']}"
  )


def tables(result: Result) -> Sequence[tuple[list[str], list[tuple]]]:
  """Returns the tables to print."""
  found = [melodies_table(result), probes_table(result)]
  if result.tagged:
    found.append(tags_table(result))
  return found
