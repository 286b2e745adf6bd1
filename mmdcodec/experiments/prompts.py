"""The experiment of prompts: does music have what its prompt asked for?

On built-in music, whose captions are true. Classifiers learn the traits of
songs (`evaluate/traits.py`) from what the model's codec makes of them, so that
they know how it sounds; their word on songs that they have not heard says how
far they can be trusted. Then the model makes a piece from a caption of each of
these songs, one that tells the whole band, and the classifiers say what they
hear in it. Neither set of songs is one that `mmdcodec quickstart` trains on.

    WORKDIR/songs/{learned,asked}      built-in music, with captions
    WORKDIR/made/                      what the model made of the captions
    WORKDIR/experiment.json            settings, which a workdir keeps to
    WORKDIR/results.json, table.md
"""

import json
import pathlib
from collections.abc import Callable

import numpy as np

from mmdcodec.audio import files, song_captions, song_files
from mmdcodec.errors import UserError
from mmdcodec.evaluate import traits
from mmdcodec.experiments import arm_report, arm_run
from mmdcodec.tokenizers.loaded_codec import fingerprint

# Of sets of songs, other ones than anybody trains on.
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
  name: str = "",
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
    name: of the model, for results.json.
    show: what is counted -> a function of (done, total) that shows progress.

  Returns:
    {trait: {"songs", "made": `traits.agreement` with the captions, of held-out
    songs through the codec and of what was made of their captions}}.

  Raises:
    UserError: the model takes no text, or none as long as a caption; a number
      that can't be; or settings other than those of the workdir.
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
  # What can't be is said now and not after hundreds of songs.
  music.check(["a"], seconds=seconds, seed=seed, guidance=guidance)
  workdir = pathlib.Path(workdir).absolute()
  workdir.mkdir(parents=True, exist_ok=True)
  about = dict(
    model=name, codec=music.codec.hash, weights=fingerprint(
      music.config, music.variables["params"]
    ),
    songs=songs, pieces=pieces, seconds=seconds, seed=seed, guidance=guidance,
  )  # fmt: skip
  arm_run.remember(workdir / "experiment.json", about)
  sets = {}
  for each, count in (("learned", songs), ("asked", pieces)):
    sets[each] = _songs(
      music, workdir / "songs" / each, SEEDS[each], count, seconds, show
    )
  heard = {
    each: traits.features(found["audio"], music.rate)
    for each, found in sets.items()
  }
  told = {each: traits.of_songs(found["tags"]) for each, found in sets.items()}
  classifiers = traits.Classifiers(heard["learned"], told["learned"])

  asked = [
    song_captions.caption(
      tags, song_captions.WHOLE_BAND[i % len(song_captions.WHOLE_BAND)]
    )
    for i, tags in enumerate(sets["asked"]["tags"])
  ]
  made = _make(music, workdir / "made", asked, seconds, seed, guidance, show)
  by_ear = {
    "songs": classifiers(heard["asked"]),
    "made": classifiers(traits.features(made, music.rate)),
  }
  found = {
    trait: {
      of: traits.agreement(told["asked"][trait], by_ear[of][trait])
      for of in by_ear
    }
    for trait in by_ear["songs"]
  }
  arm_run.write(workdir / RESULTS, {"about": about, "traits": found})
  columns, rows = table(found)
  cells = [[str(cell) for cell in row] for row in rows]
  (workdir / "table.md").write_text(arm_report.markdown(columns, cells))
  return found


def _songs(music, folder, seed, count, seconds, show) -> dict:
  """Songs: `audio` [songs, samples] as the codec gives it, and their `tags`."""
  paths = song_files.write_songs(
    folder,
    songs=count,
    seconds=seconds,
    rate=music.rate,
    seed=seed,
    progress=show(f"songs ({folder.name})"),
  )
  audio = []
  for start in range(0, count, BATCH):
    x = np.stack([files.read(path)[0] for path in paths[start:][:BATCH]])
    y = music.codec.decode(music.codec.encode(x), length=x.shape[1])
    audio.append(np.asarray(y).mean(-1))
  sidecars = [path.with_suffix(".json").read_text() for path in paths]
  tags = [json.loads(sidecar)["tags"] for sidecar in sidecars]
  return {"audio": np.concatenate(audio), "tags": tags}


def _make(music, folder, asked, seconds, seed, guidance, show) -> np.ndarray:
  """Pieces [pieces, samples], one for each caption; written as they are made.

  Those that are there were made by a run of the same settings that was ended.
  """
  folder.mkdir(exist_ok=True)
  progress, made, samples = show("pieces"), [], round(seconds * music.rate)
  for start in range(0, len(asked), BATCH):
    texts = asked[start : start + BATCH]
    paths = [folder / f"{start + i:03d}.flac" for i in range(len(texts))]
    if not all(path.with_suffix(".txt").exists() for path in paths):
      x = music.generate(
        texts, seconds=seconds, seed=seed + start, guidance=guidance
      )
      for path, each, text in zip(paths, np.asarray(x), texts, strict=True):
        files.write(path, files.fit(each, samples), rate=music.rate)
        # Last: it says that the piece is whole.
        path.with_suffix(".txt").write_text(text + "\n")
    made += [files.read(path)[0].mean(-1) for path in paths]
    progress(len(made), len(asked))
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
