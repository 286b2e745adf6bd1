"""EnCodec at 24 kHz, causal (arXiv 2210.13438).

    mmdcodec train --config=encodec_24khz --workdir=runs/encodec_24khz \
        --config.data.train=DATASET --config.data.valid=DATASET

75 frames per second, 32 codebooks of 1024: up to 24 kbps. Each example samples
1 to 32 codebooks (the paper samples 2, 4, 8, 16 or 32 per batch, with separate
discriminators). Losses, discriminators and balancer follow the paper's section
3.4; discriminators are updated in two of three steps.

Cost: 15 M parameters and 0.5 M in discriminators; the paper trains for 600,000
steps of 64 x 1 s on 8 A100 GPUs. Not trained here yet.
train/discriminator/ratio starts at 0.5; far above 1, the discriminators win.
"""

from ml_collections import ConfigDict
from mmdcodec.configs import common

DISCRIMINATORS = (
  dict(name="multi_scale_stft", windows=(2048, 1024, 512, 256, 128)),
)


def get_config(arg: str = "", preset: str = "encodec_24khz") -> ConfigDict:
  """Makes the config.

  Args:
    arg: "", or "tiny" for tests, with discriminators that learn slowly and have
      small weights.
    preset: a preset of `mmdcodec.models.codec`, unless tiny.
  """
  common.check_argument(arg, "tiny")
  tiny = arg == "tiny"
  config = common.codec_config("encodec_tiny" if tiny else preset)
  config.steps, config.batch = 600_000, 64
  config.losses.adversarial.weight = 3.0
  config.losses.features.weight = 3.0
  config.adversarial.discriminators = DISCRIMINATORS
  config.adversarial.every = 1.5
  common.balance(config)
  if not tiny:
    return config
  # In the few steps of a tiny run, discriminators help only while they have
  # learned next to nothing: docs/RESULTS.md, "With discriminators".
  config.losses.adversarial.weight = 0.1
  config.losses.features.weight = 1.0
  config.adversarial.optimizer.learning_rate = 3e-6
  return common.shrink(config)
