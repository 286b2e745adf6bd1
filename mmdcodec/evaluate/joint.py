"""Measures a joint embedding of music and text on clips with captions and tags.

Retrieval in both directions, zero-shot tagging, the gap between the two kinds
of embeddings, and how often the codes of a text are those of its music; with
and without what brings texts nearer to audio ("bridges"). The formulas are in
`retrieval.py`.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np

from mmdcodec.data import texts
from mmdcodec.errors import UserError
from mmdcodec.evaluate import bootstrap, pairing, retrieval, traits
from mmdcodec.evaluate.bootstrap import Measure
from mmdcodec.evaluate.clips import Clip
from mmdcodec.evaluate.json_values import plain
from mmdcodec.parallel import shares
from mmdcodec.tokenizers import mulan

# A tag is measured if so many clips have it, and so many do not.
FEWEST = 5
# Of each tag, the most frequent values.
MOST_VALUES = 20


class Joint(Protocol):
  """What a joint embedding has: `Mulan`, or a public one."""

  rate: int

  def embed_audio(self, x: Any, rate: int | None = None) -> np.ndarray:
    """Embeds clips: [batch, dim] of norm 1."""

  def embed_text(self, texts: Sequence[str]) -> np.ndarray:
    """Embeds texts: [texts, dim] of norm 1."""


@dataclasses.dataclass(frozen=True)
class Retrieval:
  """Retrieval with one bridge and in one direction; see `retrieval.summary`."""

  r1: Measure
  r10: Measure
  median_rank: Measure


@dataclasses.dataclass(frozen=True)
class Agreement:
  """How often a clip and its text have the same first codes.

  Attributes:
    levels: number of codes that must be equal.
    own: share of the clips.
    shuffled: share of the pairs of a clip and the text of another one.
    p: share of random pairings in which at least as many agree.
  """

  levels: int
  own: float
  shuffled: float
  p: float


@dataclasses.dataclass(frozen=True)
class Result:
  """Results for a joint embedding.

  Attributes:
    clips: the clips with a text.
    alike: when two clips are taken to be the same, in words.
    to_audio: retrieval of music for a text, by bridge.
    to_text: retrieval of a text for music, by bridge.
    chance: `retrieval.chance` of both.
    own: retrieval of music for a text where only clips with the very same text
      count, by bridge.
    own_chance: its `retrieval.chance`.
    gaps: `retrieval.gap`, by bridge.
    tags: ROC-AUC of each tag, the mean over its values, by bridge.
    values: number of values of each tag.
    agreements: of codes; none without codebooks.
  """

  clips: Sequence[Clip]
  alike: str
  to_audio: dict[str, Retrieval]
  to_text: dict[str, Retrieval]
  chance: dict[str, float]
  own: dict[str, Retrieval]
  own_chance: dict[str, float]
  gaps: dict[str, dict[str, float]]
  tags: dict[str, dict[str, Measure]]
  values: dict[str, int]
  agreements: list[Agreement]


def measure(model: Joint, clips: Sequence[Clip]) -> Result:
  """Measures a model.

  Args:
    model: the joint embedding.
    clips: clips at its rate. Those without caption and tags are left out.

  Raises:
    UserError: fewer than two clips have a text.
  """
  words = [texts.phrases(clip.tags) for clip in clips]
  said = [
    clip.caption.strip() or ", ".join(sum(each.values(), []))
    for clip, each in zip(clips, words, strict=True)
  ]
  told = [i for i, text in enumerate(said) if text]
  if len(told) < 2:
    raise UserError(
      f"of {len(clips)} clips {len(told)} have a caption or tags; expected at"
      " least two, with captions beside the audio or in the data set."
    )
  clips = [clips[i] for i in told]
  words, said = [words[i] for i in told], [said[i] for i in told]
  heard = shares.apply(lambda clip: model.embed_audio(clip.audio), clips)
  audio = np.concatenate(heard)
  audio = audio.astype(np.float64)
  right, alike = _alike(clips, said)
  bridges: dict[str, dict[str, str]] = {"none": {}}
  if isinstance(model, mulan.Mulan) and mulan.BRIDGE in model.variables:
    bridges |= {name: dict(bridge=name) for name in ("shift", "mapper")}
  to_audio, to_text, own, gaps = {}, {}, {}, {}
  same = _equal(said)
  tags: dict[str, dict[str, Measure]] = {}
  chosen = _values(words)
  for name, options in bridges.items():
    text = model.embed_text(said, **options).astype(np.float64)
    cosines = text @ audio.T
    to_audio[name] = _retrieval(cosines, right)
    to_text[name] = _retrieval(cosines.T, right)
    own[name] = _retrieval(cosines, same)
    gaps[name] = retrieval.gap(audio, text)
    for tag, values in chosen.items():
      asked = model.embed_text([*values], **options).astype(np.float64)
      tags.setdefault(tag, {})[name] = _tagging(
        asked @ audio.T, np.array([*values.values()])
      )
  return Result(
    clips=clips,
    alike=alike,
    to_audio=to_audio,
    to_text=to_text,
    chance=retrieval.chance(right),
    own=own,
    own_chance=retrieval.chance(same),
    gaps=gaps,
    tags=tags,
    values={tag: len(values) for tag, values in chosen.items()},
    agreements=_agreements(model, clips, said),
  )


def _alike(
  clips: Sequence[Clip], said: Sequence[str]
) -> tuple[np.ndarray, str]:
  """Which clips are the same for a listener: bool [clips, clips], and why."""
  try:
    # A song of the built-in music is described by its traits.
    of = traits.of_songs([clip.tags for clip in clips])
    keys, why = list(zip(*of.values(), strict=True)), ", ".join(traits.TRAITS)
    why = f"the same {why}"
  except (KeyError, TypeError):
    keys, why = list(said), "the same text"
  return _equal(keys), why


def _equal(keys: Sequence[Any]) -> np.ndarray:
  """Which pairs of keys are equal: bool [keys, keys]."""
  numbers = {key: i for i, key in enumerate(dict.fromkeys(keys))}
  names = np.array([numbers[key] for key in keys])
  return names[:, None] == names[None, :]


def _retrieval(cosines: np.ndarray, right: np.ndarray) -> Retrieval:
  """Retrieval of answers [queries, answers], of which some are right."""
  return Retrieval(**retrieval.measured(retrieval.ranks(cosines, right)))


def _values(
  words: Sequence[dict[str, list[str]]],
) -> dict[str, dict[str, list[bool]]]:
  """Which clips have each phrase, by tag and phrase, if enough of them do."""
  found: dict[str, dict[str, list[bool]]] = {}
  for tag in dict.fromkeys(tag for each in words for tag in each):
    has = [{*each.get(tag, ())} for each in words]
    known = dict.fromkeys(p for each in words for p in each.get(tag, ()))
    rows = {phrase: [phrase in each for each in has] for phrase in known}
    kept = {
      phrase: row
      for phrase, row in rows.items()
      if FEWEST <= sum(row) <= len(row) - FEWEST
    }
    most = sorted(kept, key=lambda phrase: -sum(kept[phrase]))[:MOST_VALUES]
    if most:
      found[tag] = {phrase: kept[phrase] for phrase in most}
  return found


def _tagging(scores: np.ndarray, has: np.ndarray) -> Measure:
  """Mean ROC-AUC over values; scores and bool [values, clips]."""
  times = bootstrap.times(scores.shape[1])
  areas = np.stack(
    [
      retrieval.roc_auc(row, positive, times)
      for row, positive in zip(scores, has, strict=True)
    ]
  )
  # In a sample that lacks a value, the mean is that of the others.
  return bootstrap.of_times(bootstrap.finite_mean(areas, 0))


def _agreements(
  model: Joint, clips: Sequence[Clip], said: Sequence[str]
) -> list[Agreement]:
  """Agreement of the first code, and of the first two."""
  if not isinstance(model, mulan.Mulan) or not model.codebook_sizes:
    return []
  heard = np.concatenate([model.encode_clip(clip.audio) for clip in clips])
  read = model.encode_clip(list(said))
  found = []
  for levels in range(1, min(2, model.codebooks) + 1):
    same = np.all(read[:, None, :levels] == heard[None, :, :levels], axis=2)
    pairs = pairing.measure(same)
    found.append(Agreement(levels, pairs.own, pairs.chance, pairs.p))
  return found


def as_json(result: Result, about: dict[str, Any]) -> dict[str, Any]:
  """Returns the contents of results.json."""
  found = plain(dataclasses.replace(result, clips=()))
  rows = [
    {"clip": each.name, "caption": each.caption, "tags": dict(each.tags)}
    for each in result.clips
  ]
  return {"about": about, **found, "clips": plain(rows)}
