"""Fits codebooks to the features of a network: what `mmdcodec cluster` does.

The features of an audio data set are sampled evenly, standardised where the
tokenizer asks for it, and clustered level by level; see
`mmdcodec.tokenizers.clustered` for how they code audio then. A joint embedding
of audio and text also gets a bridge from its texts to its audio, fitted to the
captions and tags of the same records.
"""

import json
import math
import pathlib
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from mmdcodec import bundle
from mmdcodec.data import record_encoder, texts
from mmdcodec.data.record_source import Source, labels
from mmdcodec.errors import Notice, UserError
from mmdcodec.parallel import mesh as mesh_lib
from mmdcodec.quantize import fit_residual
from mmdcodec.tokenizers.clustered import Clustered
from mmdcodec.tokenizers.interface import Tokenizer
from mmdcodec.tokenizers.mulan import BRIDGE, Mulan, clip_mean

# Records in a batch.
_BATCH = 8
# Rows that are computed for each that is kept. Of a data set with more, only
# some of the records are read, because the network takes nearly all the time.
_SEEN = 4
# A dimension that varies this much less than the most variable one is constant.
_CONSTANT = 1e-6


Show = Callable[[int, int], None]


class Fit(NamedTuple):
  """The result of `cluster`.

  Attributes:
    rows: number of rows that the codebooks were fitted to.
    records: number of records that these rows come from.
    left: share of the rows' variance that is left after each level.
    used: number of codes of each level that a row chose.
    reseeded: how many times an empty centre was moved, of each level.
    codes: codes of a level.
    bridge: for a joint embedding and a data set with texts, `pairs`, and the
      mean cosine of held-out ones `before` and `after` the mapper.
  """

  rows: int
  records: int
  left: list[float]
  used: list[int]
  reseeded: list[int]
  codes: int
  bridge: dict[str, float] | None = None


def warning(fit: Fit) -> str | None:
  """Returns a sentence about codes that no row chose; None if they are few."""
  idle = [
    f"{used:,} of {fit.codes:,} codes of level {level}"
    for level, used in enumerate(fit.used, start=1)
    if used < fit.codes / 2
  ]
  if not idle:
    return None
  return (
    f"the {fit.rows:,} rows of features use only {', '.join(idle)}: fit fewer"
    " codes or levels, or take more rows of more varied audio."
  )


def cluster(
  model: str | pathlib.Path,
  dataset: str | pathlib.Path,
  out: str | pathlib.Path,
  *,
  codes: int | None = None,
  levels: int | None = None,
  rows: int = 200_000,
  seed: int = 0,
  force: bool = False,
  progress: Callable[[str], Show] = lambda things: lambda done, total: None,
) -> Fit:
  """Makes a bundle of a network and of codebooks fitted to its features.

  It warns (`errors.Notice`) if most codes of a level stay empty.

  Args:
    model: bundle, workdir or public weights of the network. Codebooks that it
      has already are replaced.
    dataset: folder of an audio data set.
    out: folder of the bundle to write.
    codes: codes of each level; None: what is usual for the kind of model.
    levels: number of levels; None: likewise.
    rows: most rows of features to fit to; they are kept in memory.
    seed: seed of the choice of rows and of k-means.
    force: whether to replace a bundle.
    progress: called with what is counted, "records" and then "levels"; returns
      a function that is called regularly with (done, total).

  Raises:
    UserError: the model has no features to cluster, there are too few rows for
      the codes, a feature is not finite, or `out` holds something else.
  """
  found = bundle.read(model)
  tokenizer = bundle.opened(model, found)
  if not isinstance(tokenizer, Clustered):
    raise UserError(
      f"{model} holds a model of kind {found.config['kind']}, which has no"
      " features to cluster; expected a semantic, joint or melody model."
    )
  codes = tokenizer.usual_codes if codes is None else codes
  levels = tokenizer.usual_levels if levels is None else levels
  for name, value in (("codes", codes), ("levels", levels), ("rows", rows)):
    if value < 1:
      raise UserError(f"{name} is {value}; expected at least 1.")
  if rows < codes:
    raise UserError(
      f"rows is {rows}, but {codes} codes need at least as many rows; some 100"
      " rows for each code are good."
    )
  bundle.check_out(out, force=force)
  source = Source(dataset)
  # Means of the rows of records, for the bridge of a joint embedding.
  clips: dict[int, np.ndarray] = {}

  def keep(index: int, rows: np.ndarray) -> None:
    clips[index] = clip_mean(rows[None], np.ones((1, len(rows)), bool))[0]

  joint = isinstance(tokenizer, Mulan)
  sample, records = sample_rows(
    tokenizer,
    source,
    rows,
    seed,
    progress("records"),
    each=keep if joint else None,
  )
  statistics = _statistics(sample, tokenizer.standardise)
  sample -= statistics["mean"]
  sample *= statistics["scale"]
  devices = jax.local_devices()
  books = fit_residual.fit(
    jax.random.key(seed),
    sample,
    levels,
    codes,
    mesh=mesh_lib.make_mesh(devices=devices) if len(devices) > 1 else None,
    show=progress("levels"),
  )
  fit = Fit(
    len(sample),
    records,
    (books.inertia / (books.total or 1.0)).tolist(),
    (books.counts > 0).sum(1).tolist(),
    books.reseeded.tolist(),
    codes,
  )
  config, variables = tokenizer.with_codebooks(statistics, books.embed)
  variables.pop(BRIDGE, None)
  if isinstance(tokenizer, Mulan):
    data = config.get("training", {}).get("config", {}).get("data", {})
    only = texts.tag_names(data.get("tags", ()))
    bridge, told = _bridge(tokenizer, source, clips, only, seed)
    if bridge:
      variables[BRIDGE] = bridge
      fit = fit._replace(bridge=told)
  config["clusters"] = {**fit._asdict(), "seed": seed}
  bundle.save(out, config, variables, assets=found.assets, force=force)
  if (words := warning(fit)) is not None:
    warnings.warn(f"{out}: {words}", Notice, stacklevel=2)
  return fit


def sample_rows(
  tokenizer: Clustered,
  source: Source,
  rows: int,
  seed: int,
  show: Show = lambda done, total: None,
  *,
  each: Callable[[int, np.ndarray], None] | None = None,
) -> tuple[np.ndarray, int]:
  """Samples rows of features at random from a data set.

  Each row gets a random number, and those with the lowest are kept: a reservoir
  whose content depends neither on the number of devices nor on their speed.

  Args:
    tokenizer: has the features.
    source: the audio data set.
    rows: most rows to return.
    seed: seed of the choice.
    show: called regularly with (records done, total).
    each: called with the index of each record that is read and its rows.

  Returns:
    (float32 [at most `rows`, dim], number of records that were read).
  """
  length = round(source.seconds / len(source) * tokenizer.rate)
  each_record = max(1, tokenizer.frames_of(max(1, length)))
  count = min(len(source), math.ceil(_SEEN * rows / each_record))
  chosen = np.random.default_rng(seed).permutation(len(source))[:count]
  chosen.sort()

  def read(index: int) -> tuple[int, np.ndarray]:
    record, x = record_encoder.read_record(source, index)
    return index, record_encoder.convert(x, record["rate"], tokenizer)

  def apply(here: Sequence[Tokenizer], items: list[Any]) -> list[Any]:
    clips = [clip for _, clip in items]
    x, lengths = record_encoder.padded(clips, len(clips))
    model = here[0]
    assert isinstance(model, Clustered)
    found, valid = model.features(*model.prepare(x, None, lengths))
    found, valid = np.asarray(found, np.float32), np.asarray(valid)
    made = []
    for (index, _), item, good in zip(items, found, valid, strict=True):
      draws = np.random.default_rng([seed, index])
      made.append((index, item[good], draws.random(int(good.sum()))))
    return made

  batches = [chosen[i : i + _BATCH] for i in range(0, count, _BATCH)]
  kept: list[np.ndarray] = []
  draws: list[np.ndarray] = []
  held, done, limit = 0, 0, math.inf
  for batch in record_encoder.mapped([tokenizer], batches, read, apply):
    for index, found, draw in batch:
      if each is not None:
        each(int(index), found)
      low = draw < limit
      kept.append(found[low])
      draws.append(draw[low])
      held += len(kept[-1])
      done += 1
    if held > 1.25 * rows or done == count:
      joined, draw = np.concatenate(kept), np.concatenate(draws)
      if len(draw) > rows:
        limit = np.partition(draw, rows)[rows]
      low = draw < limit
      kept, draws = [joined[low]], [draw[low]]
      held = len(kept[0])
    show(done, count)
  return kept[0], count


def _bridge(
  tokenizer: Mulan,
  source: Source,
  clips: Mapping[int, np.ndarray],
  only: Sequence[str],
  seed: int,
) -> tuple[dict[str, Any], dict[str, float]]:
  """Fits the bridge of a joint embedding to the records that have a text.

  Args:
    tokenizer: the joint embedding.
    source: the audio data set.
    clips: embedding of each record that was read, by index.
    only: names of the tags that it was trained with; empty for all.
    seed: seed of the choice of tags and of the mapper.

  Returns:
    (the bridge, what `Fit` says about it); both empty without any text.
  """
  rows, said = [], []
  for index in sorted(clips):
    told = labels(source.features(index))
    words = texts.phrases(json.loads(told["tags"] or "{}"), only)
    flat = [word for each in words.values() for word in each]
    rng = np.random.default_rng([seed, index])
    # What it was trained with: captions, and some of the tags.
    for draws, share in ((None, 0.0), (rng, 1.0)):
      text = texts.text_of(told["caption"], flat, draws, share=share)
      if text and (draws is None or flat):
        rows.append(clips[index])
        said.append(text)
  if not said:
    return {}, {}
  bridge, fit = tokenizer.bridge_of(np.stack(rows), said, seed=seed)
  return bridge, dict(pairs=len(said), before=fit.before, after=fit.after)


def _statistics(rows: np.ndarray, standardise: bool) -> dict[str, np.ndarray]:
  """Mean and scale of each dimension; a constant one gets scale 0."""
  dim = rows.shape[1]
  if not standardise:
    return {
      "mean": np.zeros(dim, np.float32),
      "scale": np.ones(dim, np.float32),
    }
  mean = rows.mean(0, dtype=np.float64)
  spread = np.sqrt(np.mean((rows - mean) ** 2, 0, dtype=np.float64))
  varies = spread > _CONSTANT * spread.max()
  scale = np.where(varies, 1 / np.where(varies, spread, 1), 0)
  return {"mean": mean.astype(np.float32), "scale": scale.astype(np.float32)}
