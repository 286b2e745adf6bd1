"""`mmdcodec info`: describe a model, a coded file or a data set."""

import argparse
import pathlib
from typing import Any

from mmdcodec import bounds, formatting, packaged
from mmdcodec.bounds import LARGEST, list_of, mapping, number, whole
from mmdcodec.cli import info_run
from mmdcodec.errors import UserError
from mmdcodec.store import inputs, paths

HELP = "describe a model, a training workdir, a .mmdc file or a data set"
EXAMPLE = (
  "mmdcodec info small\n"
  "  mmdcodec info song.mmdc\n"
  "  mmdcodec info data/music"
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
  """Adds the verb's arguments."""
  parser.add_argument(
    "path",
    metavar="PATH",
    help="packaged model, bundle, workdir, .mmdc file, data set or token set",
  )


def run(args: argparse.Namespace) -> int:
  """Prints the description."""
  path = paths.of(args.path)
  if not path.exists():
    shipped = packaged.find(args.path)
    if shipped is None:
      raise UserError(
        f"{path}: no such file or folder, and the packaged models are"
        f" {', '.join(packaged.names())}."
      )
    path = shipped
  if not path.is_dir():
    print(describe_file(inputs.check(path)))
  elif (path / "config.json").is_file():
    about_run = info_run.describe(path)
    try:
      print(describe_model(path), end="\n\n" if about_run else "\n")
    finally:  # even if there is no checkpoint yet
      if about_run:
        print(about_run)
  else:
    from mmdcodec.data import dataset_folder

    folders = dataset_folder.members(path) or [path]
    print("\n\n".join(describe_dataset(folder) for folder in folders))
  return 0


def describe_file(path: pathlib.Path) -> str:
  """Describes the contents of a `.mmdc` file, and any damage.

  Raises:
    UserError: it is not a `.mmdc` file, or it is damaged.
  """
  from mmdcodec import bitstream

  try:
    with bitstream.opened(path) as reader:
      reader.check()
      return _describe(path, reader)
  except UserError as error:
    try:
      with bitstream.opened(path, recover=True) as reader:
        rows = [("DAMAGED", words) for words in reader.damage]
        print(_describe(path, reader))
        print(formatting.table(None, rows))
    except UserError:
      pass
    raise error


def _describe(path: pathlib.Path, reader: Any) -> str:
  header, size = reader.header, path.stat().st_size
  seconds = reader.samples / header.rate
  rows = [
    ("coded audio", f"{path} (.mmdc version {reader.version})"),
    ("duration", formatting.duration(seconds)),
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
  length = formatting.duration(reader.time(header.chunk_frames))
  rows += [
    ("chunks", f"{reader.chunks} of at most {length}"),
    ("scales", "yes" if header.scaled else "no"),
    ("model", header.model),
    ("size", formatting.file_size(size)),
  ]
  return formatting.table(None, rows)


def describe_model(path: pathlib.Path) -> str:
  """Describes a bundle or workdir, and its bit rate by number of codebooks.

  Raises:
    UserError: there is no model in the folder.
  """
  import mmdcodec
  from mmdcodec import bitstream, bundle
  from mmdcodec.cli import common
  from mmdcodec.generation.musiclm import LoadedMusicLM
  from mmdcodec.generation.stage import Stage
  from mmdcodec.tokenizers.clustered import Clustered
  from mmdcodec.tokenizers.interface import AudioCodec, Tokenizer

  loaded = mmdcodec.load(path)
  training = loaded.config.get("training") or {}
  if isinstance(loaded, Stage):
    return _describe_stage(path, loaded)
  if isinstance(loaded, LoadedMusicLM):
    return _describe_musiclm(path, loaded)
  is_bundle = (path / bundle.WEIGHTS_FILE).is_file()
  music = loaded.config["kind"] == "lm"
  model = loaded.codec if music else loaded
  decodes = isinstance(model, AudioCodec)
  rows = [
    ("bundle" if is_bundle else "workdir", str(path)),
    ("kind", str(loaded.config["kind"])),
  ]
  if music:
    rows += _music_rows(loaded)
    rows.append(("parameters", _parameters(loaded)))
  rows.append(("codec" if music else "model", model.hash))
  is_tokenizer = isinstance(model, Tokenizer)
  rows += _coding_rows(model) if is_tokenizer else _network_rows(model)
  rows += [
    (
      "its parameters" if music else "parameters",
      _parameters(model),
    ),
    ("size on disk", formatting.file_size(common.folder_size(path))),
  ]
  if isinstance(model, Clustered):
    rows += _cluster_rows(model)
  if decodes and model.base is not model:
    rows.append(("codec of a side", f"{model.base.hash}, codes files"))
  if training.get("step") is not None:
    rows.append(("training steps", f"{training['step']:,}"))
  if source := loaded.config.get("source"):
    rows.append(("converted from", source["name"]))
  table = formatting.table(None, rows)
  if music or not decodes:
    return table
  bits = bitstream.code_bits(model.codebook_size)
  rates = [
    (n, n * bits * model.frame_rate / 1000)
    for n in range(1, model.codebooks + 1)
  ]
  return table + "\n\n" + formatting.table(("codebooks", "kbps"), rates)


def _describe_stage(path: pathlib.Path, stage: Any) -> str:
  """Describes a language model without codec."""
  from mmdcodec import bundle
  from mmdcodec.cli import common

  is_bundle = (path / bundle.WEIGHTS_FILE).is_file()
  model, first = stage.model, stage.model.first_codebook
  rows = [
    ("bundle" if is_bundle else "workdir", str(path)),
    ("kind", "stage"),
    *_music_rows(stage),
    ("parameters", _parameters(stage)),
    ("makes codes of", f"{stage.target['tokenizer']} {stage.target['hash']}"),
    ("frame rate", f"{stage.frame_rate:g} Hz"),
    (
      "codebooks",
      f"{first + 1} to {first + model.codebooks} x {model.codebook_size}",
    ),
  ]
  rows += [
    (f"its {name}", f"{stream['tokenizer']} {stream['hash']}")
    for name, stream in sorted(stage.streams.items())
  ]
  rows.append(("size on disk", formatting.file_size(common.folder_size(path))))
  training = stage.config.get("training") or {}
  if training.get("step") is not None:
    rows.append(("training steps", f"{training['step']:,}"))
  return formatting.table(None, rows)


def _describe_musiclm(path: pathlib.Path, music: Any) -> str:
  """Describes a hierarchy and its parts."""
  from mmdcodec.cli import common, musiclm_table

  stages = music.parts.stages.values()
  takes = [name for name in ("text", "melody") if music.takes(name)]
  millions = sum(_count(stage) for stage in stages) / 1e6
  rows = [
    ("bundle", str(path)),
    ("kind", "musiclm"),
    ("takes", ", ".join([*takes, "audio to continue"])),
    ("sample rate", f"{music.rate} Hz"),
    ("channels", f"{music.channels}"),
    ("parameters of the stages", f"{millions:.2f} M"),
    ("size on disk", formatting.file_size(common.folder_size(path))),
  ]
  parts = formatting.table(*musiclm_table.table(music.parts))
  return formatting.table(None, rows) + "\n\n" + parts


def _parameters(model: Any) -> str:
  """Counts the parameters of a model, in words."""
  return f"{_count(model) / 1e6:.2f} M"


def _count(model: Any) -> int:
  """Counts the parameters of a model."""
  import jax

  leaves = jax.tree.leaves(model.variables["params"])
  return sum(leaf.size for leaf in leaves)


_COUNT = whole(0, 1 << 53)
# What a bundle says about the fit of its codebooks, see `cluster.Fit`.
_CLUSTERS = {
  "rows": _COUNT,
  "codes": _COUNT,
  "left": list_of(number(0, LARGEST), 1 << 10),
  "used": list_of(_COUNT, 1 << 10),
}


def _cluster_rows(model: Any) -> list[tuple[str, str]]:
  """Describes the fit of codebooks to features."""
  if not model.codebook_sizes:
    return [("no codebooks yet", "fit them with `mmdcodec cluster`")]
  if not (found := model.config.get("clusters")):
    return []
  bounds.check("clusters", found, mapping())
  for name, check in _CLUSTERS.items():
    bounds.check(f"clusters.{name}", found.get(name), check)
  left = ", ".join(f"{100 * share:.1f}%" for share in found["left"])
  empty = ", ".join(str(found["codes"] - used) for used in found["used"])
  return [
    ("fitted to", f"{found['rows']:,} frames"),
    ("variance left", left),
    ("empty codes", empty),
  ]


def _coding_rows(model: Any) -> list[tuple[str, str]]:
  """Describes what a tokenizer takes, and its codes."""
  from mmdcodec.tokenizers.interface import AudioCodec

  frames = f"{model.frame_rate:g} Hz"
  if isinstance(model, AudioCodec):
    frames += f" (stride {model.stride})"
  rows = [
    ("sample rate", f"{model.rate} Hz"),
    ("channels", f"{model.channels}"),
    ("frame rate", frames),
  ]
  if model.window is not None:
    rows.append(("window", f"{model.window:g} s"))
  codes = f"{model.codebooks} x {model.codebook_size}"
  return [*rows, ("codebooks", codes)]


def _network_rows(model: Any) -> list[tuple[str, str]]:
  """Describes a text encoder or a tagger."""
  rows = [("embedding", f"{model.width} dimensions")]
  if tags := getattr(model, "tag_names", ()):
    rows += [("sample rate", f"{model.rate} Hz"), ("tags", f"{len(tags)}")]
  return rows


def _music_rows(music: Any) -> list[tuple[str, str]]:
  """Describes a music model without its codec."""
  model = music.model
  sizes = lambda each: f"{each.layers} x {each.width}, {each.heads} heads"
  rows = [
    ("takes", ", ".join(music.model.conditions) or "nothing"),
    ("transformer", sizes(model)),
  ]
  if model.depth is not None:
    rows.append(("depth transformer", sizes(model.make_depth())))
  return [*rows, ("trained on", f"clips of {music.seconds:g} s")]


def describe_dataset(path: pathlib.Path) -> str:
  """Describes a data set made by `mmdcodec prepare` or `tokenize`.

  Raises:
    UserError: the folder does not hold one, or it is damaged.
  """
  from mmdcodec.cli import common
  from mmdcodec.data import record_source

  if not (path / record_source.SUMMARY).exists():
    raise UserError(
      f"{path} is no bundle, no training workdir and no data set; give one of"
      " these or a .mmdc file."
    )
  found = record_source.describe(path)
  rows = [
    ("data set", str(path)),
    ("kind", found["kind"]),
    ("records", f"{found['records']:,}"),
    ("duration", formatting.duration(found["seconds"])),
    ("sample rate", f"{found['rate']} Hz"),
  ]
  if found["kind"] == "tokens":
    # Nothing but this reads the number of frames and the source.
    frames = found.get("frames")
    frames = f"{frames:,}" if isinstance(frames, int) else "unknown"
    rows += [
      ("frames", f"{frames} at {found['frame_rate']:g} Hz"),
      ("codebooks", f"{found['codebooks']} x {max(found['codebook_sizes'])}"),
      (found["tokenizer"], found["hash"]),
      ("made from", str(found.get("source", "unknown"))),
    ]
  else:
    rows.append(("channels", f"{found['channels']}"))
  rows.append(("size on disk", formatting.file_size(common.folder_size(path))))
  return formatting.table(None, rows)
