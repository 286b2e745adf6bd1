"""Texts of records for joint embeddings: captions and random sets of tags.

Tags describe music better one by one than in one long list: with a random
subset of a clip's tags as its text, retrieval is far better than with all of
them (Doh et al. 2022, arXiv 2211.14558).
"""

import dataclasses
import json
from collections.abc import Callable, Collection, Mapping
from typing import Any

import numpy as np

from mmdcodec.models import text_tokens


def tag_names(given: Collection[str]) -> tuple[str, ...]:
  """Names of tags; a command line gives them as one text, "speed,drums"."""
  return tuple(name.strip() for each in given for name in each.split(","))


def phrases(
  tags: Mapping[str, Any], only: Collection[str] = ()
) -> dict[str, list[str]]:
  """Words for tags, by tag.

  A list gives its texts: `genres: [rock, indie]` is "rock" and "indie". A text
  is put before the name of its tag: `speed: fast` is "fast speed". True is the
  name itself, "drums", and False "no drums". Numbers say nothing, as most are
  years, seeds and indices.

  Args:
    tags: values by name.
    only: names of the tags to use; empty for all.
  """
  found = {}
  for name, value in tags.items():
    if only and name not in only:
      continue
    spoken = name.replace("_", " ")
    if isinstance(value, bool):
      found[name] = [spoken if value else f"no {spoken}"]
    elif isinstance(value, str) and value.strip():
      found[name] = [f"{value.strip()} {spoken}"]
    elif isinstance(value, list | tuple):
      texts = [v.strip() for v in value if isinstance(v, str) and v.strip()]
      if texts:
        found[name] = list(dict.fromkeys(texts))
  return found


def text_of(
  caption: str,
  phrases: Collection[str],
  rng: np.random.Generator | None,
  *,
  share: float,
) -> str:
  """Chooses the text of a clip.

  Args:
    caption: its caption, "" for none.
    phrases: words for its tags.
    rng: random numbers; None for the caption, or all tags if there is none.
    share: probability of a random subset of the tags, in random order, instead
      of the caption, if the clip has both.

  Returns:
    The text; "" if there is neither caption nor tag.
  """
  caption, words = caption.strip(), list(phrases)
  if rng is None:
    return caption or ", ".join(words)
  chosen = rng.random() < share
  # Drawn always, so that a caption does not change later random numbers.
  count = rng.integers(1, max(len(words), 1) + 1)
  order = rng.permutation(len(words))
  if caption and not (chosen and words):
    return caption
  return ", ".join(words[i] for i in order[:count])


@dataclasses.dataclass(frozen=True)
class Describe:
  """Makes the tokens of a text from the labels of a record; see `pipeline`.

  The arrays are `tokens` int32 [longest], `token_lengths` int32, at least 1,
  and `told` bool, False for a record without any text.

  Attributes:
    encode: returns the tokens of a text, at least one.
    longest: maximum number of tokens; longer texts are cut.
    share: see `text_of`.
    tags: names of the tags to use; empty for all.
  """

  encode: Callable[[str], list[int]]
  longest: int
  share: float
  tags: tuple[str, ...] = ()

  def __call__(
    self, labels: Mapping[str, Any], rng: np.random.Generator | None
  ) -> dict[str, np.ndarray]:
    """Returns the arrays of one example."""
    tags = json.loads(labels["tags"] or "{}")
    words = [w for each in phrases(tags, self.tags).values() for w in each]
    text = text_of(labels["caption"], words, rng, share=self.share)
    tokens = np.zeros(self.longest, np.int32)
    found = text_tokens.cut(self.encode(text), self.longest)
    tokens[: len(found)] = found
    return {
      "tokens": tokens,
      "token_lengths": np.array(len(found), np.int32),
      "told": np.array(bool(text)),
    }
