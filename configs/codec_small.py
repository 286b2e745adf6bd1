"""A small SEANet codec that trains on two CPU cores, for experiments.

    mmdcodec train --config=codec_small --workdir=runs/small \
        --config.data.train=DATASET --config.data.valid=DATASET

24 kHz mono with a stride of 480: 50 frames per second, 8 codebooks of 256,
3.2 kbps, 1.6 M parameters, no LSTM.

`--config=codec_small:adversarial` adds small discriminators (19,000 parameters)
and the balancer. It trains only on reconstruction for 600 steps, then trains
the discriminators too; from step 700 on they affect the codec. Such a step
takes about twice as long. docs/RESULTS.md has the results of both: in such a
short run, discriminators cost mel distance and SI-SDR. The adversarial run was
not trained to the end.
"""

from ml_collections import ConfigDict
from mmdcodec.configs import common


def get_config(arg: str = "") -> ConfigDict:
  """Makes the config.

  Args:
    arg: "", "adversarial", or "tiny" for tests.
  """
  common.check_argument(arg, "adversarial", "tiny")
  if arg == "tiny":
    return common.shrink(common.codec_config("encodec_tiny"))
  config = common.codec_config(
    "encodec_24khz",
    filters=16,
    ratios=(8, 5, 4, 3),
    dim=64,
    lstm_layers=0,
    pad_mode="constant",
    codebooks=8,
    codebook_size=256,
    quantizer_dropout=0.0,
  )
  config.steps = 1_600
  config.batch = 16
  # Mel losses ignore phase, and there is no discriminator to make up for it.
  config.losses.waveform.weight = 10.0
  config.optimizer.learning_rate = 1e-3
  config.optimizer.b1, config.optimizer.b2 = 0.8, 0.99
  config.optimizer.schedule = "cosine"
  config.optimizer.warmup = 50
  config.log_every = 25
  config.eval_every = config.save_every = 200
  if arg == "adversarial":
    # Weights are shares of the gradient; discriminators get half.
    common.balance(config)
    config.losses.waveform.weight = 1.0
    config.losses.mel.weight = 2.0
    config.losses.adversarial.weight = 1.0
    config.losses.features.weight = 2.0
    config.adversarial.discriminators = (
      dict(name="multi_scale_stft", filters=8, windows=(1024, 512, 256)),
    )
    # Higher than in long runs, because there are few steps.
    config.adversarial.optimizer.learning_rate = 1e-3
    config.adversarial.start, config.adversarial.warmup = 600, 100
  return config
