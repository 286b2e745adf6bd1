"""Token data sets: the codes of audio records, for language models.

A token data set is a folder like an audio data set (see `records.py`). Each
record has the codes of one audio record, in the same order, its melody (see
`audio.melody`), and its labels: caption, tags, path and position. The summary
identifies the tokenizer by the hash of its weights, because codes of another
tokenizer have other meanings, and the audio by a fingerprint.
"""

import os

import numpy as np
import tensorflow_datasets as tfds

from mmdcodec.data.record_source import Records, labels
from mmdcodec.tokenizers.interface import Tokenizer

# 16 bits suffice for any codebook (see `record_encoder.check_tokenizer`).
_CODES = np.dtype("<u2")

# Fewest frames, and least share of equal ones, of a record called constant.
_LEAST, _CONSTANT = 8, 0.9


def features() -> tfds.features.FeaturesDict:
  """Returns the TFDS features of a record."""
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
  """Makes a record.

  Args:
    codes: int [frames, codebooks], each less than 65536.
    melody: result of `audio.melody.pitch_classes`, at its own rate.
    audio: the encoded audio record (see `record_source.Source`).
  """
  return {
    # C order, little-endian: the codebooks of a frame are adjacent.
    "codes": codes.astype(_CODES).tobytes(),
    "frames": len(codes),
    "melody": melody.astype(np.uint8).tobytes(),
    **{name: audio[name] for name in ("caption", "tags", "path", "position")},
  }


def is_constant(record: dict) -> bool:
  """Whether nearly all frames of a record have the same codes, as in silence.

  The first and last frames may differ, where the audio begins and ends.
  """
  codes = np.frombuffer(record["codes"], _CODES)
  codes = codes.reshape(record["frames"], -1)
  if len(codes) < _LEAST:
    return False
  same = (codes == codes[len(codes) // 2]).all(axis=1)
  return bool(same.mean() >= _CONSTANT)


def describe_tokenizer(tokenizer: Tokenizer) -> dict:
  """Describes a tokenizer for the summary of a token data set."""
  return {
    "tokenizer": tokenizer.kind,
    "hash": tokenizer.hash,
    "rate": tokenizer.rate,
    "frame_rate": tokenizer.frame_rate,
    "window": tokenizer.window,
    "codebooks": tokenizer.codebooks,
    "codebook_sizes": list(tokenizer.codebook_sizes),
  }


class TokenSource(Records):
  """The records of a token data set by index; thread-safe.

  Attributes:
    tokenizer: kind of the tokenizer that made the codes, such as "codec".
    hash: hash of that tokenizer; see `Tokenizer` for this and the following.
    frame_rate: rows of codes per second.
    window: seconds that a row describes, if rows overlap; else None.
    codebooks: codes in a row.
    codebook_sizes: number of codes in each codebook.
    codebook_size: the largest of them.
  """

  def __init__(self, dataset_dir: str | os.PathLike):
    """Opens a data set; raises UserError if it is not a token data set."""
    super().__init__(dataset_dir, "tokens")
    self.tokenizer, self.hash = self.summary["tokenizer"], self.summary["hash"]
    self.frame_rate = float(self.summary["frame_rate"])
    self.window = self.summary["window"]
    self.codebooks = int(self.summary["codebooks"])
    self.codebook_sizes = tuple(self.summary["codebook_sizes"])
    self.codebook_size = max(self.codebook_sizes)

  def __getitem__(self, index: int) -> dict:
    """Returns a record: `codes` int32 [frames, codebooks], `melody`, labels."""
    feature = self.features(index)
    codes = np.frombuffer(feature["codes"].bytes_list.value[0], _CODES)
    codes = codes.reshape(-1, self.codebooks).astype(np.int32)
    melody = np.frombuffer(feature["melody"].bytes_list.value[0], np.uint8)
    return {
      "codes": codes,
      "melody": melody.astype(np.int32),
      **labels(feature),
    }
