"""Checks a user's request to a MusicLM before anything is computed."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from mmdcodec.audio.clip_list import clip_list
from mmdcodec.errors import UserError
from mmdcodec.generation import request as request_lib
from mmdcodec.generation.musiclm_options import OPTIONS, stage_options
from mmdcodec.generation.musiclm_parts import CHROMA, Parts
from mmdcodec.generation.sampling import SamplingOptions
from mmdcodec.generation.stage_runs import Values, frames_at
from mmdcodec.generation.story import Story, check_story
from mmdcodec.models.text_condition import text_list

# Seconds of codes that windows of the fine stage go on from.
OVERLAP = 0.5


@dataclasses.dataclass(frozen=True, kw_only=True)
class MusicLMRequest:
  """A user's request; `check_request` checks it against a model.

  Options of sampling are numbers, or numbers by the names of stages.

  Attributes:
    texts: one prompt, or one per item; "" or None for no text.
    seconds: length of the music, including the audio prompt.
    seed: one number, from which item i gets seed + i; or one per item.
    story: [(second, prompt), ...] in place of texts, see `check_story`.
    audio: a prompt to continue, in the forms of `clip_list`.
    melody: audio with the melody to follow, in the same forms. Where it has
      ended, the music goes on without.
    rate: sample rate of the audio in Hz; None: that of the codec.
    melody_rate: sample rate of the melody in Hz; None: `rate`.
    joint: int [batch, codebooks], joint tokens in place of texts.
    temperature: 0 always takes the likeliest code; None: those of
      `musiclm_options`.
    top_k: sample from this many of the likeliest codes; 0: from all.
    top_p: sample from the likeliest codes with this total probability.
    guidance: weight of joint and melody tokens; 1 is plain sampling, in half
      the time.
    best_of: pieces to make for each item; the one nearest to its prompt, by the
      joint embedding, is kept.
    stride: seconds that each window of the semantic stage adds; None: half of a
      window, or no windows if its attention has one and the prompt stays.
    overlap: seconds of codes that each window of the fine stage goes on from,
      the last ones of the window before; 0: windows are independent, and many
      are made at once. None: `OVERLAP`, or a quarter of a window where that is
      less.
  """

  texts: str | Sequence[str | None] | None = None
  seconds: float = 10.0
  seed: int | Sequence[int] = 0
  story: Any = None
  audio: Any = None
  melody: Any = None
  rate: int | None = None
  melody_rate: int | None = None
  joint: Any = None
  temperature: float | Mapping[str, float] | None = None
  top_k: int | Mapping[str, int] = 0
  top_p: float | Mapping[str, float] | None = None
  guidance: float | Mapping[str, float] = 1.0
  best_of: int = 1
  stride: float | None = None
  overlap: float | None = None


@dataclasses.dataclass(frozen=True)
class CheckedRequest:
  """A valid request in the terms of the stages.

  Attributes:
    seconds: length of the music.
    keys: random keys [batch].
    prompts: a `Story` of texts, one for each item; "" for none.
    joint: a `Story` of joint tokens, for each item int32 [1, codebooks] or
      None.
    melody: what each stage hears of the melody, by stage and condition: for
      each item int32 [windows, codebooks], or pitch classes int32 [frames], or
      None.
    known: int32 [batch, frames, codebooks] by stage, -1 for codes to make.
    semantic: int32 [batch, frames, codebooks] of the semantic tokenizer, if
      they are all given; otherwise the semantic stage makes them.
    options: how each stage samples.
    stride: frames that each window of the semantic stage adds; 0 for music of
      any length in one go.
    overlap: frames that each window of the fine stage goes on from; 0 for
      independent ones (`ChunkRun`).
    best_of: see `MusicLMRequest`.
  """

  seconds: float
  keys: jax.Array
  prompts: Story
  joint: Story
  melody: Mapping[str, Values]
  known: dict[str, np.ndarray]
  options: dict[str, SamplingOptions]
  semantic: np.ndarray | None = None
  stride: int = 0
  overlap: int = 0
  best_of: int = 1

  @property
  def batch(self) -> int:
    """Number of items."""
    return len(self.keys)


def check_request(request: MusicLMRequest, parts: Parts) -> CheckedRequest:
  """Checks a request and converts it.

  Args:
    request: the request.
    parts: the parts of the model.

  Raises:
    UserError: an invalid value, or something that this model cannot do.
  """
  for name in ("seconds", "rate", "melody_rate"):
    value = getattr(request, name)
    if value is not None and not 0 < value < math.inf:
      raise UserError(f"{name} is {value}; it must be above 0.")
  story = _story(request)
  prompts = story.map(lambda value: [] if value is None else text_list(value))
  clips = None
  if request.audio is not None:
    clips = clip_list(request.audio, "audio")
  tunes = None
  if request.melody is not None:
    tunes = clip_list(request.melody, "melody")
  joint = None
  if request.joint is not None:
    joint = joint_items(request.joint, parts)
  batch = count_items(
    {"texts": prompts, "joint": joint or Story.of(None)},
    audio=clips,
    melody=tunes,
    seed=request_lib.listed_seeds(request.seed),
  )
  prompts = prompts.map(lambda texts: request_lib.repeat(texts or [""], batch))
  checked = CheckedRequest(
    seconds=float(request.seconds),
    keys=request_lib.item_keys(request.seed, batch),
    prompts=prompts,
    joint=Story.of([None] * batch),
    melody=_melody(request, tunes, batch, parts),
    known=known_codes(parts, request.seconds, batch),
    options={},
    best_of=request.best_of,
  )
  _check_best_of(checked, parts)
  if clips is not None:
    _give_audio(checked, request_lib.repeat(clips, batch), request.rate, parts)
  if joint is not None:
    if any(text.strip() for texts in prompts.values for text in texts):
      raise UserError("joint tokens take the place of texts; give one of them.")
    found = joint.map(lambda items: request_lib.repeat(items, batch))
  else:
    found = _joint(prompts, parts, clips, request.rate)
  asked = {name: getattr(request, name) for name in OPTIONS}
  options = stage_options(parts, asked, found, tunes)
  return dataclasses.replace(
    checked,
    joint=found,
    options=options,
    stride=stride_frames(request.stride, parts, found, tunes),
    overlap=overlap_frames(request.overlap, parts),
  )


def count_items(
  stories: Mapping[str, Story], **given: Sequence[Any] | None
) -> int:
  """Returns the number of items; see `request.count_items`.

  Args:
    stories: values that change with time, by what they are called: each a list
      of items, or nothing.
    **given: other values.

  Raises:
    UserError: the numbers of values differ, and none of them is 1.
  """
  most = {
    name: max(story.values, key=lambda items: len(items or ())) or None
    for name, story in stories.items()
  }
  batch = request_lib.count_items({**most, **given})
  for name, story in stories.items():
    for items in story.values:
      request_lib.count_items({name: items or None, "items": range(batch)})
  return batch


def _story(request: MusicLMRequest) -> Story:
  """The texts as a story."""
  if request.story is None:
    return Story.of(request.texts)
  texts = request.texts
  if texts is not None and any(map(str.strip, text_list(texts))):
    raise UserError("a story takes the place of the prompt; give one of them.")
  return check_story(request.story, request.seconds)


def _joint(
  prompts: Story,
  parts: Parts,
  clips: Sequence[np.ndarray] | None,
  rate: int | None,
) -> Story:
  """Joint tokens of texts; where there is no text, of the audio prompt."""
  texts = sorted({text for each in prompts.values for text in each})
  texts = [text for text in texts if text.strip()]
  batch = len(prompts.values[0])
  if parts.joint is None:
    if texts:
      raise UserError(
        "this model takes no text: it has no joint embedding, so leave the"
        " prompt empty."
      )
    return Story.of([None] * batch)
  parts.joint.check_prompts(texts)
  rows = parts.joint.encode_clip(texts)[:, None] if texts else ()
  of_text = dict(zip(texts, rows, strict=True))
  heard: list[np.ndarray | None] = [None] * batch
  if clips is not None and any(
    not text.strip() for each in prompts.values for text in each
  ):
    encode = parts.joint.encode_clip
    rate = rate or parts.codec.rate
    heard = request_lib.repeat([encode(clip, rate) for clip in clips], batch)
  return prompts.map(
    lambda each: [
      of_text.get(text, audio) for text, audio in zip(each, heard, strict=True)
    ]
  )


def joint_items(joint: Any, parts: Parts) -> Story:
  """Checks joint tokens.

  Args:
    joint: int [batch, codebooks], a row of -1 for an item without; a list of
      (second, such tokens); or None.
    parts: parts of the model.

  Returns:
    A `Story` of int32 [1, codebooks] or None for each item.

  Raises:
    UserError: it has another form, or the model takes no joint tokens.
  """
  if joint is None:
    return Story.of([])
  if parts.joint is None:
    raise UserError("this model takes no joint tokens.")
  if isinstance(joint, list) and joint and isinstance(joint[0], tuple):
    return check_story(joint, math.inf).map(
      lambda rows: _joint_rows(rows, parts.joint)
    )
  return Story.of(_joint_rows(joint, parts.joint))


def _joint_rows(joint: Any, model: Any) -> list[np.ndarray | None]:
  rows = np.asarray(joint)
  if (
    rows.ndim != 2
    or not len(rows)
    or rows.shape[1] != model.codebooks
    or not np.issubdtype(rows.dtype, np.integer)
    or rows.max() >= model.codebook_size
    or ((rows < 0).any(1) != (rows == -1).all(1)).any()
  ):
    raise UserError(
      f"joint tokens must be whole numbers [batch, {model.codebooks}] below"
      f" {model.codebook_size}, or -1 in the whole row of an item without."
    )
  return [None if row[0] < 0 else row[None].astype(np.int32) for row in rows]


def _melody(
  request: MusicLMRequest,
  tunes: Sequence[np.ndarray] | None,
  batch: int,
  parts: Parts,
) -> Mapping[str, Values]:
  """What stages hear of each melody; see `CheckedRequest.melody`."""
  if tunes is None:
    return {}
  rate = request.melody_rate or request.rate or parts.codec.rate
  found: dict[str, dict[str, Any]] = {}
  if parts.melody is not None and parts.hears("semantic", "melody"):
    tokens = [parts.melody.encode(clip, rate)[0] for clip in tunes]
    found["semantic"] = {"melody": request_lib.repeat(tokens, batch)}
  for name, stage in parts.stages.items():
    for each in stage.conditions:
      if each.name == CHROMA:
        classes = each.check([*tunes], rate)
        of_stage = found.setdefault(name, {})
        of_stage[CHROMA] = request_lib.repeat(classes, batch)
  if not found:
    raise UserError(
      "this model takes no melody: no stage was trained with pitch classes"
      f" ({CHROMA}), and it has no melody embedding, or its semantic stage was"
      " trained without."
    )
  return found


def _check_best_of(checked: CheckedRequest, parts: Parts) -> None:
  count = checked.best_of
  if not isinstance(count, int | np.integer) or not 1 <= count <= 1024:
    raise UserError(
      f"best_of is {count}; it must be a whole number from 1 to 1024."
    )
  texts = [text for each in checked.prompts.values for text in each]
  if count > 1 and (parts.joint is None or not all(map(str.strip, texts))):
    raise UserError(
      "best_of chooses the piece nearest to its prompt by the joint embedding,"
      " so it needs a text for every item and a model with that embedding."
    )


# ----------------------------------------------------------------------- codes


def known_codes(
  parts: Parts, seconds: float, batch: int
) -> dict[str, np.ndarray]:
  """Codes of each stage, none of them made yet: all -1.

  Raises:
    UserError: they are too long.
  """
  rate = parts.codec.frame_rate
  frames = request_lib.count_frames(seconds, rate, batch)
  found = {}
  for name, stage in parts.stages.items():
    count = frames
    if name == "semantic":
      count = max(1, frames_at(frames / rate, stage.frame_rate))
    found[name] = np.full((batch, count, stage.model.codebooks), -1, np.int32)
  return found


def _give_audio(
  checked: CheckedRequest,
  clips: Sequence[np.ndarray],
  rate: int | None,
  parts: Parts,
) -> None:
  """Puts the codes of audio prompts into `known`."""
  rate = rate or parts.codec.rate
  frames = checked.known["coarse"].shape[1]
  for i, clip in enumerate(clips):
    codes = parts.codec.encode(clip, rate)[0]
    if len(codes) >= frames:
      raise UserError(
        f"the audio prompt has {len(codes) / parts.codec.frame_rate:.2f} s, and"
        f" seconds ({checked.seconds:g}) includes it, so ask for more."
      )
    for name, known in checked.known.items():
      found, first = codes, parts.stages[name].model.first_codebook
      if name == "semantic" and parts.semantic is not None:
        found = stage_tokens(parts, parts.semantic.encode(clip, rate))[0]
      found = found[: known.shape[1], first : first + known.shape[2]]
      known[i, : len(found)] = found


def stage_tokens(parts: Parts, tokens: np.ndarray) -> list[np.ndarray]:
  """Semantic tokens as the semantic stage makes them.

  Args:
    parts: parts of the model.
    tokens: int [batch, frames, codebooks], as the tokenizer makes them.

  Returns:
    int32 [frames, codebooks] of each item; fewer frames if the stage makes no
    repeats.
  """
  lengths = np.full(len(tokens), tokens.shape[1])
  found, kept = parts.stages["semantic"].from_frames(tokens, lengths)
  return [row[:count] for row, count in zip(found, kept, strict=True)]


def stride_frames(
  stride: float | None, parts: Parts, joint: Story, melody: Any
) -> int:
  """Frames that a window of the semantic stage adds.

  Args:
    stride: seconds; None: half of a window, or one go if attention has a window
      and the conditions do not change.
    parts: parts of the model.
    joint: joint tokens.
    melody: melody tokens, or None.

  Returns:
    The frames; 0 for one go.

  Raises:
    UserError: the stride is not a part of a window, or there are no windows.
  """
  semantic = parts.stages.get("semantic")
  if semantic is None:
    if stride is not None:
      raise UserError(
        "stride is that of the semantic stage, which this model lacks."
      )
    return 0
  if stride is None:
    if semantic.model.window and melody is None and len(joint.times) == 1:
      return 0
    return max(1, semantic.model.frames // 2)
  good = 0 < stride <= semantic.seconds
  frames = round(stride * semantic.frame_rate) if good else 0
  if not 0 < frames < max(2, semantic.model.frames):
    raise UserError(
      f"stride is {stride} s; it must be above 0 and below"
      f" {semantic.seconds:g} s, the length of a window."
    )
  return frames


def overlap_frames(overlap: float | None, parts: Parts) -> int:
  """Frames that each window of the fine stage goes on from.

  Args:
    overlap: seconds; None: `OVERLAP`, or a quarter of a window.
    parts: parts of the model.

  Returns:
    The frames; 0 without a fine stage.

  Raises:
    UserError: they are no part of a window, or there is no fine stage.
  """
  fine = parts.stages.get("fine")
  if fine is None:
    if overlap is not None:
      raise UserError(
        "overlap is that of the fine stage's windows, and this model has no"
        " such stage."
      )
    return 0
  size = fine.model.frames
  if overlap is None:
    return min(round(OVERLAP * fine.frame_rate), size // 4)
  good = 0 <= overlap <= fine.seconds
  found = round(overlap * fine.frame_rate) if good else size
  if found >= size:
    raise UserError(
      f"overlap is {overlap} s; it must be 0 or above, and below"
      f" {fine.seconds:g} s, the length of a window of the fine stage."
    )
  return found
