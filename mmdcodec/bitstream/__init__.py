"""The `.mmdc` file: the codes of one piece of audio, small and safe.

Codes are written in chunks of some seconds, packed or entropy coded, each with
checksums and each decodable by itself (`header`, `chunk`). So a file can be
written to a pipe (`writer`), read from any second on, and read around damage
(`reader`). `write` and `read` do all at once for those who hold all codes
(`whole`). EnCodec's own files are read as well (`ecdc`).
"""

from mmdcodec.bitstream.complete_stream import (
  CHUNK_SECONDS,
  chunk_frames,
  drop_codebooks,
  header_for,
  header_of,
  read,
  recode,
  to_bytes,
  write,
)
from mmdcodec.bitstream.header import CODINGS, MAGIC, SUFFIX, VERSION, Header
from mmdcodec.bitstream.in_memory import Held, Piece
from mmdcodec.bitstream.packing import (
  code_bits,
  pack_codes,
  packed_bytes,
  unpack_codes,
)
from mmdcodec.bitstream.reader import Reader, opened
from mmdcodec.bitstream.stream import Stream
from mmdcodec.bitstream.writer import Writer, create

__all__ = [
  "CHUNK_SECONDS",
  "CODINGS",
  "MAGIC",
  "SUFFIX",
  "VERSION",
  "Header",
  "Held",
  "Piece",
  "Reader",
  "Stream",
  "Writer",
  "chunk_frames",
  "code_bits",
  "create",
  "drop_codebooks",
  "header_for",
  "header_of",
  "opened",
  "pack_codes",
  "packed_bytes",
  "read",
  "recode",
  "to_bytes",
  "unpack_codes",
  "write",
]
