"""The language model of `mmdcodec.load("small_music")`, which ships too.

    mmdcodec train --config=small_music --workdir=runs/small_music \
        --config.data.train=TOKENS --config.data.valid=VALID_TOKENS \
        --config.codec=small

It models clips of 5 s of the packaged codec's first three codebooks: the other
three buy 0.2 to 0.3 dB and double the tokens. The quickstart's language model,
wider.
"""

from ml_collections import ConfigDict
from mmdcodec.configs import common, quickstart_lm


def get_config(arg: str = "") -> ConfigDict:
  """Makes the config.

  Args:
    arg: "", "tiny" for tests, or "further" to go on from the packaged weights
      for a few minutes.
  """
  common.check_argument(arg, "tiny", "further")
  config = quickstart_lm.get_config("tiny" if arg == "tiny" else "")
  if arg == "tiny":
    return config
  config.model.codebooks = 3
  config.model.codebook_size = 1024
  config.model.frames = 250
  config.model.width = 192
  config.model.heads = 6
  config.model.hidden = 768
  config.steps = 6_000
  config.optimizer.learning_rate = 2e-3
  config.optimizer.warmup = 100
  config.eval_every = config.save_every = 500
  if arg == "further":
    config.init_from = "small_music"
    config.steps = 400
    config.optimizer.learning_rate /= 4
    config.optimizer.warmup = 20
    config.eval_every = config.save_every = 200
  return config
