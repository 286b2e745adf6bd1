"""Random access to the records of data sets, and crops of their audio."""

import io
import json
import os
from pathlib import Path

import numpy as np
import soundfile
import soxr

from mmdcodec.audio import files
from mmdcodec.errors import UserError

SUMMARY = "mmdcodec.json"

# Samples (at the lower rate) read on both sides of a crop that is resampled,
# so that its ends are those of the resampled whole.
_MARGIN = 256


# What makes a data set of each kind.
_MADE_BY = {
  "audio": "mmdcodec prepare FOLDER DATASET",
  "tokens": "mmdcodec tokenize DATASET TOKENS --model BUNDLE",
}


def describe(dataset_dir: str | os.PathLike, kind: str | None = None) -> dict:
  """What a data set holds: kind, records, seconds, rate, ...

  Args:
    dataset_dir: its folder.
    kind: which it must be, "audio" or "tokens"; None for either.

  Raises:
    UserError: the folder is not a data set, or one of another kind.
  """
  folder = Path(dataset_dir)
  made_by = _MADE_BY[kind or "audio"]
  try:
    summary = json.loads((folder / SUMMARY).read_text())
  except (OSError, ValueError) as error:
    what = "no such folder" if not folder.is_dir() else "is not a data set"
    raise UserError(
      f"{folder}: {what}; expected one made by `{made_by}`."
    ) from error
  found = summary.setdefault("kind", "audio")
  if kind not in (None, found):
    raise UserError(
      f"{folder}: is a data set of {found}; expected one of {kind}, made by"
      f" `{made_by}`."
    )
  return summary


class Records:
  """The records of a data set by index. Safe to share between threads.

  Reads the shards directly: TFDS's own source decodes every feature, which
  takes longer than to decode a crop.

  Attributes:
    path: the data set.
    summary: what `describe` says of it.
    seconds: length of all records together.
  """

  def __init__(self, dataset_dir: str | os.PathLike, kind: str):
    """Opens a data set of a kind; raises UserError if it is none."""
    from array_record.python import array_record_data_source

    self.summary = summary = describe(dataset_dir, kind)
    self.path = str(dataset_dir)
    self.seconds = float(summary["seconds"])
    shards = sorted(Path(dataset_dir).glob("*-train.array_record-*"))
    self._records = array_record_data_source.ArrayRecordDataSource(
      [str(s) for s in shards]
    )
    if len(self._records) != summary["records"]:
      raise UserError(
        f"{self.path}: {len(self._records)} records are there, expected"
        f" {summary['records']}; copy or prepare the data set again."
      )

  def __len__(self) -> int:
    """Number of records."""
    return len(self._records)

  def features(self, index: int):
    """The features of a record, as protocol buffers by name."""
    from tensorflow_datasets.proto import tf_example_pb2

    record = self._records[int(index)]
    return tf_example_pb2.Example.FromString(record).features.feature


def labels(feature) -> dict:
  """What every record says of its audio: path, caption, tags, position."""
  text = {
    k: feature[k].bytes_list.value[0].decode()
    for k in ("path", "caption", "tags")
  }
  return {"position": feature["position"].float_list.value[0], **text}


class Source(Records):
  """The records of an audio data set.

  Attributes:
    rate: Hz of the records.
    channels: channels of the records.
  """

  def __init__(self, dataset_dir: str | os.PathLike):
    """Opens a data set; raises UserError if it is none of audio."""
    super().__init__(dataset_dir, "audio")
    self.rate = int(self.summary["rate"])
    self.channels = int(self.summary["channels"])

  def __getitem__(self, index: int) -> dict:
    """A record: `audio` is the bytes of a FLAC file, text is str."""
    feature = self.features(index)
    numbers = {
      k: feature[k].int64_list.value[0] for k in ("rate", "channels", "samples")
    }
    audio = feature["audio"].bytes_list.value[0]
    return {"audio": audio, **numbers, **labels(feature)}

  def flac(self, index: int) -> io.BytesIO:
    """The FLAC file in a record."""
    return io.BytesIO(self.features(index)["audio"].bytes_list.value[0])


def crop(
  flac: io.BytesIO, where: float, *, samples: int, rate: int, channels: int
) -> np.ndarray:
  """Decodes a crop of a FLAC file, and nothing else of it.

  Args:
    flac: the file.
    where: in [0, 1), the start as a fraction of all the starts there are.
    samples: length of the crop at `rate`.
    rate: Hz of the crop; audio of another rate is resampled.
    channels: channels of the crop; see `files.mix`.

  Returns:
    float32 `[at most samples, channels]`; shorter if the file is.
  """
  with soundfile.SoundFile(flac) as sound:
    if sound.samplerate == rate:
      start = int(where * max(1, sound.frames - samples + 1))
      if start:
        sound.seek(start)
      x = sound.read(samples, dtype="float32", always_2d=True)
      return x if x.shape[1] == channels else files.mix(x, channels)
    # Starts and ends are on the grid of the records; a sample more than is
    # needed, since the lengths of the two grids do not divide.
    need = -(-samples * sound.samplerate // rate) + 1
    start = int(where * max(1, sound.frames - need + 1))
    margin = _MARGIN * max(1, -(-sound.samplerate // rate))
    begin = max(0, start - margin)
    sound.seek(begin)
    x = sound.read(start - begin + need + margin, "float32", always_2d=True)
    kept = min(need, sound.frames - start)
    lost = round((start - begin) * rate / sound.samplerate)
    length = min(samples, round(kept * rate / sound.samplerate))
    x = soxr.resample(files.mix(x, channels), sound.samplerate, rate)
    return x[lost : lost + length]
