"""What a linear classifier hears of the words that describe real music.

A label is a word of the captions, or of the tags where there are no captions.
Each is told from a description of the clip's features (`probes.describe`) by
ridge regression, and measured by ROC-AUC on clips that it did not learn from.

Scores of different models do not compare. Each part of the clips is judged by a
model of the others, and the more clips of a part have a label, the fewer of the
others do, and the lower its model scores. So only clips of one part are ranked:
ranked all together, labels of whole albums would be far below chance if nothing
told them.
"""

import re
from collections.abc import Sequence

import numpy as np
from sklearn import linear_model, pipeline, preprocessing

from mmdcodec.data import texts
from mmdcodec.errors import UserError
from mmdcodec.evaluate import bootstrap, retrieval
from mmdcodec.evaluate.bootstrap import Measure
from mmdcodec.evaluate.clips import Clip

# A label is measured if so many clips have it, and so many do not.
FEWEST = 10
# The most labels, the most frequent ones first.
MOST = 50
# Parts of the clips, each of which is judged by what the others teach.
FOLDS = 5
# Blocks of neighbours in each part. Clips are in the order of their files:
# blocks keep an album mostly in one part. Two of them far apart are enough that
# a part may have clips with a label and without it where folders are genres.
_BLOCKS = 2
# Shorter words are seldom about music.
_LETTERS = 4


def labels(clips: Sequence[Clip]) -> dict[str, np.ndarray]:
  """The labels that enough clips have and enough lack, also within a part.

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
  frequent, kept, part = 0, {}, _parts(len(clips))
  for word in sorted(set().union(*found)):
    has = np.array([word in words for words in found])
    if min(has.sum(), (~has).sum()) < FEWEST:
      continue
    frequent += 1
    if {*part[has]} & {*part[~has]}:
      kept[word] = has
  if frequent and not kept:
    raise UserError(
      f"the {len(clips)} clips are compared within {FOLDS} parts, but each word"
      " of the captions or tags is in all clips of a part or in none; expected"
      " words of single clips, or folders in another order."
    )
  if not kept:
    raise UserError(
      f"no word of the captions or tags is in {FEWEST} of {len(clips)} clips"
      f" and not in {FEWEST} others; expected more clips, with captions beside"
      " the audio or in the data set."
    )
  often = sorted(kept, key=lambda word: -kept[word].sum())[:MOST]
  return {word: kept[word] for word in often}


def _parts(clips: int) -> np.ndarray:
  """The part of each clip: int [clips]."""
  return np.arange(clips) * FOLDS * _BLOCKS // clips % FOLDS


def scores(heard: np.ndarray, wanted: np.ndarray) -> np.ndarray:
  """Scores each clip by what the clips of other parts teach.

  Args:
    heard: float [clips, features].
    wanted: bool [clips, labels].

  Returns:
    float [clips, labels].
  """
  part = _parts(len(heard))
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
) -> dict[str, Measure]:
  """ROC-AUC of each label.

  Args:
    heard: float [clips, features].
    known: `labels` of the clips.

  Returns:
    The area by label, with its interval over the clips; with the key "mean",
    the mean over all labels. 0.5 is chance.
  """
  wanted = np.stack([*known.values()], 1)
  found, part = scores(heard, wanted), _parts(len(heard))
  times = bootstrap.times(len(heard))
  by_label = {
    name: retrieval.roc_auc(found[:, k], wanted[:, k], times, part)
    for k, name in enumerate(known)
  }
  # A sample may lack clips with a label, or without it.
  mean = bootstrap.finite_mean(np.stack([*by_label.values()]), 0)
  return {
    name: bootstrap.of_times(areas)
    for name, areas in {"mean": mean, **by_label}.items()
  }
