"""What a MusicLM makes of built-in music's prompts, and what its levels carry.

First the pieces of balanced prompts are judged as in `prompts`. Then pieces are
made in groups: of the same joint tokens; of the same semantic tokens, with the
acoustic codes drawn anew; of the same coarse codes, with the fine ones drawn
anew. `evaluate/levels.py` says how alike the pieces of a group are.

    WORKDIR/prompts/                 see `prompts`
    WORKDIR/levels/LEVEL/GG-PP.flac  piece PP of group GG
    WORKDIR/results.json, table.md
"""

import os
import pathlib
from collections.abc import Callable
from typing import Any

import numpy as np

from mmdcodec.audio import files, resampling
from mmdcodec.errors import UserError
from mmdcodec.evaluate import levels
from mmdcodec.evaluate.bootstrap import Measure
from mmdcodec.experiments import prompts, tables
from mmdcodec.store import atomic, jobs, paths

RESULTS = "results.json"
# What the pieces of a group share, and how a table calls it.
SHARED = {
  "joint": "joint tokens",
  "semantic": "semantic tokens",
  "coarse": "coarse codes",
}
_NOTHING = "nothing"

Show = Callable[[str], Callable[[int, int], None]]


def run(
  music: Any,
  workdir: str | os.PathLike,
  *,
  songs: int,
  pieces: int,
  seconds: float,
  groups: int = 8,
  copies: int = 16,
  seed: int = 0,
  guidance: float = 3.0,
  name: str = "",
  show: Show = lambda what: lambda done, total: None,
) -> dict[str, Any]:
  """Runs what is missing.

  Args:
    music: a `LoadedMusicLM` that takes text.
    workdir: folder of the experiment.
    songs: number of songs that the classifiers learn from.
    pieces: number of pieces from balanced prompts.
    seconds: length of each song and piece.
    groups: number of groups for each level, each of another prompt.
    copies: pieces in a group.
    seed: seed of the pieces.
    guidance: weight of the joint tokens.
    name: name of the model in results.json.
    show: what is counted -> a function of (done, total) that shows progress.

  Returns:
    `traits`, see `prompts.run`; and `levels`: what is shared -> see
    `levels.measure`.

  Raises:
    UserError: see `prompts.run`; or there are too few groups or copies.
  """
  if not 2 <= groups <= pieces or copies < 2:
    raise UserError(
      f"{groups} groups of {copies} do not do: at least 2 of each, and no more"
      f" groups than the {pieces} pieces, whose prompts they have."
    )
  workdir = paths.on_disk(workdir, "the folder of a job").absolute()
  judged = prompts.run(
    music, workdir / "prompts", songs=songs, pieces=pieces, seconds=seconds,
    seed=seed, guidance=guidance, name=name, balanced=True, show=show,
  )  # fmt: skip
  asked = sorted((workdir / "prompts" / "made").glob("*.txt"))
  texts = [path.read_text().strip() for path in asked[:groups]]

  def make() -> str:
    make_groups(
      music, workdir / "levels", texts, copies, seconds, seed, guidance, show
    )
    return f"{groups} groups of {copies}"

  about = dict(
    weights=prompts.weights_of(music), groups=groups, copies=copies,
    seconds=seconds, seed=seed, guidance=guidance, songs=songs, pieces=pieces,
  )  # fmt: skip
  jobs.run_stages(
    workdir,
    [jobs.Stage("levels", make, about, [workdir / "levels"], True)],
    force=None,
  )
  classifiers = prompts.learn(music, workdir / "prompts" / "songs" / "learned")
  found: dict[str, dict[str, Measure]] = {}
  for level in shared_of(music):
    audio = _read(workdir / "levels" / level, groups, copies)
    found[level] = levels.measure(audio, music.rate, classifiers)
    if level == "joint":
      strangers = levels.measure_strangers(audio, music.rate, classifiers)
  found[_NOTHING] = strangers
  results = {
    "about": {"model": name, **about},
    "traits": judged,
    "levels": {
      level: {k: v._asdict() for k, v in each.items()}
      for level, each in found.items()
    },
  }
  atomic.write_json(workdir / RESULTS, results)
  text = "".join(
    tables.markdown(*each) + "\n"
    for each in (prompts.table(judged), table(found))
  )
  atomic.write_text(workdir / "table.md", text)
  return {"traits": judged, "levels": found}


def shared_of(music: Any) -> list[str]:
  """The levels of a model below which another one is drawn anew."""
  stages = music.parts.stages
  found = ["joint"]
  found += ["semantic"] if "semantic" in stages else []
  return [*found, "coarse"] if "fine" in stages else found


def make_groups(
  music: Any,
  folder: pathlib.Path,
  texts: list[str],
  copies: int,
  seconds: float,
  seed: int,
  guidance: float,
  show: Show,
) -> None:
  """Makes a group of pieces for each prompt and level, and writes them.

  The tokens that a group shares are those of its first piece. Existing groups
  come from an interrupted run with the same settings.
  """
  shared = shared_of(music)
  progress, samples = show("groups of pieces"), round(seconds * music.rate)
  # Pieces of a group differ in the seeds of what is drawn anew.
  for group, text in enumerate(texts):
    begin = seed + group * copies
    seeds = [begin + i for i in range(copies)]
    tokens: dict[str, Any] | None = None
    for level in shared:
      done = folder / level / f"{group:02d}.txt"
      if done.exists():
        continue
      if tokens is None or level == "joint":
        count = copies if level == "joint" else 1
        tokens = music.generate_tokens(
          [text] * count, seconds=seconds, seed=seeds[:count], guidance=guidance
        )
      joint = np.repeat(tokens["joint"][:1], copies, axis=0)
      first = {k: v[:1] for k, v in tokens.items() if k != "joint"}
      if level == "joint":
        coarse, fine = tokens["coarse"], tokens.get("fine")
      else:
        coarse = np.repeat(first["coarse"], copies, axis=0)
        if level == "semantic":
          coarse = music.make_coarse(
            joint,
            np.repeat(first["semantic"], copies, axis=0),
            seconds=seconds,
            seed=seeds,
            guidance=guidance,
          )
        fine = None
        if "fine" in music.parts.stages:
          fine = music.make_fine(joint, coarse, seed=seeds, guidance=guidance)
      audio = music.decode(coarse, fine)
      (folder / level).mkdir(parents=True, exist_ok=True)
      for i, x in enumerate(audio):
        path = folder / level / f"{group:02d}-{i:02d}.flac"
        files.write(path, resampling.fit(x, samples), rate=music.rate)
      # Written last, to mark the group as complete.
      atomic.write_text(done, text + "\n")
    progress(group + 1, len(texts))


def _read(folder: pathlib.Path, groups: int, copies: int) -> np.ndarray:
  """Reads groups of pieces: float32 [groups, copies, samples]."""
  return np.stack(
    [
      [
        files.read(folder / f"{group:02d}-{i:02d}.flac")[0].mean(-1)
        for i in range(copies)
      ]
      for group in range(groups)
    ]
  )


def table(found: dict[str, dict[str, Measure]]) -> tuple[list[str], list[list]]:
  """Returns columns and rows, one row for each level."""
  names = [*next(iter(found.values()))]
  rows = []
  for level, of in found.items():
    cells: list[Any] = [SHARED.get(level, level)]
    for name in names:
      scale, unit, digits = (100, "%", 0)
      if name == levels.TIMBRE:
        scale, unit, digits = (1, " dB", 1)
      value, low, high = (f"{scale * x:.{digits}f}" for x in of[name])
      cells.append(f"{value}{unit} ({low}-{high})")
    rows.append(cells)
  return ["pieces share", *names], rows
