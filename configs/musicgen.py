"""MusicGen (arXiv 2306.05284, 4.1-4.2): clips of 30 s, prompts encoded by T5.

    mmdcodec train --config=musicgen --workdir=runs/musicgen \
        --config.init_from=google-t5/t5-base --config.codec=CODEC \
        --config.data.train=TOKENS

300 M parameters and a frozen T5-base; `--config=musicgen:medium` and `:large`
have 1.5 and 3.3 B. The published training takes 1 M steps of 192 clips on 32 to
96 GPUs. `init_from` loads T5, as above, or a whole MusicGen to train further
(`mmdcodec convert facebook/musicgen-small musicgen_small`). `bytes` trains a
text encoder from scratch instead.

A depth transformer of half the width in place of the heads:

    --config.model.depth.layers=4 --config.model.pattern.name=parallel

For `small` it has 22 M parameters, and the heads 8 M.

Parameters and optimizer state are sharded over all chips. Memory per chip of a
TPU slice for 192 clips, by the compiler's analysis (`mmdcodec compile`); v5e
has 16 GB, v5p 95 GB:

    small   v5e:4x4                                            14.4 GiB
    medium  v5e:4x4    accumulate=4                            12.8 GiB
    large   v5e:4x4    accumulate=6                            13.4 GiB
    large   v5e:8x8    mesh.data=4 mesh.fsdp=16 accumulate=3    9.5 GiB
    large   v5p:2x2x4                                          54.6 GiB
"""

from typing import Any

from ml_collections import ConfigDict
from mmdcodec.configs import common

from mmdcodec.models import lm_presets

SIZES = ("small", "medium", "large", "melody")


def get_config(arg: str = "") -> ConfigDict:
  """Makes the config.

  Args:
    arg: "small" (same as ""), "medium", "large", "melody" (conditions are a
      prefix, melody first), "bytes", or "tiny" for tests.
  """
  common.check_argument(arg, *SIZES, "bytes", "tiny")
  if arg == "tiny":
    return common.shrink_lm(common.lm_config("tiny"))
  size = arg if arg in SIZES else "small"
  changes: dict[str, Any] = dict(dtype="bfloat16", remat="dots")
  if arg == "bytes":
    changes["conditions"] = {"text": lm_presets.BYTES}
  config = common.lm_config(f"musicgen_{size}", **changes)
  config.steps = 1_000_000
  config.batch = 192
  config.mesh.data, config.mesh.fsdp = 1, -1
  if arg != "bytes":
    config.freeze = "conditioner/text_encoder"
  if size == "large":
    config.optimizer.clip = 3.0
  config.eval_every = config.save_every = 5_000
  return config
