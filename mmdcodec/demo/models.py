"""The models of a page, and what each of them can do."""

import dataclasses
import threading
from collections.abc import Sequence

import numpy as np

from mmdcodec import bundle
from mmdcodec.errors import UserError
from mmdcodec.generation.musicgen import LoadedMusic
from mmdcodec.generation.musiclm import LoadedMusicLM
from mmdcodec.store import paths
from mmdcodec.tokenizers.interface import AudioCodec


@dataclasses.dataclass(frozen=True)
class Model:
  """A model of the page.

  Attributes:
    name: what it is called on the page.
    codec: turns audio into codes and back.
    music: makes music; None for a codec alone.
  """

  name: str
  codec: AudioCodec
  music: LoadedMusic | LoadedMusicLM | None = None

  def takes(self, what: str) -> bool:
    """Returns whether it takes an input: "text", "melody" or "story"."""
    if self.music is None:
      return False
    if what == "story":
      return self.takes("text") and isinstance(self.music, LoadedMusicLM)
    return self.music.takes(what)

  @property
  def codebook_step(self) -> int:
    """Codebooks that can only be used together: left and right, or one."""
    return self.codec.codebooks // self.codec.base.codebooks

  def bits_per_second(self, codebooks: int) -> float:
    """Bits per second of the first codebooks."""
    bits = np.log2(self.codec.codebook_sizes[:codebooks]).sum()
    return float(bits * self.codec.frame_rate)


@dataclasses.dataclass(frozen=True)
class Models:
  """All models of a page.

  Attributes:
    by_name: the models.
    turn: held by whoever computes. The programs of a model use all cores and
      much memory, so there is one at a time.
  """

  by_name: dict[str, Model]
  turn: threading.Lock = dataclasses.field(default_factory=threading.Lock)

  def __getitem__(self, name: str) -> Model:
    """Returns a model.

    Raises:
      UserError: there is no model of that name.
    """
    if name not in self.by_name:
      raise UserError(f"There is no model {name!r}; reload the page.")
    return self.by_name[name]

  @property
  def names(self) -> list[str]:
    """Names of all models."""
    return [*self.by_name]

  @property
  def musical(self) -> list[str]:
    """Names of those that make music."""
    return [name for name, each in self.by_name.items() if each.music]

  def any_takes(self, what: str) -> bool:
    """Returns whether any of them takes an input; see `Model.takes`."""
    return any(each.takes(what) for each in self.by_name.values())


def open_models(given: Sequence[str]) -> Models:
  """Opens models.

  Args:
    given: what `mmdcodec.load` takes.

  Raises:
    UserError: there is no model, or one that cannot make audio.
  """
  short = [paths.of(each).name or each for each in given]
  found: dict[str, Model] = {}
  for path, name in zip(given, short, strict=True):
    if short.count(name) > 1:
      name = path
    found[name] = _as_model(name, bundle.load(path), path)
  return Models(found)


def _as_model(name: str, loaded: object, path: str) -> Model:
  if isinstance(loaded, LoadedMusic | LoadedMusicLM):
    return Model(name, loaded.codec, loaded)
  if isinstance(loaded, AudioCodec):
    return Model(name, loaded)
  raise UserError(
    f"{path} makes no audio; expected a codec or a music model with its codec."
  )
