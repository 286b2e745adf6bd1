"""The stages of a MusicLM at work: from joint tokens to the codes of a codec.

The semantic stage works in windows of its training length (30 s); each after
the first begins with the second half of the one before (MusicLM, Agostinelli et
al. 2023, arXiv 2301.11325, 4.4). At the borders of a story a window ends, and
the next one has the new joint tokens and the last 15 s made with the old ones.
The coarse stage works in windows that overlap by half too. Those of the fine
stage begin with the last half second of the one before; or, as in the paper,
they are independent chunks, many of which are made at once (`ChunkRun`), with
seams between them. Each window has the joint tokens that hold in the middle of
what it adds.
"""

import math
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np

from mmdcodec.generation import windows
from mmdcodec.generation.musiclm_parts import STAGES, Parts
from mmdcodec.generation.musiclm_request import CheckedRequest
from mmdcodec.generation.stage_runs import (
  ChunkRun,
  Tell,
  Values,
  WindowRun,
  frames_at,
)
from mmdcodec.generation.story import borders
from mmdcodec.generation.windows import Window

# Called with (stage, frames done, total).
Progress = Callable[[str, int, int], None]


class Hierarchy:
  """The stages at work on one request.

  Every stage pulls what it needs from the one above. So the same codes are made
  whether a stage is run to its end before the next one begins (`tokens`), or
  all of them advance together (`stream`).

  Attributes:
    semantic: run of the semantic stage, or None.
    coarse: run of the coarse stage.
    fine: run of the fine stage, or None.
  """

  def __init__(
    self,
    parts: Parts,
    request: CheckedRequest,
    *,
    live: bool = False,
    progress: Progress | None = None,
  ):
    """Prepares the stages; nothing is made yet.

    Args:
      parts: the parts of the model.
      request: what to make.
      live: whether windows are made a second at a time, so that the next stage
        can begin.
      progress: hears of progress, then also once a second of music.
    """
    self._parts, self._request = parts, request
    self._live, self._progress = live, progress
    self.semantic = None
    if "semantic" in parts.stages and request.semantic is None:
      self.semantic = self._semantic()
    self.coarse = self._coarse()
    self.fine = self._fine() if "fine" in parts.stages else None

  def tokens(self) -> dict[str, np.ndarray]:
    """Makes all codes, stage by stage.

    Returns:
      int32 [batch, frames, codebooks] by the name of the stage.
    """
    found = {}
    if self.semantic is not None:
      found["semantic"] = self.all_semantic()
    found["coarse"] = self.coarse.until(self.coarse.total)
    if self.fine is not None:
      found["fine"] = self.fine.until(self.fine.total)
    return found

  def all_semantic(self) -> np.ndarray:
    """Makes all semantic tokens.

    Returns:
      int32 [batch, frames, codebooks], as the semantic tokenizer makes them.
    """
    tokenizer: Any = self._parts.semantic
    frames = self.coarse.total / self._parts.codec.frame_rate
    return self._semantic_until(frames_at(frames, tokenizer.frame_rate))

  def stream(self, frames: int) -> Iterator[np.ndarray]:
    """Makes the codec's codes and yields them in time order.

    Args:
      frames: how many to yield at a time.

    Yields:
      int32 [batch, frames, codebooks].
    """
    runs = [run for run in (self.coarse, self.fine) if run is not None]
    for start in range(0, self.coarse.total, frames):
      end = start + frames
      yield np.concatenate([run.until(end)[:, start:end] for run in runs], 2)

  # ---------------------------------------------------------------- stages

  def _keys(self, name: str) -> jax.Array:
    """The keys of a stage [batch]."""
    number = STAGES.index(name)
    fold = lambda key: jax.random.fold_in(key, number)
    return jax.vmap(fold)(self._request.keys)

  def _tell(self, name: str) -> Tell | None:
    progress = self._progress
    if progress is None:
      return None
    return lambda done, total: progress(name, done, total)

  def _part(self, frame_rate: float) -> int | None:
    """Frames that are made at a time."""
    if not self._live and self._progress is None:
      return None
    return max(1, round(frame_rate))

  def _joint(self, start: float, end: float) -> Any:
    """The joint tokens of each item between two times."""
    return self._request.joint.at((start + end) / 2)

  def _windows(
    self,
    name: str,
    stride: int,
    at: tuple[int, ...],
    values: Callable[[Window, int], Values],
  ) -> WindowRun:
    """A run of a stage in windows."""
    stage, codes = self._parts.stages[name], self._request.known[name]
    total = codes.shape[1]
    size = stage.model.frames if stride else total
    return WindowRun(
      stage,
      codes,
      self._keys(name),
      plan=windows.plan(total, size, stride or size, at, stage.model.grid),
      values=values,
      options=self._request.options[name],
      part=self._part(stage.frame_rate),
      tell=self._tell(name),
    )

  def _semantic(self) -> WindowRun:
    rate = self._parts.stages["semantic"].frame_rate

    def values(window: Window, new: int) -> Values:
      joint = self._joint(new / rate, window.end / rate)
      return {"joint": joint, **self._request.melody.get("semantic", {})}

    at = tuple(borders(self._request.joint, rate))
    return self._windows("semantic", self._request.stride, at, values)

  def _coarse(self) -> WindowRun:
    stage = self._parts.stages["coarse"]
    rate = stage.frame_rate
    heard: Any = None
    if self._parts.hears("coarse", "semantic"):
      (heard,) = (each for each in stage.conditions if each.name == "semantic")

    def values(window: Window, new: int) -> Values:
      found: dict[str, Any] = {
        "joint": self._joint(new / rate, window.end / rate)
      }
      if heard is not None:
        at = math.floor(window.start / rate * heard.frame_rate + 1e-6)
        found["semantic"] = list(self._semantic_until(at + heard.frames))
      return {**found, **self._request.melody.get("coarse", {})}

    return self._windows("coarse", self.coarse_stride, (), values)

  @property
  def coarse_stride(self) -> int:
    """Frames that each window of the coarse stage adds."""
    stage = self._parts.stages["coarse"]
    half = max(1, stage.model.frames // 2)
    if self._parts.semantic is None:
      return half
    # Training crops begin where a semantic frame begins, if the rates allow it.
    ratio = stage.frame_rate / self._parts.semantic.frame_rate
    grid = round(ratio) if abs(ratio - round(ratio)) < 1e-6 else 1
    return max(half - half % grid, 1) if half >= grid else half

  def _semantic_until(self, frames: int) -> np.ndarray:
    """Semantic tokens of the first frames; made now, if they are not yet."""
    if self.semantic is None:
      assert self._request.semantic is not None
      return self._request.semantic[:, :frames]
    stage, tokenizer = self._parts.stages["semantic"], self._parts.semantic
    assert tokenizer is not None
    # A stage without repeats makes fewer frames.
    needed = frames_at(frames / tokenizer.frame_rate, stage.frame_rate)
    return stage.to_frames(self.semantic.until(needed))[:, :frames]

  def _fine(self) -> WindowRun | ChunkRun:
    stage = self._parts.stages["fine"]
    rate = stage.frame_rate

    def values(window: Window, new: int) -> Values:
      joint = self._joint(new / rate, window.end / rate)
      coarse = self.coarse.until(window.end)[:, : window.end]
      return {"joint": joint, "coarse": list(coarse)}

    if overlap := self._request.overlap:
      return self._windows("fine", stage.model.frames - overlap, (), values)
    return ChunkRun(
      stage,
      self._request.known["fine"],
      self._keys("fine"),
      values=values,
      options=self._request.options["fine"],
      tell=self._tell("fine"),
    )
