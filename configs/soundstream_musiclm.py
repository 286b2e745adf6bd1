"""MusicLM's SoundStream (arXiv 2301.11325, 3.1), reconstruction losses.

    mmdcodec train --config=soundstream_musiclm --workdir=runs/musiclm_codec \
        --config.data.train=DATASET --config.data.valid=DATASET

24 kHz with a stride of 480: 50 frames a second, 12 codebooks of 1024, 6 kbps.
"""

from mmdcodec.configs import common


def get_config(arg: str = ""):
  """The experiment; `tiny` shrinks it for tests."""
  tiny = arg == "tiny"
  config = common.codec_config(
    "soundstream_tiny" if tiny else "soundstream_musiclm"
  )
  config.losses.waveform.weight = 0.0
  config.losses.mel.form = "soundstream"
  config.losses.mel.windows = (64, 128, 256, 512, 1024, 2048)
  return common.shrink(config) if tiny else config
