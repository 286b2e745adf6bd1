"""Formats of audio files: suffixes, containers, codings and their rates."""

import os

from mmdcodec.audio.resampling import checked_rate
from mmdcodec.errors import UserError
from mmdcodec.store import paths

# Suffix of files to write -> (container, coding) by libsndfile's names.
_FORMATS = {
  ".wav": ("WAV", "PCM_16"),
  ".flac": ("FLAC", "PCM_16"),
  ".ogg": ("OGG", "VORBIS"),
  ".oga": ("OGG", "VORBIS"),
  ".opus": ("OGG", "OPUS"),
  ".mp3": ("MP3", "MPEG_LAYER_III"),
  ".aif": ("AIFF", "PCM_16"),
  ".aiff": ("AIFF", "PCM_16"),
}
SUFFIXES = tuple(_FORMATS)

# Suffixes of audio that this package reads.
READABLE = (
  *SUFFIXES,
  *(".aifc", ".au", ".caf", ".mp2", ".rf64", ".snd", ".w64", ".wave"),
)

# Suffixes of audio that this package cannot read.
UNSUPPORTED = (
  *(".m4a", ".m4b", ".mp4", ".aac", ".alac", ".wma", ".wv", ".ape", ".webm"),
  *(".mka", ".mpc", ".tta", ".tak", ".ac3", ".dts", ".amr", ".dsf", ".dff"),
  *(".ra", ".spx"),
)

# The only rates of these coders.
_CODER_RATES = {
  "OPUS": (8000, 12000, 16000, 24000, 48000),
  "MPEG_LAYER_III": (
    *(8000, 11025, 12000, 16000, 22050),
    *(24000, 32000, 44100, 48000),
  ),
}

# libvorbis accepts any rate up to this one; far above, it crashes.
_VORBIS_MAX_RATE = 192_000


def encoding_of(
  path: str | os.PathLike, *, rate: int, subtype: str | None = None
) -> tuple[str, str, int]:
  """Returns the container, coding and rate of an audio file to write.

  Opus and MP3 support few rates, so the next higher one is chosen. Vorbis
  supports up to 192 kHz.

  Args:
    path: path of the file; its folder must exist.
    rate: sample rate of the audio in Hz.
    subtype: libsndfile's name of the coding; None means the suffix's default.

  Returns:
    libsndfile's names of container and coding, and the rate of the file in Hz.

  Raises:
    UserError: unknown suffix, folder missing, or an impossible rate.
  """
  path = paths.of(path)
  suffix = path.suffix.lower()
  if suffix not in _FORMATS:
    raise UserError(
      f"{path}: cannot write {suffix or 'a file without suffix'}; use one of"
      f" {' '.join(SUFFIXES)}."
    )
  if not paths.has_folder(path):
    raise UserError(f"{path}: the folder {path.parent} does not exist.")
  container, coding = _FORMATS[suffix]
  coding = (subtype or coding).upper()
  to = rate = checked_rate(rate)
  if coding == "VORBIS":
    to = min(rate, _VORBIS_MAX_RATE)
  elif rates := _CODER_RATES.get(coding):
    to = min((r for r in rates if r >= rate), default=rates[-1])
  return container, coding, to
