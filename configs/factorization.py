"""The language model of `mmdcodec experiment factorization`.

    mmdcodec experiment factorization --train DATASET --valid DATASET \
        --workdir runs/factorization --codecs plain=CODEC,independent=CODEC

It trains in minutes on one CPU core and has no conditions. Clips of 2.5 s at 50
frames per second keep even the flattened model fast, which takes four steps per
frame. The codecs determine the number and size of codebooks and the frame rate.
"""

from ml_collections import ConfigDict
from mmdcodec.configs import common


def get_config(arg: str = "") -> ConfigDict:
  """Makes the config that all patterns share; `tiny` shrinks it for tests."""
  common.check_argument(arg, "tiny")
  if arg == "tiny":
    return common.shrink_lm(common.lm_config("tiny", text=None, cross=False))
  config = common.lm_config(
    "small",
    text=None,
    cross=False,
    frames=125,
    width=128,
    layers=4,
    hidden=512,
    # Faster on CPUs too; see lm_small.
    remat="full",
  )
  config.steps = 800
  config.batch = 16
  config.optimizer.learning_rate = 3e-3
  config.optimizer.warmup = 100
  config.log_every = 20
  config.eval_every = config.save_every = 200
  return config
