"""What belongs to an open page: its files and its work, which go with it.

A session begins when a page is opened, and ends when it is closed or loaded
again. Audio that is made lies in the session's folder under names that cannot
be guessed. Uploads lie where Gradio puts them, by what they contain: the same
file from two pages is one, and is removed with the last of them.
"""

import contextlib
import pathlib
import secrets
import shutil
import threading

import numpy as np

from mmdcodec.audio import files
from mmdcodec.demo.making import Making
from mmdcodec.demo.piece import Piece

# Pages that are open at once; the oldest is forgotten.
MOST = 64


class Session:
  """One open page.

  Attributes:
    sounds: what its players ask for, by name: a file, or a piece while it is
      made.
    uploads: its uploads.
  """

  def __init__(self, folder: pathlib.Path):
    """Begins with nothing."""
    self._folder = folder
    self._names: dict[str, list[str]] = {}
    self._replaced: dict[str, list[str]] = {}
    self._making: dict[str, Making] = {}
    self._newest: dict[str, int] = {}
    self._ended = False
    # A user who closes the page does so while something is written.
    self._lock = threading.RLock()
    self.sounds: dict[str, pathlib.Path | Piece] = {}
    self.uploads: set[pathlib.Path] = set()

  def note(self, place: str, number: int) -> None:
    """Notes a click for a place of the page, which ends the work of older ones.

    Args:
      place: a name for the outputs of the click.
      number: of the click; later ones have higher numbers.
    """
    with self._lock:
      if number > self._newest.get(place, 0):
        self._newest[place] = number
        self.stop(place)

  def begin(self, place: str, number: int) -> bool:
    """Begins the work of a click.

    The sounds of the click before stay until the next one: a page may ask for
    them until it hears that they are replaced.

    Returns:
      Whether it begins: not if there was a later click.
    """
    with self._lock:
      self.note(place, number)
      if not self.latest(place, number):
        return False
      gone = self._replaced.pop(place, [])
      self._replaced[place] = self._names.pop(place, [])
      for name in gone:
        sound = self.sounds.pop(name)
        if isinstance(sound, pathlib.Path):
          sound.unlink(missing_ok=True)
      return True

  def latest(self, place: str, number: int) -> bool:
    """Returns whether a click is the last one for its place."""
    return self._newest.get(place) == number and not self._ended

  def work(self, place: str, number: int, making: Making) -> None:
    """Notes the music of a click, which `stop` or a later click stops."""
    with self._lock:
      if self.latest(place, number):
        self._making[place] = making
      else:
        making.stop()

  def stop(self, place: str) -> Making | None:
    """Stops the work of a place; returns it."""
    with self._lock:
      making = self._making.pop(place, None)
      if making is not None:
        making.stop()
      return making

  def add_piece(self, place: str, piece: Piece) -> str:
    """Adds a piece that is being made; returns its name."""
    return self._add(place, piece)

  def add_audio(self, place: str, x: np.ndarray, rate: int) -> str:
    """Writes audio [samples, channels] to a file; returns its name."""
    with self._lock:
      if self._ended:
        return ""
      self._folder.mkdir(exist_ok=True)
      path = self._folder / f"{secrets.token_urlsafe(16)}.wav"
      files.write(path, np.clip(x, -1, 1), rate=rate)
      return self._add(place, path)

  def _add(self, place: str, sound: pathlib.Path | Piece) -> str:
    with self._lock:
      name = f"{secrets.token_urlsafe(16)}.wav"
      self.sounds[name] = sound
      self._names.setdefault(place, []).append(name)
      return name

  def end(self) -> None:
    """Stops all work and removes all files but the uploads."""
    with self._lock:
      self._ended = True
      for place in [*self._making]:
        self.stop(place)
      self.sounds.clear()
      self._names.clear()
      self._replaced.clear()
      shutil.rmtree(self._folder, ignore_errors=True)


class Sessions:
  """All sessions, by the hash that Gradio gives a page."""

  def __init__(self, folder: pathlib.Path):
    """Begins without sessions.

    Args:
      folder: an empty folder for their files.
    """
    self._folder = folder
    self._open: dict[str, Session] = {}
    self._lock = threading.RLock()

  def of(self, key: str) -> Session:
    """Returns the session of a page."""
    with self._lock:
      if key not in self._open:
        while len(self._open) >= MOST:
          self.end(next(iter(self._open)))
        folder = self._folder / secrets.token_urlsafe(16)
        self._open[key] = Session(folder)
      return self._open[key]

  def find(self, name: str) -> pathlib.Path | Piece | None:
    """Returns the sound of a name, of any session."""
    with self._lock:
      for session in self._open.values():
        if (sound := session.sounds.get(name)) is not None:
          return sound
    return None

  def hold(self, key: str, path: str | None) -> None:
    """Notes that an upload belongs to a session."""
    if path is not None:
      with self._lock:
        self.of(key).uploads.add(pathlib.Path(path))

  def end(self, key: str) -> None:
    """Ends a session, if there is one, and removes its files."""
    with self._lock:
      session = self._open.pop(key, None)
      if session is None:
        return
      session.end()
      others = {path for each in self._open.values() for path in each.uploads}
      for path in session.uploads - others:
        path.unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # a folder for each content
          path.parent.rmdir()

  def end_all(self) -> None:
    """Ends all sessions."""
    for key in [*self._open]:
      self.end(key)
