"""The joint embedding of `mmdcodec.load("small_joint")`, which ships too.

    mmdcodec train --config=small_joint --workdir=runs/small_joint \
        --config.data.train=SONGS --config.data.valid=VALID_SONGS

MuLan of 1.1 M parameters, windows of 10 s, for the words of built-in music.
"""

from ml_collections import ConfigDict
from mmdcodec.configs import common, mulan

# Bytes of a prompt; captions of built-in music have up to 180.
_LONGEST = 200


def get_config(arg: str = "") -> ConfigDict:
  """Makes the config.

  Args:
    arg: "" or "tiny" for tests.
  """
  common.check_argument(arg, "tiny")
  config = mulan.get_config(arg or "small")
  config.model.text.longest = _LONGEST
  if arg == "tiny":
    return config
  config.model.audio.width, config.model.audio.layers = 128, 4
  config.model.audio.hidden = 512
  config.model.text.width, config.model.text.layers = 96, 2
  config.model.text.hidden = 384
  # Its prompts are captions.
  config.data.tag_share = 0.5
  config.steps = 1_400
  return config
