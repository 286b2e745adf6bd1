"""Settings that all configs share; each one changes some of them.

Any key can be changed on the command line, for example
`--config.optimizer.learning_rate=1e-4`.
"""

from typing import Any

from ml_collections import ConfigDict

from mmdcodec.errors import UserError
from mmdcodec.models import codec, mulan, semantic, token_lm
from mmdcodec.quantize.kernels import PAPER_RADII


def run_config(task: str) -> ConfigDict:
  """Makes the settings of any run, without those of a model.

  Args:
    task: a key of `mmdcodec.train.task.TASKS`, or the path of your own class;
      see `mmdcodec.train.task`.
  """
  config = ConfigDict()
  config.task = task
  config.seed = 0
  config.steps = 300_000
  config.batch = 32  # clips per step, over all devices
  config.model = ConfigDict()

  config.data = ConfigDict()
  config.data.train = ""  # DATASET,DATASET or DATASET=0.7,DATASET=0.3
  config.data.valid = ""
  config.data.valid_batches = 4

  config.optimizer = ConfigDict()
  config.optimizer.name = "adam"
  config.optimizer.learning_rate = 3e-4
  config.optimizer.b1, config.optimizer.b2 = 0.5, 0.9
  config.optimizer.weight_decay = 0.0
  config.optimizer.clip = 1.0  # global gradient norm; 0: none
  config.optimizer.schedule = "constant"
  config.optimizer.warmup = 0
  config.optimizer.final = 0.01  # last learning rate, as a share of the first
  config.ema = 0.99  # of the weights that are evaluated and released; 0: none
  # Number of parts of a batch, which are computed in turn to save memory. Each
  # part of a codec's batch counts alike (see `Task.weigh`), updates codebooks
  # and the balancer's running norms, and has an independence loss of its own
  # unless that collects rows over several batches.
  config.accumulate = 1
  # Consecutive steps with a loss or weights that are not finite after which the
  # run ends (checked when metrics are logged).
  config.max_skipped = 20
  # Seconds after which a run ends, to be started again, if a training step has
  # not finished; 0: never. One host may compile while the others wait for it.
  # Starting, compiling, an evaluation and saving have eight times as long.
  config.hang_timeout = 1800.0

  # Devices along each axis, -1 for the rest; dcn_data is the number of slices
  # that data reaches over, -1 for as many as there are.
  config.mesh = ConfigDict(dict(data=-1, fsdp=1, model=1, dcn_data=-1))
  # Bundle or workdir to start from; for a language model also just a T5.
  config.init_from = ""
  config.log_every = 100
  config.eval_every = 5_000
  config.save_every = 5_000
  config.keep = 3  # latest checkpoints; the best one is kept too
  # Traces this many steps, beginning `start` steps after the run (re)starts; or
  # on demand, see mmdcodec/train/profiling.py.
  config.profile = ConfigDict(dict(start=10, steps=0))
  config.wandb_project = ""  # of Weights & Biases; ENTITY/PROJECT too
  config.compilation_cache = ""  # a folder, "off", or "": the user's cache
  return config


def codec_config(preset: str, **changes: Any) -> ConfigDict:
  """Makes the settings of a codec run.

  Args:
    preset: a preset of `mmdcodec.models.codec`.
    **changes: fields of the codec that differ from the preset.
  """
  config = run_config("codec")
  config.model = ConfigDict(codec.preset(preset, **changes))
  # "encoder" trains the decoder alone, without commitment and independence:
  # the codes stay those of init_from.
  config.freeze = ""

  config.data.seconds = 1.0  # per clip
  config.data.gain_db = (-10.0, 6.0)  # EnCodec 4.1
  config.data.mix = 0.0  # share of clips that are a sum of two

  config.losses = ConfigDict()
  config.losses.waveform = ConfigDict(dict(weight=0.1))
  config.losses.mel = ConfigDict(
    dict(
      weight=1.0,
      form="encodec",
      windows=(32, 64, 128, 256, 512, 1024, 2048),
      mels=64,
    )
  )
  config.losses.stft = ConfigDict(
    dict(weight=0.0, windows=(256, 512, 1024, 2048))
  )
  config.losses.commitment = ConfigDict(dict(weight=1.0))
  # These two need config.adversarial.discriminators.
  config.losses.adversarial = ConfigDict(dict(weight=0.0))
  config.losses.features = ConfigDict(dict(weight=0.0))
  # arXiv 2406.02315; explained in mmdcodec/train/independence_term.py.
  config.losses.independence = ConfigDict(
    dict(
      weight=0.0,  # 0: off; a `start` after the last step only measures it
      estimator="mmd",  # or "dhsic"
      kernel=dict(
        name="gaussian",
        radii=PAPER_RADII,
        relative=False,  # radii in units of the median distance
      ),
      pattern=dict(name="delay", delays=()),  # (): that pattern's default
      streams="quantized",  # or "residual"
      standardize=True,
      keep_scale=True,  # keeps the loss from shrinking the latents
      start=0,  # step at which it begins ...
      ramp=0,  # ... and steps over which the weight rises
      every=1,  # applied once in this many steps
      rows=0,  # collected over recent batches; 0: those of a batch or part
    )
  )

  # Steps before the codebooks, which begin as the k-means of what the encoder
  # has learned until then.
  config.quantizer_start = 0

  # Explained in mmdcodec/train/adversarial.py.
  config.adversarial = ConfigDict(
    dict(
      discriminators=(),  # dicts, see mmdcodec/models/discriminators.py
      dtype="float32",  # of the discriminators' computation, or "bfloat16"
      loss="hinge",  # or "hinge_clamped", "least_squares"
      relative=True,  # feature matching relative to the features' magnitude
      every=1.0,  # steps per update of the discriminators; 1.5: two in three
      start=0,  # step of the discriminators' first update ...
      warmup=0,  # ... and steps from then until they affect the codec
      optimizer=dict(
        name="adam",
        learning_rate=3e-4,
        b1=0.5,
        b2=0.9,
        weight_decay=0.0,
        clip=0.0,
        schedule="constant",
        warmup=0,
        final=0.01,
      ),
    )
  )
  # EnCodec 3.4: weights of reconstruction losses become shares of the gradient
  # at the audio. Its norms add up to total_norm over the clips of a batch, as
  # over the 8 clips of each worker in the released recipes. Commitment and
  # independence are not balanced.
  config.balancer = ConfigDict(dict(on=False, decay=0.999, total_norm=8.0))
  return config


def lm_config(preset: str, **changes: Any) -> ConfigDict:
  """Makes the settings of a language model run.

  Args:
    preset: a preset of `mmdcodec.models.token_lm`.
    **changes: fields of the model that differ from the preset.
  """
  config = run_config("lm")
  config.steps = 100_000
  config.batch = 64
  config.model = ConfigDict(token_lm.preset(preset, **changes))
  # Bundle or workdir of the tokens' codec, which becomes part of the model.
  config.codec = ""

  config.data.frame_rate = 50.0  # of the codec, in Hz
  # Tokens of other tokenizers over the same audio: NAME=TOKENS,NAME=TOKENS.
  config.data.streams = ""
  config.data.text_tokens = 128  # longer captions are cut

  # Shares of examples trained without any condition (for guidance), without
  # text, and without melody (arXiv 2306.05284, 4.2; the melody's share is from
  # the released recipe); chroma: the melody that stages of MusicLM hear.
  config.condition_dropout = 0.2
  config.text_dropout = 0.0
  config.melody_dropout = 0.5
  config.chroma_dropout = 0.5

  # Explained in mmdcodec/train/trainable.py.
  config.freeze = ""  # regular expression for parameter paths
  config.lora = ConfigDict(
    dict(rank=0, alpha=16.0, on=r"transformer/blocks/.*kernel$")
  )

  # arXiv 2306.05284, 4.1.
  config.optimizer.name = "adamw"
  config.optimizer.learning_rate = 1e-4
  config.optimizer.b1, config.optimizer.b2 = 0.9, 0.95
  config.optimizer.weight_decay = 0.1
  config.optimizer.clip = 1.0
  config.optimizer.schedule = "cosine"
  config.optimizer.warmup = 4_000
  return config


def stage_config(stage: str, size: str, **changes: Any) -> ConfigDict:
  """Makes the settings of one of MusicLM's stages; see `musiclm_semantic`.

  Args:
    stage: "semantic", "coarse" or "fine".
    size: a key of `lm_presets.STAGE_SIZES`.
    **changes: fields of the model that differ from the preset.
  """
  preset = "_".join(filter(None, ("musiclm", stage, size)))
  if size in ("", "base"):
    changes = {"dtype": "bfloat16", "remat": "full", **changes}
  elif size == "small":
    # Faster on CPUs too, see lm_small.
    changes = {"remat": "full", **changes}
  config = lm_config(preset, **changes)
  config.data.frame_rate = 25.0 if stage == "semantic" else 50.0
  config.condition_dropout = 0.1
  for name in config.model.conditions:
    # Melodies are given in half of the examples, see `lm_config`.
    if f"{name}_dropout" not in config:
      config[f"{name}_dropout"] = 0.0
  if size == "tiny":
    return shrink_lm(config)
  if size == "small":
    config.steps = 2_000
    # Sequences are two to four times as long as those of lm_small.
    config.batch = 4
    config.optimizer.learning_rate = 1e-3
    config.optimizer.warmup = 100
    config.log_every = 20
    config.eval_every = config.save_every = 200
    return config
  config.steps = 1_000_000
  config.batch = 256
  config.mesh.data, config.mesh.fsdp = 1, -1
  return config


def mulan_config(preset: str, **changes: Any) -> ConfigDict:
  """Makes the settings of a joint embedding run.

  Args:
    preset: a preset of `mmdcodec.models.mulan`.
    **changes: fields of the model that differ from the preset.
  """
  config = run_config("mulan")
  config.model = ConfigDict(mulan.preset(preset, **changes))
  config.loss = "decoupled"  # or "softmax", "sigmoid"

  config.data.gain_db = (-10.0, 6.0)
  # Share of examples whose text is a random subset of the tags, if there are a
  # caption and tags.
  config.data.tag_share = 0.5
  # Names of the tags to use, also as one text, "speed,drums"; (): all.
  config.data.tags = ()

  config.optimizer.name = "adamw"
  config.optimizer.b1, config.optimizer.b2 = 0.9, 0.98
  config.optimizer.weight_decay = 0.1
  config.optimizer.schedule = "cosine"
  return config


def semantic_config(preset: str, **changes: Any) -> ConfigDict:
  """Makes the settings of a semantic tokenizer's run.

  Args:
    preset: a preset of `mmdcodec.models.semantic`.
    **changes: fields of the model that differ from the preset.
  """
  config = run_config("semantic")
  config.model = ConfigDict(semantic.preset(preset, **changes))

  config.data.seconds = 10.0  # per clip
  config.data.gain_db = (-10.0, 6.0)
  config.data.mix = 0.0  # share of clips that are a sum of two

  # Explained in mmdcodec/losses/masking.py.
  config.masking = ConfigDict(
    dict(
      kind="spans",  # or "blocks"
      share=0.065,  # probability that a span begins, or that a block is hidden
      frames=10,  # of a span or block
      noise=0.1,  # deviation of the noise in their place
    )
  )
  # Those that the objective has; "best_rq" has only the first two.
  config.losses = ConfigDict(
    dict(
      prediction=dict(weight=1.0),
      unmasked=dict(weight=0.0),  # of the codes of frames that are heard
      contrastive=dict(weight=1.0, temperature=0.1),
      diversity=dict(weight=0.1),
    )
  )
  # Temperature of the quantizer's gradient in the first and the last step.
  config.gumbel = ConfigDict(dict(first=2.0, last=0.5))
  if config.model.objective == "best_rq":
    config.masking.kind, config.masking.share = "blocks", 0.6

  config.optimizer.b1, config.optimizer.b2 = 0.9, 0.98
  config.optimizer.schedule = "cosine"
  return config


def balance(config: ConfigDict) -> None:
  """Turns the loss balancer on; its gradient needs no clipping."""
  config.balancer.on = True
  config.optimizer.clip = 0.0


def check_argument(arg: str, *choices: str) -> None:
  """Raises a UserError unless a config takes this argument.

  Args:
    arg: the part after the colon of --config=NAME:ARG.
    *choices: possible arguments besides "".
  """
  if arg not in ("", *choices):
    raise UserError(
      f"--config has the argument {arg!r}; this one takes"
      f" {' or '.join(choices)}, or none."
    )


# Fields of small discriminators of each kind, for clips of 2000 samples.
TINY_DISCRIMINATORS: dict[str, dict[str, Any]] = {
  "multi_scale_stft": dict(filters=4, windows=(256, 128)),
  "multi_scale_wave": dict(filters=4, max_filters=16, scales=2),
  "stft": dict(filters=4, window=256, hop=64),
  "multi_period": dict(filters=4, max_filters=16, periods=(2, 3)),
}


def shrink(config: ConfigDict) -> ConfigDict:
  """Shrinks a codec run to seconds, for `:tiny`.

  Discriminators keep their loss weights and learning rate.
  """
  config.steps = 20
  config.batch = 8
  config.data.seconds = 0.25
  config.data.valid_batches = 1
  config.losses.mel.windows = (64, 256, 1024)
  config.losses.mel.mels = 16
  config.adversarial.discriminators = tuple(
    {**each, **TINY_DISCRIMINATORS[each["name"]]}
    for each in config.adversarial.discriminators
  )
  config.log_every = 5
  config.eval_every = 10
  config.save_every = 10
  return config


def shrink_semantic(config: ConfigDict) -> ConfigDict:
  """Shrinks a semantic tokenizer's run to seconds, for `:tiny`."""
  config.data.seconds = 0.5
  return shrink_lm(config)


def shrink_lm(config: ConfigDict) -> ConfigDict:
  """Shrinks a language model run to seconds, for `:tiny`."""
  config.steps = 20
  config.batch = 8
  config.data.valid_batches = 1
  config.optimizer.warmup = 2
  config.log_every = 5
  config.eval_every = 10
  config.save_every = 10
  return config
