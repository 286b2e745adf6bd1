"""The experiment of prompts: does music have what its prompt asked for?

On built-in music, whose captions are true. Classifiers learn the traits of
songs (`evaluate/traits.py`) from what the model's codec makes of them, so that
they know how it sounds; their word on songs that they have not heard says how
far they can be trusted. Then the model makes a piece from the caption of each
of these songs, and the classifiers say what they hear in it. Neither set of
songs is one that `mmdcodec quickstart` trains on.

    WORKDIR/songs/{learned,asked}      built-in music, with captions
    WORKDIR/made/                      what the model made of the captions
    WORKDIR/results.json, table.md
"""

import json
import pathlib
from collections.abc import Callable

import numpy as np

from mmdcodec.audio import files, synth
from mmdcodec.errors import UserError
from mmdcodec.evaluate import traits
from mmdcodec.experiments import report
from mmdcodec.experiments import run as run_lib

# Of sets of songs, far from those that anybody trains on.
SEEDS = {"learned": 1_000_001, "asked": 1_000_002}
RESULTS = "results.json"
BATCH = 16


def run(
  music,
  workdir: pathlib.Path,
  *,
  songs: int,
  pieces: int,
  seconds: float,
  seed: int = 0,
  guidance: float = 3.0,
  show: Callable[[str], Callable] = lambda what: lambda done, total: None,
) -> dict:
  """Asks a music model for songs, and listens to what comes.

  Args:
    music: a `LoadedMusic` that takes text.
    workdir: of the experiment.
    songs: that the classifiers learn from.
    pieces: that are made.
    seconds: of each song and piece.
    seed: of the pieces.
    guidance: see `LoadedMusic.generate_codes`.
    show: what is counted -> a function of (done, total) that shows progress.

  Returns:
    {trait: {"songs", "made": `traits.agreement` with the captions, of held-out
    songs through the codec and of what was made of their captions}}.

  Raises:
    UserError: the model takes no text, or a number that can't be.
  """
  if not music.model.text:
    raise UserError("this model takes no text: there is nothing to ask it.")
  if songs < 10 or pieces < 2:
    raise UserError(
      f"{songs} songs and {pieces} pieces are too few; at least 10 and 2."
    )
  if not 2 <= seconds < np.inf:
    # A slow beat has to come again.
    raise UserError(f"--seconds is {seconds:g}; it must be at least 2.")
  workdir = pathlib.Path(workdir).absolute()
  workdir.mkdir(parents=True, exist_ok=True)
  sets = {}
  for name, count in (("learned", songs), ("asked", pieces)):
    sets[name] = _songs(music, workdir / "songs" / name, count, seconds, show)
  heard = {
    name: traits.features(each["audio"], music.rate)
    for name, each in sets.items()
  }
  told = {name: traits.of_songs(each["tags"]) for name, each in sets.items()}
  classifiers = traits.Classifiers(heard["learned"], told["learned"])

  captions = [tags["caption"] for tags in sets["asked"]["sidecars"]]
  made = _make(music, captions, seconds, seed, guidance, show)
  folder = workdir / "made"
  folder.mkdir(exist_ok=True)
  for i, (x, caption) in enumerate(zip(made, captions, strict=True)):
    files.write(folder / f"{i:03d}.flac", x, rate=music.rate)
    (folder / f"{i:03d}.txt").write_text(caption + "\n")
  by_ear = {
    "songs": classifiers(heard["asked"]),
    "made": classifiers(traits.features(made[..., 0], music.rate)),
  }
  found = {
    trait: {
      of: traits.agreement(told["asked"][trait], by_ear[of][trait])
      for of in by_ear
    }
    for trait in by_ear["songs"]
  }
  about = dict(
    model=music.codec.hash, songs=songs, pieces=pieces, seconds=seconds,
    seed=seed, guidance=guidance,
  )  # fmt: skip
  run_lib.write(workdir / RESULTS, {"about": about, "traits": found})
  columns, rows = table(found)
  cells = [[str(cell) for cell in row] for row in rows]
  (workdir / "table.md").write_text(report.markdown(columns, cells))
  return found


def _songs(music, folder, count, seconds, show) -> dict:
  """Songs as they sound through the codec: audio, sidecars, tags."""
  paths = synth.write_songs(
    folder,
    songs=count,
    seconds=seconds,
    rate=music.rate,
    seed=SEEDS[folder.name],
    progress=show(f"songs ({folder.name})"),
  )
  sidecars = [
    json.loads(path.with_suffix(".json").read_text()) for path in paths
  ]
  audio = []
  for start in range(0, count, BATCH):
    x = np.stack([files.read(path)[0] for path in paths[start:][:BATCH]])
    x = np.repeat(x, music.channels, axis=-1)
    y = music.codec.decode(music.codec.encode(x), length=x.shape[1])
    audio.append(np.asarray(y)[..., 0])
  return {
    "audio": np.concatenate(audio),
    "sidecars": sidecars,
    "tags": [sidecar["tags"] for sidecar in sidecars],
  }


def _make(music, captions, seconds, seed, guidance, show) -> np.ndarray:
  """Pieces [pieces, samples, channels], one for each caption."""
  progress, made = show("pieces"), []
  samples = round(seconds * music.rate)
  for start in range(0, len(captions), BATCH):
    texts = captions[start : start + BATCH]
    x = music.generate(
      texts, seconds=seconds, seed=seed + start, guidance=guidance
    )
    made += [files.fit(each, samples) for each in np.asarray(x)]
    progress(len(made), len(captions))
  return np.stack(made)


def table(found: dict) -> tuple[list[str], list[list]]:
  """Columns and rows, one for each trait."""
  percent = lambda share: f"{100 * share:.0f}%"
  rows = []
  for trait, of in found.items():
    made = of["made"]
    rows.append(
      [
        trait,
        percent(of["songs"]["share"]),
        percent(made["share"]),
        percent(made["chance"]),
        f"{made['p']:.4f}",
      ]
    )
  columns = [
    "trait", "songs heard right", "pieces as prompted", "by chance", "p"
  ]  # fmt: skip
  return columns, rows
