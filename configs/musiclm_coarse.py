"""MusicLM's coarse stage: joint and semantic tokens in, coarse codes out.

    mmdcodec train --config=musiclm_coarse --workdir=runs/coarse_lm \
        --config.data.train=data/tokens/codec \
        --config.data.streams=joint=data/tokens/mulan,semantic=data/tokens/semantic

See musiclm_semantic for the token data sets, the sizes and what all stages
share. 425 M parameters; `:base` 130 M, `:small` 20 M, `:tiny` for tests.

What is published: clips of 10 s; the first 4 of the codec's 12 codebooks of
1024 at 50 Hz, flattened, so 2000 steps; before them joint tokens and semantic
tokens of the same 10 s; sampling at a temperature of 0.95.

In `:small` the semantic tokens are added to the steps at the same time
(added_to), and are no prefix; so are the pitch classes of a melody (chroma),
which are given in half of the examples.

Without the stream of semantic tokens, this is the paper's ablation, coarse
codes from the joint tokens directly. `--config.model.pattern.name=delay` takes
one step for each frame. `:small` is for codecs with codebooks of 256; another
codec: --config.model.codebooks and .codebook_size.
"""

from ml_collections import ConfigDict
from mmdcodec.configs import common


def get_config(arg: str = "") -> ConfigDict:
  """Makes the config.

  Args:
    arg: "", "base", "small" for CPUs, or "tiny" for tests.
  """
  common.check_argument(arg, "base", "small", "tiny")
  return common.stage_config("coarse", arg)
