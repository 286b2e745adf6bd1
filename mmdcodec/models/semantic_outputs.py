"""What an objective of the semantic network hears, and what it returns."""

from typing import Any, ClassVar

import flax
import flax.linen as nn
import jax


@flax.struct.dataclass
class Heard:
  """What the network makes of a batch.

  Attributes:
    spectra: float32 [batch, 4 * frames, mels], standardised, nothing hidden.
    features: float32 [batch, frames, width], output of the convolutions with
      nothing hidden; None unless the objective `hears` them.
    context: float32 [batch, frames, width], output of the contrastive stack.
    predicted: float32 [batch, frames, width], output of the second stack.
    masked: bool [batch, frames], frames that were hidden from the two stacks.
    valid: bool [batch, frames].
  """

  spectra: jax.Array
  features: jax.Array | None
  context: jax.Array
  predicted: jax.Array
  masked: jax.Array
  valid: jax.Array


@flax.struct.dataclass
class Losses:
  """What an objective returns.

  Attributes:
    losses: scalars by name, to be weighted and added.
    metrics: other scalars by name.
    ids: int32 [batch, frames], the codes of all frames.
    masked: bool [batch, frames], frames whose codes were predicted.
    valid: bool [batch, frames].
  """

  losses: dict[str, jax.Array]
  metrics: dict[str, jax.Array]
  ids: jax.Array
  masked: jax.Array
  valid: jax.Array


class Objective(nn.Module):
  """Base class of what is trained on top of the network.

  Attributes:
    codes: number of codes.
    dim: length of a code's vector.
    dtype: compute dtype.
    hears: whether it needs `Heard.features`.
  """

  codes: int
  dim: int
  dtype: Any

  hears: ClassVar[bool] = False
