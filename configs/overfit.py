"""Tests all parts of codec training on a few seconds of audio, in ten minutes.

    mmdcodec prepare CLIPS data/clips
    mmdcodec train --config=overfit --workdir=runs/overfit \
        --config.data.train=data/clips --config.data.valid=data/clips

Run this first after changing a codec, a loss or a discriminator, on a folder
with about ten seconds of any music. A codec of 0.5 M parameters must learn it,
with discriminators and balancer active from the start. docs/RESULTS.md has a
curve for comparison. Symptoms of bugs:

  mel distance is constant   the codec gets no gradient
  discriminator/loss is 2    the discriminators do not learn; if it is 0, they
                             win at once, and a warning is printed
  usage falls                codes die: check the scale of the latents
"""

from ml_collections import ConfigDict
from mmdcodec.configs import codec_small, common


def get_config(arg: str = "") -> ConfigDict:
  """Makes the config; `tiny` shrinks it for tests."""
  common.check_argument(arg, "tiny")
  config = codec_small.get_config("adversarial")
  config.model.filters = 8
  config.model.norm = "none"
  config.steps = 800
  config.batch = 4
  config.data.gain_db = (0.0, 0.0)
  config.optimizer.learning_rate = 2e-3
  config.adversarial.discriminators = (
    dict(name="multi_scale_stft", filters=8, windows=(1024, 256)),
  )
  config.adversarial.start = config.adversarial.warmup = 0
  # As high as the codec's: with 3e-4 the loss is still 2.00 after 400 steps.
  config.adversarial.optimizer.learning_rate = 2e-3
  config.log_every = 20
  config.eval_every = config.save_every = 100
  if arg == "tiny":
    config.model = common.codec_config("encodec_tiny").model
    config.optimizer.warmup = 0
    return common.shrink(config)
  return config
