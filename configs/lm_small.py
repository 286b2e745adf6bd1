"""A small language model that trains on two CPU cores, for experiments.

    mmdcodec tokenize data/music data/tokens --model CODEC
    mmdcodec train --config=lm_small --workdir=runs/lm --config.codec=CODEC \
        --config.data.train=data/tokens --config.data.valid=data/valid_tokens

For codecs of 4 codebooks of 256 codes at 50 Hz, such as the quickstart's: clips
of 5 s, prompts of bytes.
"""

from mmdcodec.configs import common


def get_config(arg: str = ""):
  """The experiment.

  Args:
    arg: "", or "tiny" for tests.
  """
  common.check_argument(arg, "tiny")
  if arg == "tiny":
    return common.shrink_lm(common.lm_config("tiny"))
  config = common.lm_config("small")
  config.steps = 2_000
  # Faster on CPUs too: to keep what attention made takes longer than to make it
  # again (0.77 of the time of the quickstart's blocks, forward and backward).
  config.model.remat = "full"
  config.batch = 16
  config.optimizer.learning_rate = 1e-3
  config.optimizer.warmup = 100
  config.log_every = 20
  config.eval_every = config.save_every = 200
  return config
