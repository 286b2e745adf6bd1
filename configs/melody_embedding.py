"""The melody embedding of MusicLM (arXiv 2301.11325, 3.4).

    mmdcodec train --config=melody_embedding:small --workdir=runs/melody
    mmdcodec cluster runs/melody data/music melody --codes 512 --levels 24

It needs no data: clips of built-in music with the same melody on other
instruments, in other keys and at other speeds are rendered while it trains.

What is published: a vision Transformer of 12 blocks of 512 with a feed-forward
width of 1024 and 6 heads over mel frames; semi-hard triplet loss; 192
dimensions for 4 s, every 3 s; 24 codebooks of 512. What is not, and was chosen
here: 8 heads, because 6 do not divide 512; 128 bands, windows of 64 ms every 20
ms at 16 kHz, patches of 8 frames x 32 bands; the mean of all patches; a margin
of 0.2 as in FaceNet; built-in music instead of covers and humming.

25 M parameters. `:small`, for CPUs, has 0.3 M and hears intervals instead of
mel bands (`mmdcodec/models/intervals.py`): a melody in another key sounds the
same to it, which the published network has to learn from many examples.
"""

from ml_collections import ConfigDict
from mmdcodec.configs import common

from mmdcodec.models import melody_embedding


def get_config(arg: str = "") -> ConfigDict:
  """Makes the config.

  Args:
    arg: "", "small" for CPUs, or "tiny" for tests.
  """
  common.check_argument(arg, "small", "tiny")
  config = common.run_config("melody_embedding")
  config.margin = 0.2  # of the triplet loss
  config.optimizer.name = "adamw"
  config.optimizer.b1, config.optimizer.b2 = 0.9, 0.98
  config.optimizer.weight_decay = 0.05
  config.optimizer.schedule = "cosine"
  config.data.melodies = 1_000_000  # different ones
  config.data.renditions = 8  # of each melody
  config.data.keep = False  # renditions, in memory
  if arg == "tiny":
    config.model = ConfigDict(melody_embedding.preset("tiny"))
    config.steps, config.batch = 20, 8
    config.data.melodies, config.data.renditions = 16, 2
    config.data.keep = True
    config.data.valid_batches = 1
    config.log_every = 5
    config.eval_every = config.save_every = 10
    return config
  if arg == "small":
    config.model = ConfigDict(melody_embedding.preset("small"))
    config.steps = 300
    config.batch = 100
    # About 300 MB in memory, rendered in the first epochs (16 ms each).
    config.data.melodies, config.data.renditions = 1_000, 4
    config.data.keep = True
    config.data.valid_batches = 2
    config.optimizer.learning_rate = 1e-3
    config.optimizer.weight_decay = 0.0
    config.optimizer.warmup = 20
    config.ema = 0.9
    config.log_every = 10
    config.eval_every = config.save_every = 50
    return config
  config.model = ConfigDict(
    melody_embedding.preset("base", dtype="bfloat16", remat="full")
  )
  config.steps = 100_000
  config.batch = 1024
  config.data.valid_batches = 1
  config.optimizer.learning_rate = 5e-4
  config.optimizer.warmup = 2_000
  config.ema = 0.999
  return config
