"""The semantic tokenizer of MusicLM: w2v-BERT on music (arXiv 2108.06209).

    mmdcodec train --config=semantic:small --workdir=runs/semantic \
        --config.data.train=DATASET --config.data.valid=DATASET
    mmdcodec cluster runs/semantic DATASET bundles/semantic

24 kHz mono, 25 frames a second. The argument chooses size and objective:

    semantic        588 M parameters, 12 + 12 blocks of 1024
    semantic:base    98 M, 6 + 6 blocks of 768
    semantic:small    8 M, 3 + 3 blocks of 256, for CPUs: a step of 16 x 5 s
                     takes 4 s on one core
    semantic:tiny    for tests

with `_best_rq` added (`semantic:base_best_rq`; `:best_rq` for the largest), the
simpler objective, predicting codes of a frozen random projection (arXiv
2202.01855), in the recipe of MusicFM: 4096 codes of 16 dimensions, blocks of
400 ms hidden with probability 0.6. `:small_best_rq` has 512 codes.

MusicLM (arXiv 2301.11325, 4.1) publishes the number of parameters, the layer
(7, of the masked prediction module), 1024 centres and 25 tokens a second. What
the papers leave open, and what was chosen:

  spectra       128 mel bands, windows of 85 ms every 10 ms, as MusicFM has for
                music; w2v-BERT has 80 for speech.
  convolutions  3 x 3 with 128 channels, after which 128 bands are 32: a few
                percent of the computation.
  blocks        8 heads, kernel 5 and feed-forward layers of 4 x 1024, the
                published 0.6 B. Those of the smaller sizes are narrower.
  positions     rotary: they cost no memory, and also know distances that no
                training clip has.
  features      of block 7 of 12 (4 of 6, 2 of 3 in the smaller sizes), before
                the next block's norm. Each dimension is standardised over the
                data set, as in AudioLM (arXiv 2209.03143), never over a frame.
  masking       noise in place of the audio. The paper replaces frames after the
                convolutions, whose neighbours have heard what is under the
                mask.
  distractors   all other hidden frames of the clip, about 120 in 10 s, instead
                of a sample; also those with the same code.
  codes         the quantizer's logits are standardised over the batch, without
                which small networks use few codes. Predicted are the most
                probable ones, without Gumbel noise. The temperature falls from
                2 to 0.5, as in wav2vec 2.0.
  small sizes   an hour of one CPU core is too short for hidden frames alone, so
                frames that are heard are predicted too (losses.unmasked), and
                codes are made of what differs from the mean of the clip
                (model.centered). 4096 codes are hardly learned in that time,
                512 are. The larger sizes do none of this. Small batches, and
                so more steps, see docs/RESULTS.md.
  clips         10 s; the published batch of 2048 and peak learning rate of 2e-3
                after 25,000 of 400,000 steps are those for speech.

Memory of a chip with 8 clips, as in the published batch on 256 chips, by the
compiler's analysis (`mmdcodec compile --config=semantic --topology=v5e:4x4
--config.batch=128`): 3.1 GiB of 16. For v5e:16x16 give --config.mesh.data=16
--config.mesh.fsdp=16, which divides the parameters in the same way.

train/prediction must fall below train/guess, the loss of whoever knows only how
frequent each code is; train/perplexity is the number of codes in use.
"""

from ml_collections import ConfigDict
from mmdcodec.configs import common

SIZES = ("base", "small", "tiny")
BEST_RQ = dict(objective="best_rq", codes=4096, code_dim=16)


def get_config(arg: str = "") -> ConfigDict:
  """Makes the config.

  Args:
    arg: see the top of this file.
  """
  both = [f"{size}_best_rq" for size in SIZES]
  common.check_argument(arg, "best_rq", *SIZES, *both)
  size = arg.removesuffix("best_rq").removesuffix("_") or "full"
  changes = dict(BEST_RQ) if arg.endswith("best_rq") else {}
  if size == "tiny":
    changes = {**changes, "codes": 32, "code_dim": 8}
    config = common.semantic_config(size, **changes)
    config.optimizer.learning_rate = 3e-3
    return common.shrink_semantic(config)
  if size == "small":
    if changes:
      changes["codes"] = 512
    config = common.semantic_config(size, **changes)
    config.steps, config.batch, config.data.seconds = 1_600, 8, 5.0
    # An hour is too short for hidden frames alone to teach what a frame says.
    config.losses.unmasked.weight = 1.0
    config.model.centered = True
    config.optimizer.learning_rate = 1e-3
    config.optimizer.warmup = 60
    config.log_every = 20
    config.eval_every = config.save_every = 200
    return config
  config = common.semantic_config(
    size, **changes, dtype="bfloat16", remat="dots"
  )
  config.steps, config.batch = 400_000, 2_048
  config.optimizer.learning_rate = 2e-3 if size == "full" else 1e-3
  config.optimizer.warmup = 25_000
  config.mesh.data, config.mesh.fsdp = 1, -1
  return config
