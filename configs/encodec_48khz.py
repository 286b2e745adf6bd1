"""EnCodec at 48 kHz, stereo (arXiv 2210.13438).

    mmdcodec train --config=encodec_48khz --workdir=runs/encodec_48khz \
        --config.data.train=DATASET --config.data.valid=DATASET

150 frames per second, 16 codebooks of 1024, with the loudness of each clip
normalised. It trains on single chunks of one second; longer audio is coded
chunk by chunk. Like encodec_24khz, except that discriminators see both
channels, use windows twice as long, have a third more weight, and are updated
in every second step (section 3.4).

Cost: 15 M parameters, about twice the work of encodec_24khz per second of
audio; the paper trains for 600,000 steps of 64 x 1 s on 8 A100 GPUs.
"""

from ml_collections import ConfigDict
from mmdcodec.configs import common, encodec_24khz


def get_config(arg: str = "") -> ConfigDict:
  """Makes the config; `tiny` shrinks it for tests."""
  common.check_argument(arg, "tiny")
  tiny = arg == "tiny"
  config = encodec_24khz.get_config(preset="encodec_48khz")
  if tiny:
    config.model = common.codec_config("encodec_stereo_tiny").model
  config.losses.adversarial.weight = 4.0
  config.losses.features.weight = 4.0
  config.adversarial.discriminators = (
    dict(name="multi_scale_stft", windows=(4096, 2048, 1024, 512, 256)),
  )
  config.adversarial.every = 2.0
  return common.shrink(config) if tiny else config
