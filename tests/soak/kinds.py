"""What is damaged, what a user then does with it, and what must come of it.

A kind is a function of a `Trial`. It returns one of the three outcomes, or
raises a `Fault`. Where damage cannot be told from other contents, a rule says
what is right:

- Audio, weights and values of configs without a checksum may be any other
  audio, weights and values within the bounds. The results must be finite, and
  as long and of the shape that the file says in all places.
- Audio that was cut is refused, unless nothing but padding is missing.
- Everything with a checksum (`.mmdc`, shards, checkpoints) must come out as it
  was, or not at all.
- Files that are not read do not matter.
"""

import audio_kinds
import model_kinds
import run_kinds
import set_kinds

# The share of each in a run of all, and the seconds after which one hangs.
KINDS = {
  "audio": (audio_kinds.audio, 30, 30),
  "coded": (audio_kinds.coded, 25, 30),
  "bundle": (model_kinds.bundle, 10, 60),
  "ears": (model_kinds.ears, 10, 60),
  "public": (model_kinds.public, 6, 60),
  "dataset": (set_kinds.dataset, 7, 60),
  "tokens": (set_kinds.tokens, 7, 30),
  "captions": (set_kinds.captions, 7, 30),
  "config": (run_kinds.config, 4, 120),
  "checkpoint": (run_kinds.checkpoint, 4, 120),
}
