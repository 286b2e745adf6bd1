"""A spectral codec at 24 kHz, causal, with discriminators.

    mmdcodec train --config=spectral_24khz --workdir=runs/spectral_24khz \
        --config.data.train=DATASET --config.data.valid=DATASET

50 frames per second, 8 codebooks of 1024, 4 kbps, or less with fewer codebooks
(quantizer dropout). With its codebooks, the model takes 3.9 MB in bfloat16.
Encoder and decoder each look half a frame past the end of a frame, so the delay
is 40 ms; --config.model.causal=False gives up streaming for a look ahead of 9
frames in the encoder and 12 in the decoder.

The losses of `spectral_small` and adversarial ones, as shares of the gradient
at the audio (the balancer of EnCodec, arXiv 2210.13438, section 3.4), half of
it for the discriminators. These are the spectral ones of EnCodec, with windows
of 512, 1024 and 2048 as in APCodec's released code (arXiv 2402.10533). APCodec
adds HiFi-GAN's discriminators of periods, 29 GFLOP for a second of audio beside
8 of these and 0.2 of the codec, so they are left out here:
--config.adversarial.discriminators takes them. AdamW with 0.8 and 0.99 on both
sides and the learning rate of the discriminators are from that code too. The
discriminators begin late, because the steps before them cost so little.

Not trained here with discriminators yet; steps, shares and learning rates are
our choice. train/discriminator/ratio starts at 0.5; far above 1, the
discriminators win.
"""

from ml_collections import ConfigDict
from mmdcodec.configs import common

DISCRIMINATORS = (dict(name="multi_scale_stft", windows=(2048, 1024, 512)),)


def get_config(arg: str = "", preset: str = "spectral_24khz") -> ConfigDict:
  """Makes the config.

  Args:
    arg: "", or "tiny" for tests.
    preset: a preset of `mmdcodec.models.codec`, unless tiny.
  """
  common.check_argument(arg, "tiny")
  tiny = arg == "tiny"
  if tiny:
    config = common.codec_config("spectral_tiny", causal=True)
  else:
    config = common.codec_config(preset)
  config.steps, config.batch = 200_000, 32
  config.quantizer_start = 5_000
  config.losses.waveform.weight = 1.0
  config.losses.mel.windows = (128, 512, 2048)
  config.losses.stft.weight = 4.0
  config.losses.stft.windows = (512, 2048)
  config.losses.commitment.weight = 0.25
  config.losses.adversarial.weight = 2.0
  config.losses.features.weight = 4.0
  common.balance(config)
  config.optimizer.learning_rate = 1e-3
  config.optimizer.schedule = "cosine"
  config.optimizer.warmup = 1_000
  config.adversarial.discriminators = DISCRIMINATORS
  config.adversarial.start, config.adversarial.warmup = 20_000, 1_000
  config.adversarial.optimizer.learning_rate = 2e-4
  for optimizer in (config.optimizer, config.adversarial.optimizer):
    optimizer.name, optimizer.weight_decay = "adamw", 0.01
    optimizer.b1, optimizer.b2 = 0.8, 0.99
  if not tiny:
    return config
  config.quantizer_start, config.optimizer.warmup = 5, 2
  config.adversarial.start, config.adversarial.warmup = 10, 5
  return common.shrink(config)
