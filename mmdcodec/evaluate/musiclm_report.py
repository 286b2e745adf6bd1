"""Runs the measures of a MusicLM and writes their page."""

import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from mmdcodec.audio import files
from mmdcodec.data.token_records import TokenSource
from mmdcodec.errors import UserError
from mmdcodec.evaluate import (
  built_in,
  musiclm,
  musiclm_time,
  report,
  result_folder,
)
from mmdcodec.evaluate import clips as clips_lib
from mmdcodec.evaluate import oracle as oracle_lib
from mmdcodec.evaluate import reconstruction_report as players
from mmdcodec.evaluate.musiclm import Found, Setting
from mmdcodec.store import atomic

MEASURES = (
  "consistency", "story", "melody", "seams", "drift", "likelihood", "oracle"
)  # fmt: skip
# Songs that classifiers learn from.
SONGS = 200
# Pieces of a measure on the page.
LISTEN = 3


def possible(
  music: Any, sets: Sequence[TokenSource], clips: Sequence[clips_lib.Clip]
) -> dict[str, str]:
  """Measures that cannot be made, and why."""
  found = {}
  if not music.takes("text"):
    reason = "the model takes no text"
    found = dict.fromkeys(("consistency", "story", "drift"), reason)
  if not music.takes("melody"):
    found["melody"] = "the model takes no melody"
  if not sets:
    found["likelihood"] = "this needs --tokens, held-out token data sets"
  if not clips:
    found["oracle"] = "this needs --audio, held-out music"
  return found


def choose(only: Sequence[str] | None, missing: Mapping[str, str]) -> list[str]:
  """Chooses measures: those asked for, or all that can be made.

  Raises:
    UserError: one is unknown, or cannot be made.
  """
  if only is None:
    return [name for name in MEASURES if name not in missing]
  for name in only:
    if name not in MEASURES:
      raise UserError(
        f"there is no measure {name!r}; choose among {', '.join(MEASURES)}."
      )
    if name in missing:
      raise UserError(f"{name} cannot be measured: {missing[name]}.")
  return list(only)


def measure(
  of: Setting,
  names: Sequence[str],
  *,
  prompts: Sequence[str] | None = None,
  clips: Sequence[clips_lib.Clip] = (),
  sets: Sequence[TokenSource] = (),
  songs: int = SONGS,
  tell: Callable[[str, Found], None] = lambda name, found: None,
) -> dict[str, Found]:
  """Runs measures.

  Args:
    of: what they share.
    names: which of `MEASURES`; see `choose`.
    prompts: prompts of consistency; None for captions of the clips if they all
      have one, and else for those of built-in music.
    clips: held-out music at the model's rate.
    sets: held-out token data sets.
    songs: songs that classifiers learn from.
    tell: called with each result.

  Raises:
    UserError: the model does not take a prompt, or a measure fails.
  """
  audio = np.zeros((0, 0, of.music.channels), np.float32)
  if clips:
    length = min(len(clip.audio) for clip in clips)
    audio = np.stack([clip.audio[:length] for clip in clips])
  references = None
  captions = [clip.caption.strip() for clip in clips]
  if prompts is None and all(captions) and len({*captions}) > 1:
    prompts, references = captions, audio
  # Found now, not after other measures.
  told = {*names} - {"likelihood", "oracle"}
  if told and of.music.takes("text"):
    asked = list(prompts or [])
    if prompts is None or told != {"consistency"}:
      asked += built_in.prompts(of.pieces, musiclm.PROMPTS)[0]
    of.music.check(asked, guidance=of.guidance)
  classifiers, right = None, None
  if {"story", "drift"} & {*names}:
    classifiers, right = built_in.classifiers(
      of.music,
      songs=songs,
      seconds=of.seconds,
      show=of.show("songs for classifiers"),
    )
  found = {}
  for name in names:
    if name == "consistency":
      found[name] = musiclm.consistency(of, prompts, references)
    elif name == "story":
      found[name] = musiclm_time.story(of, classifiers)
    elif name == "melody":
      found[name] = musiclm.melody(of)
    elif name == "seams":
      found[name] = musiclm_time.find_seams(of)
    elif name == "drift":
      found[name] = musiclm_time.drift(of, classifiers)
    elif name == "likelihood":
      found[name] = musiclm.likelihood(of, sets)
    else:
      found[name] = oracle_lib.oracle(of, audio)
    if name in ("story", "drift"):
      found[name].values["classifiers_right"] = right
    tell(name, found[name])
  return found


def write(
  found: Mapping[str, Found],
  folder: str | pathlib.Path,
  about: dict[str, Any],
  music: Any,
) -> pathlib.Path:
  """Writes results.json, pieces and report.html into a folder.

  Args:
    found: results of `measure`.
    folder: where to.
    about: options of the command.
    music: the model.

  Returns:
    The path of the page.
  """
  folder = result_folder.prepare(folder)
  (folder / "audio").mkdir(exist_ok=True)
  values = {name: each.values for name, each in found.items()}
  atomic.write_json(folder / "results.json", {"about": about, **values})
  sections: list[report.Section] = [
    report.Text("What was run", code=result_folder.command("musiclm", about))
  ]
  index = 0
  for each in found.values():
    sections.append(each.table)
    rows = []
    for name, audio in each.pieces[: 2 * LISTEN]:
      files.write(
        folder / "audio" / f"{index:03d}-sample.flac", audio, rate=music.rate
      )
      rows.append(players.compared(name, {"audio": audio}, music.rate))
      index += 1
    if rows:
      sections.append(report.Players("", rows))
  sections.append(report.environment())
  return report.write_report(
    folder / "report.html", sections, title="MusicLM", lead=lead(found)
  )


def lead(found: Mapping[str, Found]) -> str:
  """The most important result in words."""
  if "consistency" not in found:
    return f"Measured: {', '.join(found)}."
  pieces = found["consistency"].values["pieces"]
  return (
    f"MuLan cycle consistency {pieces['own']:.3f}, with shuffled prompts"
    f" {pieces['chance']:.3f} (p = {pieces['p']:.4f})."
  )
