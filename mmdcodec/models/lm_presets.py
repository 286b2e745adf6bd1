"""Published and tiny language models, as fields of TokenLM.

MusicGen, arXiv 2306.05284, 4.1 and its released configurations: K = 4 codebooks
of 2048 codes at 50 Hz, 30 s, prompts through T5-base. The tiny ones have their
own text encoder, which reads bytes and is trained with them.
"""

from typing import Any

T5_BASE = dict(
  tokenizer="t5",
  longest=512,
  encoder=dict(
    vocabulary=32_128,
    width=768,
    layers=12,
    heads=12,
    head_dim=64,
    hidden=3072,
  ),
)

# 256 bytes and an end token.
BYTES = dict(
  tokenizer="bytes",
  longest=256,
  encoder=dict(
    vocabulary=257,
    width=128,
    layers=2,
    heads=4,
    head_dim=32,
    hidden=256,
    gated=True,
  ),
)

TINY_BYTES = BYTES | dict(
  encoder=dict(
    vocabulary=257, width=16, layers=1, heads=2, head_dim=8, hidden=32
  )
)

# Windows of half a second at 32 kHz, for 30 s.
CHROMA = dict(classes=12, frames=235, rate=32_000, window=16_384, hop=4096)


def _musicgen(
  width: int, layers: int, heads: int, **more: Any
) -> dict[str, Any]:
  fields = dict(
    codebooks=4,
    codebook_size=2048,
    frames=1500,
    width=width,
    layers=layers,
    heads=heads,
    hidden=4 * width,
    conditions={"text": T5_BASE},
  )
  return fields | more


PRESETS = {
  "musicgen_small": _musicgen(1024, 24, 16),
  "musicgen_medium": _musicgen(1536, 48, 24),
  "musicgen_large": _musicgen(2048, 48, 32),
  # All conditions are a prefix to the music.
  "musicgen_melody": _musicgen(
    1536,
    48,
    24,
    cross=False,
    conditions={"text": T5_BASE, "melody": CHROMA},
  ),
  # For CPUs: experiments, the quickstart, tests.
  "small": dict(
    codebook_size=256,
    frames=500,
    width=256,
    layers=6,
    heads=4,
    hidden=1024,
    positions="rotary",
    conditions={"text": BYTES},
  ),
  "tiny": dict(
    codebook_size=32,
    frames=50,
    width=32,
    layers=2,
    heads=2,
    hidden=64,
    conditions={"text": TINY_BYTES},
  ),
}
