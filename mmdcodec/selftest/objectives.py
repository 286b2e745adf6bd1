"""Checks of the losses of training: of spectra, of discriminators, of codes."""

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np

from mmdcodec.losses import (
  adversarial,
  contrastive,
  contrastive_masked,
  cross_entropy,
  triplet,
)
from mmdcodec.losses import spectral as spectral_losses
from mmdcodec.selftest.check import Check, Devices, both_ways, normal
from mmdcodec.selftest.references import wide
from mmdcodec.selftest.spectra import spectra, triangles

_RATE, _WINDOWS, _MELS = 8000, (32, 64), 6
# Samples of two clips in one batch.
_LENGTHS = (160, 96)
_FLOOR = 1e-5


def _magnitudes(
  x: Any, y: Any, window: int
) -> list[tuple[np.ndarray, np.ndarray]]:
  """Magnitudes [frames, bins] of the clips of both, without their padding."""
  found = [
    [
      np.abs(spectra(row[None, :n, 0], window, window // 4)[0])
      for row, n in zip(wide(clips), _LENGTHS, strict=True)
    ]
    for clips in (x, y)
  ]
  return list(zip(*found, strict=True))


def _mel(x: Any, y: Any, form: str) -> np.ndarray:
  """The mel loss of SoundStream's paper, or of EnCodec's."""
  total = 0.0
  for window in _WINDOWS:
    filters = triangles(_RATE, window, _MELS)
    scale, alpha = 1.0, np.sqrt(window / 2)
    if form == "encodec":
      # Those of white noise are then 1 on the average.
      scale, alpha = np.sqrt(3 / 8 * window), 1.0
    frames = []
    for a, b in _magnitudes(x, y, window):
      a, b = a / scale @ filters, b / scale @ filters
      apart = np.log(a + _FLOOR) - np.log(b + _FLOOR)
      away = np.sqrt((apart**2).sum(1))
      frames.append(np.abs(a - b).sum(1) + alpha * away)
    total += np.concatenate(frames).mean()
  return np.asarray(
    total if form == "soundstream" else total / (2 * len(_WINDOWS))
  )


def _stft(x: Any, y: Any) -> np.ndarray:
  """Spectral convergence and log magnitudes of Parallel WaveGAN."""
  total = 0.0
  for window in _WINDOWS:
    scale, shares, apart = np.sqrt(3 / 8 * window), [], []
    for a, b in _magnitudes(x, y, window):
      a, b = a / scale, b / scale
      shares.append(np.linalg.norm(a - b) / np.linalg.norm(a))
      apart.append(np.abs(np.log((a + _FLOOR) / (b + _FLOOR))))
    total += np.mean(shares) + np.concatenate(apart).mean()
  return np.asarray(total / len(_WINDOWS))


def _samples(x: Any, y: Any) -> np.ndarray:
  """Mean absolute difference of the samples of all clips."""
  apart = [
    np.abs(a[:n] - b[:n]) for a, b, n in zip(x, y, _LENGTHS, strict=True)
  ]
  return np.asarray(np.concatenate(apart).mean())


def of_spectra(devices: Devices) -> dict[str, float]:
  """Of two clips of different lengths."""
  x = normal(2, max(_LENGTHS), 1)
  y = 0.6 * x + 0.3 * normal(*x.shape, seed=1)
  mask: Any = np.arange(x.shape[1]) < np.array(_LENGTHS)[:, None]
  mel = functools.partial(
    spectral_losses.multi_scale_mel, rate=_RATE, windows=_WINDOWS, mels=_MELS,
    mask=mask,
  )  # fmt: skip
  ways: dict[str, tuple[Any, Any]] = {
    "waveform": (
      functools.partial(spectral_losses.waveform_l1, mask=mask), _samples
    ),
    "STFT": (
      functools.partial(
        spectral_losses.multi_scale_stft, windows=_WINDOWS, mask=mask
      ),
      _stft,
    ),
  }  # fmt: skip
  for form in spectral_losses.FORMS:
    ways[f"mel, {form}"] = (
      functools.partial(mel, form=form), functools.partial(_mel, form=form)
    )  # fmt: skip
  found = {}
  for name, (function, reference) in ways.items():
    found |= both_ways(name, function, reference, (x, y), np.ones(()))
  return found


# kind -> what the discriminators pay for a logit of real audio and of fake
# audio, and what the generator pays.
_COSTS: dict[str, Sequence[Any]] = {
  "hinge": (
    lambda x: np.maximum(1 - x, 0), lambda y: np.maximum(1 + y, 0), lambda y: -y
  ),
  "hinge_clamped": (
    lambda x: np.maximum(1 - x, 0),
    lambda y: np.maximum(1 + y, 0),
    lambda y: np.maximum(1 - y, 0),
  ),
  "least_squares": (
    lambda x: (1 - x) ** 2, lambda y: y**2, lambda y: (1 - y) ** 2
  ),
}  # fmt: skip


def of_discriminators(devices: Devices) -> dict[str, float]:
  """Of two discriminators whose outputs differ in size."""
  real = [normal(2, 9, 1), normal(2, 5, 3, 1)]
  fake = [normal(*x.shape, seed=7) for x in real]
  one, found = np.ones(()), {}
  mean = lambda values: np.mean([np.mean(value) for value in values])
  for kind, (of_real, of_fake, of_generator) in _COSTS.items():
    found |= both_ways(
      f"discriminators, {kind}",
      lambda *x, kind=kind: adversarial.discriminator_loss(x[:2], x[2:], kind),
      lambda *x, a=of_real, b=of_fake: (
        mean(map(a, x[:2])) + mean(map(b, x[2:]))
      ),
      (*real, *fake),
      one,
    )
    found |= both_ways(
      f"generator, {kind}",
      lambda *x, kind=kind: adversarial.generator_loss(x, kind),
      lambda *x, cost=of_generator: mean(map(cost, x)),
      fake,
      one,
    )
  for relative in (True, False):

    def matched(*fake: Any, relative: bool = relative) -> Any:
      """Both layers are of one discriminator."""
      return np.mean(
        [
          np.abs(y - x).mean() / (np.abs(x).mean() if relative else 1)
          for x, y in zip(map(wide, real), fake, strict=True)
        ]
      )

    found |= both_ways(
      f"features, {'relative' if relative else 'plain'}",
      lambda *x, relative=relative: adversarial.feature_matching(
        [real], [x], relative
      ),
      matched,
      fake,
      one,
    )
  return found


def of_codes(devices: Devices) -> dict[str, float]:
  """Nats of codes, some of which are missing."""
  random = np.random.default_rng(0)
  tokens: Any = random.integers(0, 12, (2, 7, 3))
  mask: Any = random.random(tokens.shape) < 0.7

  def nats(logits: np.ndarray) -> np.ndarray:
    logits = logits - logits.max(-1, keepdims=True)
    chosen = np.take_along_axis(logits, tokens[..., None], -1)[..., 0]
    return mask * (np.log(np.exp(logits).sum(-1)) - chosen)

  return both_ways(
    "nats",
    lambda logits: cross_entropy.cross_entropy(logits, tokens, mask),
    nats,
    (3 * normal(2, 7, 3, 12),),
  )


def of_pairs(devices: Devices) -> dict[str, float]:
  """Of embeddings of audio and text, by their three definitions."""
  count, found = 9, {}
  # The formulas hold for vectors of any length.
  audio, text = 0.5 * normal(count, 6), 0.5 * normal(count, 6, seed=1)
  scale, bias, own = 4.0, -1.5, np.eye(count, dtype=bool)

  def wanted(audio: Any, text: Any, kind: str) -> Any:
    logits = scale * audio @ text.T
    if kind == "sigmoid":
      signed = np.where(own, 1, -1) * (logits + bias)
      return np.log1p(np.exp(-signed)).sum() / count
    sums = np.exp(logits) * (kind == "softmax" or ~own)
    return np.mean(
      [np.log(sums.sum(axis)) - np.diag(logits) for axis in (0, 1)]
    )

  for kind in contrastive.KINDS:
    found |= both_ways(
      kind,
      functools.partial(
        contrastive.contrastive, scale=scale, bias=bias, kind=kind
      ),
      functools.partial(wanted, kind=kind),
      (audio, text),
      np.ones(()),
    )
  return found


def of_features(devices: Devices) -> dict[str, float]:
  """Of masked frames among others, and of classes on a sphere."""
  batch, count, heat = 2, 11, 0.3
  mask: Any = np.random.default_rng(0).random((batch, count)) < 0.6
  unit = lambda x: x / np.linalg.norm(x, axis=-1, keepdims=True)

  def masked(context: Any, targets: Any) -> np.ndarray:
    near = np.exp(unit(context) @ unit(targets).swapaxes(1, 2) / heat)
    own = np.diagonal(near, axis1=1, axis2=2)
    others = (near * mask[:, None]).sum(2) - own
    return mask * np.log((own + others) / own)

  x = normal(12, 5, seed=2)
  labels: Any = np.arange(12) % 3

  def triplets(x: Any) -> np.ndarray:
    apart = np.linalg.norm(x[:, None] - x, axis=-1)
    found = []
    for a, p in np.argwhere(labels[:, None] == labels):
      if a != p:
        negatives = apart[a, labels != labels[a]]
        farther = negatives[negatives > apart[a, p]]
        negative = farther.min() if farther.size else negatives.max()
        found.append(max(apart[a, p] - negative + 0.2, 0.0))
    return np.mean(found)

  return {
    **both_ways(
      "masked frames",
      lambda x, y: contrastive_masked.contrastive(x, y, mask, heat)[0],
      masked,
      (normal(batch, count, 6), normal(batch, count, 6, seed=1)),
    ),
    **both_ways(
      "triplets",
      lambda x: triplet.semi_hard(x, labels)[0],
      triplets,
      (x / np.linalg.norm(x, axis=1, keepdims=True),),
      np.ones(()),
    ),
  }


CHECKS = (
  # The gradients of logarithms are large where a band is silent.
  Check("spectral losses", "equal their formulas in float64", of_spectra, 1e-4),
  Check(
    "adversarial losses", "equal their formulas in float64", of_discriminators
  ),
  Check("cross-entropy", "be the nats of float64", of_codes),
  Check("contrastive losses", "equal their formulas in float64", of_pairs),
  Check("losses of features", "equal their formulas in float64", of_features),
)
