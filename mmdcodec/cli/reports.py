"""The pages of `evaluate` and `quickstart`, made of the same sections."""

import json
import pathlib
import shlex

import numpy as np

from mmdcodec import formatting
from mmdcodec.cli import common
from mmdcodec.evaluate import report
from mmdcodec.evaluate.clips import COLUMNS, Reconstruction
from mmdcodec.store import jobs

# Players make a page heavy: 5 s of FLAC at 24 kHz are 0.2 MB.
LISTEN = 6


def rates(result: Reconstruction) -> tuple[float, float]:
  """Of the packed codes, and with ideal entropy coders, in kbps."""
  return (
    result.bits_per_second / 1000,
    result.entropy_bits_per_second / 1000,
  )


def measures_section(
  result: Reconstruction, baseline: Reconstruction | None = None
) -> report.Table:
  """Means and deviations; beside an untrained codec, the margin too."""
  columns = ["measure", "mean", "std"]
  if baseline is not None:
    columns = ["measure", "trained", "std", "untrained", "std", "margin"]
  lines = [
    (heading, result.summary[name], baseline and baseline.summary[name])
    for name, (heading, _) in COLUMNS.items()
  ]
  nothing = float("nan")
  for index, heading in enumerate(("bit rate", "entropy-coded bit rate")):
    line = [
      (rates(each)[index], nothing) for each in (result, baseline) if each
    ]
    lines.append((f"{heading} (kbps)", line[0], line[-1]))
  rows = []
  for heading, here, there in lines:
    row = [heading, *here]
    if baseline is not None:
      row += [*there, here[0] - there[0]]
    rows.append(row)
  better = "; ".join(f"{title}: {words}" for title, words in COLUMNS.values())
  note = (
    f"Mean and standard deviation over {len(result.rows)} clips. {better}."
    " Entropy-coded: with an ideal coder for each codebook by itself."
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

  columns = ["codebook", "usage (%)", "perplexity"]
  if baseline is not None:
    columns += ["untrained usage (%)", "untrained perplexity"]
  rows = []
  for level in range(len(result.usage)):
    row = [level + 1]
    for each in filter(None, (result, baseline)):
      row += [100 * float(each.usage[level]), float(each.perplexity[level])]
    rows.append(row)
  frames = int(result.counts[0].sum())
  return [
    report.Table(
      "Codebook usage",
      columns,
      rows,
      f"{frames:,} frames, {result.counts.shape[1]} codes in each codebook. Use"
      " is the share of codes chosen at least once; perplexity is 2 to the"
      " entropy of the choice, the effective number of codes.",
    ),
    report.Figure("", [plots.codebook_usage(np.asarray(result.counts))]),
  ]


def curves_section(
  workdir: pathlib.Path, title: str = "Training"
) -> list[report.Section]:
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
  return [report.Figure(title, [image], caption)]


def music_section(workdir: pathlib.Path) -> report.Players:
  """What was generated, beside the held-out songs that have its captions."""
  from mmdcodec.audio import files
  from mmdcodec.cli import quickstart_music
  from mmdcodec.evaluate import plots

  rows = []
  for each in quickstart_music.generated(workdir):
    y, rate = files.read(workdir / "generated" / each["file"])
    song, own = files.read(workdir / "music" / "test" / each["song"])
    song = files.resample(files.mix(song, y.shape[1]), rate=own, to=rate)
    song = song[: len(y)]
    rows.append(
      report.Clip(
        each["prompt"] or "no prompt",
        {"generated": y, "a song with this caption": song},
        rate,
        f"{each['song']} was held out",
        plots.spectrogram_pair(song, y, rate=rate),
      )
    )
  return report.Players(
    "Music from prompts",
    rows,
    "Prompts are the captions of songs that no model has seen. Spectrograms:"
    " the song at the left, what was generated at the right.",
  )


def write_evaluation(
  result: Reconstruction, folder: str | pathlib.Path
) -> pathlib.Path:
  """The page of `mmdcodec evaluate`: FOLDER/report.html, and its plots."""
  folder = pathlib.Path(folder)
  command = ["mmdcodec", "evaluate", "reconstruction"]
  for name in ("model", "audio", "seconds", "clips", "codebooks"):
    command += [f"--{name}", f"{result.about[name]}"]
  mean, std = result.summary["si_sdr"]
  players = players_section(result)
  usage, figure = codebooks_sections(result)
  curves = curves_section(result.about["model"])
  plots = {
    f"spectrogram-{index:03d}.png": clip.image
    for index, clip in enumerate(players.clips)
  }
  plots["codebook_usage.png"] = figure.images[0]
  for section in curves:
    plots["curves.png"] = section.images[0]
  for name, image in plots.items():
    (folder / name).write_bytes(image)
  return report.write_report(
    folder / "report.html",
    [
      report.Text(
        "What was run",
        [f"Model {result.about['hash']}."],
        code=shlex.join(command),
      ),
      measures_section(result),
      players,
      *curves,
      usage,
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
  folder = job.workdir
  trained, untrained = _results(job)
  bundle = json.loads((folder / "bundle" / "config.json").read_text())
  seconds = jobs.seconds_of(folder)
  step, model = bundle["training"]["step"], bundle["model"]
  music = "built-in music" if job.audio is None else f"music in {job.audio}"
  took = formatting.duration(seconds["train"])
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
          " music that it was neither trained nor chosen on. A language model"
          " of its codes was then trained on the same music with its captions"
          f" ({formatting.duration(seconds['train lm'])}).",
        ],
        code=job.command,
      ),
      music_section(folder),
      measures_section(trained, untrained),
      players_section(trained, untrained, _captions(trained, folder)),
      *curves_section(folder / "run"),
      *curves_section(folder / "lm", "Training of the language model"),
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
      f" {margin(trained, untrained)}."
    ),
  )


def margin(trained: Reconstruction, untrained: Reconstruction) -> str:
  """How far training moved SI-SDR, and in which direction, in words."""
  a, b = (each.summary["si_sdr"][0] for each in (trained, untrained))
  word = "above" if a >= b else "below"
  return (
    f"SI-SDR {a:.1f} dB, {abs(a - b):.1f} dB {word} the same codec untrained"
    f" ({b:.1f} dB)"
  )


def quickstart_text(job) -> str:
  """The measures of a quickstart beside the untrained codec's, as a table."""
  trained, untrained = _results(job)
  table = measures_section(trained, untrained)
  return (
    f"{margin(trained, untrained)}, on {len(trained.rows)} clips of held-out"
    f" music\n{common.format_table(table.columns, table.rows)}"
  )


def _results(job) -> list[Reconstruction]:
  """Of the trained codec and the untrained one."""
  from mmdcodec.evaluate import clips

  folder = job.workdir / "evaluation"
  return [clips.load(folder / name) for name in ("trained", "untrained")]


def _captions(result: Reconstruction, workdir: pathlib.Path) -> dict[str, str]:
  """Name of a clip -> its caption, in the file beside it."""
  from mmdcodec.data import captions

  folder = workdir / "music" / "test"
  return {
    clip.name: captions.sidecar(folder / clip.name).caption
    for clip in result.clips
  }
