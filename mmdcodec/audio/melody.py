"""The tune of music: the strongest pitch class in every stretch of it.

What MusicGen hears of a melody (Copet et al. 2023, arXiv 2306.05284, 3.1): of
each frame of the chromagram nothing but the class with the most energy, so that
a model can't copy the recording. Demucs, which takes drums and bass out before,
is not here: music in which they are loud is better separated first.
"""

import numpy as np

from mmdcodec.audio import transforms
from mmdcodec.errors import UserError

# MusicGen's, at which data sets of tokens keep melodies: 7.8 frames a second.
RATE, WINDOW, HOP, CLASSES = 32_000, 16_384, 4096, 12

# Frames that are transformed at once: of MusicGen's windows 4 MB of audio.
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

  Frame t is centred on sample `t * hop`; beyond its ends the music is thought
  mirrored, as in the public models. Music shorter than a window stands in the
  middle of one.

  Args:
    x: float audio, [samples] or [samples, channels].
    rate: Hz of x: that of the model, or the classes are not those it knows.
    window: samples of a frame; half a second tells low notes apart.
    hop: samples between frames.
    classes: in an octave.

  Returns:
    int32 [max(samples, window) // hop + 1]: 0 is C; 0 for silence too.

  Raises:
    UserError: x is no audio, empty, or not finite.
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
  # In NumPy: it is done once for a clip, and JAX would compile for each length.
  found = []
  for start in range(0, len(frames), _BLOCK):
    spectrum = np.fft.rfft(frames[start : start + _BLOCK] * weights)
    energy = spectrum.real**2 + spectrum.imag**2
    found.append(np.argmax(energy.astype(np.float32) @ filters, axis=1))
  return np.concatenate(found).astype(np.int32)


def fit(classes: np.ndarray, frames: int) -> np.ndarray:
  """A melody of the length that a model takes: begun again, or cut.

  Args:
    classes: int [..., frames], at least one.
    frames: wanted.

  Returns:
    int [..., frames].
  """
  return classes[..., np.arange(frames) % classes.shape[-1]]
