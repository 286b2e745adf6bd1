"""The header of a `.mmdc` file, and its limits.

Version 2, all numbers little-endian:

  "MMDC" | version u8 | flags u8 | header bytes u16 | fields | CRC-32

The CRC covers everything before it. The first eight bytes are the same in
every version, so that an old reader can name a version it does not know.
"""

import dataclasses
import struct
import zlib

from mmdcodec.errors import UserError

MAGIC = b"MMDC"
VERSION = 2
SUFFIX = ".mmdc"
CODINGS = ("raw", "adaptive", "conditional")

PREFIX = struct.Struct("<4sBBH")
CRC = struct.Struct("<I")
_FIELDS = struct.Struct("<IHHIIIIIBB8s")
_BYTES = PREFIX.size + _FIELDS.size

# Limits of plausible streams. A forged header with valid checksums must not
# make a reader allocate memory, so the file size also limits every size.
LIMITS = {
  "rate": (1, 10_000_000),
  "channels": (1, 1024),
  "codebooks": (1, 4096),
  "codebook_size": (2, 1 << 24),
  "stride": (1, 1 << 20),
}
# Maximum number of codes in a chunk.
MAX_CODES = 1 << 20
# Maximum cost of decoding an entropy-coded chunk: its codes times the entries
# in a codebook.
MAX_DECODE_COST = 1 << 28
# Larger codebooks are not entropy coded: a chunk is too short to learn their
# statistics.
MAX_ENTRIES = 1 << 14


def max_frames(codebooks: int, codebook_size: int, coding: str) -> int:
  """Returns the frames in the longest chunk; 0 if not even one frame fits."""
  most = MAX_CODES
  if coding != "raw":
    most = min(most, MAX_DECODE_COST // max(1, codebook_size))
  return most // max(1, codebooks)


def frame_rate(
  rate: int, stride: int, segment_frames: int = 0, segment_hop: int = 0
) -> float:
  """Returns frames per second of audio, including repeats in overlaps."""
  if segment_hop:
    return segment_frames * rate / segment_hop
  return rate / stride


@dataclasses.dataclass(frozen=True)
class Header:
  """Settings of a whole file.

  Attributes:
    rate: sample rate of the codec in Hz.
    channels: channels of the audio.
    codebooks: codes per frame.
    codebook_size: entries in each codebook.
    stride: samples per frame.
    chunk_frames: frames in every chunk except the last.
    segment_frames: frames that share one scale in a codec that works in
      overlapping segments; otherwise 0. Chunks consist of whole segments.
    segment_hop: samples from one such segment to the next; otherwise 0.
    coding: one of `CODINGS`.
    scaled: whether chunks have scales (gains of a normalising codec).
    model: 16 hex digits that identify the weights that made the codes
      (`mmdcodec.tokenizers.loaded_codec.fingerprint`).
  """

  rate: int
  channels: int
  codebooks: int
  codebook_size: int
  stride: int
  chunk_frames: int
  segment_frames: int = 0
  segment_hop: int = 0
  coding: str = "raw"
  scaled: bool = False
  model: str = "0" * 16

  @property
  def frame_rate(self) -> float:
    """Frames per second of audio."""
    return frame_rate(
      self.rate, self.stride, self.segment_frames, self.segment_hop
    )

  @property
  def raw_bits(self) -> int:
    """Bits of a packed frame."""
    return self.codebooks * max(1, (self.codebook_size - 1).bit_length())

  def scales(self, frames: int) -> int:
    """Returns the number of scales in a chunk of `frames` frames."""
    if not self.scaled:
      return 0
    return -(-frames // self.segment_frames) if self.segment_frames else 1

  def max_samples(self, frames: int) -> int:
    """Returns the maximum number of samples in `frames` frames."""
    return frames * self.stride

  def contradiction(self) -> str | None:
    """Describes the first impossible setting; None if all are possible."""
    for name, (low, high) in LIMITS.items():
      if not low <= getattr(self, name) <= high:
        return f"{name} is {getattr(self, name)}, not in [{low}, {high}]"
    if not 1 <= self.chunk_frames * self.codebooks <= MAX_CODES:
      return (
        f"a chunk of {self.chunk_frames} frames holds"
        f" {self.chunk_frames * self.codebooks} codes, not 1 to {MAX_CODES}"
      )
    if bool(self.segment_frames) != bool(self.segment_hop):
      return "segments have frames but no hop, or a hop but no frames"
    if self.segment_frames and (
      self.chunk_frames % self.segment_frames
      or self.segment_hop > self.segment_frames * self.stride
    ):
      return (
        f"segments of {self.segment_frames} frames every {self.segment_hop}"
        f" samples do not fit chunks of {self.chunk_frames} frames"
      )
    if self.coding != "raw" and self.codebook_size > MAX_ENTRIES:
      return (
        f"codebooks of {self.codebook_size} entries are only written raw"
        f" ({self.coding} coding takes up to {MAX_ENTRIES})"
      )
    if self.chunk_frames > max_frames(
      self.codebooks, self.codebook_size, self.coding
    ):
      return (
        f"a chunk of {self.chunk_frames} frames of {self.codebooks} x"
        f" {self.codebook_size} codes is too long for {self.coding} coding"
      )
    return None

  def to_bytes(self) -> bytes:
    """Encodes the header, with its CRC.

    Raises:
      ValueError: the settings contradict each other.
    """
    wrong = self.contradiction()
    model = bytes.fromhex(self.model)
    if wrong or len(model) != 8:
      raise ValueError(wrong or f"model must be 16 hex digits: {self.model!r}")
    data = PREFIX.pack(MAGIC, VERSION, 0, _BYTES) + _FIELDS.pack(
      self.rate,
      self.channels,
      self.codebooks,
      self.codebook_size,
      self.stride,
      self.chunk_frames,
      self.segment_frames,
      self.segment_hop,
      CODINGS.index(self.coding),
      self.scaled,
      model,
    )
    return data + CRC.pack(zlib.crc32(data))


SIZE = _BYTES + CRC.size


def version_of(data: bytes, name: str) -> int:
  """Returns the version of a file that begins with these bytes.

  Args:
    data: the first bytes, at least 8 unless the file is truncated.
    name: name of the file, for messages.

  Raises:
    UserError: it is not a `.mmdc` file, is truncated, or has an unknown
      version.
  """
  if data[:4] != MAGIC:
    raise UserError(
      f"{name} is not a {SUFFIX} file: it does not begin with {MAGIC.decode()};"
      " expected what `mmdcodec encode` wrote."
    )
  if len(data) < PREFIX.size:
    raise UserError(f"{name} is damaged: it ends within its header.")
  version = data[4]
  if version not in (1, VERSION):
    raise UserError(
      f"{name} is a {SUFFIX} file of version {version}; this mmdcodec reads"
      f" versions 1 to {VERSION}, a newer one may read it."
    )
  return version


def parse(data: bytes, name: str) -> Header:
  """Inverse of `Header.to_bytes`.

  Args:
    data: `SIZE` bytes, or fewer if the file is truncated.
    name: name of the file, for messages.

  Raises:
    UserError: the header is damaged.
  """
  damaged = f"{name} is damaged: "
  if len(data) < SIZE:
    raise UserError(damaged + "it ends within its header.")
  if zlib.crc32(data[:_BYTES]) != CRC.unpack_from(data, _BYTES)[0]:
    raise UserError(damaged + "the checksum of its header is wrong.")
  magic, version, flags, length = PREFIX.unpack_from(data)
  if (magic, version, flags, length) != (MAGIC, VERSION, 0, _BYTES):
    raise UserError(damaged + f"its header is not one of version {VERSION}.")
  *numbers, coding, scaled, model = _FIELDS.unpack_from(data, PREFIX.size)
  names = [field.name for field in dataclasses.fields(Header)]
  if coding >= len(CODINGS) or scaled > 1:
    raise UserError(damaged + f"it names coding {coding}, scales {scaled}.")
  sizes = dict(zip(names, numbers, strict=False))
  header = Header(
    **sizes, coding=CODINGS[coding], scaled=bool(scaled), model=model.hex()
  )
  if wrong := header.contradiction():
    raise UserError(damaged + wrong + ".")
  return header
