"""Adversarial losses on lists of logits and features.

Logits are one array per sub-discriminator, features a list of arrays (one per
layer) for each; `mmdcodec.models.discriminators` returns both. A mean is taken
over everything in an array, then over the layers of a sub-discriminator, then
over the sub-discriminators, so each of these counts the same whatever its size
(SoundStream, arXiv 2107.03312, equations 2 to 4; EnCodec, arXiv 2210.13438,
section 3.4; the code released with the latter normalises the same way).

  kind             discriminator                      generator
  "hinge"          relu(1 - D(x)) + relu(1 + D(y))    -D(y)
  "hinge_clamped"  the same                           relu(1 - D(y))
  "least_squares"  (1 - D(x))^2 + D(y)^2              (1 - D(y))^2

Both papers print the clamped form for the generator; the code and the recipes
released with EnCodec and MusicGen use the plain one, whose gradient does not
vanish where the generator is ahead. Least squares are those of HiFi-GAN (arXiv
2010.05646), whose sums over sub-discriminators are means here.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax import lax

from mmdcodec.errors import UserError

KINDS = ("hinge", "hinge_clamped", "least_squares")


def discriminator_loss(
  real: Sequence[jax.Array], fake: Sequence[jax.Array], kind: str = "hinge"
) -> jax.Array:
  """What the discriminators minimise.

  Args:
    real: logits of real audio, an array per sub-discriminator.
    fake: logits of generated audio.
    kind: of `KINDS`.

  Returns:
    float32 scalar. Hinge losses are 2 where every logit is 0, least squares 1.

  Raises:
    UserError: unknown kind.
    ValueError: the lists differ in length or are empty.
  """
  _check(kind)
  if kind == "least_squares":
    cost = lambda x, y: jnp.mean((1 - x) ** 2) + jnp.mean(y**2)
  else:
    cost = lambda x, y: (
      jnp.mean(jax.nn.relu(1 - x)) + jnp.mean(jax.nn.relu(1 + y))
    )
  return _mean([cost(_wide(x), _wide(y)) for x, y in _pairs(real, fake)])


def generator_loss(fake: Sequence[jax.Array], kind: str = "hinge") -> jax.Array:
  """What the generator minimises to pass for real.

  Args:
    fake: logits of generated audio, an array per sub-discriminator.
    kind: of `KINDS`.

  Returns:
    float32 scalar; "hinge" may be negative.

  Raises:
    UserError: unknown kind.
    ValueError: the list is empty.
  """
  _check(kind)
  cost = {
    "hinge": lambda y: -jnp.mean(y),
    "hinge_clamped": lambda y: jnp.mean(jax.nn.relu(1 - y)),
    "least_squares": lambda y: jnp.mean((1 - y) ** 2),
  }[kind]
  return _mean([cost(_wide(y)) for y in fake])


def feature_matching(
  real: Sequence[Sequence[jax.Array]],
  fake: Sequence[Sequence[jax.Array]],
  relative: bool = True,
) -> jax.Array:
  """L1 distance of the discriminators' features; gradient to `fake` only.

  Args:
    real: features of real audio, a list of layers per sub-discriminator:
      arrays or `mmdcodec.nn.folding.Folded` signals.
    fake: features of the same audio, generated.
    relative: divides each layer by the mean magnitude of its real features
      (EnCodec, section 3.4), so that layers count alike whatever their scale.
      False is the plain L1 of SoundStream (equation 5) and of the code
      released with EnCodec.

  Returns:
    float32 scalar.

  Raises:
    ValueError: the lists differ in length or shapes, or are empty.
  """

  def layer(x, y):
    if x.shape != y.shape:
      raise ValueError(f"features of shapes {x.shape} and {y.shape}")
    x, y = lax.stop_gradient(_wide(x)), _wide(y)
    distance = abs(x - y).mean()
    if not relative:
      return distance
    # A layer that is silent on all real audio has no scale of its own.
    return distance / jnp.maximum(abs(x).mean(), 1e-8)

  return _mean(
    [
      _mean([layer(x, y) for x, y in _pairs(xs, ys)])
      for xs, ys in _pairs(real, fake)
    ]
  )


def _check(kind: str):
  if kind not in KINDS:
    raise UserError(
      f"there is no adversarial loss {kind!r}; use one of {', '.join(KINDS)}"
    )


def _pairs(real, fake) -> list:
  if len(real) != len(fake):
    raise ValueError(f"{len(real)} arrays of real audio, {len(fake)} of fake")
  return list(zip(real, fake, strict=True))


def _mean(values: list) -> jax.Array:
  if not values:
    raise ValueError("there is nothing to take the mean of")
  return sum(values) / len(values)


def _wide(x):
  """In float32: an array (of NumPy too) or a folded signal."""
  return jax.tree.map(lambda y: jnp.asarray(y).astype(jnp.float32), x)
