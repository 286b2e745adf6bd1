"""Measures whether generated music follows its prompts.

This uses built-in music, whose captions are accurate. Classifiers learn the
traits of songs (`evaluate/traits.py`) from the codec's reconstructions, so that
they are used to its sound. Their accuracy on other songs shows how reliable
they are. Then the model generates a piece from a caption of each of these
songs, which names the whole band, and the classifiers judge it. `mmdcodec
quickstart` trains on neither set of songs.

With balanced prompts, each value of a trait is asked for as often as the
others, "no drums" too, so that what is right by chance is a half or less.

    WORKDIR/songs/{learned,asked}      built-in music, with captions
    WORKDIR/made/                      pieces made from the captions
    WORKDIR/results.json, table.md
"""

import os
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from mmdcodec.audio import files, resampling, song_files, song_plan
from mmdcodec.errors import UserError
from mmdcodec.evaluate import built_in, multiple, traits
from mmdcodec.experiments import tables
from mmdcodec.store import atomic, inputs, jobs, paths
from mmdcodec.tokenizers.loaded_codec import LoadedCodec, fingerprint
from mmdcodec.tokenizers.stereo_codec import StereoCodec

# Seeds of the songs, used nowhere else.
SEEDS = {"learned": 1_000_001, "asked": 1_000_002}
RESULTS = "results.json"
BATCH = 16


def run(
  music: Any,
  workdir: str | os.PathLike,
  *,
  songs: int,
  pieces: int,
  seconds: float,
  seed: int = 0,
  guidance: float = 3.0,
  name: str = "",
  balanced: bool = False,
  show: Callable[[str], Callable] = lambda what: lambda done, total: None,
) -> dict[str, dict]:
  """Generates music from prompts and judges it.

  Args:
    music: a `LoadedMusic` or `LoadedMusicLM` that takes text.
    workdir: folder of the experiment.
    songs: number of songs that the classifiers learn from.
    pieces: number of pieces to generate.
    seconds: length of each song and piece.
    seed: seed of the pieces.
    guidance: see `LoadedMusic.generate_codes`.
    name: name of the model in results.json.
    balanced: whether songs and prompts have each value of a trait as often as
      the others.
    show: what is counted -> a function of (done, total) that shows progress.

  Returns:
    {trait: {"songs", "made": `traits.agreement` with the captions}}, for
    reconstructed held-out songs and for pieces made from their captions.

  Raises:
    UserError: the model does not take text as long as a caption; a number is
      out of bounds; or the workdir has other settings.
  """
  if not music.takes("text"):
    raise UserError("this model takes no text, so it cannot follow prompts.")
  if songs < 10 or pieces < 2:
    raise UserError(
      f"{songs} songs and {pieces} pieces are too few; at least 10 and 2."
    )
  if not 2 <= seconds < np.inf:
    # A slow beat has to repeat.
    raise UserError(f"--seconds is {seconds:g}; it must be at least 2.")
  # Invalid options are found now, not after hundreds of songs.
  music.check(["a"], seconds=seconds, seed=seed, guidance=guidance)
  workdir = paths.on_disk(workdir, "the folder of a job").absolute()
  about = dict(
    model=name, codec=music.codec.hash, weights=weights_of(music),
    songs=songs, pieces=pieces, seconds=seconds, seed=seed, guidance=guidance,
  )  # fmt: skip
  if "codes" in music.codec.config:
    about["decoder"] = decoder_of(music.codec)
  if balanced:
    about["balanced"] = True
  counts = {"learned": songs, "asked": pieces}

  def write_songs() -> str:
    for each, count in counts.items():
      song_files.write_songs(
        workdir / "songs" / each,
        songs=count,
        seconds=seconds,
        rate=music.rate,
        seed=SEEDS[each],
        progress=show(f"songs ({each})"),
        each=song_plan.balanced(SEEDS[each], count) if balanced else None,
      )
    return f"{songs} to learn from, {pieces} to ask for"

  def make_pieces() -> str:
    tags = _tags(workdir / "songs" / "asked")
    captions = built_in.captions(tags, balanced=balanced)
    _make(music, workdir / "made", captions, seconds, seed, guidance, show)
    return f"{pieces} pieces"

  stages = [
    jobs.Stage("songs", write_songs, about, [workdir / "songs"], True),
    jobs.Stage("pieces", make_pieces, {}, [workdir / "made"], True),
  ]
  if (workdir / RESULTS).exists():
    jobs.adopt(workdir, about, stages)
  _check_decoder(workdir, about)
  jobs.run_stages(workdir, stages, force=None)
  asked = _through_codec(music, workdir / "songs" / "asked")
  told = traits.of_songs(asked["tags"])
  classifiers = learn(music, workdir / "songs" / "learned")
  made = [files.read(path)[0].mean(-1) for path in _flac(workdir / "made")]
  by_ear = {
    "songs": classifiers(traits.features(asked["audio"], music.rate)),
    "made": classifiers(traits.features(np.stack(made), music.rate)),
  }
  found = {
    trait: {
      of: traits.agreement(told[trait], by_ear[of][trait]) for of in by_ear
    }
    for trait in by_ear["songs"]
    if not balanced or trait in built_in.BALANCED_TRAITS
  }
  atomic.write_json(workdir / RESULTS, {"about": about, "traits": found})
  atomic.write_text(workdir / "table.md", tables.markdown(*table(found)))
  return found


def _check_decoder(workdir: pathlib.Path, about: dict[str, Any]) -> None:
  """Refuses pieces that another decoder of the same codes made.

  Raises:
    UserError: the workdir's pieces are of another one, or of an unknown one.
  """
  before = jobs.settings_of(workdir).get("songs")
  if before is None or before.get("codec") != about["codec"]:
    return
  if before.get("decoder") != about.get("decoder"):
    words = "another decoder of the same codes"
    if "decoder" not in before:
      words += ", or by a version that did not note which"
    raise UserError(f"{workdir} was begun with {words}; give another workdir.")


def decoder_of(codec: LoadedCodec | StereoCodec) -> str:
  """Identifies all weights of a codec that has the hash of another one.

  Its codes are the same, but not what they sound like.
  """
  own = {key: x for key, x in codec.config.items() if key != "codes"}
  return fingerprint(own, codec.variables)


def weights_of(music: Any) -> str:
  """Identifies the weights of a music model, apart from its codec's."""
  if not hasattr(music, "parts"):
    return fingerprint(music.config, music.variables["params"])
  stages = music.parts.stages
  about = {
    name: [each.config["model"], each.target, each.streams]
    for name, each in stages.items()
  }
  params = {name: each.variables["params"] for name, each in stages.items()}
  return fingerprint({"model": about}, params)


def learn(music: Any, folder: pathlib.Path) -> traits.Classifiers:
  """Trains classifiers on songs in a folder, as the codec of a model sounds."""
  found = _through_codec(music, folder)
  heard = traits.features(found["audio"], music.rate)
  return traits.Classifiers(heard, traits.of_songs(found["tags"]))


def _flac(folder: pathlib.Path) -> list[pathlib.Path]:
  """Lists the audio files of a folder, in order."""
  return sorted(folder.glob("*.flac"))


def _tags(folder: pathlib.Path) -> list[dict[str, Any]]:
  """Reads the tags of the songs in a folder, in order."""
  sidecars = [path.with_suffix(".json") for path in _flac(folder)]
  return [inputs.read_json(path)["tags"] for path in sidecars]


def _through_codec(music: Any, folder: pathlib.Path) -> dict[str, Any]:
  """Reconstructs songs: `audio` [songs, samples] and their `tags`."""
  paths, audio = _flac(folder), []
  for start in range(0, len(paths), BATCH):
    x = np.stack([files.read(path)[0] for path in paths[start:][:BATCH]])
    audio.append(built_in.through_codec(music, x))
  return {"audio": np.concatenate(audio), "tags": _tags(folder)}


def _make(
  music: Any,
  folder: pathlib.Path,
  captions: Sequence[str],
  seconds: float,
  seed: int,
  guidance: float,
  show: Callable[[str], Callable],
) -> None:
  """Generates a piece for each caption and writes it at once.

  Existing pieces come from an interrupted run with the same settings.
  """
  folder.mkdir(exist_ok=True)
  progress, samples = show("pieces"), round(seconds * music.rate)
  for start in range(0, len(captions), BATCH):
    texts = captions[start : start + BATCH]
    paths = [folder / f"{start + i:03d}.flac" for i in range(len(texts))]
    if not all(path.with_suffix(".txt").exists() for path in paths):
      x = music.generate(
        texts, seconds=seconds, seed=seed + start, guidance=guidance
      )
      for path, each, text in zip(paths, np.asarray(x), texts, strict=True):
        files.write(path, resampling.fit(each, samples), rate=music.rate)
        # Written last, to mark the piece as complete.
        atomic.write_text(path.with_suffix(".txt"), text + "\n")
    progress(start + len(texts), len(captions))


def table(found: dict) -> tuple[list[str], list[list]]:
  """Returns columns and rows, one row for each trait.

  The last column is corrected for the number of traits.
  """
  percent = lambda share: f"{100 * share:.0f}%"
  rows = []
  corrected = multiple.holm([of["made"]["p"] for of in found.values()])
  for (trait, of), holm in zip(found.items(), corrected, strict=True):
    made = of["made"]
    rows.append(
      [
        trait,
        percent(of["songs"]["share"]),
        percent(made["share"]),
        percent(made["chance"]),
        f"{made['p']:.4f}",
        f"{holm:.4f}",
      ]
    )
  columns = [
    "trait", "songs heard right", "pieces as prompted", "by chance", "p",
    "p (Holm)",
  ]  # fmt: skip
  return columns, rows
