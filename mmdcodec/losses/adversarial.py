"""Adversarial losses on lists of logits and features.

Logits are one array per sub-discriminator, and features one list of arrays (one
per layer); `mmdcodec.models.discriminators` returns both. Means are taken over
each array, then over the layers of a sub-discriminator, then over the
sub-discriminators, so that each counts the same whatever its size (SoundStream,
arXiv 2107.03312, equations 2 to 4; EnCodec, arXiv 2210.13438, section 3.4, and
its released code).

  kind             discriminator                      generator
  "hinge"          relu(1 - D(x)) + relu(1 + D(y))    -D(y)
  "hinge_clamped"  the same                           relu(1 - D(y))
  "least_squares"  (1 - D(x))^2 + D(y)^2              (1 - D(y))^2

Both papers give the clamped form for the generator. The released code and
recipes of EnCodec and MusicGen use the plain one, whose gradient does not
vanish where the generator is ahead. Least squares are from HiFi-GAN (arXiv
2010.05646), with means over sub-discriminators instead of sums.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from mmdcodec.errors import UserError

KINDS = ("hinge", "hinge_clamped", "least_squares")


def discriminator_loss(
  real: Sequence[jax.Array], fake: Sequence[jax.Array], kind: str = "hinge"
) -> jax.Array:
  """The loss that the discriminators minimise.

  Args:
    real: logits of real audio, one array per sub-discriminator.
    fake: logits of generated audio.
    kind: one of `KINDS`.

  Returns:
    float32 scalar. Hinge losses are 2 where every logit is 0, least squares 1.

  Raises:
    UserError: the kind is unknown.
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
  """The loss that the generator minimises.

  Args:
    fake: logits of generated audio, one array per sub-discriminator.
    kind: one of `KINDS`.

  Returns:
    float32 scalar; "hinge" may be negative.

  Raises:
    UserError: the kind is unknown.
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
  """L1 distance between discriminator features, with gradient to `fake` only.

  Args:
    real: features of real audio, one list of layers per sub-discriminator;
      layers are arrays or `mmdcodec.nn.folding.Folded` signals.
    fake: features of the generated version of the same audio.
    relative: divide each layer by the mean magnitude of its real features
      (EnCodec, section 3.4), so that layers of any scale count the same.
      False is the plain L1 of SoundStream (equation 5) and of EnCodec's
      released code.

  Returns:
    float32 scalar.

  Raises:
    ValueError: the lists differ in length or shapes, or are empty.
  """

  def layer(x: Any, y: Any) -> jax.Array:
    if x.shape != y.shape:
      raise ValueError(f"features of shapes {x.shape} and {y.shape}")
    x, y = lax.stop_gradient(_wide(x)), _wide(y)
    distance = abs(x - y).mean()
    if not relative:
      return distance
    # A layer that is 0 on all real audio has no scale.
    return distance / jnp.maximum(abs(x).mean(), 1e-8)

  return _mean(
    [
      _mean([layer(x, y) for x, y in _pairs(xs, ys)])
      for xs, ys in _pairs(real, fake)
    ]
  )


def _check(kind: str) -> None:
  if kind not in KINDS:
    raise UserError(
      f"there is no adversarial loss {kind!r}; use one of {', '.join(KINDS)}"
    )


def _pairs(real: Sequence[Any], fake: Sequence[Any]) -> list[tuple[Any, Any]]:
  if len(real) != len(fake):
    raise ValueError(f"{len(real)} arrays of real audio, {len(fake)} of fake")
  return list(zip(real, fake, strict=True))


def _mean(values: list[jax.Array]) -> jax.Array:
  if not values:
    raise ValueError("there is nothing to take the mean of")
  return jnp.asarray(sum(values)) / len(values)


def _wide(x: Any) -> Any:
  """An array or a folded signal in float32."""
  return jax.tree.map(lambda y: jnp.asarray(y).astype(jnp.float32), x)
