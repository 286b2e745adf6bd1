"""Whether a language model of semantic tokens repeats its training music.

MusicLM (Agostinelli et al. 2023, arXiv 2301.11325, section 5): the model gets
the joint tokens of a training clip and its first tokens, and continues them
greedily. An exact match equals the clip. An approximate one has nearly the
same bag of tokens: it is nearer to the clip, by optimal transport, than nearly
all continuations are to clips of other recordings.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from scipy import stats

from mmdcodec.data import token_batches
from mmdcodec.data.aligned_tokens import AlignedTokens
from mmdcodec.data.token_records import TokenSource
from mmdcodec.errors import UserError
from mmdcodec.evaluate import token_sets, transport
from mmdcodec.evaluate.bootstrap import Measure
from mmdcodec.generation.sampling import SamplingOptions
from mmdcodec.models.conditioning import Inputs
from mmdcodec.parallel import shares

# The paper's: tokens given, and tokens to continue with.
PROMPTS, CONTINUED = (0, 50, 125, 250), 125
# Share of pairs of strangers that may pass for a match.
FALSE = 1e-4
# Pairs of strangers that the threshold is calibrated on.
NEGATIVES = 10_000
# Clips continued at a time.
BATCH = 16

Progress = Callable[[int, int], None]


class Examples(NamedTuple):
  """Crops of a token data set, with the conditions of a stage.

  Attributes:
    codes: int32 [clips, tokens].
    conditions: arrays of the stage's conditions, by name.
    sources: the recording of each clip.
  """

  codes: np.ndarray
  conditions: Inputs
  sources: list[str]


class Row(NamedTuple):
  """Matches for prompts of one length; shares are those of `share`.

  Attributes:
    prompt: tokens given.
    exact: clips whose continuation is equal to theirs.
    approximate: clips whose continuation is equal, or nearer than the
      threshold.
    repeated: the same if the prompt's last tokens themselves were the
      continuation: what music that repeats itself gives away. None for shorter
      prompts.
    distance: median distance of continuations and clips.
    entropy: mean entropy of the tokens of a continuation, in bits.
    match_entropy: the same over approximate matches; NaN if there are none.
  """

  prompt: int
  exact: Measure
  approximate: Measure
  repeated: Measure | None
  distance: float
  entropy: float
  match_entropy: float


class Result(NamedTuple):
  """What was found.

  Attributes:
    rows: by length of the prompt.
    clips: number of clips.
    recordings: number of recordings that these come from.
    continued: tokens that were continued with.
    threshold: distance below which a continuation matches.
    negatives: pairs of strangers that it was calibrated on.
    strangers: their median distance.
    false_positives: how many of them are below the threshold.
    false_bound: upper end of the 95% interval of their share, as if the pairs
      were independent.
    left_out: lengths of prompts that do not fit the model.
  """

  rows: list[Row]
  clips: int
  recordings: int
  continued: int
  threshold: float
  negatives: int
  strangers: float
  false_positives: int
  false_bound: float
  left_out: list[int]


def measure(
  stage: Any,
  sources: Sequence[TokenSource | AlignedTokens],
  centres: np.ndarray,
  *,
  clips: int,
  prompts: Sequence[int] = PROMPTS,
  continued: int = CONTINUED,
  negatives: int = NEGATIVES,
  epsilon: float | None = None,
  seed: int = 0,
  show: Callable[[str], Progress] = lambda what: lambda done, total: None,
) -> Result:
  """Measures what a stage knows by heart.

  Args:
    stage: a `Stage` of one codebook.
    sources: its training data, from `token_sets.of_stage`.
    centres: float [codes, dim], what the codes stand for.
    clips: number of training clips.
    prompts: lengths of prompts, in tokens.
    continued: tokens to continue with.
    negatives: pairs of strangers for the threshold.
    epsilon: None for exact transport; else that of `transport.sinkhorn`.
    seed: seed of the clips and of the pairs.
    show: what is counted -> a function that shows progress.

  Raises:
    UserError: the stage has several codebooks, no prompt fits it, the centres
      are not those of its codes, or the clips are too few or too short.
  """
  model = stage.model
  if model.codebooks != 1:
    raise UserError(
      f"this stage makes {model.codebooks} codes a frame; memorization is"
      " measured on the semantic stage, which makes one."
    )
  if len(centres) < model.codebook_size:
    raise UserError(
      f"there are {len(centres)} centres, but the stage has"
      f" {model.codebook_size} codes; give the tokenizer that made them."
    )
  fitting = [n for n in prompts if n + continued <= model.frames]
  if not fitting:
    raise UserError(
      f"a prompt and {continued} tokens do not fit the stage, which sees"
      f" {model.frames} tokens at once."
    )
  examples = read(stage, sources, clips, max(fitting) + continued, seed)
  made = {}
  for prompt in fitting:
    made[prompt] = continue_greedily(
      stage,
      examples,
      prompt,
      continued,
      show=show(f"clips continued from {prompt} tokens"),
    )
  return compare(
    examples,
    made,
    transport.distances(centres),
    negatives=negatives,
    epsilon=epsilon,
    seed=seed,
    show=show("distances"),
  )._replace(left_out=[n for n in prompts if n not in fitting])


def read(
  stage: Any,
  sources: Sequence[TokenSource | AlignedTokens],
  clips: int,
  length: int,
  seed: int = 0,
) -> Examples:
  """Reads random crops, as in training, that have at least `length` tokens.

  Tokens are those that the stage makes: without repeats if it makes none.

  Raises:
    UserError: fewer than two recordings have as many.
  """
  random, model = np.random.default_rng(seed), stage.model
  at = slice(model.first_codebook, model.first_codebook + 1)
  places = [(k, i) for k, each in enumerate(sources) for i in range(len(each))]
  rows, paths, found = [], [], True
  while len(rows) < clips and found:
    found = False
    for index in random.permutation(len(places)):
      k, record = places[index]
      row = token_batches.crop(
        sources[k],
        record,
        random.random(),
        token_sets.crop_frames(stage),
        stage.conditions,
        at,
      )
      made, kept = stage.from_frames(row["codes"][None], row["lengths"][None])
      if kept[0] < length:
        continue
      found = True
      row["codes"] = made[0]
      rows.append(row)
      paths.append(sources[k][record]["path"])
      if len(rows) == clips:
        break
  if len({*paths}) < 2:
    raise UserError(
      f"{len({*paths})} recordings have {length} tokens in one record; expected"
      " two or more: `mmdcodec prepare` with a longer --seconds."
    )
  conditions = [row["conditions"] for row in rows]
  return Examples(
    np.stack([row["codes"][:, 0] for row in rows]),
    jax.tree.map(lambda *x: np.stack(x), *conditions),
    paths,
  )


def continue_greedily(
  stage: Any,
  examples: Examples,
  prompt: int,
  continued: int,
  *,
  show: Progress = lambda done, total: None,
) -> np.ndarray:
  """Continues the first `prompt` tokens: int32 [clips, continued]."""
  count = len(examples.codes)
  options = SamplingOptions(temperature=0.0, top_k=0, guidance=1.0)

  def continue_batch(start: int) -> np.ndarray:
    # Always as many, for one compiled program.
    rows = np.minimum(start + np.arange(BATCH), count - 1)
    codes = np.full((BATCH, prompt + continued, 1), -1, np.int32)
    codes[:, :prompt, 0] = examples.codes[rows, :prompt]
    keys = jax.random.split(jax.random.key(0), BATCH)
    state = stage.sampler.start(codes, keys)
    inputs = jax.tree.map(lambda x, rows=rows: x[rows], examples.conditions)
    while window := stage.sampler.next_window(state, stage.model.frames // 2):
      *_, state = stage.sampler.sample_window(state, window, inputs, options)
    return np.asarray(state.codes)[: count - start, prompt:, 0]

  starts = range(0, count, BATCH)
  return np.concatenate(shares.apply(continue_batch, starts, show, size=BATCH))


def compare(
  examples: Examples,
  made: dict[int, np.ndarray],
  costs: np.ndarray,
  *,
  negatives: int = NEGATIVES,
  epsilon: float | None = None,
  seed: int = 0,
  show: Progress = lambda done, total: None,
) -> Result:
  """Compares continuations with the clips that they were to continue.

  Args:
    examples: the clips.
    made: length of the prompt -> continuations int [clips, continued].
    costs: float [codes, codes], from `transport.distances`.
    negatives: pairs of strangers for the threshold.
    epsilon: see `measure`.
    seed: seed of these pairs.
    show: shows progress.
  """
  clips, continued = next(iter(made.values())).shape
  recordings = len({*examples.sources})
  crops = np.unique(examples.sources, return_counts=True)[1]
  # Recordings, if each has as many crops.
  independent = clips**2 / float((crops**2).sum())
  true = {n: examples.codes[:, n : n + continued] for n in made}
  pairs = _strangers(examples.sources, [*made], negatives, seed)
  total, done = len(pairs) + clips * len(made), 0
  apart = np.empty(len(pairs))
  for k, (n, i, j) in enumerate(pairs):
    apart[k] = transport.between(made[n][i], true[n][j], costs, epsilon)
    show(done := done + 1, total)
  threshold = calibrate(apart)
  rows = []
  for n, each in made.items():
    near = np.empty(clips)
    for i in range(clips):
      near[i] = transport.between(each[i], true[n][i], costs, epsilon)
      show(done := done + 1, total)
    bits = np.array([entropy(row) for row in each])
    equal = (each == true[n]).all(1)
    # Of tokens that strangers share too, such as silence, equal ones match.
    matched = equal | (near < threshold)
    again = None
    if n >= continued:
      before = examples.codes[:, n - continued : n]
      near_before = [
        transport.between(x, y, costs, epsilon) < threshold
        for x, y in zip(before, true[n], strict=True)
      ]
      again = share(sum(near_before) / clips, independent)
    rows.append(
      Row(
        prompt=n,
        exact=share(equal.mean(), independent),
        approximate=share(matched.mean(), independent),
        repeated=again,
        distance=float(np.median(near)),
        entropy=float(bits.mean()),
        match_entropy=float(bits[matched].mean())
        if matched.any()
        else math.nan,
      )
    )
  wrong = int((apart < threshold).sum())
  return Result(
    rows=rows,
    clips=clips,
    recordings=recordings,
    continued=continued,
    threshold=threshold,
    negatives=len(apart),
    strangers=float(np.median(apart)),
    false_positives=wrong,
    false_bound=share(wrong / len(apart), len(apart)).high,
    left_out=[],
  )


def _strangers(
  sources: Sequence[str], prompts: Sequence[int], count: int, seed: int
) -> list[tuple[int, int, int]]:
  """Draws (prompt, continuation, clip of another recording), all different."""
  names = np.unique(sources, return_inverse=True)[1]
  i, j = np.nonzero(names[:, None] != names)
  random = np.random.default_rng(seed)
  chosen = random.permutation(len(prompts) * len(i))[:count]
  # Of many clips there are too many pairs for a list of all.
  at = zip(*np.divmod(chosen, len(i)), strict=True)
  return [(prompts[n], int(i[k]), int(j[k])) for n, k in at]


def calibrate(apart: np.ndarray) -> float:
  """The largest threshold that at most a share `FALSE` of strangers is below.

  With fewer than 1 / `FALSE` pairs, none is.
  """
  return float(np.sort(apart)[math.floor(FALSE * len(apart))])


def entropy(tokens: np.ndarray) -> float:
  """Entropy in bits of the histogram of tokens."""
  _, counts = np.unique(tokens, return_counts=True)
  return float(stats.entropy(counts, base=2))


def share(value: float, count: float) -> Measure:
  """A share with its 95% interval (Clopper and Pearson 1934).

  Args:
    value: the share, 0 to 1.
    count: independent observations. Crops of one recording are not: with n_i
      of recording i, this is (sum n_i)^2 / sum n_i^2, as if all crops of a
      recording told the same.
  """
  some = value * count
  low = stats.beta.ppf(0.025, some, count - some + 1) if value > 0 else 0.0
  high = stats.beta.ppf(0.975, some + 1, count - some) if value < 1 else 1.0
  return Measure(float(value), float(low), float(high))
