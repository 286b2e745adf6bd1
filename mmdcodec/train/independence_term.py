"""The independence loss as a term of codec training (arXiv 2406.02315).

The loss itself is in `quantize/independence.py`. This file decides in which
steps, to which vectors and with which weight it is applied, and collects more
rows than one batch has.

Streams. "quantized": the code vector q_k, as in the paper's algorithm 1;
"residual": the residual after quantizer k, as in the authors' last release.
Both pass their gradient to the encoder's output z (straight through), not to
the codebooks. Even with quantizer dropout, all codebooks of every example are
used, as a language model will see them.

Weight. The loss is the U-statistic over n rows. The released code divides by
the number of clips instead, so its value is larger by the square of the rows in
a clip: a weight of 1000 on 46 rows there equals 2e6 here, relative to gradients
that a loss balancer has rescaled. So its weights do not apply here: compare
`train/gradient/independence` with the gradients of other losses. Too large a
weight collapses the codebooks, so watch their usage as well.

Scale. The loss cannot push a standardized stream towards the origin or away
from it. But the gradients of all streams are added up in z, and together they
shrink it step by step; the codebooks follow too late, their outer codes die,
and the total correlation falls only because the entropy does. `keep_scale`
removes the part of the gradient that changes the mean or scale of a coordinate.

Macro-batch. With few rows the estimate is mostly noise. If `rows` exceeds one
batch, the loss is computed over the most recent batches, all encoded with the
current parameters (`gradients.cached`) in the memory of one batch, and added to
the other losses of the step. The paper uses 32 batches once every 32 steps.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from mmdcodec import patterns
from mmdcodec.errors import UserError
from mmdcodec.quantize import independence
from mmdcodec.quantize.kernels import KERNELS, Kernel

STREAMS = ("quantized", "residual")
# Folded into the step's key, so that other random numbers stay the same.
_SALT = 240602315


@dataclasses.dataclass(frozen=True)
class Term:
  """The loss with its schedule.

  Attributes:
    loss: (streams [batch, frames, codebooks, dim], key, mask=[batch, frames])
      -> scalar, unweighted.
    streams: one of STREAMS.
    keep_scale: whether the gradient preserves the mean and scale of z.
    weight: weight at the end of the ramp.
    start: steps before the loss is applied.
    ramp: steps over which the weight rises linearly.
    every: it is applied in steps (counted from 1) that are multiples of this.
    history: number of batches whose rows are combined.
  """

  loss: Callable[..., jax.Array]
  streams: str
  keep_scale: bool
  weight: float
  start: int
  ramp: int
  every: int
  history: int

  def due(self, step: int | jax.Array) -> bool | jax.Array:
    """Whether the loss is applied after `step` updates, in step `step + 1`."""
    return (step >= self.start) & ((step + 1) % self.every == 0)

  def weight_at(self, step: jax.Array) -> jax.Array:
    """Returns the weight after `step` updates; above 0 throughout the ramp."""
    risen = (step - self.start + 1) / max(self.ramp, 1)
    return self.weight * jnp.clip(risen, 0.0, 1.0)

  def value(
    self, z: jax.Array, vectors: jax.Array, mask: jax.Array, key: jax.Array
  ) -> jax.Array:
    """Computes the unweighted loss, about 0 if the codebooks are independent.

    Args:
      z: latents [batch, frames, dim].
      vectors: code vectors [batch, frames, codebooks, dim]; their gradient goes
        to z.
      mask: bool [batch, frames], False in padding.
      key: random key of this step.
    """
    if self.streams == "residual":
      vectors = z[:, :, None] - jnp.cumsum(vectors, 2)
    # Adds exactly 0, so that equal codes keep equal vectors.
    pull = keep_scale(z, mask) if self.keep_scale else z
    pull = (pull - jax.lax.stop_gradient(pull))[:, :, None]
    vectors = jax.lax.stop_gradient(vectors) + pull
    return self.loss(vectors, jax.random.fold_in(key, _SALT), mask=mask)

  def of_step(
    self,
    z: jax.Array,
    vectors: jax.Array,
    mask: jax.Array,
    key: jax.Array,
    step: jax.Array,
  ) -> tuple[jax.Array, jax.Array]:
    """Computes the weighted loss of a step.

    Args:
      z: latents [batch, frames, dim].
      vectors: code vectors [batch, frames, codebooks, dim].
      mask: bool [batch, frames], False in padding.
      key: random key of this step.
      step: int32, updates done.

    Returns:
      (weight * value, value); (0, NaN), at no cost, in steps in which the loss
      is not applied.
    """

    def act(z: jax.Array, vectors: jax.Array) -> tuple[jax.Array, jax.Array]:
      value = self.value(z, vectors, mask, key)
      return self.weight_at(step) * value, jax.lax.stop_gradient(value)

    if self.start == 0 and self.every == 1:
      return act(z, vectors)
    rest = lambda z, vectors: (jnp.float32(0.0), jnp.float32(jnp.nan))
    return jax.lax.cond(self.due(step), act, rest, z, vectors)


@jax.custom_vjp
def keep_scale(z: jax.Array, mask: jax.Array) -> jax.Array:
  """Returns z, with a gradient that preserves the mean and scale of z.

  Args:
    z: [batch, frames, dim].
    mask: bool [batch, frames], False in padding.

  Returns:
    z. From a gradient g, the backward pass subtracts, for each coordinate over
    all valid frames, its mean and its component along the centered z.
  """
  del mask
  return z


def _keep_scale_forward(
  z: jax.Array, mask: jax.Array
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
  return z, (z, mask)


def _keep_scale_backward(
  kept: tuple[jax.Array, jax.Array], g: jax.Array
) -> tuple[jax.Array, None]:
  z, mask = kept
  mask = mask[..., None]
  count = jnp.maximum(mask.sum(), 1)
  total = lambda x: jnp.sum(jnp.where(mask, x, 0.0), (0, 1))
  centred = z - total(z) / count
  g = g - total(g) / count
  along = total(g * centred) / jnp.maximum(total(centred**2), 1e-20)
  return jnp.where(mask, g - along * centred, 0.0), None


keep_scale.defvjp(_keep_scale_forward, _keep_scale_backward)


def make_term(
  config: Mapping[str, Any],
  *,
  codebooks: int,
  frames: int,
  batch: int,
  accumulate: int = 1,
) -> Term | None:
  """Makes the term of a config; None if its weight is 0.

  Args:
    config: `config.losses.independence` of configs/common.py.
    codebooks: number of codebooks.
    frames: frames in a clip.
    batch: clips in a step, over all devices.
    accumulate: parts in which they are computed.

  Raises:
    UserError: a setting is invalid.
  """
  _check(config)
  if not config["weight"]:
    return None
  if codebooks < 2:
    raise UserError(
      "losses.independence.weight is not 0, but the codec has one codebook;"
      " independence needs at least two."
    )
  options = dict(config["pattern"])
  pattern = patterns.make(options.pop("name"), codebooks, **options)
  per_clip = sum(len(at) for _, at in pattern(frames).groups)
  if not per_clip:
    raise UserError(
      f"losses.independence.pattern {config['pattern']['name']!r} predicts no"
      f" two codes together in clips of {frames} frames, so there is nothing to"
      " make independent: choose parallel, delay or coarse_first, shorter"
      " delays, or longer clips."
    )
  history = max(1, math.ceil(config["rows"] / (batch * per_clip)))
  if history > config["every"]:
    raise UserError(
      f"losses.independence.rows is {config['rows']}, which takes {history}"
      f" batches of {batch * per_clip} rows, but every is {config['every']}, so"
      f" each batch would be encoded {math.ceil(history / config['every'])}"
      f" more times: set every to {history} or more, or rows to"
      f" {config['every'] * batch * per_clip} or less."
    )
  if history == 1 and config["rows"] > (part := batch * per_clip // accumulate):
    raise UserError(
      f"losses.independence.rows is {config['rows']}, but one of {accumulate}"
      f" parts of a batch (accumulate) has {part}: set rows to that or less, or"
      f" to more than {batch * per_clip}, which are collected over several"
      " batches."
    )
  kernel = make_kernel(config["kernel"])

  def loss(
    streams: jax.Array, key: jax.Array, *, mask: jax.Array | None = None
  ) -> jax.Array:
    return independence.independence_loss(
      streams,
      key,
      pattern=pattern,
      kernel=kernel,
      estimator=config["estimator"],
      mask=mask,
      standardize=config["standardize"],
    )

  return Term(
    loss=loss,
    streams=config["streams"],
    keep_scale=config["keep_scale"],
    weight=config["weight"],
    start=config["start"],
    ramp=config["ramp"],
    every=config["every"],
    history=history,
  )


def make_kernel(config: Mapping[str, Any]) -> Kernel:
  """Makes the kernel of a config: `name`, `radii`, `relative`.

  Raises:
    UserError: the name is unknown or the radii are invalid.
  """
  name, radii = config["name"], config["radii"]
  if name not in KERNELS:
    raise UserError(
      f"losses.independence.kernel.name is {name!r}; it must be one of"
      f" {', '.join(KERNELS)}."
    )
  if name in ("linear", "quadratic"):
    if config["relative"]:
      raise UserError(
        f"losses.independence.kernel.relative: the kernel {name!r} has no"
        " radii; set it to False."
      )
    return KERNELS[name]()
  try:
    return KERNELS[name](tuple(radii), relative=bool(config["relative"]))
  except (TypeError, ValueError):
    raise UserError(
      f"losses.independence.kernel.radii are {radii}; expected positive"
      " numbers, such as (1.0, 10.0)."
    ) from None


def _check(config: Mapping[str, Any]) -> None:
  """Raises a UserError for an unknown choice."""
  for key, choices in (
    ("estimator", independence.ESTIMATORS),
    ("streams", STREAMS),
  ):
    if config[key] not in choices:
      raise UserError(
        f"losses.independence.{key} is {config[key]!r}; it must be one of"
        f" {', '.join(choices)}."
      )
