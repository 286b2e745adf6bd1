"""One codebook: nearest code, running statistics, k-means, dead codes.

Vector quantization with a codebook that is not learned by gradient but is the
running mean of the vectors that chose each code (van den Oord et al. 2017,
appendix A; Razavi et al. 2019; SoundStream, section III-C).

The state of a codebook is two arrays, never the code vectors themselves:

  sum    [size, dim]  running sum of the vectors that chose each code
  count  [size]       running number of them, per step

and the code vectors are `embed = sum / count`. Code that sets one of the two
must set the other: reference implementations that store the mean lose a
replaced code one line later, and shrink a new k-means codebook by its counts.

A row that is not finite has no code: its index is `size`, one past the last.
Such rows are left out of all statistics, so that one of them does not ruin a
codebook for ever, and their vectors are NaN (`lookup`).

All functions take rows [rows, dim] and a weight or mask per row, in float32,
and are plain sums over rows. Under `jax.jit` with the rows sharded over a mesh
the sums are global, and one key picks the same rows on any mesh.
"""

import jax
import jax.numpy as jnp
from jax import lax

HIGHEST = lax.Precision.HIGHEST

# A replaced code starts with this multiple of the count at which codes are
# dead. At decay 0.99 it then has 69 steps to be chosen before it is replaced
# again, and little inertia while it moves to its place.
GRACE = 2.0

THRESHOLD_KINDS = ("relative", "absolute")


def embedding(
  sum: jax.Array, count: jax.Array, epsilon: float = 1e-5
) -> jax.Array:
  """Code vectors of a codebook, `sum / count` with Laplace smoothing.

  The smoothed count `(count + epsilon) / (total + size * epsilon) * total`
  matters only where the count is about epsilon: such a code becomes zero
  instead of a division by zero.

  Args:
    sum: [..., size, dim].
    count: [..., size].
    epsilon: pseudo-count of every code.

  Returns:
    [..., size, dim].
  """
  total = count.sum(-1, keepdims=True)
  share = (count + epsilon) / (total + count.shape[-1] * epsilon)
  # An all-zero codebook has no scale.
  return sum / (share * jnp.where(total > 0, total, 1.0))[..., None]


def nearest(rows: jax.Array, embed: jax.Array) -> jax.Array:
  """Index of the nearest code in Euclidean distance.

  |z - e|^2 = |z|^2 - 2 z.e + |e|^2, and |z|^2 is the same for every code, so
  one matmul is enough. It runs in full float32: with bfloat16 products the
  choice between close codes would depend on the accelerator.

  Args:
    rows: [rows, dim].
    embed: [size, dim].

  Returns:
    int32 [rows]; the lowest index in a tie; `size` for a row that is not
    finite, or too large for its distances to be.
  """
  norms = jnp.sum(embed**2, -1)
  scores = norms - 2.0 * jnp.matmul(rows, embed.T, precision=HIGHEST)
  # Two plain reductions are four times faster on a CPU than argmin, which
  # reduces pairs. The barrier makes both read the same rounded scores.
  scores = lax.optimization_barrier(scores)
  index = lax.broadcasted_iota(jnp.int32, scores.shape, 1)
  lowest = scores.min(-1, keepdims=True)
  # Nothing equals NaN.
  lowest = jnp.where(jnp.isfinite(lowest), lowest, jnp.nan)
  return jnp.where(scores == lowest, index, embed.shape[0]).min(-1)


def lookup(embed: jax.Array, codes: jax.Array) -> jax.Array:
  """Code vectors: embed [size, dim] and codes [...] -> [..., dim].

  NaN where there is no code, also for -1; plain indexing would return the last
  one.
  """
  return embed.at[codes].get(
    mode="fill", fill_value=jnp.nan, wrap_negative_indices=False
  )


def statistics(
  rows: jax.Array, codes: jax.Array, weight: jax.Array, size: int
) -> tuple[jax.Array, jax.Array]:
  """Sum and number of the rows that chose each code.

  Args:
    rows: [rows, dim].
    codes: int32 [rows].
    weight: [rows]; 0 leaves a row out, 1 counts it if it has a code.
    size: number of codes.

  Returns:
    (sums [size, dim], counts [size]).
  """
  weight = jnp.where(codes < size, weight.astype(jnp.float32), 0.0)
  rows = jnp.where(weight[:, None] > 0, rows * weight[:, None], 0.0)

  def scatter(
    rows: jax.Array, codes: jax.Array, weight: jax.Array
  ) -> tuple[jax.Array, jax.Array]:
    return (
      jax.ops.segment_sum(rows, codes, size),
      jax.ops.segment_sum(weight, codes, size),
    )

  def matmul(
    rows: jax.Array, codes: jax.Array, weight: jax.Array
  ) -> tuple[jax.Array, jax.Array]:
    chosen = jax.nn.one_hot(codes, size, dtype=jnp.float32)
    sums = jnp.matmul(chosen.T, rows, precision=HIGHEST)
    return sums, jnp.sum(chosen * weight[:, None], 0)

  # A CPU adds 1200 rows of 128 to 1024 codes in 0.15 ms; multiplying by the
  # one-hot matrix takes 4 ms. A TPU has a matrix unit and no fast scatter. A
  # GPU scatters in an order that changes from run to run.
  return lax.platform_dependent(
    rows, codes, weight, cpu=scatter, default=matmul
  )


def ema_update(
  sum: jax.Array,
  count: jax.Array,
  batch_sum: jax.Array,
  batch_count: jax.Array,
  decay: float,
) -> tuple[jax.Array, jax.Array]:
  """Moves the running statistics towards those of one batch.

  A batch without rows (all padding, or all dropped at this level) changes
  nothing.

  Args:
    sum: [size, dim] running sums.
    count: [size] running counts.
    batch_sum: [size, dim].
    batch_count: [size].
    decay: weight of the past, in [0, 1].

  Returns:
    The new (sum, count).
  """
  decay = jnp.where(batch_count.sum() > 0, decay, 1.0)
  return (
    decay * sum + (1.0 - decay) * batch_sum,
    decay * count + (1.0 - decay) * batch_count,
  )


def choose_rows(
  key: jax.Array, rows: jax.Array, weight: jax.Array, number: int
) -> tuple[jax.Array, jax.Array]:
  """Samples distinct rows with probability in proportion to their weight.

  Without replacement, by the Gumbel top-k trick (Kool et al. 2019): one random
  number per row on any mesh.

  Args:
    key: random key.
    rows: [rows, dim].
    weight: [rows], non-negative; rows with weight 0 are never chosen.
    number: number of rows to choose.

  Returns:
    (chosen [number, dim], valid [number] bool): the first entries are valid. If
    fewer rows than `number` have a weight, the others repeat the first.
  """
  available = rows.shape[0]
  scores = jnp.where(weight > 0, jnp.log(jnp.where(weight > 0, weight, 1)), 0)
  scores = scores + jax.random.gumbel(key, (available,), jnp.float32)
  scores = jnp.where(weight > 0, scores, -jnp.inf)
  scores, index = lax.top_k(scores, min(number, available))
  missing = (0, number - index.shape[0])
  valid = jnp.pad(scores > -jnp.inf, missing)
  index = jnp.where(valid, jnp.pad(index, missing), index[0])
  return jnp.take(rows, index, axis=0), valid


def kmeans(
  key: jax.Array,
  rows: jax.Array,
  mask: jax.Array,
  size: int,
  iterations: int,
) -> tuple[jax.Array, jax.Array]:
  """Computes codebook statistics from data with Lloyd's algorithm.

  It starts from distinct rows. In each iteration a code that no row chose moves
  to a row sampled in proportion to its squared error (the rule of k-means++,
  Arthur and Vassilvitskii 2007), so that repeated rows (silence) do not leave
  part of the codebook unused.

  Args:
    key: random key.
    rows: [rows, dim].
    mask: [rows] bool; rows to use, if they are finite.
    size: number of codes.
    iterations: number of iterations.

  Returns:
    (sum [size, dim], count [size]), on the scale of the running statistics:
    count is the number of rows of each code. A code that no row chose (there
    may be fewer rows than codes) has count and sum zero, so it is dead.
  """
  mask = mask & jnp.isfinite(rows).all(-1)
  start_key, loop_key = jax.random.split(key)
  embed, _ = choose_rows(start_key, rows, mask.astype(jnp.float32), size)

  def lloyd(i: jax.Array, embed: jax.Array) -> jax.Array:
    codes = nearest(rows, embed)
    sums, counts = statistics(rows, codes, mask, size)
    error = jnp.sum((rows - lookup(embed, codes)) ** 2, -1)
    error = jnp.where(mask & (codes < size), error, 0.0)
    empty = counts == 0
    mean = sums / jnp.where(empty, 1.0, counts)[:, None]
    chosen, valid = spread(
      empty, *choose_rows(jax.random.fold_in(loop_key, i), rows, error, size)
    )
    embed = jnp.where(empty[:, None], embed, mean)
    return jnp.where(valid[:, None], chosen, embed)

  embed = lax.fori_loop(0, iterations, lloyd, embed)
  _, counts = statistics(rows, nearest(rows, embed), mask, size)
  return embed * counts[:, None], counts


def spread(
  where: jax.Array, chosen: jax.Array, valid: jax.Array
) -> tuple[jax.Array, jax.Array]:
  """Gives one chosen row to each code that needs one, in order.

  Args:
    where: [size] bool, codes that need a row.
    chosen: [size, dim], from `choose_rows`.
    valid: [size] bool, from `choose_rows`.

  Returns:
    (rows [size, dim], given [size] bool): the row of each code, and whether it
    has one.
  """
  turn = jnp.maximum(jnp.cumsum(where) - 1, 0)
  return chosen[turn], where & valid[turn]


def replace_dead(
  key: jax.Array,
  sum: jax.Array,
  count: jax.Array,
  rows: jax.Array,
  weight: jax.Array,
  *,
  number: jax.Array,
  threshold: float,
  kind: str = "relative",
) -> tuple[jax.Array, jax.Array, jax.Array]:
  """Moves dead codes, which hardly any row chooses, to rows of the batch.

  A code is dead if its running share of the rows is below a limit:

    "relative"  `threshold` times the share of uniform usage, 1 / size; it means
                the same at any batch size.
    "absolute"  the share of `threshold` rows of this batch (SoundStream and
                EnCodec: 2), at most half of uniform usage.

  Shares are compared and not counts, because the counts of a new codebook are
  still small. Each dead code gets a different row of the batch as its vector
  and GRACE times the limit as its count. Both parts of the state are set, so
  that the code survives the next step.

  Args:
    key: random key.
    sum: [size, dim] running sums.
    count: [size] running counts.
    rows: [rows, dim].
    weight: [rows], non-negative; a row is chosen in proportion to it. With the
      squared error as weight, new codes go where the codebook is poor.
    number: number of rows that chose a code in this batch.
    threshold: see above; 0 replaces nothing. `CodecFields.threshold` has the
      value of a codec.
    kind: "relative" or "absolute".

  Returns:
    (sum, count, replaced [size] bool).

  Raises:
    ValueError: the kind is unknown.
  """
  if kind not in THRESHOLD_KINDS:
    raise ValueError(
      f"threshold kind is {kind!r}; use one of {THRESHOLD_KINDS}"
    )
  size = count.shape[0]
  share = jnp.float32(threshold) / size
  if kind == "absolute":
    # With few rows, a limit above half of uniform usage would keep replacing
    # most codes.
    share = threshold / jnp.maximum(number, 1)
    share = jnp.minimum(share, 0.5 / size)
  limit = share * count.sum()
  chosen, replaced = spread(
    count < limit, *choose_rows(key, rows, weight, size)
  )
  fresh = GRACE * limit
  return (
    jnp.where(replaced[:, None], chosen * fresh, sum),
    jnp.where(replaced, fresh, count),
    replaced,
  )


def straight_through(z: jax.Array, q: jax.Array) -> jax.Array:
  """The exact value of q with the gradient of z (Bengio et al. 2013)."""
  return lax.stop_gradient(q) + (z - lax.stop_gradient(z))


def histogram(codes: jax.Array, weight: jax.Array, size: int) -> jax.Array:
  """Counts how often each code is chosen, per codebook.

  Args:
    codes: int32 [codebooks, rows].
    weight: [codebooks, rows], 0 or False leaves an entry out.
    size: number of codes.

  Returns:
    float32 [codebooks, size].
  """
  level = jnp.broadcast_to(jnp.arange(codes.shape[0])[:, None], codes.shape)
  counts = jnp.zeros((codes.shape[0], size), jnp.float32)
  return counts.at[level, codes].add(weight.astype(jnp.float32))


def usage(counts: jax.Array) -> jax.Array:
  """Share of the codes that were chosen at all: counts [..., size] -> [...]."""
  return jnp.mean(counts > 0, -1)


def perplexity(counts: jax.Array) -> jax.Array:
  """exp(entropy) of the codes: from 1 (one code) to size (uniform usage).

  Args:
    counts: [..., size], or probabilities; all zero gives 1.

  Returns:
    [...].
  """
  total = counts.sum(-1, keepdims=True)
  p = counts / jnp.where(total > 0, total, 1.0)
  log_p = jnp.log(jnp.where(p > 0, p, 1.0))
  return jnp.exp(-jnp.sum(p * log_p, -1))
