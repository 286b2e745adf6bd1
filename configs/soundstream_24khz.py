"""SoundStream at 24 kHz (arXiv 2107.03312), reconstruction losses.

    mmdcodec train --config=soundstream_24khz --workdir=runs/soundstream \
        --config.data.train=DATASET --config.data.valid=DATASET

75 frames a second, 8 codebooks of 1024: 6 kbps, fewer by quantizer dropout.
Mel loss in the paper's form: L1, plus sqrt(s / 2) times the L2 of logarithms.
"""

from mmdcodec.configs import common


def get_config(arg: str = "", preset: str = "soundstream_24khz"):
  """The experiment; `tiny` shrinks it for tests."""
  tiny = arg == "tiny"
  config = common.codec_config("soundstream_tiny" if tiny else preset)
  config.losses.waveform.weight = 0.0
  config.losses.mel.form = "soundstream"
  config.losses.mel.windows = (64, 128, 256, 512, 1024, 2048)
  return common.shrink(config) if tiny else config
