"""EnCodec at 48 kHz, stereo (arXiv 2210.13438), reconstruction losses.

    mmdcodec train --config=encodec_48khz --workdir=runs/encodec_48khz \
        --config.data.train=DATASET --config.data.valid=DATASET

150 frames a second, 16 codebooks of 1024, loudness taken out of each clip.
Trained on single chunks of one second; longer audio is coded chunk by chunk.
"""

from mmdcodec.configs import common


def get_config(arg: str = ""):
  """The experiment; `tiny` shrinks it for tests."""
  tiny = arg == "tiny"
  config = common.codec_config(
    "encodec_stereo_tiny" if tiny else "encodec_48khz"
  )
  config.batch = 64
  return common.shrink(config) if tiny else config
