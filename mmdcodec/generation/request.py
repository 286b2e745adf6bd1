"""Checks a user's request to a music model before anything is computed."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mmdcodec.audio.clip_list import clip_list
from mmdcodec.errors import UserError
from mmdcodec.generation.sampling import SamplingOptions
from mmdcodec.models.condition import Condition
from mmdcodec.models.conditioning import Inputs
from mmdcodec.models.text_condition import text_list
from mmdcodec.models.token_lm import TokenLM
from mmdcodec.tokenizers.interface import AudioCodec

# Limit on the frames of all items together: more is surely a mistake.
MOST_FRAMES = 10_000_000
# Default stride as a share of the window: MusicGen's 18 of 30 s.
_STRIDE = 0.6


@dataclasses.dataclass(frozen=True, kw_only=True)
class GenerationRequest:
  """A user's request; `check_request` checks it against a model.

  Attributes:
    texts: one prompt, or one per item; "" or None for no text.
    seconds: length of the music, including the audio prompt. Music longer than
      the training clips is generated in windows.
    seed: one number, from which item i gets seed + i; or one per item.
    temperature: sampling temperature; 0 always takes the likeliest code.
    top_k: sample from this many of the likeliest codes; 0: from all.
    top_p: sample from the likeliest codes with this total probability.
    guidance: weight of the conditions; 1 is plain sampling, in half the time.
    text_guidance: weight of the text relative to the other conditions, in
      double guidance; None turns double guidance off.
    audio: a prompt to continue: [samples], [samples, channels], [batch,
      samples, channels] or a list, one per item.
    melody: audio with the melody to follow, in the same forms.
    rate: sample rate of audio and melody in Hz; None: that of the model.
    joint: int [batch, codebooks], tokens of a joint embedding.
    conditions: values of other conditions, by name.
    stride: seconds that each window adds to the previous one; None: 60 %, or
      no windows if the model's attention has one.
  """

  texts: str | Sequence[str | None] | None = None
  seconds: float = 8.0
  seed: int | Sequence[int] = 0
  temperature: float = 1.0
  top_k: int = 250
  top_p: float | None = None
  guidance: float = 3.0
  text_guidance: float | None = None
  audio: Any = None
  melody: Any = None
  rate: int | None = None
  joint: Any = None
  conditions: Mapping[str, Any] | None = None
  stride: float | None = None


@dataclasses.dataclass(frozen=True)
class CheckedRequest:
  """A valid request, converted to the inputs of a model.

  Attributes:
    codes: int32 [batch, frames, codebooks], the codes of audio prompts; -1 for
      codes to generate.
    keys: random keys [batch].
    conditions: conditions of the model.
    items: name of a condition -> inputs of `Condition.arrays`, one per item.
    options: how codes are sampled.
    stride: frames that a window adds to the previous one; None for music of
      any length in one go.
  """

  codes: np.ndarray
  keys: jax.Array
  conditions: Sequence[Condition]
  items: Mapping[str, Sequence[Any]]
  options: SamplingOptions
  stride: int | None

  def inputs(self, start: float) -> Inputs:
    """Returns the conditions for a window that starts at `start` seconds."""
    return {
      each.name: each.arrays(self.items[each.name], start)
      for each in self.conditions
    }


def check_request(
  request: GenerationRequest,
  model: TokenLM,
  codec: AudioCodec,
  conditions: Sequence[Condition],
) -> CheckedRequest:
  """Checks a request and converts it.

  Args:
    request: the request.
    model: the language model.
    codec: the model's codec.
    conditions: conditions of the model, with the files that they need.

  Raises:
    UserError: an invalid value, or a condition that this model lacks.
  """
  _check_numbers(request)
  texts = None if request.texts is None else text_list(request.texts)
  clips = None
  if request.audio is not None:
    clips = clip_list(request.audio, "audio")
  asked = _ask(conditions, request, texts, request.rate or codec.rate)
  given = {"texts": texts, "audio": clips, "seed": listed_seeds(request.seed)}
  batch = count_items({**given, **asked})
  if request.text_guidance is not None and (
    "text" not in asked or len(conditions) < 2
  ):
    raise UserError(
      "text_guidance is what the text counts beside a melody or joint tokens;"
      " without them leave it out."
    )
  # Without any condition it changes nothing, and takes twice the time.
  guided = any(_says(item) for items in asked.values() for item in items)
  return CheckedRequest(
    codes=_codes(request, model, codec, clips, batch),
    keys=item_keys(request.seed, batch),
    conditions=conditions,
    items={
      each.name: repeat(asked.get(each.name, [None]), batch)
      for each in conditions
    },
    options=SamplingOptions(
      temperature=float(request.temperature),
      top_k=int(request.top_k),
      top_p=None if request.top_p in (None, 1) else float(request.top_p),
      guidance=float(request.guidance) if guided else 1.0,
      double_guidance=request.text_guidance if guided else None,
    ),
    stride=_stride_frames(
      request.stride,
      model,
      codec.frame_rate,
      any(each.in_time for each in conditions if each.name in asked),
    ),
  )


def _check_numbers(request: GenerationRequest) -> None:
  """Raises UserError if a number is out of range."""
  positive = lambda x: 0 < x < math.inf
  not_negative = lambda x: 0 <= x < math.inf
  for name, good, expected in (
    ("seconds", positive, "above 0"),
    ("temperature", not_negative, "0 or above, and finite"),
    ("top_k", not_negative, "0 (all) or above"),
    ("top_p", lambda x: 0 < x <= 1, "above 0 and at most 1"),
    ("guidance", not_negative, "0 or above, and finite"),
    ("text_guidance", not_negative, "0 or above, and finite"),
    ("rate", positive, "above 0 Hz"),
  ):
    value = getattr(request, name)
    if value is not None and not good(value):
      raise UserError(f"{name} is {value}; it must be {expected}.")


def _ask(
  conditions: Sequence[Condition],
  request: GenerationRequest,
  texts: list[str] | None,
  rate: int,
) -> dict[str, list[Any]]:
  """Returns the checked values of the conditions, by name."""
  by_name = {each.name: each for each in conditions}
  values = {"melody": request.melody, "joint": request.joint}
  values |= request.conditions or {}
  values = {name: x for name, x in values.items() if x is not None}
  # A model without text accepts empty prompts.
  if texts and ("text" in by_name or any(text.strip() for text in texts)):
    values["text"] = texts
  for name in values:
    if name not in by_name:
      raise UserError(
        f"this model takes no {name}; it takes"
        f" {', '.join(by_name) or 'no conditions'}."
      )
  return {name: by_name[name].check(x, rate) for name, x in values.items()}


def _says(item: Any) -> bool:
  """Returns whether the value of a condition is not empty."""
  return bool(item.strip()) if isinstance(item, str) else item is not None


def count_items(given: Mapping[str, Sequence[Any] | None]) -> int:
  """Returns the number of items; a single value applies to all of them.

  Args:
    given: values by what they are called; None for what was not given.

  Raises:
    UserError: the numbers of values differ, and none of them is 1.
  """
  counts = {k: len(v) for k, v in given.items() if v is not None}
  batch = max([1, *counts.values()])
  for name, count in counts.items():
    if count not in (1, batch):
      raise UserError(
        f"there are {count} of {name}, but {batch} items; give one, or one for"
        " each."
      )
  return batch


def repeat(values: Sequence[Any], batch: int) -> list[Any]:
  """Repeats a single value for all items."""
  return list(values) if len(values) == batch else list(values) * batch


def listed_seeds(seed: int | Sequence[int]) -> list[int] | None:
  """Returns the seeds if there is a list of them, for `count_items`."""
  given: Any = seed
  return list(given) if isinstance(given, Sequence) or np.ndim(given) else None


def item_keys(seed: int | Sequence[int], batch: int) -> jax.Array:
  """Makes the random keys of a batch.

  Args:
    seed: one number, from which item i gets seed + i; or a list with one for
      each item, or one for all. JAX takes the last 32 bits alone, and seeds
      keep the music that they once made.
    batch: number of items.

  Raises:
    UserError: a seed is not a whole number from 0 to below 2^63.
  """
  if isinstance(seed, np.ndarray) and not seed.ndim:
    seed = seed.item()
  listed = listed_seeds(seed)
  if listed is None and isinstance(seed, int | np.integer):
    listed = [int(seed) + i for i in range(batch)]
  seeds = repeat([seed] if listed is None else listed, batch)
  whole = all(isinstance(seed, int | np.integer) for seed in seeds)
  if not whole or not all(0 <= seed < 1 << 63 for seed in seeds):
    raise UserError(
      f"seeds are {seeds}; they must be whole numbers from 0 to below 2^63."
    )
  return jnp.stack([jax.random.key(int(seed)) for seed in seeds])


def count_frames(seconds: float, frame_rate: float, batch: int) -> int:
  """Returns how many frames each of `batch` items has.

  Raises:
    UserError: they are too many.
  """
  if seconds * frame_rate * batch > MOST_FRAMES:
    raise UserError(
      f"{batch} x {seconds:g} s are too long: at most"
      f" {MOST_FRAMES / frame_rate:.0f} s in all."
    )
  return max(1, round(seconds * frame_rate))


def _codes(
  request: GenerationRequest,
  model: TokenLM,
  codec: AudioCodec,
  clips: list[np.ndarray] | None,
  batch: int,
) -> np.ndarray:
  """Returns the codes of the audio prompts, followed by -1."""
  seconds, rate = request.seconds, codec.frame_rate
  frames = count_frames(seconds, rate, batch)
  codes = np.full((batch, frames, model.codebooks), -1, np.int32)
  for i, clip in enumerate(repeat(clips, batch) if clips else ()):
    known = codec.encode(clip, rate=request.rate)[0, :, : model.codebooks]
    if len(known) >= frames:
      raise UserError(
        f"the audio prompt has {len(known) / rate:.2f} s, and seconds"
        f" ({seconds:g}) includes it, so ask for more."
      )
    codes[i, : len(known)] = known
  return codes


def _stride_frames(
  stride: float | None, model: TokenLM, frame_rate: float, in_time: bool
) -> int | None:
  if stride is None:
    # A condition that follows the music covers one window.
    if model.window and not in_time:
      return None
    return max(1, round(_STRIDE * model.frames))
  good = 0 < stride < model.frames / frame_rate
  frames = round(stride * frame_rate) if good else 0
  if not 0 < frames < model.frames:
    raise UserError(
      f"stride is {stride} s; it must be above 0 and below"
      f" {model.frames / frame_rate:g} s, the length of a window."
    )
  return frames
