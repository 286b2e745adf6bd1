"""Classifiers that recognize traits of built-in music in audio.

The tags of built-in music (`mmdcodec.audio.synth`) describe each song. A linear
classifier per trait learns from such songs, to check whether music generated
from a prompt has the traits that the prompt describes.
"""

import functools
from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from sklearn import linear_model, pipeline, preprocessing

from mmdcodec.audio import transforms
from mmdcodec.evaluate import pairing

# Name -> trait from the tags of a song. Major and minor are left out: trained
# on 300 songs, these classifiers were right for 47% of 96 others.
TRAITS = {
  "drums": lambda tags: "with" if tags["drums"] else "without",
  "bass": lambda tags: "with" if tags["bass"] else "without",
  "chords": lambda tags: "with" if tags["chords"] else "without",
  "speed": lambda tags: tags["speed"],
  "melody": lambda tags: tags["family"],
}
_HOP, _WINDOW = 0.02, 0.06  # seconds
_BANDS, _GROUPS = 64, 4
# Seconds between beats: 40 to 240 beats per minute.
_PERIODS = (0.25, 1.5)


def of_songs(tags: Sequence[Mapping]) -> dict[str, list[str]]:
  """Returns the traits of songs from tags: {trait: value of each song}."""
  return {name: [of(each) for each in tags] for name, of in TRAITS.items()}


def features(x: np.ndarray, rate: int) -> np.ndarray:
  """Computes features for the linear classifiers.

  Args:
    x: [clips, samples].
    rate: Hz.

  Returns:
    float32 [clips, features]: mean and standard deviation of level and rise in
    level of each mel band (dB), and the autocorrelation of the rise in groups
    of bands, by lag.
  """
  # One clip at a time: a batch of spectrograms may not fit in memory.
  clips = np.asarray(x, np.float32)
  return np.stack([np.asarray(_features(clip, rate)) for clip in clips])


@functools.partial(jax.jit, static_argnums=1)
def _features(x: jax.Array, rate: int) -> jax.Array:
  """Computes `features` of one clip [samples]."""
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

  def __init__(
    self, heard: np.ndarray, traits: Mapping[str, Sequence[str]]
  ) -> None:
    """Trains the classifiers.

    Args:
      heard: `features` of the songs.
      traits: their traits, from `of_songs`. A trait with the same value in all
        songs cannot be learned and is left out.
    """
    self._fitted: dict[str, pipeline.Pipeline] = {}
    for name, values in traits.items():
      if len(set(values)) < 2:
        continue
      # Leave-one-out cross-validation chooses the regularisation.
      classifier = linear_model.RidgeClassifierCV(np.logspace(0, 5, 11))
      fitted = pipeline.make_pipeline(
        preprocessing.StandardScaler(), classifier
      )
      self._fitted[name] = fitted.fit(heard, values)

  def __call__(self, heard: np.ndarray) -> dict[str, list[str]]:
    """Classifies clips by their `features`: {trait: value of each clip}."""
    return {
      name: fitted.predict(heard).tolist()
      for name, fitted in self._fitted.items()
    }


def agreement(
  told: Sequence[str], heard: Sequence[str], *, shuffles: int = 10_000
) -> dict[str, float]:
  """Measures how often prompt and audio agree in a trait.

  Args:
    told: value of the trait in the prompt of each clip.
    heard: value of the trait in the audio of each clip, by the classifier.
    shuffles: number of random pairings for the null distribution.

  Returns:
    `share`: share of the clips that agree. `chance`: the same over all pairs of
    one clip's prompt and another clip's audio. `p`: share of random pairings
    (including the actual one) in which at least as many agree.
  """
  same = np.array(told)[:, None] == np.array(heard)
  found = pairing.measure(same, shuffles=shuffles)
  return {"share": found.own, "chance": found.chance, "p": found.p}
