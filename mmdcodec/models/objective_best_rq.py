"""BEST-RQ: predict random codes of hidden frames.

Chiu et al. 2022, arXiv 2202.01855. The targets come from a frozen random
projection of the four standardised spectra of a frame, see
`mmdcodec.quantize.random_projection`, so nothing can collapse.
"""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp

from mmdcodec.losses.cross_entropy import cross_entropy
from mmdcodec.losses.masking import masked_mean
from mmdcodec.models.semantic_outputs import Heard, Losses, Objective
from mmdcodec.nn.attention import kernel_init
from mmdcodec.quantize.random_projection import RandomProjection


class BestRQ(Objective):
  """The head and the frozen targets; see `Objective` for the attributes."""

  @nn.compact
  def __call__(self, heard: Heard, key: jax.Array | None = None) -> Losses:
    """Returns the losses `prediction` and `unmasked`.

    Args:
      heard: output of the network.
      key: not needed.
    """
    del key
    batch, count = heard.valid.shape
    rows = heard.spectra.reshape(batch, count, -1)
    ids = RandomProjection(self.codes, self.dim, name="projection")(rows)
    losses, accuracy = predict(self.codes, self.dtype, heard, ids)
    return Losses(
      losses,
      {"accuracy": accuracy},
      ids,
      heard.masked,
      heard.valid,
    )


def predict(
  codes: int, dtype: jnp.dtype, heard: Heard, ids: jax.Array
) -> tuple[dict[str, jax.Array], jax.Array]:
  """Predicts codes by one layer, of the calling module.

  Args:
    codes: number of codes.
    dtype: compute dtype.
    heard: output of the network.
    ids: int32 [batch, frames].

  Returns:
    (cross-entropy in nats: `prediction` of masked frames, `unmasked` of the
    others; share of right predictions of masked frames).
  """
  head = nn.Dense(
    codes,
    dtype=dtype,
    kernel_init=kernel_init(),
    # Logits are not rounded to the compute dtype.
    dot_general=functools.partial(
      jax.lax.dot_general, preferred_element_type=jnp.float32
    ),
    name="head",
  )
  logits = head(heard.predicted)
  nats = cross_entropy(logits, ids, heard.valid)
  right = jnp.argmax(logits, -1) == ids
  losses = {
    "prediction": masked_mean(nats, heard.masked),
    "unmasked": masked_mean(nats, heard.valid & ~heard.masked),
  }
  return losses, masked_mean(right, heard.masked)
