"""Measures of a packaged codec, for its card.

On music that it was not trained on: reconstruction with all and with half of
the codebooks, beside Opus at its lowest bit rate (if ffmpeg is installed), also
by ViSQOL (if that is); and how dependent the codes are, beside those of the
twin that was trained without the independence loss.
"""

import pathlib
import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mmdcodec import bundle, patterns
from mmdcodec.audio import files
from mmdcodec.evaluate import clips as clips_lib
from mmdcodec.evaluate import dependence_report, reconstruction, visqol

CLIPS, CLIP_SECONDS = 64, 10.0
OPUS_KBPS = 6


def measure(
  model: pathlib.Path,
  twin: pathlib.Path,
  music: Mapping[str, pathlib.Path],
  *,
  tiny: bool = False,
) -> dict[str, Any]:
  """Measures a codec.

  Args:
    model: its bundle.
    twin: bundle of the codec without the independence loss; may be missing.
    music: folders of test music by kind; "songs" are built-in ones.
    tiny: whether to use few and short clips, for tests.

  Returns:
    "reconstruction": kind -> name of the codec -> measure -> mean;
    "dependence": name of the codec -> measure.
  """
  codecs: dict[str, Any] = {"small": bundle.load_codec(model)}
  if twin.exists():
    codecs["without the loss"] = bundle.load_codec(twin)
  codec = codecs["small"]
  count, seconds = (2, 2.0) if tiny else (CLIPS, CLIP_SECONDS)
  clips = {
    kind: clips_lib.collect(
      folder, rate=codec.rate, channels=codec.channels, seconds=seconds,
      count=count,
    )
    for kind, folder in music.items()
  }  # fmt: skip
  found: dict[str, Any] = {"reconstruction": {}, "dependence": {}}
  for kind, some in clips.items():
    found["reconstruction"][kind] = reconstructions(codecs, some)
  for name, each in codecs.items():
    found["dependence"][name] = dependence_report.measure(
      each,
      clips["songs"],
      used=each.codebooks,
      pattern=patterns.make("delay", each.codebooks),
    ).summary()
  return found


def reconstructions(
  codecs: Mapping[str, Any], clips: Sequence[clips_lib.Clip]
) -> dict[str, dict[str, float]]:
  """Measures codecs and Opus on the same clips.

  Returns:
    name -> "kbps", the means of `clips.COLUMNS`, "usage", the share of codes
    that occur, and "visqol", if that is installed.
  """
  found = {}
  for name, codec in codecs.items():
    half = max(1, codec.codebooks // 2)
    for books in (codec.codebooks, half):
      label = name if books == codec.codebooks else f"{name}, {books} codebooks"
      result = clips_lib.reconstruct(codec, clips, codebooks=books)
      found[label] = {
        "kbps": result.bits_per_second / 1000,
        **{key: mean for key, (mean, _) in result.summary.items()},
        "usage": float(result.usage.mean()),
        **_visqol(clips, result.audio, result.rate),
      }
  if shutil.which("ffmpeg"):
    rate = next(iter(codecs.values())).rate
    found[f"Opus at {OPUS_KBPS} kbps"] = opus(clips, rate)
  return found


def opus(clips: Sequence[clips_lib.Clip], rate: int) -> dict[str, float]:
  """Measures Opus, as in `reconstructions`, through ffmpeg."""
  rows, decoded, size = [], [], 0
  with tempfile.TemporaryDirectory() as folder:
    wav, coded, back = (
      pathlib.Path(folder) / name for name in ("a.wav", "a.opus", "b.wav")
    )
    for clip in clips:
      files.write(wav, clip.audio, rate=rate)
      _ffmpeg(wav, "-c:a", "libopus", "-b:a", f"{OPUS_KBPS}k", coded)
      _ffmpeg(coded, "-ar", str(rate), back)
      size += coded.stat().st_size
      y, _ = files.read(back, rate=rate, channels=clip.audio.shape[1])
      y = np.pad(y, ((0, max(0, len(clip.audio) - len(y))), (0, 0)))
      y = y[: len(clip.audio)]
      decoded.append(y)
      measured = reconstruction.compare(clip.audio[None], y[None], rate)
      rows.append({k: float(v[0]) for k, v in measured.items()})
  seconds = sum(len(clip.audio) for clip in clips) / rate
  means = {
    key: float(np.mean([row[key] for row in rows])) for key in clips_lib.COLUMNS
  }
  heard = _visqol(clips, decoded, rate)
  return {"kbps": 8 * size / seconds / 1000, **means, **heard}


def _visqol(
  clips: Sequence[clips_lib.Clip], audio: Sequence[np.ndarray], rate: int
) -> dict[str, float]:
  """Scores reconstructions, if ViSQOL is installed."""
  if not visqol.installed():
    return {}
  pairs = zip([clip.audio for clip in clips], audio, strict=True)
  return {"visqol": visqol.mean_score(pairs, rate)}


def _ffmpeg(source: pathlib.Path, *rest: object) -> None:
  """Converts a file."""
  command = ["ffmpeg", "-loglevel", "error", "-y", "-i", source, *rest]
  subprocess.run([str(each) for each in command], check=True)
