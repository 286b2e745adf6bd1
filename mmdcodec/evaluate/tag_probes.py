"""What a linear classifier hears of the words that describe real music.

A label is a word of the captions, or of the tags where there are no captions.
Each is told from a description of the clip's features (`probes.describe`) by
ridge regression, and measured by ROC-AUC on clips that it did not learn from.
"""

import re
from collections.abc import Sequence

import numpy as np
from sklearn import linear_model, pipeline, preprocessing

from mmdcodec.data import texts
from mmdcodec.errors import UserError
from mmdcodec.evaluate import retrieval
from mmdcodec.evaluate.clips import Clip

# A label is measured if so many clips have it, and so many do not.
FEWEST = 10
# The most labels, the most frequent ones first.
MOST = 50
# Parts of the clips, each of which is judged by what the others teach. Clips
# are in the order of their files, so that an album is mostly in one part.
FOLDS = 5
# Shorter words are seldom about music.
_LETTERS = 4


def labels(clips: Sequence[Clip]) -> dict[str, np.ndarray]:
  """The labels that occur in enough clips, and not in too many.

  Args:
    clips: clips with captions or tags.

  Returns:
    bool [clips] by label.

  Raises:
    UserError: there is no such label.
  """
  captions = any(clip.caption for clip in clips)
  found = []
  for clip in clips:
    text = clip.caption
    if not captions:
      text = " ".join(sum(texts.phrases(clip.tags).values(), []))
    found.append(set(re.findall(rf"[a-z]{{{_LETTERS},}}", text.lower())))
  kept = {}
  for word in sorted(set().union(*found)):
    has = np.array([word in words for words in found])
    if min(has.sum(), (~has).sum()) >= FEWEST:
      kept[word] = has
  if not kept:
    raise UserError(
      f"no word of the captions or tags is in {FEWEST} of {len(clips)} clips"
      f" and not in {FEWEST} others; expected more clips, with captions beside"
      " the audio or in the data set."
    )
  often = sorted(kept, key=lambda word: -kept[word].sum())[:MOST]
  return {word: kept[word] for word in often}


def scores(heard: np.ndarray, wanted: np.ndarray) -> np.ndarray:
  """Scores each clip by what the clips of other parts teach.

  Args:
    heard: float [clips, features].
    wanted: bool [clips, labels].

  Returns:
    float [clips, labels].
  """
  part = np.arange(len(heard)) * FOLDS // len(heard)
  out = np.zeros(wanted.shape)
  for k in range(FOLDS):
    model = pipeline.make_pipeline(
      preprocessing.StandardScaler(),
      # Leave-one-out cross-validation chooses the regularisation.
      linear_model.RidgeCV(np.logspace(0, 5, 11), alpha_per_target=True),
    )
    model.fit(heard[part != k], wanted[part != k].astype(float))
    predicted = model.predict(heard[part == k])
    out[part == k] = predicted.reshape(-1, wanted.shape[1])
  return out


def area(
  heard: np.ndarray, known: dict[str, np.ndarray]
) -> dict[str, tuple[float, float, float]]:
  """ROC-AUC of each label.

  Args:
    heard: float [clips, features].
    known: `labels` of the clips.

  Returns:
    (area, lower and upper end of its confidence interval over the clips) by
    label; with the key "mean", that of the mean over all labels. 0.5 is chance.
  """
  wanted = np.stack([*known.values()], 1)
  found = scores(heard, wanted)

  def areas(times: np.ndarray) -> np.ndarray:
    each = [
      retrieval.roc_auc(found[:, k], wanted[:, k], times)
      for k in range(wanted.shape[1])
    ]
    return np.stack(each, -1)

  clips = len(heard)
  rng = np.random.default_rng(0)
  draws = rng.multinomial(clips, np.full(clips, 1 / clips), retrieval.DRAWS)
  value, sampled = areas(np.ones(clips)), areas(draws)
  value = np.append(value.mean(), value)
  # A sample may lack clips with a label, or without it.
  there = np.isfinite(sampled)
  mean = np.where(there, sampled, 0).sum(-1) / np.maximum(there.sum(-1), 1)
  mean = np.where(there.any(-1), mean, np.nan)
  sampled = np.column_stack([mean, sampled])
  out = {}
  for k, name in enumerate(["mean", *known]):
    out[name] = (float(value[k]), *retrieval.middle(sampled[:, k]))
  return out
