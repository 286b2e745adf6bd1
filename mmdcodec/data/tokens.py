"""Data sets of tokens: the codes of audio records, what language models read.

A data set of tokens is a folder like one of audio (see `records.py`). Each of
its records has the codes of one record of audio, in the same order, its melody
(see `audio.melody`), and what that record says of its music: caption, tags,
path and position. The summary
names the codec by the hash of its weights; codes of another codec mean
something else.
"""

import os

import numpy as np
import tensorflow_datasets as tfds

from mmdcodec.data.source import Records, labels

# Two bytes hold any codebook in use (see `codes.check_codec`).
_CODES = np.dtype("<u2")


def features() -> tfds.features.FeaturesDict:
  """The features of a record, as TFDS describes them."""
  return tfds.features.FeaturesDict(
    {
      "codes": tfds.features.Tensor(shape=(), dtype=np.object_),
      "frames": np.int64,
      "melody": tfds.features.Tensor(shape=(), dtype=np.object_),
      "caption": tfds.features.Text(),
      "tags": tfds.features.Text(),
      "path": tfds.features.Text(),
      "position": np.float32,
    }
  )


def record(codes: np.ndarray, melody: np.ndarray, audio: dict) -> dict:
  """The features of a record.

  Args:
    codes: [frames, codebooks], each less than 65536.
    melody: of `audio.melody.pitch_classes`, at its own rate.
    audio: the record of audio that they are of (see `source.Source`).
  """
  return {
    # C order, little-endian: the codebooks of a frame lie side by side.
    "codes": codes.astype(_CODES).tobytes(),
    "frames": len(codes),
    "melody": melody.astype(np.uint8).tobytes(),
    **{name: audio[name] for name in ("caption", "tags", "path", "position")},
  }


class TokenSource(Records):
  """The records of a token data set by index. Safe to share between threads.

  Attributes:
    codec: hash of the codec that made the codes (`LoadedCodec.hash`).
    codebooks: of the codec.
    codebook_size: codes of each.
    frame_rate: frames per second.
  """

  def __init__(self, dataset_dir: str | os.PathLike):
    """Opens a data set; raises UserError if it is none of tokens."""
    super().__init__(dataset_dir, "tokens")
    self.codec = self.summary["codec"]
    self.codebooks = int(self.summary["codebooks"])
    self.codebook_size = int(self.summary["codebook_size"])
    self.frame_rate = float(self.summary["frame_rate"])

  def __getitem__(self, index: int) -> dict:
    """A record: `codes` int32 [frames, codebooks], `melody`; text is str."""
    feature = self.features(index)
    codes = np.frombuffer(feature["codes"].bytes_list.value[0], _CODES)
    codes = codes.reshape(-1, self.codebooks).astype(np.int32)
    melody = np.frombuffer(feature["melody"].bytes_list.value[0], np.uint8)
    return {
      "codes": codes,
      "melody": melody.astype(np.int32),
      **labels(feature),
    }
