"""Estimates the total correlation of the codes of a step, in bits.

TC = sum_k H(code k) - H(codes) = sum_k I(code k; codes < k). A memoryless
language model loses this many bits per step if it predicts the codes as if they
were independent. It covers every dependence, even among three codes that are
pairwise independent.

The estimate comes from held-out codes. For each codebook, a small network
predicts its code from the earlier codes of the row (like NADE, Larochelle and
Murray 2011: a sum of embeddings that grows by one codebook at a time). Its
logits are the log of the marginal plus a learned correction that starts at 0,
and its output is mixed with the marginal: p = a network + (1 - a) marginal. The
number of steps and the share a are chosen on a second set of clips, so that a
network that learns nothing equals the marginal. The estimate is the gain over
the marginal in cross-entropy on a third set.

It is a lower bound on TC (up to noise and errors of the marginal itself). Weak
dependence between large codebooks takes many rows to learn: of the 0.58 bits of
four codebooks of 64 that copy one code in ten, 20,000 rows show half and
100,000 three quarters. Only compare figures from the same number of rows.

Whole clips are held out instead of rows, because adjacent rows are nearly
equal. Clips of one piece of music are held out together if the caller gives the
pieces, because music repeats itself.
"""

import dataclasses
import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
import optax

from mmdcodec import platform
from mmdcodec.evaluate import code_rows
from mmdcodec.patterns import PatternMaker

FOLDS = 5  # one is held out, one stops the training, the others train
HIDDEN = 64
BATCH = 256
EPOCHS = 24
STEPS = (600, 6000)  # minimum and maximum training steps
CHECKS = 24  # evaluations on the inner clips during training
PATIENCE = 5  # checks without a gain in any codebook
LEARNING_RATE = 2e-3
SHARES = (0.25, 0.5, 0.75, 0.9, 1.0)  # of the network in the mixture
LARGEST = 1 << 24  # maximum number of logits in a batch
RESAMPLES = 500  # bootstrap resamples

Params = dict[str, jax.Array]
# Row indices [batches, batch] and their number.
Indices = tuple[np.ndarray, int]


@dataclasses.dataclass(frozen=True)
class TotalCorrelation:
  """Dependence of codes that are predicted together, in bits per frame.

  Attributes:
    bits: the estimate, summed over the codebooks; about 0 if independent.
    error: its standard error, by resampling pieces.
    per_codebook: float64 [codebooks], information about each code in the
      earlier codes of its row; 0 for the first codebook.
    per_codebook_error: float64 [codebooks], standard errors.
    entropy: float64 [codebooks], held-out cross-entropy of each codebook alone.
    share: bits / sum of `entropy`, the redundant part of the bit rate.
    rows: number of rows of the largest kind of step.
    clips: number of their units (`code_rows.Rows.units`), each held out once.
  """

  bits: float
  error: float
  per_codebook: np.ndarray
  per_codebook_error: np.ndarray
  entropy: np.ndarray
  share: float
  rows: int
  clips: int


def total_correlation(
  codes: np.ndarray,
  size: code_rows.Sizes,
  *,
  pattern: PatternMaker | None = None,
  mask: np.ndarray | None = None,
  pieces: Sequence | None = None,
  seed: int = 0,
) -> TotalCorrelation:
  """Estimates held-out variational total correlation.

  If a pattern has several kinds of steps (such as two codebooks, then two
  others), their bits are added up. Kinds that share a codebook are an error.

  Args:
    codes: int [clips, frames, codebooks].
    size: codes in a codebook, one number or one per codebook.
    pattern: pattern of the language model; None means all codes of a frame.
    mask: bool [clips, frames], False in padding.
    pieces: [clips], a number or name for the piece of music of each clip, as in
      `code_rows.gather`; None means that each clip is a piece.
    seed: seed of the split, the initial parameters and the batches.

  Returns:
    `TotalCorrelation`.

  Raises:
    UserError: `code_rows.gather` finds no rows.
  """
  codes = np.asarray(codes)
  books = codes.shape[-1]
  sizes = code_rows.sizes_of(size, books)
  kinds = code_rows.gather(
    codes, size, pattern=pattern, mask=mask, pieces=pieces
  )
  gain, error, entropy = np.zeros((3, books))
  # Pieces are in all kinds of steps, and resampled alike.
  together = np.zeros(RESAMPLES)
  for rows in kinds:
    members = np.asarray(rows.codebooks)
    unit = rows.units()
    gains, alone = held_out(rows.codes, sizes[members], unit, seed=seed)
    means = resampled_means(np.c_[gains, gains.sum(1)], unit, seed=seed)
    gain[members], entropy[members] = gains.mean(0), alone.mean(0)
    error[members] = means[:, :-1].std(0)
    together += means[:, -1]
  return TotalCorrelation(
    bits=float(gain.sum()),
    error=float(together.std()),
    per_codebook=gain,
    per_codebook_error=error,
    entropy=entropy,
    share=float(gain.sum() / max(entropy.sum(), 1e-9)),
    rows=len(kinds[0]),
    clips=int(kinds[0].units().max()) + 1,
  )


def held_out(
  codes: np.ndarray, sizes: np.ndarray, unit: np.ndarray, *, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
  """Estimates the information about each code in the earlier ones of its row.

  Args:
    codes: int32 [rows, k].
    sizes: [k] codes in each codebook.
    unit: int [rows], the unit of each row; whole units are held out.
    seed: random seed.

  Returns:
    (gain over the marginal, code length under the marginal), float64 [rows, k]
    in bits.
  """
  rows, books = codes.shape
  width = int(sizes.max())
  random = np.random.default_rng(seed)
  fold = random.permutation(int(unit.max()) + 1)[unit] % FOLDS
  gain, alone = np.zeros((2, rows, books))
  batch = min(BATCH, max(32, LARGEST // (books * width)))
  padded = platform.bucket(rows)
  stacked = np.zeros((padded, books), np.int32)
  stacked[:rows] = codes
  for turn in range(FOLDS):
    test, inner = fold == turn, fold == (turn + 1) % FOLDS
    train = ~(test | inner)
    log_marginal = _log_marginal(codes[train], sizes, width)
    alone[test] = -log_marginal[np.arange(books), codes[test]] / np.log(2)
    if not train.any():
      continue
    found = _fit(
      stacked,
      *(_indices(kind, batch) for kind in (train, inner, test)),
      log_marginal[1:].astype(np.float32),
      jax.random.key(seed * FOLDS + turn),
      batch=batch,
    )
    found = np.asarray(found, np.float64).reshape(books - 1, -1)
    gain[test, 1:] = found[:, : test.sum()].T / np.log(2)
  return gain, alone


def resampled_means(
  values: np.ndarray, unit: np.ndarray, *, seed: int = 0
) -> np.ndarray:
  """Computes means over rows with units resampled.

  Args:
    values: [rows, columns].
    unit: int [rows], the unit of each row.
    seed: seed of the resampling.

  Returns:
    float64 [resamples, columns].
  """
  pieces = int(unit.max()) + 1
  total = np.stack(
    [np.bincount(unit, column, minlength=pieces) for column in values.T], 1
  )
  count = np.bincount(unit, minlength=pieces)
  random = np.random.default_rng(seed)
  times = random.multinomial(pieces, np.full(pieces, 1 / pieces), RESAMPLES)
  return times @ total / (times @ count)[:, None]


def _log_marginal(
  codes: np.ndarray, sizes: np.ndarray, width: int
) -> np.ndarray:
  """Computes log smoothed frequencies [k, width], -1e9 beyond the size.

  Smoothing adds one count in total. With more, the network could gain by
  correcting the marginal, which is not dependence.
  """
  books = len(sizes)
  counts = np.zeros((books, width))
  np.add.at(counts, (np.arange(books), codes), 1.0)
  sizes = sizes[:, None]
  p = (counts + 1 / sizes) / (len(codes) + 1)
  return np.where(np.arange(width) < sizes, np.log(p), -1e9)


def _indices(chosen: np.ndarray, batch: int) -> Indices:
  """Returns indices of chosen rows [batches, batch], and their number.

  The number of batches is rounded up to one of a few, so that sets of rows of
  similar sizes share a compiled program.
  """
  at = np.nonzero(chosen)[0]
  batches = platform.bucket(-(-len(chosen) // batch))
  out = np.zeros(batches * batch, np.int32)
  out[: len(at)] = at
  return out.reshape(batches, batch), len(at)


def _initial(key: jax.Array, books: int, width: int) -> Params:
  """Initializes the networks, one for each codebook after the first."""
  k = jax.random.split(key, 2)
  return {
    "embed": 0.5 * jax.random.normal(k[0], (books, width, HIDDEN)),
    "bias": jnp.zeros((books, HIDDEN)),
    "inner": jax.random.normal(k[1], (books, HIDDEN, HIDDEN)) / HIDDEN**0.5,
    "inner_bias": jnp.zeros((books, HIDDEN)),
    "out": jnp.zeros((books, HIDDEN, width)),
  }


def _gains(
  params: Params, codes: jax.Array, log_marginal: jax.Array
) -> jax.Array:
  """Computes gains over the marginal of codes [rows, k]: nats [k - 1, rows]."""
  before, target = codes[:, :-1].T, codes[:, 1:].T
  x = jnp.cumsum(jax.vmap(lambda e, c: e[c])(params["embed"], before), 0)
  x = jax.nn.gelu(x + params["bias"][:, None])
  x = jax.nn.gelu(x @ params["inner"] + params["inner_bias"][:, None])
  correction = x @ params["out"]
  pick = lambda values: jnp.take_along_axis(values, target[..., None], -1)
  chosen = pick(correction)[..., 0]
  # Subtracts log E[exp(correction)] under the marginal: 0 without a correction.
  return chosen - jax.nn.logsumexp(correction + log_marginal[:, None], -1)


@functools.partial(jax.jit, static_argnames="batch")
def _fit(
  codes: jax.Array,
  train: Indices,
  inner: Indices,
  test: Indices,
  log_marginal: jax.Array,
  key: jax.Array,
  *,
  batch: int,
) -> jax.Array:
  """Trains on some rows, stops early by others, returns gains on a third set.

  Each codebook stops separately: its gain on the test rows is that of the check
  and share with the largest gain on the inner rows. Codes are [rows, k], gains
  float32 [k - 1, batches, batch] in nats.
  """
  books, width = log_marginal.shape
  key, start = jax.random.split(key)
  params = _initial(start, books, width)
  steps = jnp.clip(EPOCHS * train[1] // batch, *STEPS)
  every = jnp.maximum(1, steps // CHECKS)
  schedule = lambda step: (
    LEARNING_RATE
    * 0.5
    * (1 + jnp.cos(jnp.pi * jnp.minimum(step / (every * CHECKS), 1.0)))
  )
  optimizer = optax.adam(schedule)
  places = train[0].reshape(-1)

  def loss(params: Params, chosen: jax.Array) -> jax.Array:
    return -_gains(params, codes[chosen], log_marginal).mean(1).sum()

  def step(_: jax.Array, state: tuple) -> tuple:
    params, moments, key = state
    key, sample = jax.random.split(key)
    chosen = places[jax.random.randint(sample, (batch,), 0, train[1])]
    gradient = jax.grad(loss)(params, chosen)
    update, moments = optimizer.update(gradient, moments)
    return optax.apply_updates(params, update), moments, key

  def gains(params: Params, indices: Indices) -> jax.Array:
    """Computes gains [k - 1, batches, batch]; skips batches without rows."""
    at, count = indices
    out = jnp.zeros((books, *at.shape))

    def one(i: jax.Array, out: jax.Array) -> jax.Array:
      found = _gains(params, codes[at[i]], log_marginal)
      return jax.lax.dynamic_update_index_in_dim(out, found, i, 1)

    out = jax.lax.fori_loop(0, -(-count // batch), one, out)
    real = jnp.arange(at.size).reshape(at.shape) < count
    return jnp.where(real, out, 0.0)

  def mixed(gain: jax.Array) -> jax.Array:
    """Computes gains [shares, ...] of mixtures of network and marginal."""
    share = np.array(SHARES)[:, None, None, None]
    with np.errstate(divide="ignore"):
      network, marginal = np.log(share), np.log(1 - share)
    return jnp.logaddexp(jnp.float32(marginal), jnp.float32(network) + gain)

  def check(state: tuple) -> tuple:
    trained, number, idle, best, result = state
    trained = jax.lax.fori_loop(0, every, step, trained)
    found = mixed(gains(trained[0], inner)).sum((2, 3))  # [shares, k - 1]
    share, now = found.argmax(0), found.max(0)
    better = now > best
    measured = mixed(gains(trained[0], test))[share, jnp.arange(books)]
    result = jnp.where(better[:, None, None], measured, result)
    idle = jnp.where(better.any(), 0, idle + 1)
    return trained, number + 1, idle, jnp.where(better, now, best), result

  state: tuple = ((params, optimizer.init(params), key), 0, 0)
  state += (jnp.zeros(books), jnp.zeros((books, *test[0].shape)))
  going = lambda s: (s[1] < CHECKS) & (s[2] < PATIENCE)
  return jax.lax.while_loop(going, check, state)[-1]
