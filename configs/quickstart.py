"""The codec of `mmdcodec quickstart`: small enough for minutes on a CPU.

    mmdcodec quickstart

24 kHz mono with a stride of 480: 50 frames a second, 4 codebooks of 256,
1.6 kbps, 0.5 M parameters.
"""

from mmdcodec.configs import common


def get_config(arg: str = ""):
  """The run; `tiny` shrinks it for tests."""
  if arg == "tiny":
    return common.shrink(common.codec_config("encodec_tiny"))
  config = common.codec_config(
    "encodec_24khz",
    filters=8,
    ratios=(8, 5, 4, 3),
    dim=64,
    lstm_layers=0,
    norm="none",
    pad_mode="constant",
    codebooks=4,
    codebook_size=256,
    quantizer_dropout=0.0,
  )
  config.steps = 600
  config.batch = 16
  # As in codec_small: mel losses do not hear phase.
  config.losses.waveform.weight = 10.0
  config.optimizer.rate = 2e-3
  config.optimizer.b1, config.optimizer.b2 = 0.8, 0.99
  config.optimizer.schedule = "cosine"
  config.optimizer.warmup = 30
  config.log_every = 10
  config.eval_every = config.save_every = 100
  return config
