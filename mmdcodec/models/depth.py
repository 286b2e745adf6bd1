"""The depth transformer: the exact joint distribution of the codes of a step.

Separate heads treat the codes that share a step as independent given the past.
A small Transformer over the codebooks of the step has the chain rule instead:
the logits of a codebook see the codes of those before it (Lee et al. 2022,
"RQ-Transformer", arXiv 2203.01941; Défossez et al. 2024, "Moshi",
arXiv 2410.00037). The large Transformer still takes one step for all of them.

    input k   = projection k of the large Transformer's output
                + vector of the code of codebook k - 1
    logits k  = head k of output k

The depth decoder of CSM (Sesame 2025) has this form, with activation "swiglu"
and norms "rms": its projections after the first are zero, and the first
codebook is predicted by its large Transformer.
"""

from typing import Annotated, Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from mmdcodec import bounds
from mmdcodec.bounds import whole
from mmdcodec.nn.transformer import Transformer
from mmdcodec.parallel import rules

# Fields that are those of the language model.
OF_MODEL = ("codebooks", "codebook_size", "dropout", "remat", "dtype")


class DepthTransformer(bounds.Checked, nn.Module):
  """A Transformer over the codebooks of each step.

  Attributes:
    layers: blocks.
    width: channels of a codebook's vector.
    heads: query heads of attention.
    kv_heads: key and value heads; 0 means as many as `heads`.
    hidden: width of the feed-forward layers.
    activation: see `Transformer`, and so for the next three.
    norms: kind of the norms, "layer" or "rms".
    positions: how codebooks are told apart, besides by their own projections.
    qk_norm: normalises queries and keys of attention.
    codebooks: K, at least 2.
    codebook_size: codes per codebook; the special token is the next number.
    dropout: share of activations dropped in training.
    remat: "none", "full" or "dots", see `Transformer`.
    dtype: compute dtype; parameters, norms, sums and logits are float32.
  """

  called = "the depth transformer"

  # `Transformer` has the bounds of its own fields.
  layers: int = 4
  width: int = 512
  heads: int = 8
  kv_heads: Annotated[int, whole(0, 256)] = 0
  hidden: int = 2048
  activation: str = "gelu"
  norms: str = "layer"
  positions: str = "rotary"
  qk_norm: bool = False
  codebooks: int = 4
  codebook_size: int = 2048
  dropout: float = 0.0
  remat: str = "none"
  dtype: Any = jnp.float32

  @property
  def problem(self) -> str | None:
    """See the base class."""
    # Its own checks come first.
    self.make_transformer()
    if self.codebooks < 2:
      return "it is over the codebooks of a step; the model has only one"
    return None

  @nn.nowrap
  def make_transformer(self) -> Transformer:
    """The Transformer inside, outside of this module."""
    return Transformer(**self._fields(), parent=None)

  def _fields(self) -> dict[str, Any]:
    return dict(
      layers=self.layers,
      width=self.width,
      heads=self.heads,
      kv_heads=self.kv_heads or self.heads,
      hidden=self.hidden,
      activation=self.activation,
      norms=self.norms,
      positions=self.positions,
      qk_norm=self.qk_norm,
      cross=False,
      dropout=self.dropout,
      remat=self.remat,
      dtype=self.dtype,
    )

  @nn.compact
  def __call__(
    self, x: jax.Array, targets: jax.Array, *, train: bool = False
  ) -> jax.Array:
    """Logits of every codebook, given the codes of those before it.

    Args:
      x: [batch, steps, any width], output of the large Transformer.
      targets: int [batch, steps, codebooks], the tokens of the steps that x
        predicts; special where a step has no code. The last codebook's do not
        matter.
      train: applies dropout, with the random key "dropout".

    Returns:
      float32 [batch, steps, codebooks, codebook_size].

    Raises:
      ValueError: the targets have another shape.
    """
    normal, count = nn.initializers.normal, self.codebooks
    rows = x.shape[:2]
    bounds.check_shape(
      "targets", targets, batch=rows[0], steps=rows[1], codebooks=count
    )
    projection = self.param(
      "projection",
      normal(x.shape[-1] ** -0.5),
      (count, x.shape[-1], self.width),
      jnp.float32,
    )
    embedding = self.param(
      "embedding",
      normal(self.width**-0.5),
      (count - 1, self.codebook_size + 1, self.width),
      jnp.float32,
    )
    head = self.param(
      "head",
      normal(self.width**-0.5),
      (count, self.width, self.codebook_size),
      jnp.float32,
    )
    cast = lambda a: a.astype(self.dtype)
    y = jnp.einsum(
      "bsw,kwd->bskd",
      cast(x),
      cast(projection),
      preferred_element_type=jnp.float32,
    )
    # Parameters may be NumPy arrays, which traced values cannot index.
    vectors = jnp.asarray(embedding)[np.arange(count - 1), targets[..., :-1]]
    y = y.at[:, :, 1:].add(vectors)
    # Each step is a sequence of its own.
    y = Transformer(**self._fields(), name="transformer")(
      rules.constrain(y.reshape(-1, count, self.width), "batch", None, None),
      # With a mask, attention leaves out the kernels for long sequences.
      valid=jnp.ones((1, count), bool),
      train=train,
    )
    return jnp.einsum(
      "bskd,kdv->bskv",
      cast(y.reshape(*rows, count, self.width)),
      cast(head),
      preferred_element_type=jnp.float32,
    )
