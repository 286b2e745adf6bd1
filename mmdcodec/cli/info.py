"""`mmdcodec info`: what a model, a coded file or a data set is."""

import os
import pathlib

from mmdcodec import text
from mmdcodec.errors import UserError

HELP = "describe a bundle, a training workdir, a .mmdc file or a data set"
EXAMPLE = "mmdcodec info bundles/small"


def add_arguments(parser):
  """Adds the verb's arguments."""
  parser.add_argument("path", metavar="BUNDLE|WORKDIR|FILE.mmdc|DATASET")


def run(args):
  """Prints a table."""
  path = pathlib.Path(args.path)
  if path.is_file():
    print(describe_file(path))
  elif (path / "config.json").is_file():
    print(describe_model(path))
  elif path.is_dir():
    print(describe_dataset(path))
  else:
    raise UserError(f"{path}: no such file or folder.")


def describe_file(path: pathlib.Path) -> str:
  """A table of what a `.mmdc` file holds, and of what is wrong with it.

  Raises:
    UserError: it is none, or nothing is left of it.
  """
  from mmdcodec import bitstream
  from mmdcodec.cli import common

  try:
    with bitstream.opened(path) as reader:
      reader.check()
      return _describe(path, reader)
  except UserError as error:
    try:
      with bitstream.opened(path, recover=True) as reader:
        rows = [("DAMAGED", words) for words in reader.damage]
        print(_describe(path, reader))
        print(common.format_table(None, rows))
    except UserError:
      pass
    raise error


def _describe(path: pathlib.Path, reader) -> str:
  from mmdcodec.cli import common

  header, size = reader.header, path.stat().st_size
  seconds = reader.samples / header.rate
  rows = [
    ("coded audio", f"{path} (.mmdc version {reader.version})"),
    ("duration", text.duration(seconds)),
    ("sample rate", f"{header.rate} Hz"),
    ("channels", f"{header.channels}"),
    ("frames", f"{reader.frames} at {header.frame_rate:g} Hz"),
    ("codebooks", f"{header.codebooks} x {header.codebook_size}"),
    ("coding", header.coding),
  ]
  if seconds:
    raw = reader.frames * header.raw_bits
    rows += [
      ("bit rate of raw codes", f"{raw / seconds / 1000:.2f} kbps"),
      ("bit rate of the file", f"{8 * size / seconds / 1000:.2f} kbps"),
      ("size / raw codes", f"{100 * 8 * size / raw:.1f}%"),
    ]
  length = text.duration(reader.time(header.chunk_frames))
  rows += [
    ("chunks", f"{reader.chunks} of at most {length}"),
    ("scales", "yes" if header.scaled else "no"),
    ("model", header.model),
    ("size", common.bytes_text(size)),
  ]
  return common.format_table(None, rows)


def describe_model(path: pathlib.Path) -> str:
  """A table of a bundle or workdir, then the bit rate for each codebook count.

  Raises:
    UserError: there is no model in the folder.
  """
  import jax

  import mmdcodec
  from mmdcodec import bitstream, bundle
  from mmdcodec.cli import common

  codec = mmdcodec.load(path)
  model, training = codec.model, codec.config.get("training") or {}
  is_bundle = (path / bundle.WEIGHTS_FILE).is_file()
  count = sum(leaf.size for leaf in jax.tree.leaves(codec.variables["params"]))
  rows = [
    ("bundle" if is_bundle else "workdir", str(path)),
    ("kind", str(codec.config["kind"])),
    ("model", codec.hash),
    ("sample rate", f"{codec.rate} Hz"),
    ("channels", f"{codec.channels}"),
    ("frame rate", f"{codec.frame_rate:g} Hz (stride {model.stride})"),
    ("codebooks", f"{codec.codebooks} x {model.codebook_size}"),
    ("parameters", f"{count / 1e6:.2f} M"),
    ("size on disk", common.bytes_text(_size(path))),
  ]
  if training.get("step") is not None:
    rows.append(("training steps", f"{training['step']:,}"))
  if source := codec.config.get("source"):
    rows.append(("converted from", source["name"]))
  bits = bitstream.code_bits(model.codebook_size)
  rates = [
    (n, n * bits * codec.frame_rate / 1000)
    for n in range(1, codec.codebooks + 1)
  ]
  return (
    common.format_table(None, rows)
    + "\n\n"
    + common.format_table(("codebooks", "kbps"), rates)
  )


def describe_dataset(path: pathlib.Path) -> str:
  """A table of a data set that `mmdcodec prepare` made.

  Raises:
    UserError: the folder holds none.
  """
  from mmdcodec.cli import common
  from mmdcodec.data import pipeline

  try:
    found = pipeline.describe(path)
  except UserError as error:
    raise UserError(
      f"{path} is no bundle, no training workdir and no data set ({error})"
    ) from None
  rows = [
    ("data set", str(path)),
    ("records", f"{found['records']:,}"),
    ("duration", text.duration(found["seconds"])),
    ("sample rate", f"{found['rate']} Hz"),
    ("channels", f"{found['channels']}"),
    ("size on disk", common.bytes_text(_size(path))),
  ]
  return common.format_table(None, rows)


def _size(path: pathlib.Path) -> int:
  """Bytes of all files in a folder."""
  return sum(
    os.path.getsize(os.path.join(root, name))
    for root, _, names in os.walk(path)
    for name in names
  )
