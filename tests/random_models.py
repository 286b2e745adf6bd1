"""Models of all kinds that the demo's page shows, none of them trained."""

from random_codec import write_random_codec
from random_music import random_music
from random_musiclm import musiclm

from mmdcodec import bundle

# 8 kHz and 40 frames a second.
CODEC = dict(ratios=(5, 5, 8), dilations=(1,))
MELODY = dict(classes=12, frames=6, rate=8000, window=512, hop=256)


def write_random_models(folder):
  """Bundles of a codec, a MusicGen with melody and a MusicLM; their paths."""
  codec = write_random_codec(folder / "codec", 1, **CODEC)
  music = random_music(
    folder / "inner", codec=CODEC, frames=80, layers=1, cross=False,
    melody=MELODY,
  )  # fmt: skip
  bundle.save(folder / "music", *music)
  bundle.save(folder / "hierarchy", *musiclm())
  return [codec, str(folder / "music"), str(folder / "hierarchy")]
