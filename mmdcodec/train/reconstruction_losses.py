"""The losses of the reconstruction, and their combined gradient.

The gradient of each loss with respect to the reconstruction is computed
separately. They are combined into one gradient, which is propagated through the
codec: with plain weights, or with EnCodec's balancer (`losses/balancer.py`),
which makes the weights shares of that gradient. The discriminators' losses are
included (`adversarial.py` computes their values).
"""

from collections.abc import Mapping
from typing import Any

import jax

from mmdcodec.losses import balancer, spectral
from mmdcodec.train import adversarial

SPECTRAL = ("waveform", "mel", "stft")


def read_weights(config: Mapping[str, Any]) -> dict[str, float]:
  """Returns the weights that are not 0, by loss.

  Args:
    config: config of a codec run; those of early versions have fewer losses.
  """
  losses = config["losses"]
  names = [n for n in (*SPECTRAL, *adversarial.NAMES) if n in losses]
  weights = {name: losses[name]["weight"] for name in names}
  return {name: weight for name, weight in weights.items() if weight}


def uses_balancer(config: Mapping[str, Any]) -> bool:
  """Whether a run uses the balancer; early versions had none."""
  return "balancer" in config and config["balancer"]["on"]


class ReconstructionLosses:
  """The losses of a run that are functions of the reconstruction.

  Attributes:
    weights: nonzero weights by name.
    balanced: whether the balancer combines them.
  """

  def __init__(self, config: Mapping[str, Any], rate: int):
    """Reads the settings.

    Args:
      config: config of the run; `losses`, `balancer` and `batch` are used.
      rate: sample rate in Hz.
    """
    self.weights = read_weights(config)
    self.balanced = uses_balancer(config)
    self._config, self._rate = config, rate

  def values(
    self, x: jax.Array, y: jax.Array, mask: jax.Array
  ) -> dict[str, jax.Array]:
    """Computes all losses but those of discriminators, unweighted.

    Args:
      x: original audio [batch, samples, channels].
      y: reconstruction, same shape.
      mask: bool [batch, samples], False in padding.
    """
    config, found = self._config["losses"], {}
    if "waveform" in self.weights:
      found["waveform"] = spectral.waveform_l1(x, y, mask)
    if "mel" in self.weights:
      found["mel"] = spectral.multi_scale_mel(
        x,
        y,
        rate=self._rate,
        windows=tuple(config["mel"]["windows"]),
        mels=config["mel"]["mels"],
        form=config["mel"]["form"],
        mask=mask,
      )
    if "stft" in self.weights:
      found["stft"] = spectral.multi_scale_stft(
        x, y, windows=tuple(config["stft"]["windows"]), mask=mask
      )
    return found

  def init(self) -> balancer.BalancerState | None:
    """Initializes the balancer; None without it."""
    return balancer.init(sorted(self.weights)) if self.balanced else None

  def combine(
    self,
    pulls: Mapping[str, jax.Array],
    state: balancer.BalancerState | None,
  ) -> tuple[jax.Array, balancer.BalancerState | None, dict[str, jax.Array]]:
    """Combines the gradients of all losses.

    Args:
      pulls: gradient of each loss with respect to the reconstruction [batch,
        samples, channels].
      state: see `init`.

    Returns:
      The gradient, the new state, and the `gradient_norm` of each loss.
    """
    if state is not None:
      return balancer.balance(
        state,
        pulls,
        self.weights,
        decay=self._config["balancer"]["decay"],
        total_norm=self._norm_of_a_clip,
      )
    weighted = [self.weights[name] * one for name, one in pulls.items()]
    pull = sum(weighted[1:], weighted[0])
    norms = {name: balancer.gradient_norm(g) for name, g in pulls.items()}
    return pull, None, norms

  def scales(
    self, state: balancer.BalancerState | None
  ) -> Mapping[str, float | jax.Array]:
    """Returns the factor that `combine` applies to each loss."""
    if state is None:
      return self.weights
    return balancer.scales(state, self.weights, total_norm=self._norm_of_a_clip)

  @property
  def _norm_of_a_clip(self) -> float:
    """The norm of the balanced gradient of one clip.

    Of a batch that is computed in parts, gradients are averaged over the parts.
    """
    clips = self._config["batch"] / self._config.get("accumulate", 1)
    return self._config["balancer"]["total_norm"] / clips
