"""Converts audio data sets to token data sets on all devices and processes.

The division of records into shards depends only on their number, and a shard is
always encoded in the same batches. So the result depends neither on the number
of processes or devices nor on interruptions. Finished shards are kept in a
hidden folder beside the data set, with a note of their settings, and the same
command continues from there.

Several tokenizers share one pass over the audio. Then each has a data set of
its own in a subfolder that is named after its kind: "codec", "semantic", ...
The code below knows the tokenizers by the names of their subfolders; a single
one has the name "", its data set being the folder itself.
"""

import contextlib
import json
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import jax
import tensorflow_datasets as tfds

import mmdcodec
from mmdcodec.data import (
  dataset_folder,
  record_encoder,
  report,
  shard_files,
  token_records,
  token_shards,
)
from mmdcodec.data.record_source import SUMMARY, Source
from mmdcodec.errors import UserError
from mmdcodec.parallel import agreement, roll, shares
from mmdcodec.store import (
  atomic,
  disk,
  inputs,
  locks,
  paths,
  remote_locks,
  uploads,
)
from mmdcodec.tokenizers.interface import Tokenizer

# File with the settings of the shards in an unfinished folder.
_NOTE = "settings.json"

# Subfolder in which the shards become data sets.
_DATA = "data"


def tokenize(
  dataset: str | os.PathLike,
  out: str | os.PathLike,
  tokenizer: Tokenizer,
  *,
  batch: int = 16,
  force: bool = False,
  show: Callable[[int, int], None] = lambda done, total: None,
) -> dict | None:
  """Encodes the records of an audio data set.

  The codes are those of `tokenizer.encode` for each record alone; records with
  another rate or number of channels are converted first. With several JAX
  processes, each must call this; they share the work and the parent folder of
  `out`. The data set appears under its name when it is complete.

  Args:
    dataset: folder of the audio data set.
    out: folder of the token data set to write.
    tokenizer: tokenizer that makes the codes.
    batch: records encoded at a time on each device.
    force: whether to replace an existing token data set.
    show: called regularly with (records done, total) of this process.

  Returns:
    The summary of the data set (see `record_source.describe`) in the first
    process, which assembles it; None in the others.

  Raises:
    UserError: no audio data set, an unsuitable tokenizer, `out` exists, or
      another run is writing it.
  """
  found = _tokenize(dataset, out, {"": tokenizer}, batch, force, show)
  return None if found is None else found[""]


def tokenize_all(
  dataset: str | os.PathLike,
  out: str | os.PathLike,
  tokenizers: Sequence[Tokenizer],
  *,
  batch: int = 16,
  force: bool = False,
  show: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, dict] | None:
  """Encodes the records with several tokenizers, each record read once.

  Args:
    dataset: see `tokenize`.
    out: folder to write, with a token data set for each tokenizer in a
      subfolder that is named after its kind.
    tokenizers: tokenizers of different kinds.
    batch: see `tokenize`.
    force: whether to replace token data sets in `out`.
    show: see `tokenize`.

  Returns:
    The summaries by name of the subfolder, in the first process; None in the
    others.

  Raises:
    UserError: see `tokenize`; or two tokenizers have the same kind.
  """
  names = [tokenizer.kind for tokenizer in tokenizers]
  if twice := {name for name in names if names.count(name) > 1}:
    raise UserError(
      f"there are several tokenizers of kind {', '.join(sorted(twice))}; in one"
      " pass expected one of each kind, so tokenize with the others separately."
    )
  named = dict(zip(names, tokenizers, strict=True))
  return _tokenize(dataset, out, named, batch, force, show)


def _tokenize(
  dataset: str | os.PathLike,
  out: str | os.PathLike,
  tokenizers: Mapping[str, Tokenizer],
  batch: int,
  force: bool,
  show: Callable[[int, int], None],
) -> dict[str, dict] | None:
  """Encodes with tokenizers by the names of their folders; see `tokenize`."""
  for tokenizer in tokenizers.values():
    record_encoder.check_tokenizer(tokenizer)
  if batch < 1:
    raise UserError(f"batch must be more than 0, not {batch}.")
  source = Source(dataset)
  # Links are followed, so that the folder they point to is replaced.
  out = paths.real(out)
  unfinished = out.with_name(f".{out.name}.unfinished")
  first, held = jax.process_index() == 0, None
  agreement.check_shared(out.parent)
  if first:
    atomic.restore_folder(out)
    _remove_emptied(unfinished)
  dataset_folder.check_out(out, force, "tokens", several="" not in tokenizers)
  try:
    with disk.named(out):
      if first:
        held = _begin(unfinished, _settings(source, tokenizers, batch))
      _wait_for_all("begun")
      token_shards.write_share(
        source,
        tokenizers,
        unfinished,
        batch=batch,
        process_index=jax.process_index(),
        process_count=jax.process_count(),
        show=show,
      )
      _wait_for_all("encoded")
      return _finish(source, tokenizers, unfinished, out) if first else None
  finally:
    if held is not None:
      held.release()


def _settings(
  source: Source, tokenizers: Mapping[str, Tokenizer], batch: int
) -> dict:
  """Returns everything that the contents of shards depend on."""
  stats = [path.stat() for path in source.shards]
  return {
    "tokenizers": {name: each.hash for name, each in tokenizers.items()},
    "batch": batch,
    "source": source.summary,
    "source_files": [[stat.st_size, stat.st_mtime_ns] for stat in stats],
    "shards": [len(shard) for shard in token_shards.divide(len(source))],
    "version": mmdcodec.__version__,
  }


def _begin(
  unfinished: Path, settings: dict
) -> locks.Lock | remote_locks.RemoteLock:
  """Makes the folder, or empties it if its shards have other settings.

  Returns:
    A lock on the folder.
  """
  unfinished.mkdir(parents=True, exist_ok=True)
  held = locks.take(unfinished)
  if held is None:
    raise UserError(locks.refusal(unfinished))
  note = unfinished / _NOTE
  try:
    same = inputs.read_json(note) == settings
  except UserError:
    same = False
  for path in unfinished.iterdir():
    if path.name in (locks.FILE, locks.OWNER, locks.REMOVING):
      continue
    if path.is_dir():
      if not same or path.name == _DATA:
        paths.remove(path)
    elif not same:
      path.unlink()
  if not same:
    note.write_text(json.dumps(settings, indent=2) + "\n")
  return held


def _finish(
  source: Source,
  tokenizers: Mapping[str, Tokenizer],
  unfinished: Path,
  out: Path,
) -> dict[str, dict]:
  """Assembles the shards of all processes and returns the summaries."""
  shards = token_shards.divide(len(source))
  for name in tokenizers:
    there = token_shards.finished(unfinished / name)
    if len(there) < len(shards):
      raise UserError(
        f"{unfinished}: only {len(there)} of {len(shards)} shards are there; do"
        " all processes write to one folder? The same command again goes on."
      )
  with contextlib.ExitStack() as stack:
    data = unfinished / _DATA
    if isinstance(out, paths.Url):
      data = stack.enter_context(uploads.scratch())
    made, objects = {}, {}
    for name, tokenizer in tokenizers.items():
      made[name], shards = _assemble(
        source, tokenizer, unfinished / name, data / name
      )
      for path, shard in shards.items():
        objects[path.relative_to(data).as_posix()] = shard
    if isinstance(out, paths.Url):
      uploads.folder(data, out, objects)
    else:
      atomic.replace_folder(data, out)
  _discard(unfinished)
  return made


def _assemble(
  source: Source, tokenizer: Tokenizer, folder: Path, data: Path
) -> tuple[dict, dict[Path, paths.Url]]:
  """Makes a data set of the shards in a folder.

  Returns:
    Its summary, and those shards that are in an object store and have not been
    moved, by the paths at which they belong.
  """
  there = token_shards.finished(folder)
  shards = token_shards.divide(len(source))
  data.mkdir(parents=True, exist_ok=True)
  template = tfds.core.ShardedFileTemplate(
    data_dir=data,
    dataset_name="tokens",
    split="train",
    filetype_suffix="array_record",
  )
  bytes_of = paths.sizes(folder)
  size = sum(bytes_of[path.name] for path in there.values())
  length = sum(int(path.name.split("-")[2]) for path in there.values())
  objects = {}
  marks = shard_files.marks_of([there[i] for i in sorted(there)])
  for i, path in there.items():
    target = Path(
      template.sharded_filepath(shard_index=i, num_shards=len(shards))
    )
    if isinstance(path, paths.Url):
      objects[target] = path
      target.touch()  # TFDS looks for names
    else:
      os.rename(path, target)
  tfds.folder_dataset.write_metadata(
    data_dir=data,
    features=token_records.features(),
    filename_template=template,
    split_infos=[
      tfds.core.SplitInfo(
        name="train",
        shard_lengths=[len(shard) for shard in shards],
        num_bytes=size,
        filename_template=template,
      )
    ],
    check_data=False,
    description=f"Codes of the {tokenizer.kind} {tokenizer.hash}.",
    disable_shuffling=True,
  )
  for target in objects:
    target.unlink()
  constant = [
    note
    for shard in sorted(there)
    for note in token_shards.constant(folder, shard)
  ]
  report.write_notes(data / report.NOTES, {"constant": constant})
  summary = {
    "kind": "tokens",
    "records": len(source),
    "frames": length,
    "seconds": source.seconds,
    "constant": len(constant),
    **token_records.describe_tokenizer(tokenizer),
    "source": paths.of(source.path).resolve().name,
    "fingerprint": source.fingerprint(),
    "version": mmdcodec.__version__,
    "shards": marks,
  }
  (data / SUMMARY).write_text(json.dumps(summary, indent=2) + "\n")
  return summary, objects


def _remove_emptied(unfinished: Path) -> None:
  """Removes a folder whose shards became a data set before a kill."""
  if isinstance(unfinished, paths.Url):
    # Shards were copied, and the note is the first to go.
    if unfinished.is_dir() and not (unfinished / _NOTE).exists():
      if (held := locks.take(unfinished)) is not None:
        _discard(unfinished)
        held.release()
    return
  if unfinished.is_dir() and not any(unfinished.rglob("*-*")):
    if (held := locks.take(unfinished)) is not None:
      shutil.rmtree(unfinished)
      held.release()


def _discard(unfinished: Path) -> None:
  """Removes the folder of the shards, of which this process has the lock."""
  if not isinstance(unfinished, paths.Url):
    shutil.rmtree(unfinished)
    return
  (unfinished / _NOTE).unlink(missing_ok=True)
  for name in unfinished.files():
    if name != locks.FILE:
      (unfinished / name).unlink(missing_ok=True)


def _wait_for_all(what: str) -> None:
  """Waits until every process has reached this point."""
  roll.exchange(f"tokenize {what}", "", patience=shares.PATIENCE)
