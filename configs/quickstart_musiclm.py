"""The models of `mmdcodec quickstart --system musiclm`, trained in minutes.

    mmdcodec quickstart --system musiclm

They are those of `small_musiclm`, over the quickstart's codec (50 frames per
second, 6 x 1024). By default the job takes the packaged tokenizers and trains
the packaged stages further, as `semantic_lm_further` and `coarse_lm_further`
say. With --from-scratch everything is trained from nothing, in as few steps,
and the joint embedding too:

    joint        MuLan of 1 M parameters, windows of 10 s
    semantic, melody, semantic_lm, coarse_lm, fine_lm    see `small_musiclm`

The fine stage does not ship, so it always begins from nothing, and there is no
`fine_lm_further`. With `_tiny` added, models are those of tests.
"""

from ml_collections import ConfigDict
from mmdcodec.configs import common, small_joint, small_musiclm

STAGES = small_musiclm.STAGES
TOKENIZERS = ("semantic", "joint", "melody")
MODELS = (*TOKENIZERS, *(f"{stage}_lm" for stage in STAGES))
# Stages that ship and are trained further.
FURTHER = ("semantic", "coarse")

# Training steps of each model.
_STEPS = {
  "joint": 220,
  "semantic": 120,
  "melody": 80,
  "semantic_lm": 400,
  "coarse_lm": 240,
  "fine_lm": 1_000,
}


def get_config(arg: str = "") -> ConfigDict:
  """Makes the config.

  Args:
    arg: a model, as above; "" and "tiny" mean the semantic stage.
  """
  names = [f"{name}_tiny" for name in MODELS]
  names += [f"{name}_lm_further" for name in FURTHER]
  common.check_argument(arg, "tiny", *MODELS, *names)
  tiny, further = arg.endswith("tiny"), arg.endswith("further")
  name = arg.removesuffix("tiny").removesuffix("further").removesuffix("_")
  name = name or "semantic_lm"
  if name == "joint":
    config = small_joint.get_config("tiny" if tiny else "")
  else:
    config = small_musiclm.get_config(f"{name}_tiny" if tiny else name)
    config.init_from = ""
  if tiny:
    return config
  config.steps = _STEPS[name]
  config.optimizer.warmup = 20
  config.log_every = 20
  # Twice, because each evaluation takes seconds.
  config.eval_every = config.save_every = config.steps // 2
  if name == "joint":
    config.batch = 32
  elif name == "melody":
    config.batch = 50
    # Rendering takes as long as training: a minute of one core.
    config.data.melodies, config.data.renditions = 250, 3
  elif name.endswith("_lm"):
    config.batch = 4
  if further:
    config.optimizer.learning_rate /= 4
  return config
