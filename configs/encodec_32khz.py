"""The codec of MusicGen with independent codebooks (arXiv 2406.02315).

    mmdcodec train --config=encodec_32khz --workdir=runs/encodec_32khz \
        --config.data.train=DATASET --config.data.valid=DATASET

32 kHz with a stride of 640: 50 frames per second, 4 codebooks of 2048,
2.2 kbps, not causal. Losses, discriminators (in every step) and balancer are
those of MusicGen's codec (arXiv 2306.05284, released recipe). The paper's
independence loss is not balanced: permuted MMD of delayed codes, with its radii
interpreted as sigma, over 11,776 rows (256 clips in the paper, 4 batches here),
once every 32 steps. Unlike in the paper, its gradient preserves the scale of
the latents (`keep_scale`), which harms reconstruction less: docs/RESULTS.md.

The paper's weight of 1000 is for released code that divides by clips instead of
rows, which makes the loss 46^2 times as large: it equals 2e6 for the proper
average. Small codecs without a balancer needed 30 to 120 in every step
(docs/RESULTS.md); the balancer sets the gradients of the other losses, whatever
their values. 100 once every 32 steps is not tuned at this size. Compare
train/gradient/independence in the steps in which it is applied with
train/gradient/mel (a ratio of 2 to 4 did best), and watch train/usage.
--config.losses.independence.weight=0 gives MusicGen's own codec.

Cost: 57 M parameters and 0.5 M in discriminators; the paper trains for 600,000
steps of 64 x 1 s on 8 V100 GPUs.
"""

from ml_collections import ConfigDict
from mmdcodec.configs import common


def get_config(arg: str = "") -> ConfigDict:
  """Makes the config; `tiny` shrinks it for tests."""
  common.check_argument(arg, "tiny")
  if arg == "tiny":
    # A small codec with the features of this one.
    changes = dict(causal=False, shortcut="identity", pad_mode="constant")
    config = common.codec_config("encodec_tiny", **changes)
  else:
    config = common.codec_config("encodec_32khz")
    config.steps, config.batch = 600_000, 64
  config.losses.mel.weight = 2.0
  config.losses.mel.windows = (64, 128, 256, 512, 1024)
  config.losses.adversarial.weight = 4.0
  config.losses.features.weight = 4.0
  config.adversarial.discriminators = (
    dict(name="multi_scale_stft", windows=(2048, 1024, 512, 256, 128)),
  )
  config.adversarial.relative = False
  common.balance(config)
  loss = config.losses.independence
  loss.weight = 100.0
  # Two batches of the tiny codec, four of the real one.
  loss.rows = 1_500 if arg == "tiny" else 11_776
  loss.every = 4 if arg == "tiny" else 32
  return common.shrink(config) if arg == "tiny" else config
