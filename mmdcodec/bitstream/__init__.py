"""The `.mmdc` file format: the codes of one piece of audio.

A file consists of chunks of several seconds, packed or entropy coded. Each has
checksums and decodes independently, so a file can be written to a pipe, read
from any second on, and read despite damage.

header            settings and limits of a file
chunk, trailer    the other parts of a file; stream holds codes in memory
packing, entropy  two codings: plain bits and entropy coding
writer            writes a file from front to back
reader            reads a file; recovery searches damaged files, in_memory reads
                  codes in memory, version1 reads old files
complete_stream   `write` and `read`: all codes at once
decoding          decodes files to audio in constant memory
ecdc              reads EnCodec's own files
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
from mmdcodec.bitstream.header import CODINGS, MAGIC, SUFFIX, Header
from mmdcodec.bitstream.packing import code_bits, pack_codes, unpack_codes
from mmdcodec.bitstream.reader import Reader, opened
from mmdcodec.bitstream.stream import Stream
from mmdcodec.bitstream.writer import Writer, create

__all__ = [
  "CHUNK_SECONDS",
  "CODINGS",
  "MAGIC",
  "SUFFIX",
  "Header",
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
  "read",
  "recode",
  "to_bytes",
  "unpack_codes",
  "write",
]
