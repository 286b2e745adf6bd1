"""Conversion of audio in any accepted form to a list of clips."""

from typing import Any

import numpy as np

from mmdcodec.audio import levels
from mmdcodec.errors import UserError


def clip_list(audio: Any, name: str) -> list[np.ndarray]:
  """Converts audio in any accepted form to a list of clips.

  Args:
    audio: [samples], [samples, channels], [batch, samples, channels], or a list
      of the first two.
    name: name of the audio in errors.

  Returns:
    Clips, each float32 [samples, channels].

  Raises:
    UserError: the audio has another shape, is empty, a path, or not audio (see
      `levels.check`).
  """
  if not isinstance(audio, list | tuple):
    audio = levels.as_floats(audio, name)
    audio = list(audio) if audio.ndim == 3 else [audio]
  clips = [levels.as_floats(clip, name) for clip in audio]
  clips = [clip[:, None] if clip.ndim == 1 else clip for clip in clips]
  if not clips or any(clip.ndim != 2 or not clip.size for clip in clips):
    raise UserError(
      f"{name} must be [samples], [samples, channels], [batch, samples,"
      " channels] or a list of such, and not empty."
    )
  for clip in clips:
    levels.check(clip, name)
  return clips
