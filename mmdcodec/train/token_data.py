"""The token data sets of a language model's run: do they fit it, what are they.

A run learns codes of one tokenizer, its target, and may have codes of others as
conditions, its streams. The workdir records the hashes of all of them, because
codes of another tokenizer have other meanings.
"""

import math
import pathlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from mmdcodec import bundle
from mmdcodec.data.token_records import TokenSource
from mmdcodec.errors import UserError
from mmdcodec.models.condition import Condition
from mmdcodec.models.melody_condition import Melody
from mmdcodec.models.token_conditions import Tokens
from mmdcodec.models.token_lm import TokenLM
from mmdcodec.quantize import repeats
from mmdcodec.store import workdir as run_files
from mmdcodec.train import settings

# Records that suffice to count repeats.
_MEASURED = 1000


def streams(
  config: Mapping[str, Any], conditions: Sequence[Condition]
) -> dict[str, list[str]]:
  """Returns the data sets that conditions read, by condition.

  Args:
    config: config of the run.
    conditions: the model's conditions.

  Raises:
    UserError: a stream for a condition that the model lacks.
  """
  found = settings.parse_streams(config["data"].get("streams", ""))
  names = [each.name for each in conditions]
  if unknown := sorted(found.keys() - {*names}):
    raise UserError(
      f"data.streams has {', '.join(unknown)}; the model's conditions are"
      f" {', '.join(names) or 'none'}."
    )
  return found


def check(
  config: Mapping[str, Any],
  model: TokenLM,
  conditions: Sequence[Condition],
  datasets: Iterable[str],
) -> None:
  """Checks that data sets and streams fit the model.

  Args:
    config: config of the run.
    model: the language model.
    conditions: the model's conditions.
    datasets: paths of token data sets of the target.

  Raises:
    UserError: one of them does not.
  """
  wanted = {
    "model.codebook_size": model.codebook_size,
    "data.frame_rate": config["data"]["frame_rate"],
  }
  last = model.first_codebook + model.codebooks
  for path in datasets:
    source = TokenSource(path)
    found = {key: getattr(source, key.partition(".")[2]) for key in wanted}
    other = [k for k in wanted if not math.isclose(wanted[k], found[k])]
    if other:
      shown = " and ".join(
        f"{key.partition('.')[2]} {found[key]!r}, not {wanted[key]!r} as in the"
        " config"
        for key in other
      )
      advice = " ".join(f"--config.{key}={found[key]!r}" for key in other)
      raise UserError(f"{path} has {shown}: set {advice}.")
    if last > source.codebooks:
      raise UserError(
        f"{path} has {source.codebooks} codebooks, but the model needs"
        f" {last}: set --config.model.codebooks={source.codebooks}."
      )
  for each in conditions:
    if each.added and isinstance(each, Tokens | Melody):
      _check_added(each, config["data"]["frame_rate"])
    if each.added and isinstance(each, Melody):
      _check_length(each, model.frames)
  by_name = {each.name: each for each in conditions}
  for name, paths in streams(config, conditions).items():
    if isinstance(condition := by_name[name], Tokens):
      for path in paths:
        _check_stream(condition, TokenSource(path))


def _check_added(condition: Tokens | Melody, frame_rate: float) -> None:
  """Raises a UserError if a condition would be added at the wrong times."""
  ratio = frame_rate / condition.frame_rate
  if math.isclose(ratio, condition.added):
    return
  name = f"--config.model.conditions.{condition.name}"
  change = f"{name}.added_to=0, which makes it a prefix"
  if isinstance(condition, Melody):  # which may have any rate
    change = f"{name}.frame_rate={frame_rate / condition.added!r}"
  elif round(ratio) and math.isclose(ratio, round(ratio)):
    change = f"{name}.added_to={round(ratio)}"
  raise UserError(
    f"each frame of the condition {condition.name!r}, {condition.frame_rate:g}"
    f" a second, is added to {condition.added} frames of the music,"
    f" {frame_rate:g} a second: set {change}."
  )


def _check_length(condition: Melody, frames: int) -> None:
  """Raises a UserError if a melody is shorter than the music."""
  wanted = -(-frames // condition.added)
  if condition.frames < wanted:
    raise UserError(
      f"the condition {condition.name!r} has {condition.frames} frames, each"
      f" for {condition.added} of the music, which has {frames}: set"
      f" --config.model.conditions.{condition.name}.frames={wanted}."
    )


def _check_stream(condition: Tokens, source: TokenSource) -> None:
  """Raises a UserError if a condition cannot read a data set."""
  name = f"--config.model.conditions.{condition.name}"
  had = source.codebooks
  if had < condition.codebooks:
    raise UserError(
      f"{source.path} has {had} codebooks, but the condition"
      f" {condition.name!r} reads {condition.codebooks}: set"
      f" {name}.codebooks={had}."
    )
  if (size := max(source.codebook_sizes[: condition.codebooks])) > (
    condition.size
  ):
    raise UserError(
      f"{source.path} has codebooks of {size} codes, but the condition"
      f" {condition.name!r} has a size of {condition.size}: set"
      f" {name}.size={size}."
    )
  rate = source.frame_rate
  if condition.frame_rate and not math.isclose(condition.frame_rate, rate):
    frames = round(condition.frames * rate / condition.frame_rate)
    raise UserError(
      f"{source.path} has a frame rate of {rate:g} Hz, but the condition"
      f" {condition.name!r} of {condition.frame_rate:g} Hz: set"
      f" {name}.frame_rate={rate!r} and {name}.frames={max(1, frames)}."
    )


def record_target(
  workdir: pathlib.Path,
  codec: pathlib.Path,
  paths: Sequence[str],
  model: TokenLM,
) -> None:
  """Records which tokenizer the run's codes come from.

  For a model of codes without repeats, also how many are left in a second.

  Args:
    workdir: folder of the run.
    codec: folder of the codec in it, if there is one.
    paths: token data sets of the run, the first for training.
    model: the language model.

  Raises:
    UserError: the data sets come from another tokenizer than those that the
      run was begun with.
  """
  target: dict[str, Any] | None = run_files.read_target(workdir)
  if target is None and codec.exists():
    # Started by a version that did not record it.
    kept = bundle.load_codec(codec)
    target = {"tokenizer": kept.kind, "hash": kept.hash}
  for source in map(TokenSource, paths):
    target = target or {
      "tokenizer": source.tokenizer,
      "hash": source.hash,
      "frame_rate": source.frame_rate,
    }
    if source.hash != target["hash"]:
      raise UserError(
        f"{source.path} has codes of another {target['tokenizer']} than"
        f" {workdir}, which was begun with {target['hash']}."
      )
  if target is None:
    return
  if model.collapse and "token_rate" not in target:
    books = slice(model.first_codebook, model.first_codebook + model.codebooks)
    target["token_rate"] = _token_rate(TokenSource(paths[0]), books)
  run_files.write_target(workdir, target)


def _token_rate(source: TokenSource, codebooks: slice) -> float:
  """Measures the frames that are left in a second without repeats."""
  step = max(1, len(source) // _MEASURED)
  codes = [
    source[i]["codes"][:, codebooks] for i in range(0, len(source), step)
  ]
  kept = sum(repeats.count_kept(each) for each in codes)
  return source.frame_rate * kept / sum(map(len, codes))


def record_streams(
  workdir: pathlib.Path, streams: Mapping[str, Sequence[str]]
) -> None:
  """Records which tokenizers the conditions' codes come from.

  Args:
    workdir: folder of the run.
    streams: token data sets by condition.

  Raises:
    UserError: a condition has codes of several tokenizers, of another one than
      those that the run was begun with, or none any more.
  """
  before = run_files.read_streams(workdir)
  if missing := sorted(before.keys() - streams.keys()):
    raise UserError(
      f"{workdir} was begun with streams for {', '.join(missing)}; give them in"
      " --config.data.streams again."
    )
  found = dict(before)
  for name, paths in streams.items():
    for source in map(TokenSource, paths):
      this = {"tokenizer": source.tokenizer, "hash": source.hash}
      if this != (kept := found.setdefault(name, this)):
        raise UserError(
          f"{source.path} ({name}) has codes of the {source.tokenizer}"
          f" {source.hash}, but this run learns from those of the"
          f" {kept['tokenizer']} {kept['hash']}; tokenize with that one."
        )
  if found != before:
    run_files.write_streams(workdir, found)
