"""Music of `mmdcodec quickstart --system musiclm`, and measures of it.

    WORKDIR/musiclm/generated/story.flac     three prompts, one after the other
    WORKDIR/musiclm/generated/tune.flac      a melody, played alone
    WORKDIR/musiclm/generated/melody.flac    a piece that was to follow it
    WORKDIR/musiclm/generated/about.json     the prompts
    WORKDIR/musiclm/measures/NN-piece.flac   pieces of prompts
    WORKDIR/musiclm/measures/NN-song.flac    songs that the prompts describe
    WORKDIR/musiclm/measures/results.json    what was measured

Each stage is a function that takes the job and describes its result.
"""

import shutil
from typing import Any

import numpy as np

import mmdcodec
from mmdcodec import formatting, progress
from mmdcodec.audio import files, song_plan, synth
from mmdcodec.evaluate import built_in, musiclm
from mmdcodec.store import atomic
from mmdcodec.workflows.quickstart_musiclm_job import MusicLMJob

ABOUT, RESULTS = "about.json", "results.json"
# Prompts of the story, and pieces of prompts that are kept to listen to.
SPANS, KEPT = 3, 6
# Seeds of the prompts that are heard and of the melody.
_HEARD, _TUNE = 2_000_011, 2_000_012
ALONE: dict[str, Any] = dict(drums=False, bass=False, chords=False)


def generate(job: MusicLMJob) -> str:
  """Makes a story of three prompts, and a piece that follows a melody."""
  folder = job.folder / "generated"
  shutil.rmtree(folder, ignore_errors=True)
  folder.mkdir()
  music: Any = mmdcodec.load(job.folder / "bundle")
  seconds, guidance = job.story["seconds"], job.story["guidance"]
  prompts = story_prompts()
  story = [(i * seconds, prompt) for i, prompt in enumerate(prompts[:SPANS])]
  told = music.generate(story=story, seconds=SPANS * seconds, guidance=guidance)
  tune = synth.render(_TUNE, seconds=seconds, rate=music.rate, **ALONE).audio
  piece = music.generate(
    prompts[SPANS],
    seconds=seconds,
    guidance=guidance,
    melody=tune,
    melody_rate=music.rate,
  )
  for name, audio in (("story", told[0]), ("tune", tune), ("melody", piece[0])):
    files.write(folder / f"{name}.flac", audio, rate=music.rate)
  about = {"story": story, "melody": prompts[SPANS]}
  atomic.write_json(folder / ABOUT, about)
  return (
    f"a story of {formatting.duration(SPANS * seconds)} and a piece with a"
    " given melody"
  )


def story_prompts() -> list[str]:
  """The prompts of the story, then that of the melody's piece."""
  return built_in.prompts(SPANS + 1, _HEARD)[0]


def measure(job: MusicLMJob) -> str:
  """Measures how far pieces follow their prompts and their melodies."""
  folder = job.folder / "measures"
  shutil.rmtree(folder, ignore_errors=True)
  folder.mkdir()
  music: Any = mmdcodec.load(job.folder / "bundle")
  of = musiclm.Setting(
    music,
    pieces=int(job.measured["pieces"]),
    seconds=job.measured["seconds"],
    guidance=job.measured["guidance"],
    show=progress.counter,
  )
  prompts = built_in.prompts(of.pieces, musiclm.PROMPTS)[0]
  songs = _songs(of, music)
  found = {
    "consistency": musiclm.consistency(of, prompts, songs),
    "melody": musiclm.melody(of),
  }
  heard = zip(found["consistency"].pieces, songs, strict=True)
  kept = []
  for i, ((prompt, piece), song) in enumerate(list(heard)[:KEPT]):
    files.write(folder / f"{i:02d}-piece.flac", piece, rate=music.rate)
    files.write(folder / f"{i:02d}-song.flac", song, rate=music.rate)
    kept.append(prompt)
  results = {
    "prompts": kept,
    "measures": {name: each.values for name, each in found.items()},
    "tables": {name: list(_plain(each)) for name, each in found.items()},
  }
  atomic.write_json(folder / RESULTS, results)
  return lead(results)


def lead(results: dict[str, Any]) -> str:
  """The result in words, from results.json."""
  found = results["measures"]["consistency"]["pieces"]
  return (
    f"MuLan cycle consistency {found['own']:.3f}, with shuffled prompts"
    f" {found['chance']:.3f} (p = {found['p']:.4f}, {found['things']} pieces)"
  )


def _songs(of: musiclm.Setting, music: Any) -> np.ndarray:
  """The songs that the prompts of `musiclm.consistency` describe."""
  chosen = song_plan.balanced(musiclm.PROMPTS, of.pieces)
  songs = [
    synth.render(
      musiclm.PROMPTS + i, seconds=of.seconds, rate=music.rate, **choices
    ).audio
    for i, choices in enumerate(chosen)
  ]
  return np.repeat(np.stack(songs), music.channels, axis=2)


def _plain(found: musiclm.Found) -> tuple[Any, ...]:
  """A table in a form for JSON: title, columns, rows, note."""
  table = found.table
  return table.title, table.columns, table.rows, table.note
