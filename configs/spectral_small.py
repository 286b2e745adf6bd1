"""A small spectral codec that trains in minutes on two CPU cores.

    mmdcodec train --config=spectral_small --workdir=runs/spectral \
        --config.data.train=DATASET --config.data.valid=DATASET

24 kHz mono with a hop of 480: 50 frames per second, 8 codebooks of 256,
3.2 kbps, 2.0 M parameters. All layers run at the frame rate
(mmdcodec/models/spectral_networks.py), so a step costs a fraction of that of
`codec_small`.

With --config.model.phase_iterations=16 the codes hold magnitudes alone, and the
decoder finds phases: easier for language models to predict, but the waveform is
lost, and it takes many times longer to decode.
"""

from ml_collections import ConfigDict
from mmdcodec.configs import common


def get_config(arg: str = "") -> ConfigDict:
  """Makes the config.

  Args:
    arg: "", or "tiny" for tests.
  """
  common.check_argument(arg, "tiny")
  if arg == "tiny":
    config = common.shrink(common.codec_config("spectral_tiny"))
    config.quantizer_start = 5
    return config
  config = common.codec_config("spectral_small")
  config.steps = 1_600
  config.batch = 16
  config.quantizer_start = config.steps // 8
  config.losses.waveform.weight = 20.0
  config.losses.mel.windows = (128, 512, 2048)
  # Magnitudes bin by bin: mel bands average over the upper harmonics.
  config.losses.stft.weight = 4.0
  config.losses.stft.windows = (512, 2048)
  config.losses.commitment.weight = 0.25
  config.optimizer.learning_rate = 5e-3
  config.optimizer.b1, config.optimizer.b2 = 0.8, 0.99
  config.optimizer.schedule = "cosine"
  config.optimizer.warmup = 50
  config.log_every = 25
  config.eval_every = config.save_every = 200
  return config
