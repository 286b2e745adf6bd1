"""The codec of `mmdcodec quickstart`, which trains in minutes on a CPU.

    mmdcodec quickstart

A smaller `codec_small` with the independence loss: 50 frames per second, 4
codebooks of 256, 1.6 kbps, 0.5 M parameters.
"""

from ml_collections import ConfigDict
from mmdcodec.configs import codec_small, common


def get_config(arg: str = "") -> ConfigDict:
  """Makes the config; `tiny` shrinks it for tests."""
  common.check_argument(arg, "tiny")
  config = codec_small.get_config(arg)
  if arg == "tiny":
    return config
  config.model.filters = 8
  config.model.codebooks = 4
  config.model.norm = "none"
  # Independent codebooks help the language model that follows. The loss starts
  # when the codec has begun to reconstruct.
  config.losses.independence.weight = 20.0
  config.losses.independence.estimator = "dhsic"
  config.losses.independence.kernel.radii = (0.7, 1.5)
  config.losses.independence.kernel.relative = True
  config.losses.independence.start = 150
  config.losses.independence.ramp = 20
  config.steps = 400
  config.optimizer.learning_rate = 2e-3
  config.optimizer.warmup = 30
  config.log_every = 10
  config.eval_every = config.save_every = 100
  return config
