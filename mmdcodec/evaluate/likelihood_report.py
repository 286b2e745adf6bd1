"""Measures how well a music model predicts music, and writes a report."""

import dataclasses
import math
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from mmdcodec import bitstream, progress
from mmdcodec.audio import files
from mmdcodec.errors import UserError
from mmdcodec.evaluate import clips as clips_lib
from mmdcodec.evaluate import (
  likelihood,
  reconstruction_report,
  report,
  result_folder,
)
from mmdcodec.evaluate.likelihood import Likelihood
from mmdcodec.generation.musicgen import LoadedMusic
from mmdcodec.parallel import shares
from mmdcodec.store import atomic

# Number of samples on the page, with and without prompts.
SAMPLES, FREE_SAMPLES = 4, 2
SEED = 0
# Whether the model is given the captions of the clips.
WITH, WITHOUT = "with captions", "without text"


@dataclasses.dataclass(frozen=True)
class Result:
  """Results for a music model.

  Attributes:
    music: the model.
    clips: the clips.
    captions: caption of each clip, "" if it has none.
    found: keyed by WITHOUT, and WITH if the model takes text and a clip has a
      caption.
    counted: unigram and bigram bits; see `likelihood.counted`.
    about: what was run.
  """

  music: LoadedMusic
  clips: Sequence[clips_lib.Clip]
  captions: list[str]
  found: dict[str, Likelihood]
  counted: tuple[np.ndarray, np.ndarray]
  about: dict[str, Any]

  @property
  def head(self) -> str:
    """How much was measured, in words."""
    seconds = sum(len(clip.audio) for clip in self.clips) / self.music.rate
    told = sum(map(bool, self.captions))
    return f"{len(self.clips)} clips, {seconds:.0f} s, {told} with a caption"

  def worth(self) -> tuple[float, float]:
    """Returns the bits per frame that a caption saves, and their error."""
    told = np.array([bool(caption) for caption in self.captions])
    # Paired by clip, because clips vary more than the effect of captions.
    gain = self.found[WITHOUT].of_clips - self.found[WITH].of_clips
    gain, error = gain[told], math.nan
    if len(gain) > 1:
      error = float(gain.std(ddof=1)) / math.sqrt(len(gain))
    return float(gain.mean()), error


@dataclasses.dataclass(frozen=True)
class Sample:
  """Generated music.

  Attributes:
    prompt: "" for none.
    audio: [samples, channels].
    clip: the clip whose caption is the prompt, or None.
  """

  prompt: str
  audio: np.ndarray
  clip: clips_lib.Clip | None


def measure(
  music: LoadedMusic, clips: Sequence[clips_lib.Clip], about: dict[str, Any]
) -> Result:
  """Encodes clips and measures how well the model predicts their codes.

  Args:
    music: the model.
    clips: clips with its rate and channels.
    about: what was run, to keep with the results.
  """
  codes = shares.apply(
    lambda clip: np.asarray(music.codec.encode(clip.audio[None])[0]),
    clips,
    progress.counter("clips encoded"),
  )
  captions, found = [clip.caption.strip() for clip in clips], {}
  if music.takes("text") and any(captions):
    found[WITH] = likelihood.measure(
      music, codes, captions, progress=progress.counter(f"windows {WITH}")
    )
  found[WITHOUT] = likelihood.measure(
    music, codes, progress=progress.counter("windows")
  )
  own = [each[:, : music.model.codebooks] for each in codes]
  counted = likelihood.counted(own, music.model.codebook_size)
  about = {**about, "hash": music.codec.hash}
  return Result(music, clips, captions, found, counted, about)


def measures_table(result: Result) -> tuple[list[str], list[tuple]]:
  """Returns (columns, rows): bits per frame of the clips by coder."""
  model, rate = result.music.model, result.music.frame_rate
  rows = [
    (f"music model, {name}", each.bits_per_frame, math.nan)
    for name, each in result.found.items()
  ]
  if WITH in result.found:
    rows.append(("  what a caption is worth", *result.worth()))
  unigram, bigram = (float(each.sum()) for each in result.counted)
  packed = float(model.codebooks * bitstream.code_bits(model.codebook_size))
  rows += [
    ("adaptive coder, each codebook alone", unigram, math.nan),
    ("  given the code before", bigram, math.nan),
    ("packed codes", packed, math.nan),
  ]
  return ["", "bits per frame", "±", "kbps"], [
    (title, bits, error, bits * rate / 1000) for title, bits, error in rows
  ]


def codebooks_table(result: Result) -> tuple[list[str], list[tuple]]:
  """Returns (columns, rows): bits and perplexity of each codebook."""
  columns, cells = ["codebook"], []
  for name, each in result.found.items():
    columns += [f"bits {name}", "perplexity"]
    summary = each.summary
    cells += [summary["cross_entropy"] / math.log(2), summary["perplexity"]]
  columns += ["alone", "given the code before"]
  rows = zip(*cells, *result.counted, strict=True)
  return columns, [(k, *map(float, row)) for k, row in enumerate(rows, 1)]


def clips_table(result: Result) -> tuple[list[str], list[tuple]]:
  """Returns (columns, rows): one row per clip."""
  columns = ["clip", "seconds", *(f"bits {name}" for name in result.found)]
  bits = zip(*(each.of_clips for each in result.found.values()), strict=True)
  return [*columns, "caption"], [
    (clip.name, len(clip.audio) / result.music.rate, *map(float, row), caption)
    for clip, caption, row in zip(
      result.clips, result.captions, bits, strict=True
    )
  ]


def make_samples(
  music: LoadedMusic,
  clips: Sequence[clips_lib.Clip],
  *,
  prompts: Sequence[str] | None,
  seconds: float,
) -> list[Sample]:
  """Generates music from prompts.

  Args:
    music: the model.
    clips: clips whose captions are the default prompts.
    prompts: the prompts; None for captions of the clips.
    seconds: length of each sample.
  """
  wanted: Sequence[tuple[str, clips_lib.Clip | None]]
  if prompts is not None:
    wanted = [(prompt, None) for prompt in prompts]
  else:
    # The first clip of every caption that the model takes.
    first = {clip.caption.strip(): clip for clip in reversed(clips)}
    wanted = [
      (prompt, clip)
      for prompt, clip in reversed(first.items())
      if prompt and fits(music, prompt)
    ][:SAMPLES]
  wanted = wanted or [("", None)] * FREE_SAMPLES
  codes = music.generate_codes(
    [prompt for prompt, _ in wanted],
    seconds=seconds,
    seed=SEED,
    progress=progress.counter("frames"),
  )
  audio = music.codec.decode(codes)
  return [
    Sample(prompt, y, clip)
    for (prompt, clip), y in zip(wanted, audio, strict=True)
  ]


def fits(music: LoadedMusic, prompt: str) -> bool:
  """Whether a model takes a prompt without cutting it."""
  try:
    music.check(prompt)
  except UserError:
    return False
  return True


def write(
  result: Result, samples: Sequence[Sample], folder: str | pathlib.Path
) -> pathlib.Path:
  """Writes results.json, samples, pictures and report.html into a folder.

  Returns:
    The path of the page.
  """
  folder, rate = result_folder.prepare(folder), result.music.rate
  (folder / "audio").mkdir(exist_ok=True)
  for index, sample in enumerate(samples):
    files.write(folder / _file_name(index), sample.audio, rate=rate)
  atomic.write_json(folder / "results.json", as_json(result, samples))
  about = result.about
  options = result_folder.chosen(
    about, "model", "audio", "seconds", "clips", "prompt"
  )
  players = players_section(samples, rate)
  reconstruction_report.save_pictures(players, folder)
  name, best = next(iter(result.found.items()))
  return report.write_report(
    folder / "report.html",
    [
      report.Text(
        "What was run",
        [f"A music model over the codec {about['hash']}."],
        result_folder.command("lm", options),
      ),
      report.Table(
        "Held-out music",
        *measures_table(result),
        "Bits that an ideal coder needs for the codes of the clips with the"
        f" model's predictions, in windows of {result.music.seconds:g} s. An"
        " adaptive coder knows nothing at first and counts only the codes of"
        " these clips. ±: standard error over clips.",
      ),
      players,
      *reconstruction_report.curves_section(about["model"]),
      report.Table("Codebooks", *codebooks_table(result)),
      report.Table("Every clip", *clips_table(result)),
      report.environment(),
    ],
    title="Music model",
    lead=f"{result.head}: {best.bits_per_frame:.3f} bits per frame {name}.",
  )


def players_section(samples: Sequence[Sample], rate: int) -> report.Players:
  """Shows samples next to the clips whose captions they were made from."""
  rows = []
  for index, sample in enumerate(samples):
    audio, detail = {"generated": sample.audio}, f"seed {SEED + index}"
    if sample.clip is not None:
      audio = {"clip with this caption": sample.clip.audio, **audio}
      detail = f"{sample.clip.name} · {detail}"
    rows.append(
      reconstruction_report.compared(
        sample.prompt or "no prompt", audio, rate, detail
      )
    )
  return report.Players(
    "Generated music", rows, "As `mmdcodec generate` makes it by default."
  )


def as_json(result: Result, samples: Sequence[Sample]) -> dict[str, Any]:
  """Returns the contents of results.json."""
  found: dict[str, Any] = {
    name: {k: np.asarray(v).tolist() for k, v in each.summary.items()}
    for name, each in result.found.items()
  }
  if WITH in result.found:
    bits, error = result.worth()
    # A single clip has no error; JSON has no NaN.
    error = None if math.isnan(error) else error
    found["worth of captions"] = {"bits_per_frame": bits, "error": error}
  for name, each in zip(("unigram", "bigram"), result.counted, strict=True):
    found[name] = {"bits_per_frame": float(each.sum())}
  columns, rows = clips_table(result)
  return {
    "about": result.about,
    **found,
    "clips": [dict(zip(columns, row, strict=True)) for row in rows],
    "samples": [
      {"prompt": each.prompt, "file": _file_name(index), "seed": SEED + index}
      for index, each in enumerate(samples)
    ],
  }


def _file_name(index: int) -> str:
  """Returns the path of a sample relative to the folder."""
  return f"audio/{index:03d}-sample.flac"
