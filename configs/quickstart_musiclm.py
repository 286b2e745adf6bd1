"""The models of `mmdcodec quickstart --system musiclm`, trained in minutes.

    mmdcodec quickstart --system musiclm

Over the quickstart's codec (50 frames per second, 6 x 1024), of whose codebooks
the coarse stage makes the first half. The argument is the model:

    joint        MuLan of 1 M parameters, windows of 10 s; with
                 --from-scratch only, otherwise the packaged one is taken
    semantic     w2v-BERT of 1 M, 25 frames a second
    melody       `melody_embedding:small`, fewer steps
    semantic_lm  stage of 1.2 M, crops of 10 s
    coarse_lm    of 3.2 M, 5 s; begins with what `small_music` knows
    fine_lm      of 2.3 M, 2 s

Stages have delayed codes. With `_tiny` added, models are those of tests.
Codebooks, their sizes and frame rates are those of the tokenizers; see
`workflows/quickstart_musiclm_models.py`.
"""

from ml_collections import ConfigDict
from mmdcodec.configs import (
  common,
  melody_embedding,
  semantic,
  small_joint,
  small_music,
)

STAGES = ("semantic", "coarse", "fine")
TOKENIZERS = ("semantic", "joint", "melody")
MODELS = (*TOKENIZERS, *(f"{stage}_lm" for stage in STAGES))

# Training steps of each model, and frames of the stages' crops.
_STEPS = {
  "joint": 220,
  "semantic": 120,
  "melody": 80,
  "semantic_lm": 400,
  "coarse_lm": 240,
  "fine_lm": 240,
}
_FRAMES = {"semantic": 250, "coarse": 250, "fine": 100}
_TINY_FRAMES = {"semantic": 25, "coarse": 10, "fine": 5}


def get_config(arg: str = "") -> ConfigDict:
  """Makes the config.

  Args:
    arg: a model, as above; "" and "tiny" mean the semantic stage.
  """
  names = [f"{name}_tiny" for name in MODELS]
  common.check_argument(arg, "tiny", *MODELS, *names)
  tiny = arg.endswith("tiny")
  name = arg.removesuffix("tiny").removesuffix("_") or "semantic_lm"
  make = {"joint": _joint, "semantic": _semantic, "melody": _melody}
  if name in make:
    config = make[name](tiny)
  else:
    config = _stage(name.removesuffix("_lm"), tiny)
  if not tiny:
    config.steps = _STEPS[name]
    config.optimizer.warmup = 20
    config.log_every = 20
    # Twice, because each evaluation takes seconds.
    config.eval_every = config.save_every = _STEPS[name] // 2
  return config


def _joint(tiny: bool) -> ConfigDict:
  config = small_joint.get_config("tiny" if tiny else "")
  if not tiny:
    config.batch = 32
  return config


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
  config.optimizer.learning_rate = 2e-3
  return config


def _melody(tiny: bool) -> ConfigDict:
  config = melody_embedding.get_config("tiny" if tiny else "small")
  if not tiny:
    config.batch = 50
    # Rendering takes as long as training: a minute of one core.
    config.data.melodies, config.data.renditions = 250, 3
  return config


def _stage(stage: str, tiny: bool) -> ConfigDict:
  config = common.stage_config(stage, "tiny" if tiny else "small")
  # One step a frame. The quickstart's codebooks are trained to be independent.
  config.model.pattern.name = "delay"
  config.model.frames = (_TINY_FRAMES if tiny else _FRAMES)[stage]
  if not tiny:
    config.model.width, config.model.layers = 128, 4
    config.model.heads, config.model.hidden = 4, 512
    config.model.dropout = 0.0
    config.batch = 4
    config.optimizer.learning_rate = 3e-3
    if stage == "coarse":
      _begin_with_music(config)
    if "melody" in config.model.conditions:
      # Windows of 4 s, every 3 s, in a crop.
      config.model.conditions.melody.frames = 4
  return config


def _begin_with_music(config: ConfigDict) -> None:
  """Has a stage begin with the packaged music model, whose codes it makes."""
  known = small_music.get_config().model
  for key in ("width", "layers", "heads", "hidden", "activation", "positions"):
    config.model[key] = known[key]
  config.init_from = "small_music"
  config.optimizer.learning_rate = 1e-3
