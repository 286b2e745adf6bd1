"""Linear probes: what a linear classifier hears in features of songs.

Each song is described by mean and standard deviation of its frames. What can be
read off linearly the features say plainly (Alain and Bengio 2016).
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mmdcodec.evaluate import bootstrap, codebooks, traits
from mmdcodec.evaluate.bootstrap import Measure
from mmdcodec.parallel import shares
from mmdcodec.tokenizers.clustered import Clustered
from mmdcodec.tokenizers.interface import Tokenizer
from mmdcodec.tokenizers.loaded_codec import LoadedCodec

# Name -> property of a built-in song, from its tags.
PROBES = {
  "key": lambda tags: str(tags["key"]),
  "tempo": lambda tags: str(tags["speed"]),
  "instrument": lambda tags: str(tags["family"]),
  "drums": lambda tags: "with" if tags["drums"] else "without",
}


def describe(
  tokenizer: Tokenizer, songs: Sequence[np.ndarray], rate: int
) -> np.ndarray | None:
  """Describes songs by what a tokenizer computes for its codes.

  Args:
    tokenizer: one with features, or a codec, whose quantized latents are taken.
    songs: float32 [samples, channels].
    rate: Hz.

  Returns:
    float32 [songs, 2 * dim]; None if the tokenizer shows only codes.
  """
  vectors = None
  if isinstance(tokenizer, LoadedCodec):
    vectors = codebooks.vectors(tokenizer)
  elif not isinstance(tokenizer, Clustered):
    return None

  def describe_one(song: np.ndarray) -> np.ndarray:
    if vectors is None:
      assert isinstance(tokenizer, Clustered)
      frames, valid = tokenizer.features(*tokenizer.prepare(song, rate))
      rows = np.asarray(frames, np.float32)[np.asarray(valid)]
    else:
      codes = tokenizer.encode(song, rate)[0]
      levels = range(codes.shape[1])
      rows = np.sum([vectors[k][codes[:, k]] for k in levels], 0)
    return np.concatenate([rows.mean(0), rows.std(0)])

  return np.stack(shares.apply(describe_one, songs))


def accuracy(
  heard: np.ndarray, tags: Sequence[Mapping[str, Any]], train: int
) -> dict[str, Measure]:
  """Trains a classifier for each property and tests it on other songs.

  Args:
    heard: [songs, features], from `describe`.
    tags: tags of the songs.
    train: number of songs to train on, from the first; the others are for the
      test.

  Returns:
    Share of right answers by property. One that is the same in all songs of
    the training is left out.
  """
  values = {name: [of(each) for each in tags] for name, of in PROBES.items()}
  learned = {name: each[:train] for name, each in values.items()}
  classify = traits.Classifiers(heard[:train], learned)
  found = {}
  for name, answers in classify(heard[train:]).items():
    right = np.array(answers) == np.array(values[name][train:])
    found[name] = bootstrap.mean(right)
  return found


def chance(
  tags: Sequence[Mapping[str, Any]], train: int
) -> dict[str, Measure]:
  """What the most frequent answer of the training gives; see `accuracy`."""
  found = {}
  for name, of in PROBES.items():
    values = [of(each) for each in tags]
    known = sorted(set(values[:train]))
    most = max(known, key=values[:train].count)
    found[name] = bootstrap.mean(np.array(values[train:]) == most)
  return found
