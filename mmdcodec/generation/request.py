"""What a user asks a music model for, checked before anything is computed."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from mmdcodec.errors import UserError
from mmdcodec.models import text_tokens
from mmdcodec.models.conditioning import Inputs
from mmdcodec.models.token_lm import TokenLM
from mmdcodec.tokenizers.interface import AudioCodec
from mmdcodec.tokenizers.loaded_codec import bucket

# Frames of all items together: more do not fit anywhere, and are a mistake.
_MOST_FRAMES = 10_000_000
# Of a window, what each one adds; MusicGen's 18 of 30 s.
_STRIDE = 0.6


@dataclasses.dataclass(frozen=True)
class Order:
  """A batch of music to make.

  Attributes:
    codes: int32 [batch, frames, codebooks], those of audio prompts, -1 for what
      is to be made.
    inputs: conditions, melodies as of the first window; None of a model that
      takes none.
    melody: pitch classes of each item's tune, int32 [its frames]; or None.
    keys: random keys, one for each item.
    temperature: see `sampling.draw`; `top_k` and `top_p` too.
    top_k: see there.
    top_p: see there.
    guidance: see `sampling.guide`.
    text_guidance: see there; None: guidance is not double.
    stride: frames that a window adds to the one before.
  """

  codes: np.ndarray
  inputs: Inputs | None
  melody: list[np.ndarray] | None
  keys: list[jax.Array]
  temperature: float
  top_k: int
  top_p: float | None
  guidance: float
  text_guidance: float | None
  stride: int


def make_order(
  model: TokenLM,
  codec: AudioCodec,
  tokenizer: Any,
  texts: str | Sequence[str | None] | None = None,
  *,
  seconds: float = 8.0,
  seed: int | Sequence[int] = 0,
  temperature: float = 1.0,
  top_k: int = 250,
  top_p: float | None = None,
  guidance: float = 3.0,
  text_guidance: float | None = None,
  audio: Any = None,
  melody: Any = None,
  rate: int | None = None,
  joint: Any = None,
  stride: float | None = None,
) -> Order:
  """Checks an order; see `LoadedMusic.generate_codes` for the arguments.

  Raises:
    UserError: a value that can't be, or what this model does not take.
  """
  for name, value, good, expected in (
    ("seconds", seconds, 0 < seconds < np.inf, "above 0"),
    ("temperature", temperature, 0 <= temperature < np.inf, "0 or above"),
    ("top_k", top_k, top_k >= 0, "0 (all) or above"),
    ("top_p", top_p, top_p is None or 0 < top_p <= 1, "above 0 and at most 1"),
    ("guidance", guidance, 0 <= guidance < np.inf, "0 or above"),
    (
      "text_guidance",
      text_guidance,
      text_guidance is None or 0 <= text_guidance < np.inf,
      "0 or above",
    ),
  ):
    if not good:
      raise UserError(f"{name} is {value}; it must be {expected}.")
  texts = _texts(model, texts)
  clips = _clips(codec, audio, rate, "audio")
  tunes = _clips(codec, melody, rate, "melody")
  if joint is not None:
    joint = _joint(model, joint)
  if tunes is not None and not model.melody:
    raise UserError("this model takes no melody.")
  seeds = [seed] if np.ndim(seed) == 0 else list(seed)
  batch = _batch(
    texts=texts, audio=clips, melody=tunes, joint=joint,
    seed=None if np.ndim(seed) == 0 else seeds,
  )  # fmt: skip
  if np.ndim(seed) == 0:
    seeds = [seed + i for i in range(batch)]
  if not all(isinstance(s, int | np.integer) for s in seeds) or not all(
    0 <= s < 1 << 63 for s in seeds
  ):
    raise UserError(
      f"seed is {seed}; it must be a whole number from 0 to below 2^63."
    )
  if text_guidance is not None and (
    texts is None or not model.text or not (model.melody or model.joint)
  ):
    raise UserError(
      "text_guidance is what the text counts beside a melody or joint tokens;"
      " without them leave it away."
    )
  frames = max(1, round(seconds * codec.frame_rate))
  if frames * batch > _MOST_FRAMES:
    raise UserError(
      f"{batch} x {seconds:g} s are too long: at most"
      f" {_MOST_FRAMES / codec.frame_rate:.0f} s in all."
    )
  codes = np.full((batch, frames, model.codebooks), -1, np.int32)
  for i, clip in enumerate(_repeat(clips, batch) or ()):
    known = codec.encode(clip, rate=rate)[0]
    if len(known) >= frames:
      raise UserError(
        f"the audio prompt has {len(known) / codec.frame_rate:.2f} s; seconds"
        f" ({seconds:g}) are those of the whole, so ask for more."
      )
    codes[i, : len(known)] = known
  if stride is None:
    step = max(1, round(_STRIDE * model.frames))
  else:
    good = 0 < stride < model.frames / codec.frame_rate
    step = round(stride * codec.frame_rate) if good else 0
    if not 0 < step < model.frames:
      raise UserError(
        f"stride is {stride} s; it must be above 0 and below"
        f" {model.frames / codec.frame_rate:g} s, the length of a window."
      )
  classes = _classes(model, codec, _repeat(tunes, batch), rate, batch)
  return Order(
    codes=codes,
    inputs=_inputs(model, tokenizer, texts, classes, joint, batch),
    melody=classes,
    keys=[jax.random.key(int(s)) for s in seeds],
    temperature=float(temperature),
    top_k=int(top_k),
    top_p=None if top_p in (None, 1) else float(top_p),
    guidance=float(guidance),
    text_guidance=text_guidance,
    stride=step,
  )


def _texts(model: TokenLM, texts: Any) -> list[str] | None:
  if texts is None:
    return None
  texts = [texts] if isinstance(texts, str) else list(texts)
  texts = ["" if text is None else text for text in texts]
  if not texts or not all(isinstance(text, str) for text in texts):
    raise UserError(
      f"prompts are {texts!r}; expected a text or a list of at least one."
    )
  if not model.text and any(text.strip() for text in texts):
    raise UserError("this model takes no text.")
  return texts


def _clips(codec, audio, rate, name: str) -> list[np.ndarray] | None:
  """Audio in any form as a list of [samples, channels]."""
  if audio is None:
    return None
  if not isinstance(audio, list | tuple):
    audio = np.asarray(audio, np.float32)
    audio = list(audio) if audio.ndim == 3 else [audio]
  clips = [np.asarray(clip, np.float32) for clip in audio]
  clips = [clip[:, None] if clip.ndim == 1 else clip for clip in clips]
  if not clips or any(clip.ndim != 2 or not clip.size for clip in clips):
    raise UserError(
      f"{name} must be [samples], [samples, channels], [batch, samples,"
      " channels] or a list of such, and not empty."
    )
  if rate is not None and not rate > 0:
    raise UserError(f"rate is {rate} Hz; it must be above 0.")
  return clips


def _joint(model: TokenLM, joint: Any) -> np.ndarray:
  if not model.joint:
    raise UserError("this model takes no joint tokens.")
  joint, (books, size) = np.asarray(joint), model.joint
  if (
    joint.ndim != 2
    or not joint.size
    or joint.shape[1] != books
    or not np.issubdtype(joint.dtype, np.integer)
    or joint.min() < 0
    or joint.max() >= size
  ):
    raise UserError(
      f"joint tokens must be whole numbers [batch, {books}] below {size}."
    )
  return joint.astype(np.int32)


def _batch(**given: Sequence | None) -> int:
  """The number of items; what was given once goes for all of them."""
  counts = {k: len(v) for k, v in given.items() if v is not None}
  batch = max(counts.values(), default=1)
  for name, count in counts.items():
    if count not in (1, batch):
      raise UserError(
        f"there are {count} of {name}, but {batch} items; give one, or one for"
        " each."
      )
  return batch


def _repeat(values: Sequence | None, batch: int) -> list | None:
  if values is None:
    return None
  return list(values) if len(values) == batch else list(values) * batch


def _classes(model, codec, tunes, rate, batch) -> list[np.ndarray] | None:
  """Pitch classes of the tunes; class 0 is no tune."""
  if not model.melody:
    return None
  if tunes is None:
    return [np.zeros(1, np.int32)] * batch
  from mmdcodec.audio import files
  from mmdcodec.audio import melody as melody_lib

  own = model.melody["rate"]
  found = []
  for tune in tunes:
    tune = files.resample(tune, rate=rate or codec.rate, to=own)
    found.append(
      melody_lib.pitch_classes(
        tune,
        own,
        window=model.melody["window"],
        hop=model.melody["hop"],
        classes=model.melody["classes"],
      )
    )
  return found


def melody_from(
  tunes: Sequence[np.ndarray], first: int, frames: int
) -> np.ndarray:
  """A stretch of each tune, which begins again where it ends.

  Args:
    tunes: pitch classes of each.
    first: frame, counted from the beginning of the music.
    frames: of the stretch.

  Returns:
    int32 [batch, frames].
  """
  at = first + np.arange(frames)
  return np.stack([tune[at % len(tune)] for tune in tunes])


def _inputs(model, tokenizer, texts, classes, joint, batch) -> Inputs | None:
  if not model.conditioned:
    return None
  given = {}
  if model.text:
    tokens, mask, has_text = text_tokens.tokenize(
      tokenizer, _repeat(texts or [""], batch), model.text["longest"]
    )
    # Sizes that few programs serve.
    room = ((0, 0), (0, bucket(tokens.shape[1]) - tokens.shape[1]))
    given |= dict(
      text=np.pad(tokens, room), text_mask=np.pad(mask, room), has_text=has_text
    )
  if model.melody:
    given["melody"] = melody_from(classes, 0, model.melody["frames"])
  if model.joint:
    none = np.zeros((batch, model.joint[0]), np.int32)
    given["joint"] = none if joint is None else np.stack(_repeat(joint, batch))
    given["has_joint"] = np.full(batch, joint is not None)
  return Inputs(**given)
