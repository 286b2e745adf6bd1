"""Residual vector quantization: each codebook codes the previous residual.

SoundStream (arXiv 2107.03312), section III-C, and EnCodec (arXiv 2210.13438),
section 3.2. With r_1 = z, level k chooses the code q_k nearest to r_k and
passes on r_{k+1} = r_k - q_k; the output is the sum of the q_k.

No gradient goes through the search or the codebooks, so the levels run in one
`lax.scan` over the stacked state [codebooks, size, dim]. Results with a
gradient are computed after it:

  output      value sum_k q_k, gradient of z (straight through)
  streams     value q_k each, gradient of z (straight through, each)
  commitment  1 / (codebooks * rows * dim) * sum_k sum_rows |r_k - q_k|^2
              over the rows that are not padding; every level pulls on z.
"""

from typing import Annotated, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import lax

from mmdcodec import bounds
from mmdcodec.bounds import number, one_of, whole
from mmdcodec.errors import UserError
from mmdcodec.parallel import mapped
from mmdcodec.parallel.mapped import AxisName
from mmdcodec.quantize import vector

# Count of the random initial codes. It is negligible against the rows of the
# first batch, so chosen codes jump to their rows and the others die in a few
# steps. With a count of 1 a few codes would win all rows, and the rest would
# starve slowly.
FAINT = 1e-3

# The first is a limit of the .mmdc file format too.
MOST_CODEBOOKS, MOST_CODES = 4096, 1 << 16


class Quantized(NamedTuple):
  """What a residual quantizer returns.

  Padded frames are 0 in every field. A frame that is not finite has no codes
  (`mmdcodec.quantize.vector`) and is NaN in z and streams. Quantizer dropout
  affects `z`, the commitment, the codebook statistics and the metrics. `codes`
  and `streams` hold every level of every example as if nothing were dropped,
  because an independence loss needs the joint distribution of all levels.

  Attributes:
    z: [batch, frames, dim] float32, sum of the active levels.
    codes: int32 [batch, frames, codebooks].
    streams: [batch, frames, codebooks, dim] float32, one vector per codebook.
    commitment: scalar.
    metrics: float32 [codebooks] each: "usage" (share of the codes chosen in
      this batch), "perplexity" (of this batch), "replaced" (number of codes);
      and a scalar, "not_finite" (number of frames that are not).
    levels: int32 [batch], number of active codebooks of each example.
  """

  z: jax.Array
  codes: jax.Array
  streams: jax.Array
  commitment: jax.Array
  metrics: dict[str, jax.Array]
  levels: jax.Array


def encode(rows: jax.Array, embed: jax.Array) -> tuple[jax.Array, jax.Array]:
  """Codes and code vectors of rows, level by level.

  Args:
    rows: [rows, dim].
    embed: [codebooks, size, dim].

  Returns:
    (codes int32 [codebooks, rows], vectors [codebooks, rows, dim]).
  """

  def level(
    residual: jax.Array, embed: jax.Array
  ) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    codes = vector.nearest(residual, embed)
    q = vector.lookup(embed, codes)
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

  def level(
    total: jax.Array, inputs: tuple[jax.Array, jax.Array]
  ) -> tuple[jax.Array, None]:
    codes, embed = inputs
    return total + vector.lookup(embed, codes), None

  total = jnp.zeros((*codes.shape[:-1], embed.shape[-1]), embed.dtype)
  return lax.scan(level, total, (jnp.moveaxis(codes, -1, 0), embed))[0]


def sample_levels(
  key: jax.Array, batch: int, codebooks: int, dropout: float
) -> jax.Array:
  """Samples the number of active codebooks per example (quantizer dropout).

  Args:
    key: random key.
    batch: number of examples.
    codebooks: number of codebooks.
    dropout: probability that an example gets a number uniform in 1..codebooks;
      the other examples use all.

  Returns:
    int32 [batch].
  """
  key, dropped = jax.random.split(key)
  fewer = jax.random.randint(key, (batch,), 1, codebooks + 1, jnp.int32)
  dropped = jax.random.bernoulli(dropped, jnp.float32(dropout), (batch,))
  return jnp.where(dropped, fewer, codebooks).astype(jnp.int32)


class ResidualVectorQuantizer(bounds.Checked, nn.Module):
  """Residual quantizer whose codebooks are running means (SoundStream III-C).

  The variables are in the collection "codebook": "sum" [codebooks, size, dim]
  and "count" [codebooks, size], explained in `mmdcodec.quantize.vector`, and
  "started" [] bool, whether k-means has run. Before training the codes are
  random with norm about 1 and a tiny count, so that the first batches move the
  chosen ones and replace the others. Only a call with `train=True` changes the
  variables; it needs `mutable=["codebook"]` and a random key "quantize". Under
  a mesh with a sharded batch, all statistics are those of the global batch.

  Attributes:
    codebooks: number of levels.
    size: codes per level.
    dim: width of z.
    decay: decay of the running statistics per step; 1 freezes the codes that
      training starts from, random ones or those of k-means.
    epsilon: pseudo-count of Laplace smoothing.
    threshold: usage below which a code is dead and is replaced; 0 never
      replaces. A `Codec` sets it from its own field of this name.
    threshold_kind: unit of the threshold, "relative" to uniform usage or
      "absolute" in rows per step; `vector.replace_dead` has the details.
    kmeans_iterations: k-means iterations on the first training batch; 0 starts
      from the random codes.
    dropout: share of the examples that use a random number of codebooks.
  """

  called = "the quantizer"

  codebooks: Annotated[int, whole(1, MOST_CODEBOOKS)]
  size: Annotated[int, whole(1, MOST_CODES)]
  dim: Annotated[int, whole(1, 1 << 14)]
  decay: Annotated[float, number(0, 1)] = 0.99
  epsilon: Annotated[float, number(0, 1)] = 1e-5
  threshold: Annotated[float, number(0, 1e6)] = 0.1
  threshold_kind: Annotated[str, one_of(vector.THRESHOLD_KINDS)] = "relative"
  kmeans_iterations: Annotated[int, whole(0, 1000)] = 10
  dropout: Annotated[float, number(0, 1)] = 0.0

  def setup(self) -> None:
    """Declares the variables."""
    shape = (self.codebooks, self.size, self.dim)
    self.sum = self.variable(
      "codebook",
      "sum",
      lambda: (
        jax.random.normal(self.make_rng("params"), shape, jnp.float32)
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
    self,
    z: jax.Array,
    mask: jax.Array | None = None,
    *,
    train: bool = False,
    axis_name: AxisName = None,
  ) -> Quantized:
    """Quantizes and, in training, updates the codebooks.

    Args:
      z: [batch, frames, dim].
      mask: [batch, frames] bool, False in padding; None means all valid.
      train: also run k-means in the first call, drop levels, update the
        statistics and replace dead codes. Where the collection "codebook" is
        not mutable, levels are dropped and the codebooks stay as they are.
      axis_name: mapped axes that divide the batch; codebooks, commitment and
        metrics are those of all devices. See `mmdcodec.parallel.mapped`.

    Returns:
      `Quantized`, with the codes from before this update, except that the first
      training call uses the codes of its own k-means.

    Raises:
      ValueError: the shapes do not fit.
      UserError: `train` inside `jax.shard_map` or `jax.pmap` without
        axis_name, or with one that cannot be. Without `train`, codes depend on
        no other row.
    """
    bounds.check_shape("z", z, batch=None, frames=None, dim=self.dim)
    batch, frames, dim = z.shape
    mask = jnp.ones((batch, frames), bool) if mask is None else mask
    bounds.check_shape("mask", mask, batch=batch, frames=frames)
    z = jnp.where(mask[..., None], z.astype(jnp.float32), 0.0)
    rows = lax.stop_gradient(z.reshape(batch * frames, dim))
    valid = mask.reshape(-1)
    levels = jnp.full((batch,), self.codebooks, jnp.int32)

    train = train and not self.is_initializing()
    if train:
      mapped.check_global(
        "the update of the codebooks", axis_name, takes_name=True, rows=[rows]
      )
      key = mapped.first(self.make_rng("quantize"), axis_name)
      if self.dropout:
        key, drop = jax.random.split(key)
        batches = batch * mapped.size(axis_name)
        levels = sample_levels(drop, batches, self.codebooks, self.dropout)
        levels = mapped.own(levels, axis_name)
    active = self._active(levels, mask)
    if train and self.is_mutable_collection("codebook"):
      codes, vectors, counts, replaced = self._train(
        key, rows, valid, active, axis_name
      )
    else:
      codes, vectors = encode(rows, self.embed())
      counts = vector.histogram(codes, active, self.size)
      counts = mapped.total(counts, axis_name)
      replaced = jnp.zeros((self.codebooks,), jnp.float32)

    lost = (valid & (codes[0] == self.size)).sum().astype(jnp.float32)
    lost = mapped.total(lost, axis_name)
    # [codebooks, rows, ...] -> [batch, frames, codebooks, ...]
    codes = jnp.where(valid, codes, 0).T.reshape(batch, frames, -1)
    vectors = jnp.where(valid[:, None], vectors, 0.0)
    vectors = jnp.moveaxis(vectors, 0, 1).reshape(batch, frames, -1, dim)
    active = active.T.reshape(batch, frames, -1, 1)

    residual = z[:, :, None] - jnp.cumsum(vectors, 2)
    error = jnp.sum(jnp.where(active, residual, 0.0) ** 2)
    error, number = mapped.total((error, mask.sum()), axis_name)
    commitment = error / (jnp.maximum(number, 1) * self.codebooks * dim)
    return Quantized(
      z=vector.straight_through(z, jnp.where(active, vectors, 0.0).sum(2)),
      codes=codes,
      streams=vector.straight_through(z[:, :, None], vectors),
      commitment=commitment,
      metrics={
        "usage": vector.usage(counts),
        "perplexity": vector.perplexity(counts),
        "replaced": replaced,
        "not_finite": lost,
      },
      levels=levels,
    )

  def encode(
    self,
    z: jax.Array,
    codebooks: int | None = None,
    mask: jax.Array | None = None,
  ) -> jax.Array:
    """Quantizes latents to codes.

    Args:
      z: [batch, frames, dim].
      codebooks: number of codebooks to use, from the first on; None means all.
      mask: [batch, frames] bool, False in padding, where the codes are 0.

    Returns:
      int32 [batch, frames, codebooks]; `size` in frames that are not finite.

    Raises:
      UserError: the quantizer has fewer codebooks.
    """
    bounds.check_shape("z", z, batch=..., frames=..., dim=self.dim)
    codebooks = self._check(self.codebooks if codebooks is None else codebooks)
    rows = z.astype(jnp.float32).reshape(-1, self.dim)
    codes, _ = encode(rows, self.embed()[:codebooks])
    codes = codes.T.reshape(*z.shape[:-1], codebooks)
    return codes if mask is None else jnp.where(mask[..., None], codes, 0)

  def decode(self, codes: jax.Array) -> jax.Array:
    """Returns the latents of codes.

    Args:
      codes: int32 [batch, frames, k], k at most `codebooks`.

    Returns:
      float32 [batch, frames, dim]; NaN where a code is none.

    Raises:
      UserError: there are more codes per frame than codebooks.
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
    """Entries that are neither padding nor dropped: bool [codebooks, rows]."""
    on = jnp.arange(self.codebooks)[:, None, None] < levels[None, :, None]
    return (on & mask[None]).reshape(self.codebooks, -1)

  def _train(
    self,
    key: jax.Array,
    rows: jax.Array,
    valid: jax.Array,
    active: jax.Array,
    axis_name: AxisName,
  ) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    """Runs k-means in the first call, quantizes, and updates the state.

    Takes rows [rows, dim], `valid` [rows] and `active` [codebooks, rows].
    Returns (codes [codebooks, rows], vectors [codebooks, rows, dim], batch
    counts [codebooks, size], number of replaced codes [codebooks]).
    """
    started, frozen = self.started.value, self.decay == 1
    usable = valid & jnp.isfinite(rows).all(-1)
    any_rows = mapped.total(usable.sum(), axis_name) > 0
    whole = lambda x: mapped.gather_constant(x, axis_name)

    def start(
      sum: jax.Array, count: jax.Array, key: jax.Array, residual: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
      sum, count = vector.kmeans(
        key, whole(residual), whole(valid), self.size, self.kmeans_iterations
      )
      # The first batch counts as one batch. With the weight of a long past,
      # codes that overfit it (too few rows) would starve slowly.
      share = 1.0 if frozen else 1.0 - self.decay
      return share * sum, share * count

    def keep(
      sum: jax.Array, count: jax.Array, key: jax.Array, residual: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
      return sum, count

    def level(
      residual: jax.Array, inputs: tuple[jax.Array, ...]
    ) -> tuple[jax.Array, tuple[jax.Array, ...]]:
      sum, count, key, active = inputs
      start_key, replace_key = jax.random.split(key)
      if self.kmeans_iterations:
        # A branch that is not taken costs nothing: k-means runs only once.
        sum, count = lax.cond(
          started | ~any_rows, keep, start, sum, count, start_key, residual
        )
      embed = vector.embedding(sum, count, self.epsilon)
      codes = vector.nearest(residual, embed)
      q = vector.lookup(embed, codes)
      sums, counts = mapped.total(
        vector.statistics(residual, codes, active, self.size), axis_name
      )
      sum, count = vector.ema_update(sum, count, sums, counts, self.decay)
      coded = active & (codes < self.size)
      error = jnp.where(coded, jnp.sum((residual - q) ** 2, -1), 0.0)
      sum, count, replaced = vector.replace_dead(
        replace_key,
        sum,
        count,
        whole(residual),
        whole(error),
        number=mapped.total(coded.sum(), axis_name),
        threshold=0.0 if frozen else self.threshold,
        kind=self.threshold_kind,
      )
      replaced = replaced.sum().astype(jnp.float32)
      return residual - q, (sum, count, codes, q, counts, replaced)

    keys = jax.random.split(key, self.codebooks)
    state = (self.sum.value, self.count.value, keys, active)
    _, outputs = lax.scan(level, rows, state)
    self.sum.value, self.count.value, codes, q, counts, replaced = outputs
    self.started.value = started | any_rows
    return codes, q, counts, replaced
