"""The codec of MusicGen (arXiv 2306.05284), reconstruction losses.

    mmdcodec train --config=encodec_32khz --workdir=runs/encodec_32khz \
        --config.data.train=DATASET --config.data.valid=DATASET

32 kHz with a stride of 640: 50 frames a second, 4 codebooks of 2048, 2.2 kbps.
Not causal.
"""

from mmdcodec.configs import common


def get_config(arg: str = ""):
  """The experiment; `tiny` shrinks it for tests."""
  if arg == "tiny":
    # What sets this codec apart, in small.
    changes = dict(causal=False, shortcut="identity", pad_mode="constant")
    return common.shrink(common.codec_config("encodec_tiny", **changes))
  config = common.codec_config("encodec_32khz")
  config.batch = 64
  return config
