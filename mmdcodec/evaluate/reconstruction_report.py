"""The reconstruction report, whose sections `mmdcodec quickstart` also uses."""

import pathlib
from collections.abc import Mapping

import numpy as np

from mmdcodec import formatting
from mmdcodec.evaluate import (
  artefacts,
  audio_plots,
  codebook_plots,
  report,
  result_folder,
  training_plots,
)
from mmdcodec.evaluate.clips import COLUMNS, Reconstruction
from mmdcodec.store import paths

# Number of clips with players: 5 s of FLAC at 24 kHz add 0.2 MB to the page.
LISTEN = 6
NAN = float("nan")


def bit_rates(result: Reconstruction) -> tuple[float, float]:
  """Returns kbps of the packed codes and with ideal entropy coders."""
  return (
    result.bits_per_second / 1000,
    result.entropy_bits_per_second / 1000,
  )


def as_text(result: Reconstruction) -> str:
  """Formats tables for a terminal."""
  total = sum(row["seconds"] for row in result.rows)
  measures = [
    (heading, *result.summary[name], words)
    for name, (heading, words) in COLUMNS.items()
  ]
  nominal, coded = bit_rates(result)
  measures += [
    ("bit rate (kbps)", nominal, NAN, "of the packed codes"),
    ("entropy-coded (kbps)", coded, NAN, "with an ideal coder"),
  ]
  levels = [
    (level, 100 * usage, perplexity)
    for level, (usage, perplexity) in enumerate(
      zip(result.usage, result.perplexity, strict=True), 1
    )
  ]
  size = result.counts.shape[1]
  tables = [
    f"{len(result.rows)} clips, {formatting.duration(total)}, {nominal:.2f}"
    " kbps",
    formatting.table(("measure", "mean", "std", ""), measures),
    formatting.table(
      ("codebook", "usage (%)", f"perplexity (of {size})"), levels
    ),
  ]
  if result.artefacts is not None:
    rows = [
      (artefacts.MEASURES[name][0], value)
      for name, value in result.artefacts.values.items()
    ]
    tables.append(formatting.table(("artefact", "value"), rows))
  return "\n\n".join(tables)


def measures_section(
  result: Reconstruction, baseline: Reconstruction | None = None
) -> report.Table:
  """Tabulates means and deviations, and the margin over an untrained codec."""
  columns = ["measure", "mean", "std"]
  if baseline is not None:
    columns = ["measure", "trained", "std", "untrained", "std", "margin"]
  results = [result] if baseline is None else [result, baseline]
  lines = [
    (heading, [each.summary[name] for each in results])
    for name, (heading, _) in COLUMNS.items()
  ]
  for index, heading in enumerate(("bit rate", "entropy-coded bit rate")):
    pairs = [(bit_rates(each)[index], NAN) for each in results]
    lines.append((f"{heading} (kbps)", pairs))
  rows = []
  for heading, pairs in lines:
    row: list = [heading, *(value for pair in pairs for value in pair)]
    if baseline is not None:
      row.append(pairs[0][0] - pairs[1][0])
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
  details: Mapping[str, str] | None = None,
) -> report.Players:
  """Shows originals next to reconstructions, each with its spectrogram.

  Args:
    result: results of the codec.
    baseline: results of another codec to compare with.
    details: name of a clip -> text below it.
  """
  rows = []
  for index, clip in enumerate(result.clips[:LISTEN]):
    audio = {"original": clip.audio, "reconstruction": result.audio[index]}
    if baseline is not None:
      audio["untrained"] = baseline.audio[index]
    words = [(details or {}).get(clip.name, "")]
    row = result.rows[index]
    words.append(f"mel distance {row['mel_distance']:.1f} dB")
    words.append(f"SI-SDR {row['si_sdr']:.1f} dB")
    detail = " · ".join(filter(None, words))
    rows.append(compared(clip.name, audio, result.rate, detail))
  return report.Players("Listen", rows)


def compared(
  name: str, audio: Mapping[str, np.ndarray], rate: int, detail: str = ""
) -> report.Clip:
  """Shows recordings side by side, each above its spectrogram.

  Args:
    name: name of the clip.
    audio: title -> [samples] or [samples, channels], from left to right.
    rate: sample rate of all recordings, in Hz.
    detail: a line below the name.
  """
  pictures = audio_plots.spectrograms(audio, rate=rate)
  recordings = [
    report.Recording(title, x, pictures[title]) for title, x in audio.items()
  ]
  return report.Clip(name, recordings, rate, detail)


def save_pictures(players: report.Players, folder: pathlib.Path) -> None:
  """Writes the pictures of recordings as FOLDER/spectrogram-NNN-TITLE.png."""
  for index, clip in enumerate(players.clips):
    for each in clip.recordings:
      if isinstance(each.picture, bytes):
        name = f"spectrogram-{index:03d}-{each.title.replace(' ', '-')}.png"
        (folder / name).write_bytes(each.picture)


def clips_section(result: Reconstruction) -> report.Table:
  """Tabulates the measures of each clip."""
  return report.Table(
    "Every clip",
    ["clip", "seconds", *(title for title, _ in COLUMNS.values())],
    [list(row.values()) for row in result.rows],
  )


def codebooks_sections(
  result: Reconstruction, baseline: Reconstruction | None = None
) -> tuple[report.Table, report.Figure]:
  """Shows codebook usage as a table and a picture."""
  columns = ["codebook", "usage (%)", "perplexity"]
  if baseline is not None:
    columns += ["untrained usage (%)", "untrained perplexity"]
  rows = []
  for level in range(len(result.usage)):
    row: list = [level + 1]
    for each in filter(None, (result, baseline)):
      row += [100 * float(each.usage[level]), float(each.perplexity[level])]
    rows.append(row)
  frames = int(result.counts[0].sum())
  table = report.Table(
    "Codebook usage",
    columns,
    rows,
    f"{frames:,} frames, {result.counts.shape[1]} codes in each codebook. Usage"
    " is the share of codes chosen at least once; perplexity is 2 to the"
    " entropy of the choice, the effective number of codes.",
  )
  image = codebook_plots.codebook_usage(np.asarray(result.counts))
  return table, report.Figure("", [image])


def artefacts_sections(
  result: Reconstruction,
) -> list[report.Table | report.Figure]:
  """Tabulates artefacts, with a sweep before and after; [] if not measured."""
  found = result.artefacts
  if found is None:
    return []
  rows = [
    [artefacts.MEASURES[name][0], value, artefacts.MEASURES[name][1]]
    for name, value in found.values.items()
  ]
  note = (
    "Of synthetic signals that the codec coded: silence, tones, clicks, a sine"
    " sweep and, in stereo, noise from left, right and both sides. -120 dB"
    " is nothing. The level of the sweep should stay near 0; of all the others,"
    " less is better."
  )
  pictures = audio_plots.spectrograms(
    dict(zip(("sweep", "decoded sweep"), found.sweep, strict=True)),
    rate=found.rate,
  )
  return [
    report.Table("Artefacts", ["measure", "value", ""], rows, note),
    report.Figure("", list(pictures.values())),
  ]


def curves_section(
  workdir: str | pathlib.Path, title: str = "Training"
) -> list[report.Figure]:
  """Shows training curves if the folder is a training workdir."""
  path = paths.of(workdir) / "metrics.jsonl"
  if not path.is_file():
    return []
  try:
    image = training_plots.curves(path)
  except ValueError:  # killed before the first line
    return []
  caption = "Losses on training batches, and measures on validation music."
  return [report.Figure(title, [image], caption)]


def write(result: Reconstruction, folder: str | pathlib.Path) -> pathlib.Path:
  """Writes FOLDER/report.html and its plots; returns the page's path."""
  folder = paths.of(folder)
  options = result_folder.chosen(
    result.about, "model", "audio", "seconds", "clips", "codebooks"
  )
  mean, std = result.summary["si_sdr"]
  players = players_section(result)
  usage, figure = codebooks_sections(result)
  curves = curves_section(result.about["model"])
  save_pictures(players, folder)
  for name, section in (
    ("codebook_usage.png", figure),
    *(("curves.png", each) for each in curves),
  ):
    image = section.images[0]
    assert isinstance(image, bytes)
    (folder / name).write_bytes(image)
  return report.write_report(
    folder / "report.html",
    [
      report.Text(
        "What was run",
        [f"Model {result.about['hash']}."],
        result_folder.command("reconstruction", options),
      ),
      measures_section(result),
      players,
      *curves,
      usage,
      figure,
      *artefacts_sections(result),
      clips_section(result),
      report.environment(),
    ],
    title="Reconstruction",
    lead=(
      f"{len(result.rows)} clips at {result.bits_per_second / 1000:.2f} kbps:"
      f" SI-SDR {mean:.1f} dB (standard deviation {std:.1f})."
    ),
  )
