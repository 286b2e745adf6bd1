"""Residual vector quantization: each codebook codes what the last one left.

SoundStream (arXiv 2107.03312), section III-C, and EnCodec (arXiv 2210.13438),
section 3.2. With r_1 = z, level k chooses the code q_k nearest to r_k and
passes r_{k+1} = r_k - q_k on; the output is the sum of the q_k.

No gradient goes through the search or the codebooks, so the levels run in one
`lax.scan` over constants, stacked state [codebooks, size, dim] in and out, and
the two things that carry gradient are written after it:

  output      value sum_k q_k, gradient of z (straight through)
  streams     value q_k each, gradient of z (straight through, each)
  commitment  1 / (codebooks * rows * dim) * sum_k sum_rows |r_k - q_k|^2
              over the rows that are not padding; every level pulls z.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import lax

from mmdcodec.errors import UserError
from mmdcodec.quantize import vector

# Count of the random codes. Against the rows of the first batch it weighs
# nothing, so codes in use jump to their rows and the others die in a few steps;
# from a count of 1 the first codes would win everything and starve slowly.
FAINT = 1e-3


class Quantized(NamedTuple):
  """What a residual quantizer returns.

  Padded frames are 0 in every field. Quantizer dropout acts on `z`, the
  commitment, the codebook statistics and the metrics; `codes` and `streams`
  hold every level of every example as if nothing were dropped, because the
  joint distribution of all levels is what an independence loss looks at.

  Attributes:
    z: [batch, frames, dim] float32, sum of the levels in use.
    codes: int32 [batch, frames, codebooks].
    streams: [batch, frames, codebooks, dim] float32, vector of each codebook.
    commitment: scalar.
    metrics: float32 [codebooks] each: "usage" (share of the codes chosen in
      this batch), "perplexity" (of this batch), "replaced" (number of codes).
    levels: int32 [batch], codebooks in use for each example.
  """

  z: jax.Array
  codes: jax.Array
  streams: jax.Array
  commitment: jax.Array
  metrics: dict[str, jax.Array]
  levels: jax.Array


def encode(rows: jax.Array, embed: jax.Array) -> tuple[jax.Array, jax.Array]:
  """Codes and code vectors of rows, level after level.

  Args:
    rows: [rows, dim].
    embed: [codebooks, size, dim].

  Returns:
    (codes int32 [codebooks, rows], vectors [codebooks, rows, dim]).
  """

  def level(residual, embed):
    codes = vector.nearest(residual, embed)
    q = embed[codes]
    return residual - q, (codes, q)

  return lax.scan(level, rows, embed)[1]


def decode(codes: jax.Array, embed: jax.Array) -> jax.Array:
  """Sum of the code vectors.

  Args:
    codes: int32 [..., codebooks].
    embed: [codebooks, size, dim].

  Returns:
    [..., dim].
  """

  def level(total, inputs):
    codes, embed = inputs
    return total + embed[codes], None

  total = jnp.zeros((*codes.shape[:-1], embed.shape[-1]), embed.dtype)
  return lax.scan(level, total, (jnp.moveaxis(codes, -1, 0), embed))[0]


def draw_levels(
  key: jax.Array, batch: int, codebooks: int, dropout: float
) -> jax.Array:
  """Number of codebooks in use for each example (quantizer dropout).

  Args:
    key: random key.
    batch: number of examples.
    codebooks: number of codebooks.
    dropout: probability that an example draws its number uniformly from
      1..codebooks; the other examples use all.

  Returns:
    int32 [batch].
  """
  key, dropped = jax.random.split(key)
  drawn = jax.random.randint(key, (batch,), 1, codebooks + 1)
  dropped = jax.random.bernoulli(dropped, dropout, (batch,))
  return jnp.where(dropped, drawn, codebooks).astype(jnp.int32)


class ResidualVectorQuantizer(nn.Module):
  """Residual quantizer with EMA codebooks, in the collection "codebook".

  Variables: "sum" [codebooks, size, dim], "count" [codebooks, size] and
  "started" [] bool (k-means done); see `mmdcodec.quantize.vector`. Before any
  training the codes are random with norm about 1 and a count of nearly
  nothing, so that the first batches move those in use and replace the others.
  Only a call with `train=True` changes them; it needs `mutable=["codebook"]`
  and a random key "quantize". Under a mesh with the batch sharded, everything
  is over the global batch.

  Attributes:
    codebooks: number of levels.
    size: codes per level.
    dim: width of z.
    decay: of the running statistics.
    epsilon: Laplace smoothing of the counts.
    threshold: below which a code is dead and replaced; 0 never replaces.
    threshold_kind: "relative" to uniform use, or "absolute" in rows a step.
    kmeans_iterations: of the start from the first training batch; 0 starts
      from the random codes.
    dropout: share of the examples that draw how many codebooks they use.
  """

  codebooks: int
  size: int
  dim: int
  decay: float = 0.99
  epsilon: float = 1e-5
  threshold: float = 0.1
  threshold_kind: str = "relative"
  kmeans_iterations: int = 10
  dropout: float = 0.0

  def setup(self):
    """Declares the state."""
    shape = (self.codebooks, self.size, self.dim)
    self.sum = self.variable(
      "codebook",
      "sum",
      lambda: (
        jax.random.normal(self.make_rng("params"), shape)
        * (FAINT / self.dim**0.5)
      ),
    )
    self.count = self.variable(
      "codebook", "count", lambda: jnp.full(shape[:2], FAINT, jnp.float32)
    )
    self.started = self.variable(
      "codebook", "started", lambda: jnp.array(False)
    )

  def embed(self) -> jax.Array:
    """Code vectors [codebooks, size, dim]."""
    return vector.embedding(self.sum.value, self.count.value, self.epsilon)

  def __call__(
    self, z: jax.Array, mask: jax.Array | None = None, *, train: bool = False
  ) -> Quantized:
    """Quantizes and, in training, updates the codebooks.

    Args:
      z: [batch, frames, dim].
      mask: [batch, frames] bool, False in padding; None: all valid.
      train: also update the statistics, start, replace, and drop levels.

    Returns:
      Quantized. It was made with the codes from before this update, except
      that the first training call starts the codebooks and uses them.
    """
    batch, frames, dim = z.shape
    if mask is None:
      mask = jnp.ones((batch, frames), bool)
    z = jnp.where(mask[..., None], z.astype(jnp.float32), 0.0)
    rows = lax.stop_gradient(z.reshape(batch * frames, dim))
    valid = mask.reshape(-1)
    levels = jnp.full((batch,), self.codebooks, jnp.int32)

    if train and not self.is_initializing():
      key = self.make_rng("quantize")
      if self.dropout:
        key, drop = jax.random.split(key)
        levels = draw_levels(drop, batch, self.codebooks, self.dropout)
      active = self._active(levels, mask)
      codes, vectors, counts, replaced = self._train(key, rows, valid, active)
    else:
      active = self._active(levels, mask)
      codes, vectors = encode(rows, self.embed())
      counts = vector.histogram(codes, active, self.size)
      replaced = jnp.zeros((self.codebooks,))

    # [codebooks, rows, ...] -> [batch, frames, codebooks, ...]
    codes = jnp.where(valid, codes, 0).T.reshape(batch, frames, -1)
    vectors = jnp.where(valid[:, None], vectors, 0.0)
    vectors = jnp.moveaxis(vectors, 0, 1).reshape(batch, frames, -1, dim)
    active = active.T.reshape(batch, frames, -1, 1)

    left = z[:, :, None] - jnp.cumsum(vectors, 2)
    commitment = jnp.sum(jnp.where(active, left, 0.0) ** 2) / (
      jnp.maximum(mask.sum(), 1) * self.codebooks * dim
    )
    return Quantized(
      z=vector.straight_through(z, jnp.where(active, vectors, 0.0).sum(2)),
      codes=codes,
      streams=vector.straight_through(z[:, :, None], vectors),
      commitment=commitment,
      metrics={
        "usage": vector.usage(counts),
        "perplexity": vector.perplexity(counts),
        "replaced": replaced,
      },
      levels=levels,
    )

  def encode(
    self,
    z: jax.Array,
    codebooks: int | None = None,
    mask: jax.Array | None = None,
  ) -> jax.Array:
    """Codes int32 [batch, frames, codebooks] of z [batch, frames, dim].

    With fewer codebooks the codes are the first of those of all codebooks.

    Raises:
      UserError: if there are not that many codebooks.
    """
    codebooks = self._check(self.codebooks if codebooks is None else codebooks)
    rows = z.astype(jnp.float32).reshape(-1, self.dim)
    codes, _ = encode(rows, self.embed()[:codebooks])
    codes = codes.T.reshape(*z.shape[:-1], codebooks)
    return codes if mask is None else jnp.where(mask[..., None], codes, 0)

  def decode(self, codes: jax.Array) -> jax.Array:
    """Vectors [batch, frames, dim] of codes [batch, frames, k], k <= codebooks.

    Raises:
      UserError: if there are more codes per frame than codebooks.
    """
    return decode(codes, self.embed()[: self._check(codes.shape[-1])])

  def _check(self, codebooks: int) -> int:
    if not 1 <= codebooks <= self.codebooks:
      raise UserError(
        f"this model has {self.codebooks} codebooks, {codebooks} were asked"
        f" for: choose from 1 to {self.codebooks}"
      )
    return codebooks

  def _active(self, levels: jax.Array, mask: jax.Array) -> jax.Array:
    """[codebooks, rows] bool: neither padding nor dropped."""
    on = jnp.arange(self.codebooks)[:, None, None] < levels[None, :, None]
    return (on & mask[None]).reshape(self.codebooks, -1)

  def _train(self, key, rows, valid, active):
    """Quantizes with a start if needed, then updates the state.

    Returns:
      (codes [codebooks, rows], vectors [codebooks, rows, dim], batch counts
      [codebooks, size], number of replaced codes [codebooks]).
    """
    started = self.started.value

    def start(sum, count, key, residual):
      sum, count = vector.kmeans(
        key, residual, valid, self.size, self.kmeans_iterations
      )
      # One batch is worth one batch: with the weight of a long past, codes
      # that fit it too closely (fewer rows than needed) would starve slowly.
      return (1.0 - self.decay) * sum, (1.0 - self.decay) * count

    def keep(sum, count, key, residual):
      return sum, count

    def level(residual, inputs):
      sum, count, key, active = inputs
      start_key, replace_key = jax.random.split(key)
      if self.kmeans_iterations:
        # A real branch: once started, k-means costs nothing.
        sum, count = lax.cond(
          started | ~valid.any(), keep, start, sum, count, start_key, residual
        )
      embed = vector.embedding(sum, count, self.epsilon)
      codes = vector.nearest(residual, embed)
      q = embed[codes]
      sums, counts = vector.statistics(residual, codes, active, self.size)
      sum, count = vector.ema_update(sum, count, sums, counts, self.decay)
      error = jnp.where(active, jnp.sum((residual - q) ** 2, -1), 0.0)
      sum, count, replaced = vector.replace_dead(
        replace_key,
        sum,
        count,
        residual,
        error,
        number=active.sum(),
        threshold=self.threshold,
        kind=self.threshold_kind,
      )
      replaced = replaced.sum().astype(jnp.float32)
      return residual - q, (sum, count, codes, q, counts, replaced)

    keys = jax.random.split(key, self.codebooks)
    state = (self.sum.value, self.count.value, keys, active)
    _, outputs = lax.scan(level, rows, state)
    self.sum.value, self.count.value, codes, q, counts, replaced = outputs
    self.started.value = started | valid.any()
    return codes, q, counts, replaced
