"""The pages of `evaluate` and `quickstart`, made of the same sections."""

import json
import pathlib
import shlex

import numpy as np

from mmdcodec.cli import stages
from mmdcodec.evaluate import report
from mmdcodec.evaluate.clips import COLUMNS, Reconstruction

# Players make a page heavy: 5 s of FLAC at 24 kHz are 0.2 MB.
LISTEN = 6


def measures_section(
  result: Reconstruction, baseline: Reconstruction | None = None
) -> report.Table:
  """Means and deviations; beside an untrained codec, the margin too."""
  columns = ["measure", "mean", "std"]
  if baseline is not None:
    columns = ["measure", "trained", "std", "untrained", "std", "margin"]
  rows = []
  for name, (heading, _) in COLUMNS.items():
    row = [heading, *result.summary[name]]
    if baseline is not None:
      other = baseline.summary[name]
      row += [*other, result.summary[name][0] - other[0]]
    rows.append(row)
  better = "; ".join(f"{title}: {words}" for title, words in COLUMNS.values())
  note = (
    f"Mean and standard deviation over {len(result.rows)} clips at"
    f" {result.bits_per_second / 1000:.2f} kbps. {better}."
  )
  if baseline is not None:
    note += (
      " Margin: trained minus untrained. Untrained is the same architecture at"
      " step 0: random weights, with codebooks fitted by k-means to what the"
      " random encoder makes of training music."
    )
  return report.Table("Reconstruction", columns, rows, note)


def players_section(
  result: Reconstruction,
  baseline: Reconstruction | None = None,
  details: dict[str, str] | None = None,
) -> report.Players:
  """Originals beside reconstructions, with their spectrograms."""
  from mmdcodec.evaluate import plots

  rows = []
  for index, clip in enumerate(result.clips[:LISTEN]):
    y = result.audio[index]
    audio = {"original": clip.audio, "reconstruction": y}
    if baseline is not None:
      audio["untrained"] = baseline.audio[index]
    words = [(details or {}).get(clip.name, "")]
    words.append(f"SI-SDR {result.rows[index]['si_sdr']:.1f} dB")
    image = plots.spectrogram_pair(clip.audio, y, rate=result.rate)
    rows.append(
      report.Clip(
        clip.name, audio, result.rate, " · ".join(filter(None, words)), image
      )
    )
  return report.Players(
    "Listen",
    rows,
    "Spectrograms: the original at the left, the reconstruction at the right.",
  )


def clips_section(result: Reconstruction) -> report.Table:
  """One row per clip."""
  return report.Table(
    "Every clip",
    ["clip", "seconds", *(title for title, _ in COLUMNS.values())],
    [list(row.values()) for row in result.rows],
  )


def codebooks_sections(
  result: Reconstruction, baseline: Reconstruction | None = None
) -> list[report.Section]:
  """Which codes are chosen how often."""
  from mmdcodec.evaluate import plots

  columns = ["codebook", "use (%)", "perplexity"]
  if baseline is not None:
    columns += ["untrained use (%)", "untrained perplexity"]
  rows = []
  for level in range(len(result.use)):
    row = [level + 1]
    for each in filter(None, (result, baseline)):
      row += [100 * float(each.use[level]), float(each.perplexity[level])]
    rows.append(row)
  frames = int(result.counts[0].sum())
  return [
    report.Table(
      "Codebook use",
      columns,
      rows,
      f"{frames:,} frames, {result.counts.shape[1]} codes in each codebook. Use"
      " is the share of codes chosen at least once; perplexity is 2 to the"
      " entropy of the choice, the number of codes in effective use.",
    ),
    report.Figure("", [plots.codebook_use(np.asarray(result.counts))]),
  ]


def curves_section(workdir: pathlib.Path) -> list[report.Section]:
  """Training curves, if the folder is one of a training run."""
  from mmdcodec.evaluate import plots

  path = pathlib.Path(workdir) / "metrics.jsonl"
  if not path.is_file():
    return []
  try:
    image = plots.curves(path)
  except ValueError:  # killed before the first line
    return []
  caption = "Losses on training batches, and measures on music for validation."
  return [report.Figure("Training", [image], caption)]


def write_evaluation(
  result: Reconstruction, folder, *, model: str, audio: str
) -> pathlib.Path:
  """The page of `mmdcodec evaluate`: FOLDER/report.html, and its plots."""
  folder = pathlib.Path(folder)
  command = shlex.join(
    ["mmdcodec", "evaluate", "reconstruction"]
    + ["--model", str(model), "--audio", str(audio)]
  )
  mean, std = result.summary["si_sdr"]
  players = players_section(result)
  use, figure = codebooks_sections(result)
  curves = curves_section(model)
  plots = {
    f"spectrogram-{index:03d}.png": clip.image
    for index, clip in enumerate(players.clips)
  }
  plots["codebook_use.png"] = figure.images[0]
  for section in curves:
    plots["curves.png"] = section.images[0]
  for name, image in plots.items():
    (folder / name).write_bytes(image)
  return report.write_report(
    folder / "report.html",
    [
      report.Text("What was run", code=command),
      measures_section(result),
      players,
      *curves,
      use,
      figure,
      clips_section(result),
      report.environment(),
    ],
    title="Reconstruction",
    lead=(
      f"{len(result.rows)} clips at {result.bits_per_second / 1000:.2f} kbps:"
      f" SI-SDR {mean:.1f} dB (standard deviation {std:.1f})."
    ),
  )


def write_quickstart(job) -> pathlib.Path:
  """The page of `mmdcodec quickstart`: WORKDIR/report.html.

  Args:
    job: a `mmdcodec.cli.quickstart.Job` whose other stages are done.

  Returns:
    The path.
  """
  from mmdcodec.evaluate import clips as clips_lib

  folder = job.workdir
  trained, untrained = (
    clips_lib.load(folder / "evaluation" / name)
    for name in ("trained", "untrained")
  )
  bundle = json.loads((folder / "bundle" / "config.json").read_text())
  seconds = stages.seconds_of(folder)
  step, model = bundle["training"]["step"], bundle["model"]
  a, b = (each.summary["si_sdr"][0] for each in (trained, untrained))
  music = "built-in music" if job.audio is None else f"music in {job.audio}"
  took = stages.duration_text(seconds["train"])
  return report.write_report(
    folder / "report.html",
    [
      report.Text(
        "What was run",
        [
          f"A codec for {job.rate} Hz with {model['codebooks']} codebooks of"
          f" {model['codebook_size']} codes was trained on {music} for"
          f" {job.config['steps']} steps in {took}. The checkpoint of step"
          f" {step} was best on music for validation; it then reconstructed"
          " music that it was neither trained nor chosen on.",
        ],
        code=f"mmdcodec quickstart --workdir {shlex.quote(str(folder))}"
        + (f" --audio {shlex.quote(str(job.audio))}" if job.audio else ""),
      ),
      measures_section(trained, untrained),
      players_section(trained, untrained, _captions(folder / "music/test")),
      *curves_section(folder / "run"),
      *codebooks_sections(trained, untrained),
      clips_section(trained),
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
      f" SI-SDR {a:.1f} dB, {a - b:.1f} dB above the same codec untrained"
      f" ({b:.1f} dB)."
    ),
  )


def _captions(folder: pathlib.Path) -> dict[str, str]:
  """Name of an audio file -> the caption in the JSON file beside it."""
  found = {}
  for path in folder.rglob("*.json"):
    try:
      caption = json.loads(path.read_text()).get("caption", "")
    except (ValueError, AttributeError):
      continue
    for audio in path.parent.glob(path.stem + ".*"):
      found[audio.relative_to(folder).as_posix()] = str(caption)
  return found
