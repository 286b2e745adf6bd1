"""The report of `mmdcodec quickstart`."""

import pathlib

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


def write(job: Job) -> str:
  """Writes WORKDIR/report.html and returns its size."""
  folder = job.workdir
  trained, untrained = _results(folder)
  bundle = inputs.read_object(folder / "bundle" / "config.json")
  seconds = jobs.seconds_of(folder)
  step, model = bundle["training"]["step"], bundle["model"]
  music = "built-in music" if job.audio is None else f"music in {job.audio}"
  took = formatting.duration(seconds["train"])
  start = job.config["init_from"]
  begun = f"the packaged {start!r}" if start else "nothing"
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
          f" its captions ({formatting.duration(seconds['train lm'])}).",
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
      f" {margin(trained, untrained)}."
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


def margin(trained: Reconstruction, untrained: Reconstruction) -> str:
  """Describes how much training changed the mel distance.

  Codes without phases lose the waveform, so SI-SDR says nothing here.
  """
  a, b = (each.summary["mel_distance"][0] for each in (trained, untrained))
  word = "less" if a <= b else "more"
  return (
    f"mel distance {a:.1f} dB, {abs(a - b):.1f} dB {word} than that of the same"
    f" codec untrained ({b:.1f} dB)"
  )


def as_text(job: Job) -> str:
  """Formats measures of the trained and untrained codec for a terminal."""
  trained, untrained = _results(job.workdir)
  table = sections.measures_section(trained, untrained)
  return (
    f"{margin(trained, untrained)}, on {len(trained.rows)} clips of held-out"
    f" music\n{formatting.table(table.columns, table.rows)}"
  )


def _results(workdir: pathlib.Path) -> tuple[Reconstruction, Reconstruction]:
  """Loads the results of the trained and the untrained codec."""
  trained, untrained = (
    clips_lib.load(workdir / "evaluation" / name)
    for name in ("trained", "untrained")
  )
  return trained, untrained


def _captions(result: Reconstruction, workdir: pathlib.Path) -> dict[str, str]:
  """Reads the captions of clips: name -> caption."""
  folder = workdir / "music" / "test"
  return {
    clip.name: captions.sidecar(folder / clip.name).caption
    for clip in result.clips
  }
