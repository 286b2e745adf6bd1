"""The arms of the independence experiment: name -> `losses.independence`.

Other settings come from the config.
"""

from typing import Any

from mmdcodec.quantize.kernels import PAPER_RADII, GaussianKernel

BASELINE = "none"  # without the loss; what the others are compared with
RELATIVE: dict[str, Any] = dict(radii=(0.7, 1.5), relative=True)


def _arm(
  estimator: str = "mmd",
  pattern: str = "delay",
  keep_scale: bool = True,
  **kernel: Any,
) -> dict[str, Any]:
  """Makes the loss of arXiv 2406.02315, with `keep_scale` and these changes."""
  return dict(
    estimator=estimator,
    pattern=dict(name=pattern, delays=()),
    keep_scale=keep_scale,
    kernel=dict(name="gaussian", radii=PAPER_RADII, relative=False) | kernel,
  )


GRID: dict[str, dict[str, Any]] = {
  BASELINE: {},
  "mmd_frame": _arm(pattern="parallel"),
  "mmd_delay": _arm(),
  "dhsic_frame": _arm("dhsic", "parallel", **RELATIVE),
  "dhsic_delay": _arm("dhsic", **RELATIVE),
}
# Kernels of the permuted MMD under the delay pattern; that of `mmd_delay` is
# the Gaussian with the paper's radii as sigma.
ABLATION: dict[str, dict[str, Any]] = {
  BASELINE: {},
  "mmd_delay": _arm(),
  # As in the paper: the loss may shrink the latents.
  "mmd_free_scale": _arm(keep_scale=False),
  # The released code takes the same numbers as sigma^2.
  "mmd_gaussian_squared": _arm(radii=GaussianKernel.released().radii),
  "mmd_gaussian_relative": _arm(**RELATIVE),
  "mmd_laplacian": _arm(name="laplacian"),
  "mmd_inverse_multiquadric": _arm(name="inverse_multiquadric"),
  "mmd_linear": _arm(name="linear"),
  "mmd_quadratic": _arm(name="quadratic"),
}
ARMS = {**GRID, **ABLATION}
