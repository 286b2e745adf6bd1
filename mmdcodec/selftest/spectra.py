"""Checks of the transforms between audio and spectra."""

import jax
import numpy as np

from mmdcodec.audio import transforms
from mmdcodec.nn import griffin_lim, mdct
from mmdcodec.selftest.check import Check, Devices, normal, off
from mmdcodec.selftest.references import wide

# Samples of the windows, short and long.
_WINDOWS = (256, 2048)


def spectra(x: np.ndarray, window: int, hop: int) -> np.ndarray:
  """STFT in float64, centred frames of a periodic Hann window."""
  x = np.pad(wide(x), ((0, 0), (window // 2, window // 2)))
  hann = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(window) / window)
  starts = range(0, x.shape[1] - window + 1, hop)
  return np.stack([np.fft.rfft(x[:, s : s + window] * hann) for s in starts], 1)


def stft(devices: Devices) -> dict[str, float]:
  """Of windows that a TPU transforms by a matrix product too."""
  x = normal(2, 6000)
  return {
    f"a window of {window}": off(
      jax.jit(
        lambda x, window=window: transforms.stft(
          x, window=window, hop=window // 4
        )
      )(x),
      spectra(x, window, window // 4),
    )
    for window in _WINDOWS
  }


def triangles(rate: int, window: int, bands: int) -> np.ndarray:
  """Mel filters [bins, bands] of Slaney's definition."""
  scale = lambda hz: (
    hz * 3 / 200 if hz < 1000 else 15 + 27 * np.log(hz / 1000) / np.log(6.4)
  )
  back = lambda m: (
    m * 200 / 3 if m < 15 else 1000 * np.exp((m - 15) * np.log(6.4) / 27)
  )
  edges = [back(m) for m in np.linspace(0, scale(rate / 2), bands + 2)]
  hertz = np.arange(window // 2 + 1) * rate / window
  return np.stack(
    [
      np.interp(hertz, edges[i : i + 3], [0, 2 / (edges[i + 2] - edges[i]), 0])
      for i in range(bands)
    ],
    1,
  )


def mel(devices: Devices) -> dict[str, float]:
  """Mel spectrograms."""
  x, rate, window, bands = normal(2, 4000), 16000, 1024, 20
  filters = triangles(rate, window, bands)
  wanted = np.abs(spectra(x, window, 256)) ** 2 @ filters
  found = jax.jit(
    lambda x: transforms.mel(x, rate=rate, window=window, hop=256, mels=bands)
  )(x)
  return {"the energy of bands": off(found, wanted)}


def lapped(devices: Devices) -> dict[str, float]:
  """MDCT and MDST inside of a clip by their definitions, and the inverse."""
  hop, count = 64, 6
  x = normal(2, count * hop, seed=1)
  cosines, sines = jax.jit(lambda x: mdct.mclt(x, hop))(x)
  n, k = np.arange(2 * hop)[:, None], np.arange(hop)
  window = np.sin(np.pi / (2 * hop) * (n + 0.5))
  angle = np.pi / hop * (n + 0.5 + hop / 2) * (k + 0.5)
  wanted = [
    np.stack(
      [
        wide(x[:, t * hop - hop // 2 : (t + 1) * hop + hop // 2])
        @ (window * np.sqrt(2 / hop) * turn(angle))
        for t in range(1, count - 1)
      ],
      1,
    )
    for turn in (np.cos, np.sin)
  ]
  again = jax.jit(lambda c: mdct.imdct(c, hop))(cosines)
  return {
    "the MDCT": off(cosines[:, 1:-1], wanted[0]),
    "the MDST": off(sines[:, 1:-1], wanted[1]),
    "the inverse": off(again, x),
  }


def phases(devices: Devices) -> dict[str, float]:
  """Two iterations of Griffin-Lim with momentum."""
  hop, count, turns = 16, 8, 2
  step, size = hop // 2, 4 * hop
  margin = 7 * hop // 4
  window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(size) / size)

  def spectra(y: np.ndarray) -> np.ndarray:
    y = np.pad(y, margin)
    return np.stack(
      [np.fft.rfft(y[s : s + size] * window) for s in starts]
    )

  def audio(spectrum: np.ndarray) -> np.ndarray:
    total = np.zeros(count * hop + 2 * margin)
    weight = np.zeros_like(total)
    for s, row in zip(starts, spectrum, strict=True):
      total[s : s + size] += np.fft.irfft(row, size) * window
      weight[s : s + size] += window**2
    return (total / np.maximum(weight, 1e-3))[margin:-margin]

  starts = range(0, 2 * count * step, step)
  x = wide(normal(count * hop, seed=2))
  heard = np.abs(spectra(x))
  unit = np.where(np.arange(size // 2 + 1) % 2, -1.0, 1.0) + 0j
  before = np.zeros(1)
  for _ in range(turns):
    now = spectra(audio(heard * unit))
    unit = now + 0.99 * (now - before)
    unit, before = unit / np.abs(unit), now
  found = jax.jit(
    lambda m: griffin_lim.griffin_lim(m[None], hop, turns)[0]
  )(np.float32(heard))
  return {"the audio": off(found, audio(heard * unit))}


CHECKS = (
  Check("STFT", "equal a Fourier transform in float64", stft),
  Check("mel", "equal sums of triangles in float64", mel),
  Check("MDCT", "equal its definition in float64 and be inverted", lapped),
  # A phase where there is hardly any energy turns with the last bit.
  Check("Griffin-Lim", "equal the same iterations in float64", phases, 1e-4),
)
