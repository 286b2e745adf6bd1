"""Renders a folder of built-in songs in parallel."""

import contextlib
import json
import os
import queue
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from mmdcodec.audio import files, song_plan, synth
from mmdcodec.errors import UserError
from mmdcodec.platform import cpus
from mmdcodec.store import atomic, inputs


class _Job(NamedTuple):
  """A song to be rendered, with the arguments of `synth.render`."""

  path: str
  seed: int
  seconds: float | None
  rate: int
  choices: dict[str, Any]

  @property
  def sidecar(self) -> Path:
    return Path(self.path).with_suffix(".json")

  @property
  def request(self) -> dict[str, Any]:
    """Everything that determines the song, as read back from JSON."""
    choices = {k: v for k, v in sorted(self.choices.items()) if v is not None}
    request = {"seed": self.seed, "seconds": self.seconds, "rate": self.rate}
    return json.loads(json.dumps(request | choices, default=str))


def write_songs(
  folder: str | os.PathLike,
  *,
  songs: int,
  seconds: float | None = 20.0,
  rate: int = 24000,
  seed: int = 0,
  workers: int | None = None,
  progress: Callable[[int, int], None] | None = None,
  each: Sequence[Mapping[str, Any]] | None = None,
  **choices: Any,
) -> list[Path]:
  """Renders songs into `song_00000.flac`, ... each with a `.json` sidecar.

  The sidecar holds `{"caption", "tags", "_request"}` and is written after its
  song. A later call renders only songs that lack a sidecar or were made for
  another request (seed, seconds, rate and choices).

  Args:
    folder: created if it does not exist.
    songs: number of songs.
    seconds: length of each; None plays the whole form.
    rate: Hz.
    seed: seed of the set; sets with different seeds share no songs.
    workers: processes; None means one per CPU, 1 renders in this process.
    progress: called with (songs done, songs) after each song.
    each: further choices of each song, such as `song_plan.balanced`.
    **choices: see `synth.render`.

  Returns:
    Paths of the songs.

  Raises:
    UserError: as in `synth.render`, or a rendering process ended early.
  """
  song_plan.plan(seed, choices)
  folder = Path(folder)
  folder.mkdir(parents=True, exist_ok=True)
  jobs = []
  for i in range(songs):
    own = int(np.random.SeedSequence([seed, i]).generate_state(1)[0])
    path = str(folder / f"song_{i:05d}.flac")
    chosen = choices if each is None else {**choices, **each[i]}
    jobs.append(_Job(path, own, seconds, rate, chosen))
  missing = [job for job in jobs if not _is_written(job)]
  report = progress or (lambda done, songs: None)
  written = songs - len(missing)
  report(written, songs)
  workers = min(workers or cpus(), len(missing))
  if workers <= 1:
    for i, job in enumerate(missing, 1):
      _write_song(job)
      report(written + i, songs)
  else:
    for i, _ in enumerate(_in_processes(missing, workers), 1):
      report(written + i, songs)
  return [Path(job.path) for job in jobs]


def _in_processes(jobs: list[_Job], workers: int) -> Iterator[str]:
  """Runs `_write_song` in other processes; yields after each song.

  multiprocessing is unsuitable: forked children would inherit locks of JAX's
  threads, and spawned ones would run the caller's script again.
  """
  code = "from mmdcodec.audio import song_files; song_files._serve()"
  command = [sys.executable, "-c", code]
  env = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
  finished: queue.Queue = queue.Queue()
  pool = []

  def follow(process: subprocess.Popen) -> None:
    for line in process.stdout or ():
      finished.put(line)
    finished.put(process)

  try:
    for i in range(workers):
      process = subprocess.Popen(
        command,
        env=env,
        text=True,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
      )
      pool.append(process)
      # If the process has already died, its exit status is handled below.
      with contextlib.suppress(BrokenPipeError):
        assert process.stdin is not None
        process.stdin.write(json.dumps(jobs[i::workers]))
        process.stdin.close()
      threading.Thread(target=follow, args=(process,), daemon=True).start()
    running, made = workers, 0
    while running:
      item = finished.get()
      if isinstance(item, str):
        made += 1
        yield item
      else:
        running -= 1
        status = item.wait()
        if status or not running and made < len(jobs):
          raise UserError(
            f"a process that renders songs ended early with status {status},"
            f" after {made} of {len(jobs)} songs (-9 usually means too little"
            " memory); run it again with fewer workers to continue."
          )
  finally:
    for process in pool:
      if process.poll() is None:
        process.kill()
      process.wait()


def _serve() -> None:
  """Main function of the processes that `_in_processes` starts."""
  for fields in json.load(sys.stdin):
    job = _Job(*fields)
    _write_song(job)
    # A line for each song. Not its path, which may not be UTF-8.
    print("written", flush=True)


def _write_song(job: _Job) -> None:
  song = synth.render(
    job.seed, seconds=job.seconds, rate=job.rate, **job.choices
  )
  # The old one describes the song that is now replaced.
  job.sidecar.unlink(missing_ok=True)
  files.write(job.path, song.audio, rate=job.rate)
  content = {
    "caption": song.caption,
    "tags": song.tags,
    "_request": job.request,
  }
  atomic.write_json(job.sidecar, content, indent=1)


def _is_written(job: _Job) -> bool:
  try:
    written_for = inputs.read_json(job.sidecar)["_request"]
    files.info(job.path)
  except (OSError, ValueError, KeyError, TypeError, UserError):
    return False
  return written_for == job.request
