"""The report of `mmdcodec quickstart`."""

import pathlib
from collections.abc import Sequence

from mmdcodec import formatting
from mmdcodec.audio import files
from mmdcodec.data import captions
from mmdcodec.evaluate import clips as clips_lib
from mmdcodec.evaluate import reconstruction_report as sections
from mmdcodec.evaluate import report
from mmdcodec.evaluate.clips import Reconstruction
from mmdcodec.store import inputs, jobs
from mmdcodec.workflows import (
  quickstart_first,
  quickstart_music,
  quickstart_preview,
)
from mmdcodec.workflows.quickstart_job import Job


def write(job: Job, stages: Sequence[str]) -> str:
  """Writes WORKDIR/report.html.

  Args:
    job: the job.
    stages: names of its stages: the folder may have those of another command.

  Returns:
    The size of the page.
  """
  folder = job.workdir
  trained, untrained, before = _results(folder)
  bundle = inputs.read_object(folder / "bundle" / "config.json")
  seconds = jobs.seconds_of(folder, stages)
  step, model = bundle["training"]["step"], bundle["model"]
  music = "built-in music" if job.audio is None else f"music in {job.audio}"
  took = formatting.duration(seconds["train"])
  start = job.config["init_from"]
  begun = f"the packaged {start!r}" if start else "nothing"
  start = job.lm["init_from"]
  begun_lm = f"the packaged {start!r}" if start else "nothing"
  lm = inputs.read_object(folder / "music_bundle" / "config.json")["model"]
  books = lm["codebooks"]
  path = report.write_report(
    folder / "report.html",
    [
      report.Text(
        "What was run",
        [
          f"A codec for {job.rate} Hz with {model['codebooks']} codebooks of"
          f" {model['codebook_size']} codes was trained on {music} for"
          f" {job.config['steps']} steps in {took}, begun from {begun}. The"
          " checkpoint of step"
          f" {step} was the best on validation music. It then reconstructed"
          " held-out music, which was used neither to train nor to choose it."
          " A language model of its codes was trained on the same music with"
          f" its captions, begun from {begun_lm}, to predict {books} of the"
          f" codebooks ({formatting.duration(seconds['train lm'])}).",
        ],
        code=job.command,
      ),
      music_section(folder),
      *quickstart_first.section(folder),
      sections.measures_section(trained, untrained),
      sections.players_section(trained, untrained, _captions(trained, folder)),
      *quickstart_preview.section(folder),
      *sections.curves_section(folder / "run"),
      *sections.curves_section(folder / "lm", "Training of the language model"),
      *sections.codebooks_sections(trained, untrained),
      sections.clips_section(trained),
      report.Table(
        "Time of each stage",
        ("stage", "seconds"),
        [(name, float(value)) for name, value in seconds.items()],
      ),
      report.environment(),
    ],
    title="mmdcodec quickstart",
    lead=(
      f"Held-out music at {trained.bits_per_second / 1000:.2f} kbps:"
      f" {margin(trained, untrained, before)}."
    ),
  )
  return f"{path.stat().st_size / 1e6:.1f} MB"


def music_section(workdir: pathlib.Path) -> report.Players:
  """Shows generated music next to the songs whose captions were its prompts."""
  rows = []
  for each in quickstart_music.generated(workdir):
    y, rate = files.read(workdir / "generated" / each["file"])
    song, own = files.read(workdir / "music" / "test" / each["song"])
    song = files.resample(files.mix(song, y.shape[1]), rate=own, to=rate)
    rows.append(
      sections.compared(
        each["prompt"] or "no prompt",
        {"generated": y, "a song with this caption": song[: len(y)]},
        rate,
        f"{each['song']} was held out",
      )
    )
  return report.Players(
    "Music from prompts",
    rows,
    "Prompts are the captions of songs that neither model was trained on.",
  )


def margin(
  trained: Reconstruction,
  untrained: Reconstruction,
  before: Reconstruction | None,
) -> str:
  """Describes how much training changed the mel distance.

  Codes without phases lose the waveform, so SI-SDR says nothing here.
  """
  a, b = (each.summary["mel_distance"][0] for each in (trained, untrained))
  word = "less" if a <= b else "more"
  words = (
    f"mel distance {a:.1f} dB, {abs(a - b):.1f} dB {word} than that of the same"
    f" codec untrained ({b:.1f} dB)"
  )
  if before is not None:
    words += (
      f"; before this training {before.summary['mel_distance'][0]:.1f} dB"
    )
  return words


def as_text(job: Job) -> str:
  """Formats measures of the trained and untrained codec for a terminal."""
  trained, untrained, before = _results(job.workdir)
  table = sections.measures_section(trained, untrained)
  return (
    f"{margin(trained, untrained, before)}, on {len(trained.rows)} clips of"
    f" held-out music\n{formatting.table(table.columns, table.rows)}"
  )


def _results(
  workdir: pathlib.Path,
) -> tuple[Reconstruction, Reconstruction, Reconstruction | None]:
  """Loads results: trained, untrained, and what the training began from."""
  folder = workdir / "evaluation"
  trained, untrained = (
    clips_lib.load(folder / name) for name in ("trained", "untrained")
  )
  if not (folder / "before").exists():
    return trained, untrained, None
  return trained, untrained, clips_lib.load(folder / "before")


def _captions(result: Reconstruction, workdir: pathlib.Path) -> dict[str, str]:
  """Reads the captions of clips: name -> caption."""
  folder = workdir / "music" / "test"
  return {
    clip.name: captions.sidecar(folder / clip.name).caption
    for clip in result.clips
  }
