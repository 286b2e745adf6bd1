"""Evaluates a codec on clips and stores the results in a folder.

FOLDER/results.json     means, codebook usage, one row per clip
FOLDER/clips.csv        the same rows
FOLDER/audio/NNN-{original,reconstruction}.flac
"""

import csv
import dataclasses
import io
import json
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from mmdcodec.errors import UserError
from mmdcodec.evaluate.artefacts import Artefacts
from mmdcodec.parallel import shares
from mmdcodec.platform import bucket
from mmdcodec.store import atomic, inputs, paths
from mmdcodec.tokenizers.loaded_codec import LoadedCodec

# name -> (heading, how to read it)
COLUMNS = {
  "si_sdr": ("SI-SDR (dB)", "higher is better"),
  "mel_distance": ("mel distance (dB)", "lower is better"),
  "stft_distance": ("STFT distance", "lower is better"),
}


@dataclasses.dataclass(frozen=True)
class Clip:
  """A piece of audio.

  Attributes:
    name: name for display.
    audio: [samples, channels] at the codec's rate.
    source: the file that it was cut from, equal for clips of one file; "" if
      unknown, as for clips that `load` returns.
    caption: caption of that file; "" if it has none.
    tags: tags of that file, by name.
  """

  name: str
  audio: np.ndarray
  source: str = ""
  caption: str = ""
  tags: Mapping[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Reconstruction:
  """Reconstructed clips, with measures of their quality.

  Attributes:
    rate: Hz.
    clips: the originals.
    audio: the reconstructions, in the same order and of the same shapes.
    rows: per clip, `clip`, `seconds` and the measures of `COLUMNS`.
    summary: measure -> (mean, standard deviation) over the clips.
    counts: [codebooks, size] how often each code was chosen.
    usage: per codebook, the share of its codes that were chosen.
    perplexity: per codebook, over all clips.
    bits_per_second: bit rate of the packed codes.
    entropy_bits_per_second: bit rate with an ideal entropy coder per codebook.
    about: what was run: "hash" and "codebooks" of the codec, and what the
      caller of `reconstruct` adds ("model", "audio", "seconds", "clips").
    artefacts: of synthetic signals, if they were measured.
  """

  rate: int
  clips: list[Clip]
  audio: list[np.ndarray]
  rows: list[dict]
  summary: dict[str, tuple[float, float]]
  counts: np.ndarray
  usage: np.ndarray
  perplexity: np.ndarray
  bits_per_second: float
  entropy_bits_per_second: float
  about: dict
  artefacts: Artefacts | None = None


def collect(
  source: str | pathlib.Path,
  *,
  rate: int,
  channels: int,
  seconds: float,
  count: int,
  log: Callable[[str], None] = print,
) -> list[Clip]:
  """Collects clips of a folder, a file or a data set; the same ones each time.

  Args:
    source: folder, file or data set.
    rate: sample rate of the clips in Hz.
    channels: channels of the clips.
    seconds: length of a clip, cut from the middle of longer files.
    count: maximum number of files (spread evenly) or crops of a data set.
    log: called with a line for each file or sidecar that cannot be read, which
      is skipped.

  Returns:
    At least one clip.

  Raises:
    UserError: there are no readable audio files.
  """
  from mmdcodec.audio import files
  from mmdcodec.data import captions

  source = paths.of(source)
  if _is_dataset(source):
    return _crops(source, rate, channels, seconds, count)
  found = files.find(source)
  if not found:
    raise UserError(
      f"{source} has no audio files; expected {' '.join(files.SUFFIXES)}."
    )
  root = source if source.is_dir() else source.parent
  clips, problem, notes = [], None, captions.Notes()
  for index in _spread(len(found), count):
    path = found[index]
    try:
      length = files.info(path).seconds
      start = max(0.0, (length - seconds) / 2)
      x, _ = files.read(
        path, rate=rate, channels=channels, start=start, seconds=seconds
      )
    except UserError as error:
      problem = error
      log(f"left out: {error}")
      continue
    name = path.relative_to(root).as_posix()
    label = captions.sidecar(path, notes)
    clips.append(Clip(name, x, name, label.caption, label.tags))
  for note in notes.unread:
    log(f"caption left out: {note.where}: {note.what}")
  if not clips:
    raise UserError(f"{source}: no file could be read ({problem})")
  return clips


def reconstruct(
  codec: LoadedCodec,
  clips: Sequence[Clip],
  *,
  codebooks: int | None = None,
  about: Mapping | None = None,
) -> Reconstruction:
  """Encodes and decodes clips and measures the quality.

  Args:
    codec: codec to measure.
    clips: clips with its rate and channels.
    codebooks: number of codebooks to use; None for all.
    about: information to keep with the results, such as the model's path.

  Returns:
    See `Reconstruction`.

  Raises:
    UserError: the codec has fewer codebooks.
  """
  from mmdcodec import bitstream
  from mmdcodec.evaluate import codebooks as usage
  from mmdcodec.evaluate import reconstruction

  # Padded to one length, so that all clips share a compiled program.
  stride = codec.stride
  longest = max(len(clip.audio) for clip in clips)
  longest = bucket(-(-longest // stride)) * stride

  def padded(x: np.ndarray) -> np.ndarray:
    return np.pad(x, ((0, 0), (0, longest - x.shape[1]), (0, 0)))

  size = codec.codebook_size
  used = codec.codebooks if codebooks is None else codebooks

  def measure(clip: Clip) -> tuple[np.ndarray, dict, np.ndarray, int]:
    codes, scale = codec.encode(
      clip.audio[None], codebooks=codebooks, return_scale=True
    )
    y = codec.decode(codes, scale=scale, length=len(clip.audio))
    found = reconstruction.compare(
      padded(clip.audio[None]),
      padded(y),
      codec.rate,
      np.array([len(clip.audio)]),
    )
    seconds = len(clip.audio) / codec.rate
    measured = {name: float(found[name][0]) for name in COLUMNS}
    row = {"clip": clip.name, "seconds": seconds, **measured}
    here = codes.shape[1]
    more = bucket(here) - here
    codes = np.pad(codes, ((0, 0), (0, more), (0, 0)))
    valid = np.arange(here + more) < here
    chosen = np.asarray(usage.histogram(codes, size, valid))
    return np.asarray(y[0]), row, chosen, here

  measured = shares.apply(measure, clips)
  rows = [row for _, row, _, _ in measured]
  counts = np.zeros((used, size), np.float32)
  for _, _, chosen, _ in measured:
    counts = counts + chosen
  frames = sum(here for *_, here in measured)
  samples = sum(len(clip.audio) for clip in clips)
  statistics = usage.statistics(counts)
  # Measured, because chunks overlap and last frames are not full.
  frame_rate = frames * codec.rate / samples
  summary = {}
  for name in COLUMNS:
    values = [row[name] for row in rows]
    summary[name] = float(np.mean(values)), float(np.std(values))
  return Reconstruction(
    rate=codec.rate,
    clips=list(clips),
    audio=[y for y, *_ in measured],
    rows=rows,
    summary=summary,
    counts=counts,
    usage=np.asarray(statistics["usage"]),
    perplexity=np.asarray(statistics["perplexity"]),
    bits_per_second=frame_rate * used * bitstream.code_bits(size),
    entropy_bits_per_second=usage.entropy_bits_per_second(frame_rate, counts),
    about={**(about or {}), "hash": codec.hash, "codebooks": used},
  )


def save(result: Reconstruction, folder: str | pathlib.Path) -> None:
  """Writes results.json, clips.csv, and originals and reconstructions as FLAC.

  Raises:
    UserError: the folder cannot be made.
  """
  from mmdcodec.audio import files

  folder = paths.of(folder)
  try:
    (folder / "audio").mkdir(parents=True, exist_ok=True)
  except OSError as error:
    raise UserError(f"{folder} cannot be made: {error.strerror}.") from None
  results = {
    "about": result.about,
    "clips": len(result.rows),
    "bits_per_second": result.bits_per_second,
    "entropy_bits_per_second": result.entropy_bits_per_second,
    **{
      name: {"mean": mean, "std": std}
      for name, (mean, std) in result.summary.items()
    },
    "artefacts": result.artefacts.values if result.artefacts else {},
    "rate": result.rate,
    "usage": result.usage.tolist(),
    "perplexity": result.perplexity.tolist(),
    "counts": result.counts.tolist(),
    "rows": result.rows,
  }
  atomic.write_json(folder / "results.json", results)
  table = io.StringIO(newline="")
  writer = csv.DictWriter(table, list(result.rows[0]))
  writer.writeheader()
  writer.writerows(result.rows)
  atomic.write_text(folder / "clips.csv", table.getvalue())
  for index, (clip, y) in enumerate(
    zip(result.clips, result.audio, strict=True)
  ):
    for kind, x in (("original", clip.audio), ("reconstruction", y)):
      name = f"{index:03d}-{kind}.flac"
      files.write(folder / "audio" / name, x, rate=result.rate)


def load(folder: str | pathlib.Path) -> Reconstruction:
  """Reads the results that `save` wrote (audio at 16 bits)."""
  from mmdcodec.audio import files

  folder = paths.of(folder)
  results = inputs.read_json(folder / "results.json")
  audio = {
    kind: [
      files.read(folder / "audio" / f"{index:03d}-{kind}.flac")[0]
      for index in range(results["clips"])
    ]
    for kind in ("original", "reconstruction")
  }
  return Reconstruction(
    rate=results["rate"],
    clips=[
      Clip(row["clip"], x)
      for row, x in zip(results["rows"], audio["original"], strict=True)
    ],
    audio=audio["reconstruction"],
    rows=results["rows"],
    summary={
      name: (results[name]["mean"], results[name]["std"]) for name in COLUMNS
    },
    counts=np.array(results["counts"]),
    usage=np.array(results.get("usage", results.get("use"))),
    perplexity=np.array(results["perplexity"]),
    bits_per_second=results["bits_per_second"],
    entropy_bits_per_second=results["entropy_bits_per_second"],
    about=results["about"],
  )


def _spread(total: int, count: int) -> list[int]:
  """Returns at most `count` of `total` indices, evenly spread."""
  count = min(total, count)
  return [(2 * i + 1) * total // (2 * count) for i in range(count)]


def _is_dataset(path: pathlib.Path) -> bool:
  from mmdcodec.data import record_source

  return (path / record_source.SUMMARY).is_file()


def _crops(
  path: pathlib.Path, rate: int, channels: int, seconds: float, count: int
) -> list[Clip]:
  from mmdcodec.data import pipeline

  found = pipeline.fixed_batches(
    path,
    batch=1,
    seconds=seconds,
    rate=rate,
    channels=channels,
    count=count,
    distinct=True,
  )
  return [
    Clip(
      f"crop {i}",
      each["audio"][0, : each["lengths"][0]],
      source=each["source"][0],
      caption=each["caption"][0],
      tags=json.loads(each["tags"][0] or "{}"),
    )
    for i, each in enumerate(found)
  ]
