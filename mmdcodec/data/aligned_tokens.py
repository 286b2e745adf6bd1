"""Token data sets of several tokenizers for the same audio, aligned in time.

A language model learns the codes of one tokenizer, the target, from codes of
others: acoustic codes from semantic ones, for example. Each tokenizer has its
own frame rate, so crops are aligned in seconds.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from mmdcodec.data.token_records import TokenSource
from mmdcodec.errors import UserError

# Frame rates are not exact in binary.
_EPSILON = 1e-6


class AlignedTokens:
  """The records of a target data set with the codes of other tokenizers.

  All other attributes are the target's; see `TokenSource`.

  Attributes:
    target: the target's data set.
    streams: data sets of the other tokenizers, by name.
    grid: crops begin at multiples of this many target frames. Streams whose
      frame rate divides the target's begin a frame there too.
  """

  def __init__(self, target: TokenSource, streams: Mapping[str, TokenSource]):
    """Combines data sets.

    Raises:
      UserError: they were not made from the same audio.
    """
    for name, stream in streams.items():
      if not same_audio(target, stream):
        raise UserError(
          f"{stream.path} ({name}) was not made from the audio of"
          f" {target.path}; tokenize one audio data set with both tokenizers."
        )
    self.target, self.streams = target, dict(streams)
    ratios = [
      target.frame_rate / stream.frame_rate
      for stream in streams.values()
      if stream.window is None
    ]
    whole = [round(r) for r in ratios if abs(r - round(r)) < _EPSILON]
    self.grid = math.lcm(*(r for r in whole if r))

  def __getattr__(self, name: str) -> Any:
    """Returns an attribute of the target."""
    if name == "target":  # while a copy is being made
      raise AttributeError(name)
    return getattr(self.target, name)

  def __len__(self) -> int:
    """Number of records."""
    return len(self.target)

  def __getitem__(self, index: int) -> dict:
    """Returns a target record, with what `Condition.read` needs of streams.

    These are `streams`, name -> (codes, frame rate), and `windows`, name ->
    `TokenSource.window`.
    """
    streams = {
      name: (stream[index]["codes"], stream.frame_rate)
      for name, stream in self.streams.items()
    }
    windows = {name: stream.window for name, stream in self.streams.items()}
    return {**self.target[index], "streams": streams, "windows": windows}


def match(
  targets: Sequence[TokenSource], streams: Mapping[str, Sequence[TokenSource]]
) -> list[AlignedTokens]:
  """Finds the data sets made from the audio of each target.

  Args:
    targets: data sets of the target tokenizer.
    streams: data sets of other tokenizers, by name, in any order.

  Returns:
    One data set per target.

  Raises:
    UserError: a target has no data set for the same audio.
  """
  found = []
  for target in targets:
    chosen = {}
    for name, sources in streams.items():
      fitting = (source for source in sources if same_audio(target, source))
      # If none fits, `AlignedTokens` reports the first.
      chosen[name] = next(fitting, sources[0])
    found.append(AlignedTokens(target, chosen))
  return found


def same_audio(one: TokenSource, other: TokenSource) -> bool:
  """Returns whether two token data sets were made from the same audio.

  Data sets of earlier versions have no fingerprint of the audio, so the number,
  paths and positions of their records are compared.
  """
  if len(one) != len(other):
    return False
  prints = [source.summary.get("fingerprint") for source in (one, other)]
  if all(prints):
    return prints[0] == prints[1]
  places = lambda record: (record["path"], record["position"])
  return all(places(one[i]) == places(other[i]) for i in range(len(one)))
