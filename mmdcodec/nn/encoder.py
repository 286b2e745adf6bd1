"""The encoder Transformer: the decoder's blocks, attending in both directions.

A pre-norm encoder as in ViT (Dosovitskiy et al. 2021, arXiv 2010.11929), for
patches of a spectrogram and for texts.
"""

from typing import Annotated

import jax
import jax.numpy as jnp

from mmdcodec import bounds
from mmdcodec.bounds import flag, one_of
from mmdcodec.nn import positions as positions_lib
from mmdcodec.nn.block import View
from mmdcodec.nn.transformer import Transformer
from mmdcodec.parallel import rules


class Encoder(Transformer):
  """Blocks that attend to all valid tokens; see `Transformer` for the fields.

  Attributes:
    positions: "sinusoidal", "rotary", or "none" if the input has them already.
    window, sinks, forget: 0; only decoders have them.
    cross: unused.
  """

  called = "the encoder"

  positions: Annotated[str, one_of(positions_lib.ENCODER_KINDS)] = "sinusoidal"
  cross: Annotated[bool, flag()] = False

  @property
  def problem(self) -> str | None:
    """See the base class."""
    for name, what in (
      ("window", "decoders have a window"),
      ("sinks", "decoders have sinks"),
      ("forget", "decoders forget"),
    ):
      if value := getattr(self, name):
        return f"its {name} is {value}, but only {what}; set it to 0"
    return super().problem

  def __call__(  # type: ignore[override]
    self, x: jax.Array, valid: jax.Array, *, train: bool = False
  ) -> jax.Array:
    """Runs all blocks over whole sequences.

    Args:
      x: [batch, tokens, width].
      valid: bool [batch, tokens]; other tokens are not attended to, and their
        own output means nothing.
      train: applies dropout, with the random key "dropout".

    Returns:
      float32 [batch, tokens, width].
    """
    bounds.check_shape("x", x, batch=..., tokens=None, width=self.width)
    positions = jnp.arange(x.shape[1])[None]
    view = View(positions, valid[:, None, None, :])
    x = self.drop(self.place(x, positions), deterministic=not train)
    # As in `Transformer`: no block should gather the activations.
    x = rules.constrain(x, "batch", None, None)
    x, _ = self.blocks(x, view, None, None, train)
    return self.finish(x)
