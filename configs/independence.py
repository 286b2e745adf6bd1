"""The small codec of `mmdcodec experiment independence`.

    mmdcodec experiment independence --train DATASET --valid DATASET \
        --workdir runs/independence

16 kHz mono with a stride of 320: 50 frames per second, 4 codebooks of 64,
1.2 kbps. The dependence of such small codebooks can be measured on few frames
of held-out music, and a step takes a quarter of a second on one CPU core. The
results are in docs/RESULTS.md.
"""

from ml_collections import ConfigDict
from mmdcodec.configs import common


def get_config(arg: str = "") -> ConfigDict:
  """Makes the config that all arms share; `tiny` shrinks it for tests."""
  common.check_argument(arg, "tiny")
  if arg == "tiny":
    config = common.shrink(
      common.codec_config("encodec_tiny", codebook_size=16)
    )
    config.losses.independence.start = 10
    config.eval_every = config.save_every = 5
  else:
    config = common.codec_config(
      "encodec_24khz",
      rate=16000,
      filters=8,
      ratios=(8, 5, 4, 2),
      dim=32,
      lstm_layers=0,
      norm="none",
      pad_mode="constant",
      codebooks=4,
      codebook_size=64,
      quantizer_dropout=0.0,
    )
    config.steps = 800
    config.batch = 16
    config.data.seconds = 0.5
    config.data.valid_batches = 4
    config.losses.mel.windows = (64, 256, 1024, 2048)
    # Mel losses ignore phase, and there is no discriminator to make up for it.
    config.losses.waveform.weight = 60.0
    config.losses.independence.start = 200
    config.losses.independence.ramp = 20
    config.optimizer.learning_rate = 2.5e-3
    config.optimizer.b1, config.optimizer.b2 = 0.8, 0.99
    config.optimizer.schedule = "linear"
    config.optimizer.final = 0.2
    config.optimizer.warmup = 40
    config.log_every = 20
    config.eval_every = config.save_every = 50
  return config
