"""EnCodec at 24 kHz, causal (arXiv 2210.13438), reconstruction losses.

    mmdcodec train --config=encodec_24khz --workdir=runs/encodec_24khz \
        --config.data.train=DATASET --config.data.valid=DATASET

75 frames a second, 32 codebooks of 1024: up to 24 kbps. Each example draws
from 1 to 32 codebooks (the paper draws 2, 4, 8, 16 or 32 for a batch).
"""

from mmdcodec.configs import common


def get_config(arg: str = ""):
  """The experiment; `tiny` shrinks it for tests."""
  tiny = arg == "tiny"
  config = common.codec_config("encodec_tiny" if tiny else "encodec_24khz")
  config.batch = 64
  return common.shrink(config) if tiny else config
