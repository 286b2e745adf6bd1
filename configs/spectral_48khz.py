"""A spectral codec at 48 kHz, stereo, causal, with discriminators.

    mmdcodec train --config=spectral_48khz --workdir=runs/spectral_48khz \
        --config.data.train=DATASET --config.data.valid=DATASET

For music, in the range of SpectroStream (arXiv 2508.05207: 48 kHz stereo, 4 to
16 kbps): 50 frames per second, 16 codebooks of 1024, 0.5 to 8 kbps. Middle and
side of all channels share one stack of layers; SpectroStream has layers of
their own for the channels at both ends, and convolutions over frequency.

Like spectral_24khz, except that windows are twice as long, and that the
discriminators see both channels. 19.9 M parameters; the codec does 2 GFLOP for
a second of audio, the discriminators 18. Not trained here yet; steps, shares
and learning rates are our choice.
"""

from ml_collections import ConfigDict
from mmdcodec.configs import common, spectral_24khz


def get_config(arg: str = "") -> ConfigDict:
  """Makes the config; `tiny` shrinks it for tests."""
  config = spectral_24khz.get_config(arg, "spectral_48khz")
  if arg == "tiny":
    stereo = common.codec_config("spectral_tiny", causal=True, channels=2)
    config.model = stereo.model
    return config
  config.losses.mel.windows = (256, 1024, 4096)
  config.losses.stft.windows = (1024, 4096)
  config.adversarial.discriminators = (
    dict(name="multi_scale_stft", windows=(4096, 2048, 1024)),
  )
  return config
