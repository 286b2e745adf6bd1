"""The stages of a MusicLM one at a time, for measures and experiments.

For example what a weak stage costs: acoustic codes from the semantic tokens of
music that was never generated.

  semantic = model.semantic.encode(x, rate)
  coarse = model.make_coarse(joint, semantic)
  y = model.decode(coarse, model.make_fine(joint, coarse))
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from mmdcodec.errors import UserError
from mmdcodec.generation import musiclm_request
from mmdcodec.generation import request as request_lib
from mmdcodec.generation.musiclm_options import OPTIONS, stage_options
from mmdcodec.generation.musiclm_parts import CHROMA, Parts
from mmdcodec.generation.musiclm_request import CheckedRequest
from mmdcodec.generation.musiclm_stages import Hierarchy, Progress
from mmdcodec.generation.story import Story
from mmdcodec.models.text_condition import text_list


class SingleStages:
  """Runs of single stages.

  In all methods, `joint` is int [batch, codebooks], with rows of -1 for items
  without; or a list of (second, such tokens), each of which holds from then on;
  or None. `options` are temperature, top_k, top_p and guidance, see
  `MusicLMRequest`, and `progress`. Item i gets seed + i, or its own; the same
  seeds make the same tokens here as in `LoadedMusicLM.generate_tokens`.
  """

  def __init__(self, parts: Parts):
    """Takes the parts of a hierarchy."""
    self.parts = parts
    self.codec, self.joint = parts.codec, parts.joint
    self.semantic, self.melody = parts.semantic, parts.melody
    self.rate, self.channels = parts.codec.rate, parts.codec.channels
    self.frame_rate = parts.codec.frame_rate
    self.seconds = next(iter(parts.stages.values())).seconds

  def __repr__(self) -> str:
    """The stages, what they take, and the codec."""
    names = [name for name in ("text", "melody") if self.takes(name)]
    return (
      f"<{type(self).__name__}: stages {', '.join(self.parts.stages)}; takes"
      f" {', '.join(names) or 'no conditions'}; {self.codec!r}>"
    )

  def takes(self, condition: str) -> bool:
    """Returns whether the model has a condition: "text", "melody", ..."""
    names = {"text": ("joint",), "melody": ("melody", CHROMA)}
    return any(map(self.parts.takes, names.get(condition, (condition,))))

  def joint_tokens(
    self,
    texts: str | Sequence[str] | None = None,
    *,
    audio: Any = None,
    rate: int | None = None,
  ) -> np.ndarray:
    """Joint tokens of texts, or of audio.

    Args:
      texts: one or several.
      audio: a clip or a batch of clips, in place of texts.
      rate: sample rate of the audio in Hz; None: that of the codec.

    Returns:
      int32 [batch, codebooks].

    Raises:
      UserError: the model has no joint embedding, or a text is too long.
    """
    if self.joint is None:
      raise UserError("this model has no joint embedding.")
    if (texts is None) == (audio is None):
      raise UserError("give either texts or audio.")
    if texts is None:
      return self.joint.encode_clip(audio, rate or self.rate)
    texts = text_list(texts)
    self.joint.check_prompts(texts)
    return self.joint.encode_clip(texts)

  def make_semantic(
    self,
    joint: Any,
    seconds: float,
    *,
    seed: int | Sequence[int] = 0,
    melody: Any = None,
    known: Any = None,
    stride: float | None = None,
    **options: Any,
  ) -> np.ndarray:
    """Makes semantic tokens.

    Args:
      joint: joint tokens, see the class.
      seconds: length of the music.
      seed: see the class.
      melody: int [batch, windows, codebooks], melody tokens.
      known: int [batch, frames, codebooks], the first tokens, to go on from.
      stride: seconds that each window adds; None: half of a window.
      **options: see the class.

    Returns:
      int32 [batch, frames, codebooks].

    Raises:
      UserError: an invalid value, or there is no such stage.
    """
    run = self._run(
      "semantic", joint, seconds, seed, {}, options, known, melody, stride
    )
    return run.all_semantic()

  def make_coarse(
    self,
    joint: Any,
    semantic: Any = None,
    *,
    seconds: float | None = None,
    seed: int | Sequence[int] = 0,
    known: Any = None,
    **options: Any,
  ) -> np.ndarray:
    """Makes the first codebooks of the codec.

    Args:
      joint: joint tokens, see the class.
      semantic: int [batch, frames, codebooks], semantic tokens; None for a
        model without.
      seconds: length of the music; None: that of the semantic tokens.
      seed: see the class.
      known: int [batch, frames, codebooks], the first codes, to go on from.
      **options: see the class.

    Returns:
      int32 [batch, frames, codebooks].

    Raises:
      UserError: an invalid value.
    """
    if seconds is None:
      if semantic is None or self.semantic is None:
        raise UserError("give seconds, the length of the music.")
      seconds = np.shape(semantic)[1] / self.semantic.frame_rate
    given = {} if semantic is None else {"semantic": semantic}
    run = self._run("coarse", joint, seconds, seed, given, options, known)
    return run.coarse.until(run.coarse.total)

  def make_fine(
    self,
    joint: Any,
    coarse: Any,
    *,
    seed: int | Sequence[int] = 0,
    known: Any = None,
    overlap: float | None = None,
    **options: Any,
  ) -> np.ndarray:
    """Makes the other codebooks of the codec.

    Args:
      joint: joint tokens, see the class.
      coarse: int [batch, frames, codebooks], the first codebooks.
      seed: see the class.
      known: int [batch, frames, codebooks], the first codes, to go on from.
      overlap: see `MusicLMRequest`.
      **options: see the class.

    Returns:
      int32 [batch, frames, codebooks].

    Raises:
      UserError: an invalid value, or there is no such stage.
    """
    seconds = np.shape(coarse)[1] / self.frame_rate
    given = {"coarse": coarse}
    run = self._run(
      "fine", joint, seconds, seed, given, options, known, overlap=overlap
    )
    assert run.fine is not None
    return run.fine.until(run.fine.total)

  def join(self, coarse: Any, fine: Any = None) -> np.ndarray:
    """The codes of both stages side by side."""
    return np.asarray(
      coarse if fine is None else np.concatenate([coarse, fine], axis=2)
    )

  def decode(self, coarse: Any, fine: Any = None) -> np.ndarray:
    """Decodes the codes of the coarse stage, or of both, to audio.

    Returns:
      float32 [batch, samples, channels].

    Raises:
      UserError: the codes are not those of the codec.
    """
    return np.array(self.codec.decode(self.join(coarse, fine)))

  def joint_form(self, joint: Story) -> Any:
    """Joint tokens of a request in the form that the methods take."""
    if self.joint is None:
      return None
    nothing = np.full((1, self.joint.codebooks), -1, np.int32)
    form = joint.map(
      lambda items: np.concatenate(
        [nothing if item is None else item for item in items]
      )
    )
    if len(form.times) == 1:
      return form.values[0]
    return [*zip(form.times, form.values, strict=True)]

  def _run(
    self,
    name: str,
    joint: Any,
    seconds: float,
    seed: Any,
    above: dict[str, Any],
    options: dict[str, Any],
    known: Any = None,
    melody: Any = None,
    stride: float | None = None,
    overlap: float | None = None,
  ) -> Hierarchy:
    """The stages, with all codes above one of them given."""
    parts = self.parts
    progress: Progress | None = options.pop("progress", None)
    if unknown := {*options} - {*OPTIONS}:
      raise TypeError(
        f"a run of the {name} stage has no option {min(unknown)!r}; it has"
        f" {', '.join(OPTIONS)} and progress"
      )
    if (stage := parts.stages.get(name)) is None:
      raise UserError(f"this model has no {name} stage.")
    for each in ("semantic", "coarse"):
      if parts.hears(name, each) != (each in above):
        does = "takes no" if each in above else "needs"
        raise UserError(f"the {name} stage {does} {each} tokens.")
    given = {
      each: check_tokens(each, tokens, parts.stages[each].model)
      for each, tokens in above.items()
    }
    begun = None if known is None else check_tokens("known", known, stage.model)
    items = musiclm_request.joint_items(joint, parts)
    tunes = None
    if melody is not None:
      if not parts.hears(name, "melody"):
        raise UserError(
          f"the {name} stage takes no melody tokens; a model that hears pitch"
          " classes takes a melody's audio, in `generate`."
        )
      by_name = {each.name: each for each in stage.conditions}
      tunes = by_name["melody"].check(melody, 0)
    counted: dict[str, Any] = {
      "known tokens": begun,
      "seed": request_lib.listed_seeds(seed),
      "melodies": tunes,
      **given,
    }
    batch = musiclm_request.count_items({"joint tokens": items}, **counted)
    repeat = lambda values: request_lib.repeat(values or [None], batch)
    codes = musiclm_request.known_codes(parts, seconds, batch)
    for each, tokens in given.items():
      given[each] = np.repeat(tokens, batch // len(tokens), axis=0)
    if "coarse" in given:
      codes["coarse"] = given["coarse"]
    if begun is not None:
      rows: Any = begun
      if name == "semantic":
        rows = musiclm_request.stage_tokens(parts, begun)
      for whole, row in zip(codes[name], repeat([*rows]), strict=True):
        if len(row) >= len(whole):
          raise UserError(
            f"{len(row)} frames are known, and {len(whole)} are to be made in"
            " all; ask for more."
          )
        whole[: len(row)] = row
    request = CheckedRequest(
      seconds=float(seconds),
      keys=request_lib.item_keys(seed, batch),
      prompts=Story.of([""] * batch),
      joint=items.map(repeat),
      melody={name: {"melody": repeat(tunes)}} if tunes else {},
      known=codes,
      semantic=given.get("semantic"),
      options=stage_options(parts, options, items, tunes),
      stride=musiclm_request.stride_frames(stride, parts, items, tunes),
      overlap=musiclm_request.overlap_frames(overlap, parts),
    )
    return Hierarchy(parts, request, progress=progress)


def check_tokens(name: str, tokens: Any, model: Any) -> np.ndarray:
  """Checks tokens that a stage with this model could have made.

  Args:
    name: what to call them in errors.
    tokens: int [batch, frames, codebooks].
    model: the stage's `TokenLM`.

  Returns:
    int32 [batch, frames, codebooks].

  Raises:
    UserError: they have another shape, or are no such tokens.
  """
  found = np.asarray(tokens)
  if (
    found.ndim != 3
    or not found.size
    or found.shape[2] != model.codebooks
    or not np.issubdtype(found.dtype, np.integer)
    or found.min() < 0
    or found.max() >= model.codebook_size
  ):
    raise UserError(
      f"{name} tokens must be whole numbers [batch, frames, {model.codebooks}]"
      f" from 0 to below {model.codebook_size}."
    )
  return found.astype(np.int32)
