"""The page of `mmdcodec quickstart --system musiclm`."""

import math
import pathlib
from collections.abc import Sequence
from typing import Any

from mmdcodec import formatting
from mmdcodec.audio import files
from mmdcodec.configs.quickstart_musiclm import STAGES, TOKENIZERS
from mmdcodec.evaluate import reconstruction_report as players
from mmdcodec.evaluate import report
from mmdcodec.store import inputs, jobs
from mmdcodec.store import metrics as metrics_lib
from mmdcodec.workflows import quickstart_musiclm_pieces as pieces
from mmdcodec.workflows.quickstart_musiclm_job import MusicLMJob

_PACKAGED = (
  " The tokenizers ship with the package; the codec, and all stages but the"
  " fine one, were trained further from what ships."
)
_TITLES = {
  "semantic": "Training of the semantic tokenizer",
  "joint": "Training of the joint embedding",
  "melody": "Training of the melody embedding",
}


def write(job: MusicLMJob, stages: Sequence[str]) -> str:
  """Writes WORKDIR/musiclm/report.html.

  Args:
    job: the job.
    stages: names of its stages: the folder may have those of another command.

  Returns:
    The size of the page.
  """
  folder = job.folder
  results = read_results(job)
  seconds = jobs.seconds_of(job.workdir, stages)
  curves = [
    each
    for name in (() if job.packaged else TOKENIZERS)
    for each in players.curves_section(folder / f"{name}_run", _TITLES[name])
  ]
  for name in STAGES:
    title = f"Training of the {name} stage"
    curves += players.curves_section(folder / f"{name}_lm", title)
  path = report.write_report(
    folder / "report.html",
    [
      report.Text(
        "What was run",
        [
          "A prompt becomes tokens of a joint embedding of music and text, from"
          " which the semantic stage makes semantic tokens, the coarse stage"
          " the first half of the codec's codebooks, and the fine stage the"
          " others. All of it took"
          f" {formatting.duration(sum(seconds.values()))} on built-in music."
          + (_PACKAGED if job.packaged else ""),
        ],
        code=job.command,
      ),
      *(report.Table(*each) for each in results["tables"].values()),
      _prompts(folder / "measures", results["prompts"]),
      *_story_and_melody(folder / "generated"),
      _stages(folder),
      *curves,
      report.Table(
        "Time of each step",
        ("step", "seconds"),
        [(name, float(value)) for name, value in seconds.items()],
      ),
      report.environment(),
    ],
    title="mmdcodec quickstart: MusicLM",
    lead=f"{pieces.lead(results)}.",
  )
  return f"{path.stat().st_size / 1e6:.1f} MB"


def as_text(job: MusicLMJob) -> str:
  """Formats what was measured for a terminal."""
  results = read_results(job)
  tables = [report.Table(*each) for each in results["tables"].values()]
  shown = [
    f"{each.title}\n{formatting.table(each.columns, each.rows)}"
    for each in tables
  ]
  return "\n\n".join([f"{pieces.lead(results)}.", *shown])


def read_results(job: MusicLMJob) -> dict[str, Any]:
  """Reads what `quickstart_musiclm_pieces.measure` wrote."""
  return inputs.read_object(job.folder / "measures" / pieces.RESULTS)


def _prompts(folder: pathlib.Path, prompts: list[str]) -> report.Players:
  """Pieces of prompts, each beside a song that the prompt describes."""
  rows = []
  for i, prompt in enumerate(prompts):
    piece, rate = files.read(folder / f"{i:02d}-piece.flac")
    song, _ = files.read(folder / f"{i:02d}-song.flac")
    audio = {"generated": piece, "a song with this caption": song}
    rows.append(players.compared(prompt, audio, rate))
  return report.Players(
    "Music from prompts",
    rows,
    "Prompts are captions of built-in songs that no model was trained on.",
  )


def _story_and_melody(folder: pathlib.Path) -> list[report.Players]:
  """The story, and the melody with its piece beside it."""
  about = inputs.read_object(folder / pieces.ABOUT)
  told, rate = files.read(folder / "story.flac")
  audio = {
    "melody": files.read(folder / "tune.flac")[0],
    "generated": files.read(folder / "melody.flac")[0],
  }
  times = [f"{time:g} s: {prompt}" for time, prompt in about["story"]]
  story = players.compared(" / ".join(times), {"generated": told}, rate)
  followed = players.compared(about["melody"], audio, rate)
  return [
    report.Players("A story of three prompts", [story]),
    report.Players("A piece that was to follow a melody", [followed]),
  ]


def _stages(folder: pathlib.Path) -> report.Table:
  """What each stage makes, and how well it predicts music for validation."""
  parts = inputs.read_object(folder / "bundle" / "config.json")["parts"]
  rows = []
  for name in STAGES:
    model = parts[f"{name}_lm"]["model"]
    rate = parts[f"{name}_lm"]["target"]["frame_rate"]
    bits = [
      row["valid/bits_per_frame"]
      for row in metrics_lib.read(folder / f"{name}_lm")
      if "valid/bits_per_frame" in row
    ]
    most = model["codebooks"] * math.log2(model["codebook_size"])
    rows.append(
      (
        name,
        f"{model['codebooks']} x {model['codebook_size']} at {rate:g} Hz",
        f"{model['frames'] / rate:.3g}",
        min(bits, default=math.nan),
        most,
      )
    )
  return report.Table(
    "Stages",
    ("stage", "makes", "clip (s)", "bits per frame", "equally likely codes"),
    rows,
    "Bits per frame of music for validation, of the checkpoint in the bundle,"
    " each stage with the true tokens of the stage above.",
  )
