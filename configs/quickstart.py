"""The codec of `mmdcodec quickstart`: small enough for minutes on a CPU.

    mmdcodec quickstart

A smaller `codec_small`: 50 frames a second, 4 codebooks of 256, 1.6 kbps,
0.5 M parameters.
"""

from mmdcodec.configs import codec_small, common


def get_config(arg: str = ""):
  """The run; `tiny` shrinks it for tests."""
  common.check_argument(arg, "tiny")
  config = codec_small.get_config(arg)
  if arg == "tiny":
    return config
  config.model.filters = 8
  config.model.codebooks = 4
  config.model.norm = "none"
  config.steps = 600
  config.optimizer.rate = 2e-3
  config.optimizer.warmup = 30
  config.log_every = 10
  config.eval_every = config.save_every = 100
  return config
