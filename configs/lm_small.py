"""A small language model that trains on two CPU cores, for experiments.

    mmdcodec tokenize data/music data/tokens --model CODEC
    mmdcodec train --config=lm_small --workdir=runs/lm --config.codec=CODEC \
        --config.data.train=data/tokens --config.data.valid=data/valid_tokens

It is for codecs with 4 codebooks of 256 codes at 50 Hz, such as the
quickstart's. Clips are 5 s long, and prompts are encoded as bytes.

A depth transformer in place of the heads predicts the codes of a frame in one
step without taking them for independent:

    --config.model.depth.layers=2 --config.model.pattern.name=parallel
"""

from ml_collections import ConfigDict
from mmdcodec.configs import common


def get_config(arg: str = "") -> ConfigDict:
  """Makes the config.

  Args:
    arg: "", or "tiny" for tests.
  """
  common.check_argument(arg, "tiny")
  if arg == "tiny":
    return common.shrink_lm(common.lm_config("tiny"))
  config = common.lm_config("small")
  config.steps = 2_000
  # Faster on CPUs too: storing the results of attention takes longer than
  # recomputing them (0.77 of the time for forward and backward passes of the
  # quickstart's blocks).
  config.model.remat = "full"
  config.batch = 16
  config.optimizer.learning_rate = 1e-3
  config.optimizer.warmup = 100
  config.log_every = 20
  config.eval_every = config.save_every = 200
  return config
