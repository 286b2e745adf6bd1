"""Helpers for several verbs: subparsers, files, models, processes, clips."""

import argparse
import contextlib
import importlib
import os
import pathlib
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from mmdcodec import formatting
from mmdcodec.cli.parser import Formatter
from mmdcodec.errors import UserError
from mmdcodec.store import inputs, paths, uploads

if TYPE_CHECKING:
  from mmdcodec.audio.files import Info
  from mmdcodec.evaluate.clips import Clip
  from mmdcodec.generation.musicgen import LoadedMusic
  from mmdcodec.generation.musiclm import LoadedMusicLM
  from mmdcodec.tokenizers.loaded_codec import LoadedCodec


# What each process is given by itself.
_OWN = ("coordinator", "num_processes", "process_id", "initialization_timeout")


def add_subjects(
  parser: argparse.ArgumentParser,
  dest: str,
  modules: Mapping[str, str],
  *,
  aliases: Mapping[str, str] | None = None,
) -> None:
  """Adds a subparser for each subject of a verb.

  Args:
    parser: parser of the verb.
    dest: attribute for the chosen name.
    modules: modules by name, with `HELP`, `EXAMPLE` and
      `add_arguments(parser)`.
    aliases: alternative name -> name.
  """
  subparsers = parser.add_subparsers(
    dest=dest, metavar=dest.upper(), required=True
  )
  for name, path in modules.items():
    module = importlib.import_module(path)
    subparser = subparsers.add_parser(
      name,
      aliases=[word for word, of in (aliases or {}).items() if of == name],
      help=module.HELP,
      description=module.HELP,
      epilog="example:\n  " + module.EXAMPLE,
      formatter_class=Formatter,
    )
    module.add_arguments(subparser)


def check_output(path: str | os.PathLike, *, force: bool) -> pathlib.Path:
  """Checks that an output file can be written, before work begins.

  Args:
    path: path of the file.
    force: whether an existing file may be replaced.

  Returns:
    The path.

  Raises:
    UserError: it exists (without force), is a folder, or its folder is missing.
  """
  path = paths.of(path)
  if path.is_dir():
    raise UserError(f"{path} is a folder; expected the name of a file.")
  if not paths.has_folder(path):
    raise UserError(f"{path}: the folder {path.parent} does not exist.")
  if path.is_symlink() and not path.exists() and not force:
    raise UserError(
      f"{path} is a link to {os.readlink(path)}, which does not exist; give"
      " --force to replace the link."
    )
  if path.exists() and not path.is_file():
    raise UserError(
      f"{path} is a pipe or a device; give the name of a file, or - if the"
      " command writes to stdout."
    )
  if path.exists() and not force:
    raise UserError(f"{path} exists already; give --force to replace it.")
  uploads.check_writable(path.parent)
  return path


def check_input(
  path: str | os.PathLike, *, stdin: bool = False
) -> pathlib.Path:
  """Checks that an input of one file is a regular file.

  Args:
    path: the file.
    stdin: whether the command reads stdin in place of it, named -.

  Raises:
    UserError: it is missing, a folder, a pipe or a device.
  """
  advice = f"give - and redirect it to stdin (- < {path})" if stdin else ""
  return inputs.check(path, advice=advice)


def load_codec(path: str | pathlib.Path) -> "LoadedCodec":
  """Loads a codec for encoding and decoding files.

  For a music model this is its codec; for a stereo one the mono codec of either
  channel, which takes any audio.

  Raises:
    UserError: there is no model.
  """
  from mmdcodec import bundle

  codec: Any = bundle.load_codec(path).base
  return codec


def load_music(path: str | pathlib.Path) -> "LoadedMusic":
  """Loads a music model of one language model.

  Raises:
    UserError: there is no model, or another one, such as a codec.
  """
  from mmdcodec.generation.musicgen import LoadedMusic

  music = load_generator(path)
  if not isinstance(music, LoadedMusic):
    raise UserError(
      f"{path} is a hierarchy of language models; this command takes a music"
      " model of one."
    )
  return music


def load_generator(
  path: str | pathlib.Path,
) -> "LoadedMusic | LoadedMusicLM":
  """Loads a music model of one language model or of a hierarchy.

  Raises:
    UserError: there is no model, or another one, such as a codec.
  """
  import mmdcodec
  from mmdcodec.generation.musicgen import LoadedMusic
  from mmdcodec.generation.musiclm import LoadedMusicLM
  from mmdcodec.generation.stage import Stage

  music = mmdcodec.load(path)
  if not isinstance(music, LoadedMusic | LoadedMusicLM):
    if isinstance(music, Stage):
      raise UserError(
        f"{path} is a language model without codec, so it makes codes but no"
        " audio: continue its training with --config.codec=CODEC, or assemble"
        " it with the other stages of its hierarchy."
      )
    raise UserError(
      f"{path} is no music model: train one with `mmdcodec train"
      " --config=lm_small`, or convert one."
    )
  return music


def load_joint(path: str | pathlib.Path) -> Any:
  """Loads a joint embedding of music and text.

  Raises:
    UserError: there is no model, or it embeds no audio or no texts.
  """
  import mmdcodec

  model = mmdcodec.load(path)
  if not (hasattr(model, "embed_audio") and hasattr(model, "embed_text")):
    raise UserError(
      f"{path} is no joint embedding of music and text: train one with"
      " `mmdcodec train --config=mulan:small`, or convert one."
    )
  return model


def add_process_arguments(parser: argparse.ArgumentParser) -> None:
  """Adds the arguments that `processes` reads."""
  parser.add_argument(
    "--coordinator",
    metavar="HOST:PORT",
    help="of process 0, for processes started by hand (clusters are detected)",
  )
  parser.add_argument(
    "--num-processes",
    type=int,
    metavar="N",
    help="of the run; 1 by itself: this one is alone, even under SLURM",
  )
  parser.add_argument(
    "--process-id", type=int, metavar="I", help="of this one, from 0"
  )
  parser.add_argument(
    "--initialization-timeout",
    type=int,
    metavar="SECONDS",
    help="in which all processes must have been started (default: 300)",
  )


def quiet_processes(args: argparse.Namespace) -> None:
  """Silences C++ code whose errors `processes` puts into one sentence.

  It must be called before JAX is imported.
  """
  if args.coordinator is not None:
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "4")


@contextlib.contextmanager
def processes(
  args: argparse.Namespace, *, saves: bool = False
) -> Iterator[None]:
  """Connects the processes of a run during the block; see `parallel/peers.py`.

  JAX must not be used before.

  Args:
    args: arguments of the command.
    saves: whether the work itself stops at SIGTERM, when its state is saved.
      Otherwise the process ends at once, with an exit code that restarts it.

  Raises:
    UserError: only some of the arguments are given, or one is not possible.
  """
  from mmdcodec.parallel import mesh, peers

  with contextlib.ExitStack() as stack:
    if not saves:
      stack.enter_context(peers.ending_at_sigterm())
    mesh.start(
      args.coordinator,
      args.num_processes,
      args.process_id,
      args.initialization_timeout,
    )
    stack.enter_context(peers.together())
    yield


@contextlib.contextmanager
def one_voice(args: argparse.Namespace) -> Iterator[bool]:
  """Only the first process of a run prints results; all end together.

  What concerns a piece of work, such as its progress, goes to stderr in any.

  Args:
    args: arguments of the command, which all must have been given.

  Yields:
    Whether this process is the first, which is the one to write files.

  Raises:
    UserError: the processes were given different commands.
  """
  import jax

  from mmdcodec.parallel import agreement, shares

  agreement.check_same(
    {
      f"the argument {name}": repr(value)
      for name, value in vars(args).items()
      if name not in _OWN
    },
    advice="processes of one launcher share one command: give all the same, or"
    " add --num-processes=1 to run each by itself",
  )
  first = jax.process_index() == 0
  with contextlib.ExitStack() as stack:
    if not first:
      nowhere = stack.enter_context(open(os.devnull, "w"))
      stack.enter_context(contextlib.redirect_stdout(nowhere))
    yield first
  # The first may still write, and nobody may leave before.
  with shares.together("end"):
    pass


def audio_line(source: Any, info: "Info", codec: "LoadedCodec") -> str:
  """Describes audio, and how it is converted for a codec, in one line.

  Args:
    source: path or file object.
    info: information from its header.
    codec: codec with `rate` and `channels`.
  """
  name = source if isinstance(source, os.PathLike) else "stdin"
  line = (
    f"{name}: {info.seconds:.2f} s, {info.rate} Hz,"
    f" {formatting.channels(info.channels)}"
  )
  changes = []
  if info.channels != codec.channels:
    changes.append(f"mixed to {formatting.channels(codec.channels)}")
  if info.rate != codec.rate:
    changes.append(f"resampled to {codec.rate} Hz")
  return "; ".join([line, " and ".join(changes)] if changes else [line])


def read_clips(
  args: argparse.Namespace, codec: Any
) -> tuple[list["Clip"], dict[str, Any]]:
  """Reads the clips for an `evaluate` command line.

  Args:
    args: with `model`, `audio`, `seconds` and `clips`.
    codec: codec or music model, with `rate` and `channels`.

  Returns:
    Clips, and those arguments to keep with the results.

  Raises:
    UserError: there is no readable audio.
  """
  from mmdcodec.evaluate import clips as clips_lib

  clips = clips_lib.collect(
    args.audio,
    rate=codec.rate,
    channels=codec.channels,
    seconds=args.seconds,
    count=args.clips,
  )
  names = ("model", "audio", "seconds", "clips")
  return clips, {name: getattr(args, name) for name in names}


def folder_size(path: str | pathlib.Path) -> int:
  """Returns the bytes of all files in a folder."""
  return sum(paths.sizes(paths.of(path)).values())
