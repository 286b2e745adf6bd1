"""Reads records of data sets by index, and crops of their audio."""

import contextlib
import hashlib
import io
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import soundfile
import soxr
from google.protobuf.message import DecodeError

from mmdcodec.audio import files, resampling
from mmdcodec.data import shard_files
from mmdcodec.errors import Unreachable, UserError
from mmdcodec.store import inputs, paths, uploads

SUMMARY = "mmdcodec.json"

# Samples (at the lower rate) read on both sides of a crop before it is
# resampled, so that it equals the same crop of the whole recording resampled.
_MARGIN = 256

# Bytes at both ends of a shard that its fingerprint covers.
_FINGERPRINTED = 1 << 16

# The command that makes a data set of each kind.
_MADE_BY = {
  "audio": "mmdcodec prepare FOLDER DATASET",
  "tokens": "mmdcodec tokenize DATASET TOKENS --model BUNDLE",
}

# What a summary must hold, by kind.
_NUMBERS = {
  "audio": ("records", "seconds", "rate", "channels"),
  "tokens": ("records", "seconds", "rate", "frame_rate", "codebooks"),
}
# The feature that tells the kind of a record.
_CONTENTS = {"audio": "audio", "tokens": "codes"}


def describe(dataset_dir: str | os.PathLike, kind: str | None = None) -> dict:
  """Reads the summary of a data set: kind, records, seconds, rate, ...

  Args:
    dataset_dir: folder of the data set.
    kind: required kind, "audio" or "tokens"; None for either.

  Raises:
    UserError: the folder is not a data set, or has another kind.
  """
  folder = paths.of(dataset_dir)
  made_by = _MADE_BY[kind or "audio"]
  try:
    summary = inputs.read_object(folder / SUMMARY)
  except Unreachable:
    raise
  except UserError as error:
    uploads.check_finished(folder)
    what = "no such folder" if not folder.is_dir() else "is not a data set"
    if (folder / SUMMARY).exists():
      what = f"is damaged ({str(error).removesuffix('.')})"
    raise UserError(
      f"{folder}: {what}; expected one made by `{made_by}`."
    ) from error
  found = summary.setdefault("kind", "audio")
  if found not in ([kind] if kind else [*_MADE_BY]):
    raise UserError(
      f"{folder}: is a data set of {found}; expected one of {kind or 'audio'},"
      f" made by `{made_by}`."
    )
  for name in _NUMBERS[found]:
    value = summary.get(name)
    if not isinstance(value, int | float) or not 0 < value < math.inf:
      _refuse(folder, found, f"{name} in {SUMMARY} is {value!r}")
  _check_list(folder, summary, "shards", str)
  if found == "tokens":
    if "codec" in summary:
      # Written when codecs were the only tokenizers.
      sizes = [summary.get("codebook_size")] * int(summary["codebooks"])
      summary |= {"tokenizer": "codec", "hash": summary.pop("codec")}
      summary |= {"codebook_sizes": sizes, "window": None}
    _check_list(folder, summary, "codebook_sizes", int)
    if len(summary.get("codebook_sizes", ())) != summary["codebooks"]:
      _refuse(folder, found, f"codebook_sizes in {SUMMARY} are too few or many")
    for name in ("tokenizer", "hash"):
      if not isinstance(summary.get(name), str):
        _refuse(folder, found, f"{name} in {SUMMARY} is {summary.get(name)!r}")
    if not isinstance(summary.get("window", ""), int | float | None):
      _refuse(folder, found, f"window in {SUMMARY} is no number or null")
  return summary


def _check_list(folder: Path, summary: dict, name: str, items: type) -> None:
  """Raises UserError if a value is there and is no list of such items."""
  values = summary.get(name, [])
  if not isinstance(values, list) or not all(
    isinstance(value, items) for value in values
  ):
    _refuse(folder, summary["kind"], f"{name} in {SUMMARY} is {values!r:.40}")


def _refuse(folder: Path, kind: str, fault: str) -> NoReturn:
  raise UserError(
    f"{folder}: is damaged ({fault}); expected one made by `{_MADE_BY[kind]}`."
  )


class Records:
  """The records of a data set by index; thread-safe.

  Reads the shards directly because TFDS's own source decodes every feature,
  which takes longer than decoding a crop.

  Attributes:
    path: the data set.
    summary: see `describe`.
    shards: the files of the data set.
    seconds: total length of the records.
  """

  def __init__(self, dataset_dir: str | os.PathLike, kind: str):
    """Opens a data set; raises UserError if it does not have this kind."""
    # Imported before threads read records: TFDS imports its parts when they are
    # first used, and two threads that do so at once may wait for each other.
    from tensorflow_datasets.proto import tf_example_pb2

    inputs.check_name(dataset_dir)
    self._parse = tf_example_pb2.Example.FromString
    self.summary = summary = describe(dataset_dir, kind)
    self.path = str(dataset_dir)
    self.seconds = float(summary["seconds"])
    self._contents = _CONTENTS[kind]
    self._records = shard_files.Shards(
      dataset_dir,
      records=summary["records"],
      marked=summary.get("shards"),
      made_by=_MADE_BY[kind],
    )
    self.shards = self._records.paths

  def __len__(self) -> int:
    """Number of records."""
    return len(self._records)

  def features(self, index: int) -> Mapping[str, Any]:
    """Returns the features of a record, as protocol buffers by name.

    Raises:
      UserError: its shard is damaged.
    """
    record = self._records[int(index)]
    with contextlib.suppress(DecodeError):
      found = self._parse(record).features.feature
      if self._contents in found:
        return found
    return self._records.refuse_record(int(index))


def labels(feature: Mapping[str, Any]) -> dict:
  """Returns the labels in a record: path, caption, tags, position."""
  text = {
    k: feature[k].bytes_list.value[0].decode()
    for k in ("path", "caption", "tags")
  }
  return {"position": feature["position"].float_list.value[0], **text}


class Source(Records):
  """The records of an audio data set.

  Attributes:
    rate: sample rate of the records in Hz.
    channels: channels of the records.
  """

  def __init__(self, dataset_dir: str | os.PathLike):
    """Opens a data set; raises UserError if it is not an audio data set."""
    super().__init__(dataset_dir, "audio")
    self.rate = int(self.summary["rate"])
    self.channels = int(self.summary["channels"])

  def __getitem__(self, index: int) -> dict:
    """Returns a record: `audio` holds the bytes of a FLAC file, text is str."""
    feature = self.features(index)
    numbers = {
      k: feature[k].int64_list.value[0] for k in ("rate", "channels", "samples")
    }
    audio = feature["audio"].bytes_list.value[0]
    return {"audio": audio, **numbers, **labels(feature)}

  def fingerprint(self) -> str:
    """Hashes sizes and both ends of all shards to 16 hex digits."""
    digest = hashlib.sha256()
    for shard in self.shards:
      size = shard.stat().st_size
      digest.update(f"{size} ".encode())
      with shard.open("rb") as file:
        digest.update(file.read(_FINGERPRINTED))
        file.seek(max(0, size - _FINGERPRINTED))
        digest.update(file.read())
    return digest.hexdigest()[:16]

  def flac(self, index: int) -> io.BytesIO:
    """Returns the FLAC file in a record."""
    return io.BytesIO(self.features(index)["audio"].bytes_list.value[0])


def crop(
  flac: io.BytesIO, where: float, *, samples: int, rate: int, channels: int
) -> np.ndarray:
  """Decodes only a crop of a FLAC file.

  Args:
    flac: the file.
    where: in [0, 1), the start as a fraction of all possible starts.
    samples: length of the crop at `rate`.
    rate: sample rate of the crop in Hz; other audio is resampled.
    channels: channels of the crop; see `files.mix`.

  Returns:
    float32 `[at most samples, channels]`; shorter if the file is shorter, but
    never empty.
  """
  with soundfile.SoundFile(flac) as sound:
    if sound.samplerate == rate:
      start = int(where * max(1, sound.frames - samples + 1))
      if start:
        sound.seek(start)
      x = sound.read(samples, dtype="float32", always_2d=True)
      return x if x.shape[1] == channels else files.mix(x, channels)
    # Start and end are whole samples of the record; one sample more than needed
    # because the rates need not divide.
    need = -(-samples * sound.samplerate // rate) + 1
    start = int(where * max(1, sound.frames - need + 1))
    margin = _MARGIN * max(1, -(-sound.samplerate // rate))
    begin = max(0, start - margin)
    sound.seek(begin)
    x = sound.read(start - begin + need + margin, "float32", always_2d=True)
    kept = min(need, sound.frames - start)
    lost = round((start - begin) * rate / sound.samplerate)
    length = max(1, min(samples, round(kept * rate / sound.samplerate)))
    x = files.mix(x, channels)
    y = soxr.resample(x, sound.samplerate, rate)[lost:]
    return resampling.fit_resampled(y, x, length)
