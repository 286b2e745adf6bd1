"""How much each stage of a hierarchy loses: true tokens into every stage.

The stages are given the true tokens of held-out music, from the top down to
none. Between what the codec itself loses and the music of another clip, a weak
stage shows: with its tokens given music is much nearer to the original than
with its tokens made.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from mmdcodec.errors import UserError
from mmdcodec.evaluate import bootstrap, chroma, reconstruction, report
from mmdcodec.evaluate.bootstrap import Measure
from mmdcodec.evaluate.musiclm import Found, Setting
from mmdcodec.parallel import shares

# Names of the ways, from the bottom to the top.
CODEC, COARSE_ONLY = "codec", "codec, coarse codes only"
FINE = "fine stage from true coarse codes"
COARSE = "coarse stage from true semantic tokens, alone"
BOTH = "coarse and fine stage from true semantic tokens"
EVERY, FREE = "all stages from true joint tokens", "all stages from nothing"
CHANCE = "codec, another clip"
# Clips at a time.
BATCH = 8
# Lower is better, but for the last.
COLUMNS = {
  "mel_distance": "mel distance (dB)",
  "stft_distance": "STFT distance",
  "chroma": "same pitch class",
}


class Way(NamedTuple):
  """One way from the original to audio.

  Attributes:
    name: what was given and what was made.
    values: measures of `COLUMNS`.
    audio: float32 [clips, samples, channels].
  """

  name: str
  values: dict[str, Measure]
  audio: np.ndarray


def measure(
  music: Any,
  audio: np.ndarray,
  *,
  seed: int = 0,
  guidance: float = 1.0,
  show: Callable[[int, int], None] = lambda done, total: None,
) -> list[Way]:
  """Reconstructs clips in every way that the stages of a model allow.

  Args:
    music: a `LoadedMusicLM`.
    audio: clips [clips, samples, channels] at its rate, at least two.
    seed: seed of what is drawn.
    guidance: weight of the joint tokens.
    show: shows the progress.

  Returns:
    The ways, from the bottom to the top, and chance last.

  Raises:
    UserError: there are fewer than two clips.
  """
  if len(audio) < 2:
    raise UserError(
      f"there is {len(audio)} clip; the oracle path needs two, to compare with"
      " another."
    )

  def make_batch(start: int) -> dict[str, np.ndarray]:
    some = audio[start : start + BATCH]
    seeds = [seed + start + i for i in range(len(some))]
    return {
      name: np.asarray(music.codec.decode(codes, length=audio.shape[1]))
      for name, codes in ways(music, some, seeds, guidance).items()
    }

  starts = range(0, len(audio), BATCH)
  found = shares.apply(make_batch, starts, show, size=BATCH)
  made = {
    name: np.concatenate([each[name] for each in found]) for name in found[0]
  }
  made[CHANCE] = np.roll(made[CODEC], 1, axis=0)
  return [
    Way(name, compare(audio, y, music.rate), y) for name, y in made.items()
  ]


def ways(
  music: Any, audio: np.ndarray, seeds: list[int], guidance: float
) -> dict[str, np.ndarray]:
  """Codes [clips, frames, codebooks] of each way; see `measure`."""
  stages, options = music.parts.stages, {"seed": seeds, "guidance": guidance}
  books = stages["coarse"].model.codebooks
  codes = np.asarray(music.codec.encode(audio))
  true = codes[..., :books]
  joint = None
  if music.joint is not None:
    joint = music.joint_tokens(audio=audio, rate=music.rate)
  seconds = codes.shape[1] / music.frame_rate
  found = {CODEC: codes}
  fine = "fine" in stages
  if fine:
    last = books + stages["fine"].model.codebooks
    found = {CODEC: codes[..., :last], COARSE_ONLY: true}
    made = music.make_fine(joint, true, **options)
    found[FINE] = music.join(true, made)
  else:
    found = {CODEC: true}
  semantic = None
  if "semantic" in stages:
    semantic = music.semantic.encode(audio, music.rate)
    coarse = music.make_coarse(joint, semantic, seconds=seconds, **options)
    found[COARSE] = coarse
    if fine:
      made = music.make_fine(joint, coarse, **options)
      found[BOTH] = music.join(coarse, made)
    semantic = music.make_semantic(joint, seconds, **options)
  coarse = music.make_coarse(joint, semantic, seconds=seconds, **options)
  made = music.make_fine(joint, coarse, **options) if fine else None
  found[FREE if joint is None else EVERY] = music.join(coarse, made)
  return found


def compare(x: np.ndarray, y: np.ndarray, rate: int) -> dict[str, Measure]:
  """Compares clips [clips, samples, channels] with what was made of them."""
  rows: dict[str, list[float]] = {name: [] for name in COLUMNS}
  for one, other in zip(x, y, strict=True):
    found = reconstruction.compare(one[None], other[None], rate)
    for name in ("mel_distance", "stft_distance"):
      rows[name].append(float(found[name][0]))
    tunes = [[chroma.classes(clip, rate)] for clip in (one, other)]
    rows["chroma"].append(float(chroma.agreement(*tunes)[0, 0]))
  return {name: bootstrap.mean(values) for name, values in rows.items()}


def oracle(of: Setting, audio: np.ndarray) -> Found:
  """Measures a model and tabulates it; see `measure`."""
  ways = measure(
    of.music,
    audio,
    seed=of.seed,
    guidance=of.guidance,
    show=of.show("clips through the stages"),
  )
  rows, values = [], {}
  for way in ways:
    cells = []
    for name, found in way.values.items():
      digits = 3 if name == "chroma" else 2
      cells.append(bootstrap.shown(*found, digits))
    rows.append((way.name, *cells))
    values[way.name] = {k: v._asdict() for k, v in way.values.items()}
  return Found(
    report.Table(
      "True tokens into each stage",
      ["", *COLUMNS.values()],
      rows,
      f"{len(audio)} held-out clips: distances to the original, and the share"
      " of frames with its pitch class. A stage is weak where what it makes is"
      " much further than what it would be given.",
    ),
    values,
    [(way.name, way.audio[0]) for way in ways] + [("original", audio[0])],
  )
