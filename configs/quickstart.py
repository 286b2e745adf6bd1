"""The codec of `mmdcodec quickstart --from-scratch`.

    mmdcodec quickstart --from-scratch

`spectral_small` with the independence loss and without phases in its codes: 50
frames per second, 4 codebooks of 256, 1.6 kbps, 2.3 M parameters. It is trained
in minutes on a CPU.
"""

from ml_collections import ConfigDict
from mmdcodec.configs import common, spectral_small


def get_config(arg: str = "") -> ConfigDict:
  """Makes the config; `tiny` shrinks it for tests."""
  common.check_argument(arg, "tiny")
  config = spectral_small.get_config(arg)
  # A steady note has steady codes, which a language model learns in minutes;
  # with their phases they look like noise to it (docs/RESULTS.md).
  config.model.phase_iterations = 16
  if arg == "tiny":
    return config
  config.model.codebooks = 4
  # More than in `spectral_small`: chosen while codes had phases, for SI-SDR.
  config.losses.waveform.weight = 60.0
  # For a language model that predicts codebooks in parallel. The loss starts
  # when the codebooks have begun to represent music.
  config.losses.independence.weight = 20.0
  config.losses.independence.estimator = "dhsic"
  config.losses.independence.kernel.radii = (0.7, 1.5)
  config.losses.independence.kernel.relative = True
  config.losses.independence.start = 160
  config.losses.independence.ramp = 50
  config.steps = 440
  config.quantizer_start = 60
  config.optimizer.warmup = 30
  config.log_every = 20
  # The first evaluation, about a minute after the start, makes the preview.
  config.eval_every = config.save_every = 110
  return config
