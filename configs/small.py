"""The codec of `mmdcodec.load("small")`, which ships with the package.

    mmdcodec train --config=small --workdir=runs/small \
        --config.data.train=SONGS=0.5,MUSIC=0.5 --config.data.valid=SONGS,MUSIC

The quickstart's codec with more codes: 24 kHz mono, 50 frames per second, 6
codebooks of 1024, 3 kbps, 500 bps less for each codebook that is left out.
Without phases in its codes and with the independence loss, for language models
over them.
"""

from ml_collections import ConfigDict
from mmdcodec.configs import common, quickstart


def get_config(arg: str = "") -> ConfigDict:
  """Makes the config.

  Args:
    arg: "", "tiny" for tests, or "further" to train the packaged codec's
      decoder for a few more minutes.
  """
  common.check_argument(arg, "tiny", "further")
  config = quickstart.get_config("tiny" if arg == "tiny" else "")
  if arg == "tiny":
    return config
  config.model.codebooks = 6
  config.model.codebook_size = 1024
  config.model.decay = 0.98
  # Half of the clips, so that fewer codebooks do as well.
  config.model.quantizer_dropout = 0.5
  config.losses.waveform.weight = 20.0
  config.losses.independence.start = 600
  config.losses.independence.ramp = 200
  config.steps = 4_000
  config.quantizer_start = 400
  config.optimizer.warmup = 50
  config.log_every = 25
  config.eval_every = config.save_every = 250
  if arg == "further":
    go_on(config)
    # The codes stay, and with them what the packaged music model knows.
    config.freeze = "encoder"
    config.steps = 160
    config.optimizer.learning_rate /= 5
    config.optimizer.warmup = 20
    config.log_every = 20
    config.eval_every = config.save_every = 80
  return config


def go_on(config: ConfigDict) -> None:
  """Has a training begin from the packaged codec."""
  config.init_from = "small"
  # Codebooks that represent music are there from the beginning.
  config.quantizer_start = 0
  config.losses.independence.start = config.losses.independence.ramp = 0
