"""The language model of `mmdcodec quickstart --from-scratch`.

    mmdcodec quickstart --from-scratch

It is trained in minutes on a CPU. It models clips of 4 s of the quickstart's
codec (50 frames per second, 4 x 256), with 1.4 M parameters, few of them in the
text encoder.
"""

from ml_collections import ConfigDict
from mmdcodec.configs import common


def get_config(arg: str = "") -> ConfigDict:
  """Makes the config; `tiny` shrinks it for tests."""
  common.check_argument(arg, "tiny")
  if arg == "tiny":
    return common.shrink_lm(common.lm_config("tiny"))
  config = common.lm_config("small", frames=200)
  config.model.width = 128
  config.model.layers = 4
  config.model.hidden = 512
  encoder = config.model.conditions.text.encoder
  encoder.width, encoder.heads, encoder.head_dim = 64, 4, 16
  encoder.hidden = 128
  config.steps = 600
  # Faster on CPUs too; see lm_small.
  config.model.remat = "full"
  # 600 steps of 4 clips take as long as 200 of 12 and reach 31.0 bits per frame
  # instead of 31.2 on the codes of one codec.
  config.batch = 4
  config.optimizer.learning_rate = 3e-3
  config.optimizer.schedule = "cosine"
  config.optimizer.warmup = 30
  config.condition_dropout = 0.1
  config.log_every = 25
  config.eval_every = config.save_every = 150
  return config
