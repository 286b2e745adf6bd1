"""Published and tiny language models, as fields of TokenLM.

MusicGen, arXiv 2306.05284, 4.1 and its released configurations: K = 4 codebooks
of 2048 codes at 50 Hz, 30 s, prompts through T5-base. The tiny ones have their
own text encoder, which reads bytes and is trained with them.

MusicLM, arXiv 2301.11325, 4.2: one model for each stage; see `musiclm_stages`.
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


# Width, blocks and heads of MusicLM's stages by size, the published one first.
STAGE_SIZES = {
  "": (1024, 24, 16),
  "base": (768, 12, 12),
  "small": (384, 6, 6),
  "tiny": (32, 2, 2),
}


def musiclm_stages(size: str) -> dict[str, dict[str, Any]]:
  """Fields of MusicLM's three stages.

  Conditions are tokens, before the music: joint, melody, then semantic or
  coarse. In the small size those in time are added to the music instead
  (docs/RESULTS.md, "MusicLM"): relative positions treat all distances over 128
  alike, so attention must learn by other means which of them belong to a step.
  There the pitch classes of a melody are a condition too, `chroma`: tokens of a
  melody embedding describe seconds, and a small model does not learn from them
  which note is when.
  In the small sizes codecs have codebooks of 256, as `codec_small`, and in the
  tiny one there are 32 codes of everything.

  Args:
    size: a key of `STAGE_SIZES`.
  """
  width, layers, heads = STAGE_SIZES[size]
  small, tiny = size in ("small", "tiny"), size == "tiny"
  codes = 32 if tiny else 1024
  acoustic = min(codes, 256) if small else codes
  coarse, fine = (2, 2) if tiny else (4, 4 if small else 8)
  # Seconds of a crop.
  lengths = (1, 1, 0.3) if tiny else (30, 10, 3)

  def tokens(
    order: int,
    books: int,
    size: int,
    frames: float,
    rate: float,
    per_frame: int = 0,
  ) -> dict[str, Any]:
    return dict(
      kind="tokens",
      order=order,
      codebooks=books,
      size=size,
      frames=round(frames),
      frame_rate=rate,
      added_to=per_frame if small and not tiny else 0,
    )

  shared = dict(
    width=width,
    layers=layers,
    heads=heads,
    hidden=4 * width,
    activation="geglu",
    positions="relative",
    cross=False,
    dropout=0.1,
    pattern={"name": "flatten"},
  )
  joint = tokens(0, 12, codes, 1, 0.0)
  # Windows of 4 s, one every 3 s: 9 are within 30 s, and 10 begin there.
  windows = {"small": 10, "tiny": 1}.get(size, 9)
  melody = tokens(1, 24, codes if tiny else 512, windows, 1 / 3, 75)

  def chroma(frames: int, rate: float) -> dict[str, Any]:
    if not small or tiny:
      return {}
    of_step = dict(kind="melody", frames=frames, frame_rate=rate, added_to=1)
    return {"chroma": CHROMA | of_step}

  return {
    "semantic": shared
    | dict(
      codebooks=1,
      codebook_size=codes,
      frames=round(25 * lengths[0]),
      conditions={
        "joint": joint,
        "melody": melody,
        **chroma(25 * lengths[0], 25.0),
      },
    ),
    "coarse": shared
    | dict(
      codebooks=coarse,
      codebook_size=acoustic,
      frames=round(50 * lengths[1]),
      conditions={
        "joint": joint,
        "semantic": tokens(2, 1, codes, 25 * lengths[1], 25.0, 2)
        | {"collapse": False},
        **chroma(50 * lengths[1], 50.0),
      },
    ),
    "fine": shared
    | dict(
      codebooks=fine,
      first_codebook=coarse,
      codebook_size=acoustic,
      frames=round(50 * lengths[2]),
      conditions={
        "joint": joint,
        "coarse": tokens(2, coarse, acoustic, 50 * lengths[2], 50.0, 1),
      },
    ),
  }


PRESETS: dict[str, dict[str, Any]] = {
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

for _size in STAGE_SIZES:
  for _stage, _fields in musiclm_stages(_size).items():
    PRESETS["_".join(filter(None, ("musiclm", _stage, _size)))] = _fields
