"""`mmdcodec evaluate lm`: how well a music model knows music, and its own."""

import dataclasses
import json
import math
import pathlib
import shlex
from typing import Any

import numpy as np

from mmdcodec import bitstream
from mmdcodec.errors import UserError

CLIPS = 32
# Samples on the page; without captions there is nothing to choose from.
SAMPLES, FREE_SAMPLES = 4, 2
SEED = 0
# What the model is told of the clips.
WITH, WITHOUT = "with captions", "without text"


def run(args, music):
  """Encodes clips, prints the tables, writes and makes what was asked for."""
  from mmdcodec.cli import common
  from mmdcodec.evaluate import likelihood

  check_prompts(args, music)
  clips, about = common.read_clips(args, music)
  show, codes = common.progress_line("clips encoded"), []
  for done, clip in enumerate(clips, 1):
    codes.append(music.codec.encode(clip.audio[None])[0])
    show(done, len(clips))
  captions, found = [clip.caption.strip() for clip in clips], {}
  if music.model.text and any(captions):
    found[WITH] = likelihood.measure(
      music, codes, captions, progress=common.progress_line("windows, told")
    )
  found[WITHOUT] = likelihood.measure(
    music, codes, progress=common.progress_line("windows")
  )
  counted = likelihood.counted(codes, music.model.codebook_size)
  about.update(hash=music.codec.hash, prompt=args.prompt or [])
  result = Result(music, clips, captions, found, counted, about)
  print(f"{result.head}\n")
  print(common.format_table(*measures_table(result)) + "\n")
  print(common.format_table(*codebooks_table(result)))
  if args.out:
    page = write(result, make_samples(args, music, clips), args.out)
    print(f"\nresults, samples and plots: {args.out}\npage: {page}")


@dataclasses.dataclass(frozen=True)
class Result:
  """What was measured.

  Attributes:
    music: the `LoadedMusic`.
    clips: `evaluate.clips.Clip`s.
    captions: of each clip, "" of those without one.
    found: `likelihood.Likelihood` under WITHOUT, and WITH if there are captions
      that the model takes.
    counted: unigram and bigram, see `likelihood.counted`.
    about: what was run.
  """

  music: Any
  clips: list
  captions: list[str]
  found: dict
  counted: tuple[np.ndarray, np.ndarray]
  about: dict

  @property
  def head(self) -> str:
    """How much was measured, in words."""
    seconds = sum(len(clip.audio) for clip in self.clips) / self.music.rate
    told = sum(map(bool, self.captions))
    return f"{len(self.clips)} clips, {seconds:.0f} s, {told} with a caption"

  def worth(self) -> tuple[float, float]:
    """Bits per frame that a caption is worth, and their standard error."""
    told = np.array([bool(caption) for caption in self.captions])
    # In pairs: clips differ more from one another than by their captions.
    gain = self.found[WITHOUT].of_clips - self.found[WITH].of_clips
    gain, error = gain[told], math.nan
    if len(gain) > 1:
      error = float(gain.std(ddof=1)) / math.sqrt(len(gain))
    return float(gain.mean()), error


def check_prompts(args, music) -> None:
  """Makes sure that prompts can become samples, before the work is done.

  Raises:
    UserError: they can't.
  """
  from mmdcodec.models import text_tokens

  if args.prompt is None:
    return
  if not args.out:
    raise UserError("--prompt makes samples: say with --out where they go.")
  if not music.model.text:
    raise UserError(f"{args.model} takes no text, so no --prompt.")
  longest = music.model.text["longest"]
  text_tokens.tokenize(music.tokenizer, args.prompt, longest)


def measures_table(result: Result):
  """(columns, rows): bits per frame of the clips, by who codes them."""
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


def codebooks_table(result: Result):
  """(columns, rows): cross-entropy in bits and perplexity of each codebook."""
  columns, cells = ["codebook"], []
  for name, each in result.found.items():
    columns += [f"bits {name}", "perplexity"]
    summary = each.summary
    cells += [summary["cross_entropy"] / math.log(2), summary["perplexity"]]
  columns += ["alone", "given the code before"]
  rows = zip(*cells, *result.counted, strict=True)
  return columns, [(k, *map(float, row)) for k, row in enumerate(rows, 1)]


def clips_table(result: Result):
  """(columns, rows): one row per clip."""
  columns = ["clip", "seconds", *(f"bits {name}" for name in result.found)]
  bits = zip(*(each.of_clips for each in result.found.values()), strict=True)
  return [*columns, "caption"], [
    (clip.name, len(clip.audio) / result.music.rate, *map(float, row), caption)
    for clip, caption, row in zip(
      result.clips, result.captions, bits, strict=True
    )
  ]


def make_samples(args, music, clips) -> list[dict]:
  """Music from prompts, or from captions beside the clips that have them.

  Returns:
    `prompt`, `audio` [samples, channels], and `clip` (None of a prompt that is
    nobody's caption).
  """
  from mmdcodec.cli import common

  if args.prompt is not None:
    wanted = [{"prompt": prompt, "clip": None} for prompt in args.prompt]
  else:
    # The first clip of every caption that the model takes.
    first = {clip.caption.strip(): clip for clip in reversed(clips)}
    wanted = [
      {"prompt": prompt, "clip": clip}
      for prompt, clip in reversed(first.items())
      if prompt and fits(music, prompt)
    ][:SAMPLES]
  wanted = wanted or [{"prompt": "", "clip": None}] * FREE_SAMPLES
  codes = music.generate_codes(
    [each["prompt"] for each in wanted],
    seconds=args.seconds,
    seed=SEED,
    progress=common.progress_line("frames"),
  )
  audio = music.codec.decode(codes)
  return [{**each, "audio": y} for each, y in zip(wanted, audio, strict=True)]


def fits(music, prompt: str) -> bool:
  """Whether a model takes a prompt as it is."""
  text = music.model.text
  return bool(text) and len(music.tokenizer.encode(prompt)) <= text["longest"]


def write(
  result: Result, samples: list[dict], folder: str | pathlib.Path
) -> pathlib.Path:
  """FOLDER/results.json, audio/NNN-sample.flac, pictures and report.html."""
  from mmdcodec.audio import files
  from mmdcodec.cli import reports
  from mmdcodec.evaluate import clips as clips_lib
  from mmdcodec.evaluate import report

  folder, rate = pathlib.Path(folder), result.music.rate
  (folder / "audio").mkdir(parents=True, exist_ok=True)
  clips_lib.clean(folder)
  for index, each in enumerate(samples):
    each["file"] = f"audio/{index:03d}-sample.flac"
    files.write(folder / each["file"], each["audio"], rate=rate)
  results = as_json(result, samples)
  (folder / "results.json").write_text(json.dumps(results, indent=2) + "\n")
  about, command = result.about, ["mmdcodec", "evaluate", "lm"]
  for name in ("model", "audio", "seconds", "clips"):
    command += [f"--{name}", f"{about[name]}"]
  for prompt in about["prompt"]:
    command += ["--prompt", prompt]
  players = players_section(samples, rate)
  for index, clip in enumerate(players.clips):
    (folder / f"spectrogram-{index:03d}.png").write_bytes(clip.image)
  name, best = next(iter(result.found.items()))
  return report.write_report(
    folder / "report.html",
    [
      report.Text(
        "What was run",
        [f"A music model over the codec {about['hash']}."],
        code=shlex.join(command),
      ),
      report.Table(
        "Music that it has not made",
        *measures_table(result),
        "What an ideal coder that knows the model spends on the codes of the"
        f" clips, in windows of {result.music.seconds:g} s. An adaptive coder"
        " knows nothing at first and counts the codes of these clips alone."
        " ±: standard error over clips.",
      ),
      players,
      *reports.curves_section(about["model"]),
      report.Table("Codebooks", *codebooks_table(result)),
      report.Table("Every clip", *clips_table(result)),
      report.environment(),
    ],
    title="Music model",
    lead=f"{result.head}: {best.bits_per_frame:.3f} bits per frame {name}.",
  )


def players_section(samples: list[dict], rate: int):
  """What was made, beside the clip whose caption it was made from."""
  from mmdcodec.evaluate import plots, report

  rows = []
  for index, each in enumerate(samples):
    audio, detail = {"made": each["audio"]}, f"seed {SEED + index}"
    if each["clip"] is not None:
      audio = {"clip of this caption": each["clip"].audio, **audio}
      detail = f"{each['clip'].name} · {detail}"
    rows.append(
      report.Clip(
        each["prompt"] or "no prompt",
        audio,
        rate,
        detail,
        plots.spectrograms(audio, rate=rate),
      )
    )
  return report.Players(
    "Music that it makes", rows, "As `mmdcodec generate` makes it by default."
  )


def as_json(result: Result, samples: list[dict]) -> dict:
  """What stands in results.json."""
  found = {
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
      {"prompt": each["prompt"], "file": each["file"], "seed": SEED + index}
      for index, each in enumerate(samples)
    ],
  }
