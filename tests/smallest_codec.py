"""Config of a codec that compiles in seconds, in the place of quickstart's."""

from ml_collections import ConfigDict
from mmdcodec.configs import common


def get_config(arg: str, **changes) -> ConfigDict:
  """Makes the config of a run, with some fields of the codec changed."""
  assert arg == "tiny"
  small = dict(width=4, encoder_blocks=1, decoder_blocks=1, codebooks=2)
  config = common.shrink(
    common.codec_config("spectral_tiny", **small, **changes)
  )
  config.losses.mel.windows = (256,)
  return config
