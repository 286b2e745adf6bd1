"""MusicLM's SoundStream (arXiv 2301.11325, 3.1).

    mmdcodec train --config=soundstream_musiclm --workdir=runs/musiclm_codec \
        --config.data.train=DATASET --config.data.valid=DATASET

24 kHz with a stride of 480: 50 frames per second, 12 codebooks of 1024, 6 kbps.
Losses, discriminators and cost are those of soundstream_24khz.
"""

from ml_collections import ConfigDict
from mmdcodec.configs import soundstream_24khz


def get_config(arg: str = "") -> ConfigDict:
  """Makes the config; `tiny` shrinks it for tests."""
  return soundstream_24khz.get_config(arg, preset="soundstream_musiclm")
