"""Traits of built-in music, and classifiers that hear them.

Built-in music (`mmdcodec.audio.synth`) knows of each song what its caption
says. From songs with their traits a linear classifier learns to tell each trait
by ear, and can then be asked about music whose traits nobody knows: what a
model made from a prompt.
"""

import functools
from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from sklearn import linear_model, pipeline, preprocessing

from mmdcodec.audio import transforms

# By name, from the tags of a song. Major and minor are not among them: told of
# 300 songs, these classifiers were right about 47% of 96 others.
TRAITS = {
  "drums": lambda tags: "with" if tags["drums"] else "without",
  "bass": lambda tags: "with" if tags["bass"] else "without",
  "chords": lambda tags: "with" if tags["chords"] else "without",
  "speed": lambda tags: tags["speed"],
  "melody": lambda tags: tags["family"],
}
_HOP, _WINDOW = 0.02, 0.06  # seconds
_BANDS, _GROUPS = 64, 4
# Seconds after which a beat comes again: 40 to 240 beats a minute.
_PERIODS = (0.25, 1.5)


def of_songs(tags: Sequence[Mapping]) -> dict[str, list[str]]:
  """The traits of songs: {trait: value of each song}."""
  return {name: [of(each) for each in tags] for name, of in TRAITS.items()}


def features(x: np.ndarray, rate: int) -> np.ndarray:
  """What a linear classifier can hear a trait in.

  Args:
    x: [clips, samples], all of one length.
    rate: Hz.

  Returns:
    float32 [clips, features]: mean and deviation of the level and of its rise
    in each mel band (dB), and how alike the rise of groups of bands is to
    itself some time later (autocorrelation), by that time.
  """
  # One at a time: a batch of spectrograms need not fit in memory.
  return np.stack([np.asarray(_features(clip, rate)) for clip in np.float32(x)])


@functools.partial(jax.jit, static_argnums=1)
def _features(x, rate):
  """`features` of one clip [samples]."""
  level = transforms.log_mel(
    x,
    rate=rate,
    window=round(_WINDOW * rate),
    hop=round(_HOP * rate),
    mels=_BANDS,
    top=60.0,
  )
  rise = jnp.maximum(jnp.diff(level, axis=0), 0.0)
  # Loudness is not a trait.
  level -= level.mean()
  parts = [level.mean(0), level.std(0), rise.mean(0), rise.std(0)]
  groups = rise.reshape(len(rise), _GROUPS, -1).sum(-1)
  groups -= groups.mean(0)
  size = 2 * len(groups)
  power = jnp.abs(jnp.fft.rfft(groups, size, axis=0)) ** 2
  alike = jnp.fft.irfft(power, size, axis=0)
  alike /= jnp.maximum(alike[:1], 1e-9)
  first, last = (round(period / _HOP) for period in _PERIODS)
  return jnp.concatenate([*parts, alike[first : last + 1].ravel()])


class Classifiers:
  """A linear classifier for each trait."""

  def __init__(self, heard: np.ndarray, traits: Mapping[str, Sequence[str]]):
    """Learns from songs.

    Args:
      heard: `features` of the songs.
      traits: of them, see `of_songs`. One that all songs share can't be
        learned and is left out.
    """
    self._fitted = {}
    for name, values in traits.items():
      if len(set(values)) < 2:
        continue
      # Regularised as much as leaving out each song in turn asks for.
      classifier = linear_model.RidgeClassifierCV(np.logspace(0, 5, 11))
      fitted = pipeline.make_pipeline(
        preprocessing.StandardScaler(), classifier
      )
      self._fitted[name] = fitted.fit(heard, values)

  def __call__(self, heard: np.ndarray) -> dict[str, list[str]]:
    """What they take the traits of clips for: {trait: value of each}."""
    return {
      name: fitted.predict(heard).tolist()
      for name, fitted in self._fitted.items()
    }


def agreement(
  told: Sequence[str], heard: Sequence[str], *, shuffles: int = 10_000
) -> dict[str, float]:
  """How often what is heard is what was told.

  Args:
    told: of each clip.
    heard: of each clip.
    shuffles: of the null distribution.

  Returns:
    `share` of the clips that agree; `chance`, the share of all pairs of what
    was told to one clip and heard of another that do; and `p`, in what share of
    random pairings (this one among them) at least as many agree.
  """
  same = np.array(told)[:, None] == np.array(heard)
  count = len(same)
  own = np.trace(same)
  chance = (same.sum() - own) / max(count * (count - 1), 1)
  random, at = np.random.default_rng(0), np.arange(count)
  found = [same[at, random.permutation(count)].sum() for _ in range(shuffles)]
  return {
    "share": float(own / count),
    "chance": float(chance),
    "p": float((1 + np.sum(np.array(found) >= own)) / (1 + shuffles)),
  }
