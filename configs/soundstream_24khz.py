"""SoundStream at 24 kHz (arXiv 2107.03312).

    mmdcodec train --config=soundstream_24khz --workdir=runs/soundstream \
        --config.data.train=DATASET --config.data.valid=DATASET

75 frames a second, 8 codebooks of 1024: 6 kbps, fewer by quantizer dropout.
Losses as in section III-E: mel in the paper's form (L1, plus sqrt(s / 2) times
the L2 of logarithms), hinge losses of a discriminator of spectra and of three
of the waveform, and 100 times the plain distance of their features.

Cost: 10 M parameters and 22 M of discriminators. The paper names neither batch
nor steps; 32 x 1 s and 300,000 are this file's. Not trained here yet.
train/discriminator/ratio begins at 0.5; well above 1 the discriminators win.
"""

from mmdcodec.configs import common


def get_config(arg: str = "", preset: str = "soundstream_24khz"):
  """The experiment; `tiny` shrinks it for tests.

  Args:
    arg: "" or "tiny".
    preset: of `mmdcodec.models.codec`, if not the tiny one.
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
