"""MusicLM's fine stage: joint tokens and coarse codes in, fine codes out.

    mmdcodec train --config=musiclm_fine --workdir=runs/fine_lm \
        --config.data.train=data/tokens/codec \
        --config.data.streams=joint=data/tokens/mulan,coarse=data/tokens/codec

See musiclm_semantic for the token data sets, the sizes and what all stages
share. 436 M parameters; `:base` 138 M, `:small` 20 M, `:tiny` for tests.

What is published: clips of 3 s; codebooks 5 to 12 of 12 at 50 Hz, flattened, so
1200 steps; before them the 600 coarse codes of the same 3 s; sampling at a
temperature of 0.4. Chosen here: joint tokens come first and there are no
semantic tokens, as in the open re-implementations; clips are generated side by
side, and none sees the one before.

In `:small` the coarse codes are added to the steps at the same time
(added_to), and are no prefix.

`:small` is for codecs with 8 codebooks of 256, of which 4 are coarse. For
another codec set the stage's own codebooks, --config.model.first_codebook,
.codebooks and .codebook_size, and the coarse ones before,
--config.model.conditions.coarse.codebooks and .size.
"""

from ml_collections import ConfigDict
from mmdcodec.configs import common


def get_config(arg: str = "") -> ConfigDict:
  """Makes the config.

  Args:
    arg: "", "base", "small" for CPUs, or "tiny" for tests.
  """
  common.check_argument(arg, "base", "small", "tiny")
  return common.stage_config("fine", arg)
