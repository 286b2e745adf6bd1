"""MusicLM's semantic stage: joint tokens in, semantic tokens out.

    mmdcodec tokenize data/music data/tokens --model CODEC --model SEMANTIC \
        --model MULAN --model MELODY
    mmdcodec train --config=musiclm_semantic --workdir=runs/semantic_lm \
        --config.data.train=data/tokens/semantic \
        --config.data.streams=joint=data/tokens/mulan,melody=data/tokens/melody_embedding

Each data set, also that of --config.data.valid, needs streams of its own, in
any order: joint=A/mulan,joint=B/mulan.

The first of three stages (arXiv 2301.11325, 3.2); the others are musiclm_coarse
and musiclm_fine. Each is a language model without a codec, trained by itself;
`mmdcodec export` makes a bundle of it, and one of all three makes music.

    musiclm_semantic        430 M parameters, 24 blocks of 1024, 16 heads
    musiclm_semantic:base   134 M, 12 blocks of 768, 12 heads
    musiclm_semantic:small   24 M, 6 blocks of 384, 6 heads, for CPUs
    musiclm_semantic:tiny   for tests

What is published: clips of 30 s, 1 x 1024 tokens at 25 Hz after 12 x 1024 of
the joint embedding; 24 blocks with 16 heads, width 1024, feed-forward layers of
4096, dropout 0.1, the relative positions of T5; "430 M parameters" for each
stage; sampling at a temperature of 1.0; melody tokens, 24 x 512 for 4 s,
concatenated to the joint ones. What is not, and was chosen here:

  feed-forward  gated, as in T5 1.1: so the stages have 417 (without melody),
                425 and 436 M parameters, and with a plain one 317 to 336 M.
  prefix        12 joint tokens, then 9 x 24 melody tokens, each with a table of
                its own, no separators. A condition that is absent is as many
                vectors of 0. In `:small` the melody tokens are added to the
                steps at the same time instead (added_to).
  joint tokens  of the window of 10 s nearest the clip's middle in training, of
                the prompt at use; with the melody dropped in a tenth of the
                examples, for guidance.
  melody        given in half of the examples, so that one model works with and
                without. Without melody tokens, leave the stream out and set
                --config.model.conditions.melody.frames=1 to save computation.
  chroma        in `:small`, the strongest pitch class of each frame (MusicGen,
                arXiv 2306.05284, 3.1) is added to the steps too, also in the
                coarse stage, and given in half of the examples: a small model
                does not learn from tokens of seconds which note is when. It
                needs no tokenizer. For crops of other lengths:
                --config.model.conditions.chroma.frames.
  repeats       kept, as in the open re-implementations. AudioLM drops them:
                --config.model.collapse=True here, and in the coarse stage
                --config.model.conditions.semantic.collapse=True; in `:small`
                with added_to=0 for melody and semantic. The stage then
                makes as many tokens for a second as training had on average,
                all equally long: how long each lasts is lost, and with it what
                keeps coarse codes in time with them.
  end           none: clips are random crops, which end nowhere.
  training      the batch (256) and steps (1 M) of AudioLM (arXiv 2209.03143);
                AdamW as in lm_config.

A tokenizer with other codebooks or another frame rate is named with the
settings to change, such as --config.data.frame_rate=50 for w2v-BERT 2.0; clips
are --config.model.frames long.
"""

from ml_collections import ConfigDict
from mmdcodec.configs import common


def get_config(arg: str = "") -> ConfigDict:
  """Makes the config.

  Args:
    arg: "", "base", "small" for CPUs, or "tiny" for tests.
  """
  common.check_argument(arg, "base", "small", "tiny")
  return common.stage_config("semantic", arg)
