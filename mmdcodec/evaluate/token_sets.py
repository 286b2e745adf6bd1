"""Finds the token data sets that a stage of a hierarchy learns from."""

import pathlib
from collections.abc import Sequence
from typing import Any

from mmdcodec.data import aligned_tokens, record_source
from mmdcodec.data.aligned_tokens import AlignedTokens
from mmdcodec.data.token_records import TokenSource
from mmdcodec.errors import UserError
from mmdcodec.store import paths

# Conditions that a stage can do without; it learned so.
OPTIONAL = ("melody",)


def find(folders: Sequence[str | pathlib.Path]) -> list[TokenSource]:
  """Opens the token data sets in folders.

  Args:
    folders: token data sets, or folders of them as `mmdcodec tokenize` makes
      for several tokenizers.

  Raises:
    UserError: a folder holds no token data set.
  """
  found = []
  for folder in map(paths.of, folders):
    inside = sorted(folder.glob(f"*/{record_source.SUMMARY}"))
    if inside and not (folder / record_source.SUMMARY).exists():
      found += [TokenSource(each.parent) for each in inside]
    else:
      found.append(TokenSource(folder))
  return found


def of_stage(
  stage: Any, sets: Sequence[TokenSource], *, without: Sequence[str] = ()
) -> list[TokenSource | AlignedTokens]:
  """Chooses the data sets of a stage by the hashes of their tokenizers.

  Args:
    stage: a `Stage`, with `target` and `streams`.
    sets: data sets, as from `find`.
    without: conditions to leave out.

  Returns:
    The data sets of its target, each with those of its conditions.

  Raises:
    UserError: one is missing, or was not made from the same audio.
  """

  def of(what: str, tokenizer: dict[str, Any]) -> list[TokenSource]:
    found = [each for each in sets if each.hash == tokenizer["hash"]]
    if not found and what not in OPTIONAL:
      raise UserError(
        f"no data set in --tokens has codes of the {tokenizer['tokenizer']}"
        f" {tokenizer['hash']}, the model's {what}; make one with `mmdcodec"
        " tokenize`."
      )
    return found

  targets = of("target", stage.target)
  streams = {
    name: of(name, tokenizer)
    for name, tokenizer in stage.streams.items()
    if name not in without
  }
  streams = {name: found for name, found in streams.items() if found}
  if not streams:
    return [*targets]
  return [*aligned_tokens.match(targets, streams)]


def crop_frames(stage: Any) -> int:
  """Frames of the training crops of a stage, as its tokenizer makes them.

  A stage that makes no repeats sees fewer of them.
  """
  return max(1, round(stage.seconds * stage.target["frame_rate"]))
