"""The parts of `mmdcodec.load("small_musiclm")`, a MusicLM that ships too.

    python -m mmdcodec.workflows.packaged_musiclm WORKDIR

Its codec is the packaged `small`, its joint embedding `small_joint`. The
argument is one of the others:

    semantic     w2v-BERT of 0.8 M parameters, 25 frames a second
    melody       `melody_embedding:small`
    semantic_lm  stage of 1.4 M, clips of 10 s
    coarse_lm    of 3.2 M, 5 s; begins with what `small_music` knows
    fine_lm      of 2.3 M, 2 s

Stages have delayed codes; the coarse one makes the first half of the codec's
codebooks. With `_tiny` added, models are those of tests. Codebooks, their sizes
and frame rates follow the tokenizers; see `stage_training.fit`.
"""

from ml_collections import ConfigDict
from mmdcodec.configs import common, melody_embedding, semantic, small_music

STAGES = ("semantic", "coarse", "fine")
MODELS = ("semantic", "melody", *(f"{stage}_lm" for stage in STAGES))

# Frames of the stages' clips, and clips of a batch.
_FRAMES = {"semantic": 250, "coarse": 250, "fine": 100}
_TINY_FRAMES = {"semantic": 25, "coarse": 10, "fine": 5}
_BATCH = {"semantic": 16, "coarse": 8, "fine": 16}


def get_config(arg: str = "") -> ConfigDict:
  """Makes the config.

  Args:
    arg: a model, as above; "" and "tiny" mean the semantic stage.
  """
  names = [f"{name}_tiny" for name in MODELS]
  common.check_argument(arg, "tiny", *MODELS, *names)
  tiny = arg.endswith("tiny")
  name = arg.removesuffix("tiny").removesuffix("_") or "semantic_lm"
  if name == "melody":
    return melody_embedding.get_config("tiny" if tiny else "small")
  if name == "semantic":
    return _semantic(tiny)
  return _stage(name.removesuffix("_lm"), tiny)


def _semantic(tiny: bool) -> ConfigDict:
  if tiny:
    return semantic.get_config("tiny")
  config = semantic.get_config("small")
  # Coarser spectra: most of the time of a small network goes there.
  config.model.mels, config.model.filters, config.model.width = 64, 16, 96
  config.model.hidden, config.model.heads = 288, 4
  config.model.contrastive_layers = config.model.prediction_layers = 2
  config.model.feature_layer = 1
  config.model.codes, config.model.code_dim = 256, 64
  config.batch, config.data.seconds = 8, 5.0
  config.steps = 2_000
  config.optimizer.learning_rate = 2e-3
  return config


def _stage(stage: str, tiny: bool) -> ConfigDict:
  config = common.stage_config(stage, "tiny" if tiny else "small")
  # One step a frame: the codec's codebooks are trained to be independent.
  config.model.pattern.name = "delay"
  config.model.frames = (_TINY_FRAMES if tiny else _FRAMES)[stage]
  if not tiny:
    config.model.width, config.model.layers = 128, 4
    config.model.heads, config.model.hidden = 4, 512
    config.model.dropout = 0.0
    config.batch = _BATCH[stage]
    config.optimizer.learning_rate = 3e-3
    if stage == "coarse":
      _begin_with_music(config)
    if "melody" in config.model.conditions:
      # Windows of 4 s, every 3 s, in a clip.
      config.model.conditions.melody.frames = 4
  return config


def _begin_with_music(config: ConfigDict) -> None:
  """Has a stage begin with the packaged music model, whose codes it makes."""
  known = small_music.get_config().model
  for key in ("width", "layers", "heads", "hidden", "activation", "positions"):
    config.model[key] = known[key]
  config.init_from = "small_music"
  config.optimizer.learning_rate = 1e-3
