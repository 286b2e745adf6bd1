"""w2v-BERT's objective: tell hidden frames apart, and predict their codes.

Chung et al. 2021, arXiv 2108.06209, 3.1-3.3. A Gumbel quantizer chooses a code
for what the convolutions make of each frame with nothing hidden. The
contrastive loss asks the context vector of a hidden frame for its own code's
vector among those of the clip's other hidden frames, and keeps the codes from
collapsing, together with the diversity loss. The second stack predicts the
codes of hidden frames.

The predicted code is the most probable one, without the noise of training,
which would be noise in the targets. No gradient flows through it.
"""

from typing import ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp

from mmdcodec.losses.contrastive_masked import contrastive
from mmdcodec.losses.masking import masked_mean
from mmdcodec.models.objective_best_rq import predict
from mmdcodec.models.semantic_outputs import Heard, Losses, Objective
from mmdcodec.nn.attention import kernel_init
from mmdcodec.quantize.gumbel import GumbelQuantizer, diversity


class W2vBert(Objective):
  """Quantizer and heads; see `Objective` for the attributes."""

  hears: ClassVar[bool] = True

  @nn.compact
  def __call__(
    self,
    heard: Heard,
    key: jax.Array | None = None,
    *,
    temperature: float = 0.1,
    gumbel_temperature: jax.Array | float = 1.0,
  ) -> Losses:
    """Returns the losses of `predict`, `contrastive` and `diversity`.

    Args:
      heard: output of the network.
      key: random key of the quantizer; None chooses the most probable codes.
      temperature: of the contrastive loss.
      gumbel_temperature: of the quantizer's gradient.
    """
    assert heard.features is not None
    chosen = GumbelQuantizer(self.codes, self.dim, name="quantizer")(
      heard.features, heard.valid, key, gumbel_temperature
    )
    context = nn.Dense(
      self.dim, dtype=self.dtype, kernel_init=kernel_init(), name="context"
    )(heard.context)
    nats, right, others = contrastive(
      context, chosen.vectors, heard.masked, temperature
    )
    losses, accuracy = predict(self.codes, self.dtype, heard, chosen.ids)
    mean = lambda values: masked_mean(values, heard.masked)
    return Losses(
      {
        "contrastive": mean(nats),
        "diversity": diversity(chosen.logits, heard.valid),
        **losses,
      },
      {
        "accuracy": accuracy,
        "contrastive_accuracy": mean(right),
        "contrastive_guess": mean(jnp.log1p(others.astype(jnp.float32))),
      },
      chosen.ids,
      heard.masked,
      heard.valid,
    )
