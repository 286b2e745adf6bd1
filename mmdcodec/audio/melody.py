"""The melody of a clip: the strongest pitch class of each frame.

This is MusicGen's melody condition (Copet et al. 2023, arXiv 2306.05284, 3.1).
It keeps only the strongest class of each frame of the chromagram, so
that a model cannot copy the recording. MusicGen first removes drums and bass
with Demucs, which is not included: if they are loud, separate them beforehand.
"""

import numpy as np

from mmdcodec.audio import transforms
from mmdcodec.errors import UserError

# MusicGen's values, which token data sets use too: 7.8 frames per second.
RATE, WINDOW, HOP, CLASSES = 32_000, 16_384, 4096, 12

# Frames transformed at once: 4 MB of audio with MusicGen's windows.
_BLOCK = 64


def pitch_classes(
  x: np.ndarray,
  rate: int,
  *,
  window: int = WINDOW,
  hop: int = HOP,
  classes: int = CLASSES,
) -> np.ndarray:
  """The strongest pitch class around every `hop` samples.

  Frame t is centred on sample `t * hop`. The ends are padded by reflection, as
  in the public models, and music shorter than a window is centred in one.

  Args:
    x: float audio, [samples] or [samples, channels].
    rate: Hz of x; must equal the rate of the model's melody.
    window: samples per frame; half a second separates low notes.
    hop: samples between frames.
    classes: pitch classes in an octave.

  Returns:
    int32 [max(samples, window) // hop + 1]; 0 is C, and also silence.

  Raises:
    UserError: x is not audio, empty, or not finite.
  """
  x = np.asarray(x, np.float32)
  if x.ndim not in (1, 2) or not x.size or not np.isfinite(x).all():
    raise UserError(
      f"a melody has shape {x.shape}; expected audio [samples] or [samples,"
      " channels], not empty and finite."
    )
  if x.ndim == 2:
    x = x.mean(axis=1)
  short = max(0, window - len(x))
  x = np.pad(x, (short // 2, short - short // 2))
  x = np.pad(x, window // 2, mode="reflect")
  frames = np.lib.stride_tricks.sliding_window_view(x, window)[::hop]
  weights = transforms.hann(window).astype(np.float32)
  filters = transforms.chroma_filters(rate, window, classes)
  # NumPy, because JAX would recompile for every clip length.
  found = []
  for start in range(0, len(frames), _BLOCK):
    spectrum = np.fft.rfft(frames[start : start + _BLOCK] * weights)
    energy = spectrum.real**2 + spectrum.imag**2
    found.append(np.argmax(energy.astype(np.float32) @ filters, axis=1))
  return np.concatenate(found).astype(np.int32)
