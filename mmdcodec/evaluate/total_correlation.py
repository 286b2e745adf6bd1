"""How many bits the codes of a step say about one another.

Total correlation TC = sum_k H(code k) - H(codes) = sum_k I(code k; codes < k):
what a language model loses in each step that predicts the codes as if they
were independent. It sees every dependence, also that of three codes of which
any two are independent.

It is estimated from held-out codes. For every codebook a small network gives
the probability of its code from the codes before it in the row (the form of
NADE, Larochelle and Murray 2011: one sum of embeddings, grown codebook by
codebook). Its logits are the log of the marginal plus a learned correction
that starts at 0, and it is mixed with the marginal: p = a network + (1 - a)
marginal. When to stop and the share a are chosen on other clips, so that a
network that finds nothing is the marginal itself. The gain over the marginal
in cross-entropy, on clips that neither saw, is the estimate.

It is a lower bound of TC (up to noise, and to what the marginal itself missed),
and weak dependence between large codebooks takes many rows to learn: of the
0.58 bits of four codebooks of 64 that copy one code in ten, 20,000 rows show
half, 100,000 three quarters. Compare figures of the same number of rows only.

Clips, not rows, are held out: neighbours in time are nearly copies. So are
clips of music that repeats itself, and those of one piece are held out together
where the caller tells which they are.
"""

import dataclasses
import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
import optax

from mmdcodec.evaluate import code_rows
from mmdcodec.patterns import PatternMaker
from mmdcodec.tokenizers import loaded_codec

FOLDS = 5  # one is held out, one says when to stop, the others train
HIDDEN = 64
BATCH = 256
EPOCHS = 24
STEPS = (600, 6000)  # of training, at least and at most
CHECKS = 24  # how often the inner clips are asked
PATIENCE = 5  # checks without a gain in any codebook
RATE = 2e-3
SHARES = (0.25, 0.5, 0.75, 0.9, 1.0)  # of the network, the rest the marginal
LARGEST = 1 << 24  # logits of one batch
DRAWS = 500  # of the bootstrap


@dataclasses.dataclass(frozen=True)
class TotalCorrelation:
  """Dependence of the codes that are predicted together, in bits per frame.

  Attributes:
    bits: the estimate, summed over the codebooks; about 0 if independent.
    error: its standard error, by drawing pieces again.
    per_codebook: float64 [codebooks], what the codes before it in its row say
      about each; 0 for the first.
    per_codebook_error: float64 [codebooks].
    entropy: float64 [codebooks], held-out cross-entropy of each alone.
    share: bits / sum of `entropy`, the part of the rate that is said twice.
    rows: number of rows looked at, of the largest kind of step.
    clips: number of units among them that were held out in turn, see
      `code_rows.Rows.units`.
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
  size: int | Sequence[int],
  *,
  pattern: PatternMaker | None = None,
  mask: np.ndarray | None = None,
  pieces: Sequence | None = None,
  seed: int = 0,
) -> TotalCorrelation:
  """Held-out variational total correlation.

  Where the steps of a pattern are of several kinds (such as two codebooks,
  then two others), the bits of all kinds are added up. Kinds that share a
  codebook are refused.

  Args:
    codes: int [clips, frames, codebooks].
    size: codes in a codebook, one number or one for each.
    pattern: what is predicted together; None for the codes of a frame.
    mask: bool [clips, frames], False where there is no frame.
    pieces: [clips], a number or name of the piece of music that each clip is
      of; None: each is of its own. See `code_rows.gather`.
    seed: of the split, the start and the batches. The same one, the same
      result.

  Returns:
    See `TotalCorrelation`.

  Raises:
    UserError: no rows; see `code_rows.gather`.
  """
  codes = np.asarray(codes)
  books = codes.shape[-1]
  sizes = code_rows.sizes_of(size, books)
  kinds = code_rows.gather(
    codes, size, pattern=pattern, mask=mask, pieces=pieces
  )
  gain, error, entropy = np.zeros((3, books))
  variance = 0.0
  for rows in kinds:
    held = np.asarray(rows.codebooks)
    unit = rows.units()
    gains, alone = held_out(rows.codes, sizes[held], unit, seed=seed)
    draws = bootstrap(np.c_[gains, gains.sum(1)], unit, seed=seed)
    gain[held], entropy[held] = gains.mean(0), alone.mean(0)
    error[held] = draws[:, :-1].std(0)
    variance += draws[:, -1].var()
  return TotalCorrelation(
    bits=float(gain.sum()),
    error=float(variance**0.5),
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
  """What codes before it say about each code, where it was held out.

  Args:
    codes: int32 [rows, k].
    sizes: [k] codes in each codebook.
    unit: int [rows], the piece that each row is of; pieces are held out whole.
    seed: of everything random.

  Returns:
    float64 [rows, k] in bits: gain over the marginal, and the marginal's own
    length.
  """
  rows, books = codes.shape
  width = int(sizes.max())
  random = np.random.default_rng(seed)
  fold = random.permutation(int(unit.max()) + 1)[unit] % FOLDS
  gain, alone = np.zeros((2, rows, books))
  batch = min(BATCH, max(32, LARGEST // (books * width)))
  padded = loaded_codec.bucket(rows)
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


def bootstrap(values: np.ndarray, unit: np.ndarray, *, seed: int = 0):
  """Means over rows, with pieces drawn again.

  Args:
    values: [rows, columns].
    unit: int [rows], the piece that each row is of.
    seed: of the draws.

  Returns:
    float64 [draws, columns].
  """
  pieces = int(unit.max()) + 1
  total = np.stack(
    [np.bincount(unit, column, minlength=pieces) for column in values.T], 1
  )
  count = np.bincount(unit, minlength=pieces)
  random = np.random.default_rng(seed)
  drawn = random.multinomial(pieces, np.full(pieces, 1 / pieces), DRAWS)
  return drawn @ total / (drawn @ count)[:, None]


def _log_marginal(codes, sizes, width) -> np.ndarray:
  """Natural log of the smoothed frequencies [k, width], -1e9 for no code.

  Smoothed by one count in all: more would leave the network a marginal to
  mend, and that is no dependence.
  """
  books = len(sizes)
  counts = np.zeros((books, width))
  np.add.at(counts, (np.arange(books), codes), 1.0)
  sizes = sizes[:, None]
  p = (counts + 1 / sizes) / (len(codes) + 1)
  return np.where(np.arange(width) < sizes, np.log(p), -1e9)


def _indices(chosen: np.ndarray, batch: int) -> tuple[np.ndarray, int]:
  """Numbers of the chosen rows, in batches [batches, batch], and how many.

  The number of batches is one of few, so that sets of rows of about one size
  share a program.
  """
  at = np.nonzero(chosen)[0]
  batches = loaded_codec.bucket(-(-len(chosen) // batch))
  out = np.zeros(batches * batch, np.int32)
  out[: len(at)] = at
  return out.reshape(batches, batch), len(at)


def _start(key, books, width):
  """Parameters of the networks of all codebooks but the first."""
  k = jax.random.split(key, 2)
  return {
    "embed": 0.5 * jax.random.normal(k[0], (books, width, HIDDEN)),
    "bias": jnp.zeros((books, HIDDEN)),
    "inner": jax.random.normal(k[1], (books, HIDDEN, HIDDEN)) / HIDDEN**0.5,
    "inner_bias": jnp.zeros((books, HIDDEN)),
    "out": jnp.zeros((books, HIDDEN, width)),
  }


def _losses(params, codes, log_marginal):
  """Gain of each code in nats [k - 1, rows] over the marginal.

  Args:
    params: of `_start`.
    codes: [rows, k].
    log_marginal: [k - 1, width].
  """
  before, target = codes[:, :-1].T, codes[:, 1:].T
  x = jnp.cumsum(jax.vmap(lambda e, c: e[c])(params["embed"], before), 0)
  x = jax.nn.gelu(x + params["bias"][:, None])
  x = jax.nn.gelu(x @ params["inner"] + params["inner_bias"][:, None])
  correction = x @ params["out"]
  pick = lambda values: jnp.take_along_axis(values, target[..., None], -1)
  chosen = pick(correction)[..., 0]
  # log of E[exp(correction)] under the marginal: 0 where there is none.
  return chosen - jax.nn.logsumexp(correction + log_marginal[:, None], -1)


@functools.partial(jax.jit, static_argnames="batch")
def _fit(codes, train, inner, test, log_marginal, key, *, batch):
  """Trains on some rows, stops by others, and gives the gain on a third kind.

  Every codebook stops for itself: what counts is its gain on the test rows at
  the check, and with the share, where its gain on the inner rows was largest.

  Args:
    codes: [rows, k].
    train: (indices [batches, batch], how many).
    inner: likewise.
    test: likewise.
    log_marginal: [k - 1, width].
    key: random key.
    batch: rows in a step.

  Returns:
    float32 [k - 1, batches, batch] gains of the test rows in nats.
  """
  books, width = log_marginal.shape
  key, start = jax.random.split(key)
  params = _start(start, books, width)
  steps = jnp.clip(EPOCHS * train[1] // batch, *STEPS)
  every = jnp.maximum(1, steps // CHECKS)
  schedule = lambda step: (
    RATE
    * 0.5
    * (1 + jnp.cos(jnp.pi * jnp.minimum(step / (every * CHECKS), 1.0)))
  )
  optimizer = optax.adam(schedule)
  places = train[0].reshape(-1)

  def loss(params, chosen):
    return -_losses(params, codes[chosen], log_marginal).mean(1).sum()

  def step(_, state):
    params, moments, key = state
    key, draw = jax.random.split(key)
    chosen = places[jax.random.randint(draw, (batch,), 0, train[1])]
    gradient = jax.grad(loss)(params, chosen)
    update, moments = optimizer.update(gradient, moments)
    return optax.apply_updates(params, update), moments, key

  def gains(params, indices):
    """[k - 1, batches, batch]; only the batches that hold rows are computed."""
    at, count = indices
    out = jnp.zeros((books, *at.shape))

    def one(i, out):
      found = _losses(params, codes[at[i]], log_marginal)
      return jax.lax.dynamic_update_index_in_dim(out, found, i, 1)

    out = jax.lax.fori_loop(0, -(-count // batch), one, out)
    real = jnp.arange(at.size).reshape(at.shape) < count
    return jnp.where(real, out, 0.0)

  def mixed(gain):
    """Gains [shares, ...] of mixtures of network and marginal."""
    share = np.array(SHARES)[:, None, None, None]
    with np.errstate(divide="ignore"):
      network, marginal = np.log(share), np.log(1 - share)
    return jnp.logaddexp(jnp.float32(marginal), jnp.float32(network) + gain)

  def check(state):
    trained, number, idle, best, kept = state
    trained = jax.lax.fori_loop(0, every, step, trained)
    found = mixed(gains(trained[0], inner)).sum((2, 3))  # [shares, k - 1]
    share, now = found.argmax(0), found.max(0)
    better = now > best
    held = mixed(gains(trained[0], test))[share, jnp.arange(books)]
    kept = jnp.where(better[:, None, None], held, kept)
    idle = jnp.where(better.any(), 0, idle + 1)
    return trained, number + 1, idle, jnp.where(better, now, best), kept

  state = ((params, optimizer.init(params), key), 0, 0)
  state += (jnp.zeros(books), jnp.zeros((books, *test[0].shape)))
  going = lambda s: (s[1] < CHECKS) & (s[2] < PATIENCE)
  return jax.lax.while_loop(going, check, state)[-1]
