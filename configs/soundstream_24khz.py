"""SoundStream at 24 kHz (arXiv 2107.03312).

    mmdcodec train --config=soundstream_24khz --workdir=runs/soundstream \
        --config.data.train=DATASET --config.data.valid=DATASET

75 frames per second, 8 codebooks of 1024: 6 kbps, or less with fewer codebooks
(quantizer dropout). Losses follow section III-E: mel in the paper's form (L1
plus sqrt(s / 2) times the L2 of logarithms), hinge losses with one spectral and
three waveform discriminators, and feature matching with a weight of 100.

Cost: 10 M parameters and 22 M in discriminators. The paper gives neither batch
size nor steps; 32 x 1 s and 300,000 are our choice. Not trained here yet.
train/discriminator/ratio starts at 0.5; far above 1, the discriminators win.
"""

from ml_collections import ConfigDict
from mmdcodec.configs import common


def get_config(arg: str = "", preset: str = "soundstream_24khz") -> ConfigDict:
  """Makes the config; `tiny` shrinks it for tests.

  Args:
    arg: "" or "tiny".
    preset: a preset of `mmdcodec.models.codec`, unless tiny.
  """
  common.check_argument(arg, "tiny")
  tiny = arg == "tiny"
  config = common.codec_config("soundstream_tiny" if tiny else preset)
  config.losses.waveform.weight = 0.0
  config.losses.mel.form = "soundstream"
  config.losses.mel.windows = (64, 128, 256, 512, 1024, 2048)
  config.losses.adversarial.weight = 1.0
  config.losses.features.weight = 100.0
  config.adversarial.discriminators = (
    dict(name="multi_scale_wave"),
    dict(name="stft"),
  )
  config.adversarial.loss = "hinge_clamped"
  config.adversarial.relative = False
  return common.shrink(config) if tiny else config
