"""A music model ready to use: prompts in, music out.

MusicGen, Copet et al. 2023, arXiv 2306.05284. `LoadedMusic` ties the parts
together: `request.py` checks what is asked for, `token_sampler.py` samples
codes, the codec turns them into audio.
"""

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from mmdcodec.errors import UserError
from mmdcodec.generation.request import (
  CheckedRequest,
  GenerationRequest,
  check_request,
)
from mmdcodec.generation.token_sampler import TokenSampler
from mmdcodec.models import token_lm
from mmdcodec.store import renamed
from mmdcodec.tokenizers.interface import AudioCodec
from mmdcodec.tokenizers.stereo_codec import open_codec


@dataclasses.dataclass(frozen=True)
class Chunk:
  """Music as it is made.

  Attributes:
    codes: int32 [batch, frames, codebooks], the new ones.
    audio: float32 [batch, samples, channels], the new samples. They may come
      later than their codes if the codec looks ahead.
  """

  codes: np.ndarray
  audio: np.ndarray


class LoadedMusic:
  """A music model: a language model, its conditions and its codec.

  Attributes:
    config: dict of the bundle's config.json.
    model: the language model, a Linen module.
    variables: `{"params": ..., "codec": ...}` as in the bundle.
    conditions: of the model, ready to read what a user asks for.
    sampler: the `TokenSampler`.
    codec: the `AudioCodec` that decodes its codes.
    rate: Hz of the audio.
    channels: of the audio.
    frame_rate: code frames per second.
    seconds: of the clips that it was trained on.
  """

  def __init__(
    self,
    config: dict[str, Any],
    variables: dict[str, Any],
    assets: Mapping[str, bytes] | None = None,
  ):
    """Puts a configuration and its variables together.

    Args:
      config: `model`, the fields of `TokenLM`, and `codec`, the config of the
        codec.
      variables: `{"params": ..., "codec": variables of the codec}`.
      assets: further files of the bundle by name.

    Raises:
      UserError: model and codec do not belong together.
    """
    fields = renamed.update_lm(config["model"])
    self.config = {**config, "model": fields}
    self.variables = variables
    self.model = token_lm.from_config(fields)
    self.conditions = self.model.make_conditions(assets)
    self.codec = open_codec(config["codec"], variables["codec"])
    check_codec(self.model, self.codec)
    self.rate, self.channels = self.codec.rate, self.codec.channels
    self.frame_rate = self.codec.frame_rate
    self.seconds = self.model.frames / self.frame_rate
    self.sampler = TokenSampler(self.model, variables["params"])

  def place(self, mesh: jax.sharding.Mesh) -> None:
    """Spreads the model over a mesh, for large models and large batches.

    Items go over the axes `data` and `fsdp` if these divide their number,
    parameters as in training. The music stays the same, up to the rounding of
    sums that are split.

    Args:
      mesh: of `mmdcodec.parallel.mesh.make_mesh`.
    """
    self.sampler.place(self.variables["params"], mesh)

  def takes(self, condition: str) -> bool:
    """Whether the model has a condition of a name, such as "text"."""
    return any(each.name == condition for each in self.conditions)

  def generate(
    self,
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
    conditions: Mapping[str, Any] | None = None,
    stride: float | None = None,
    callback: Callable[[Chunk], bool | None] | None = None,
    block: float = 1.0,
  ) -> np.ndarray:
    """Makes music.

    An item's music depends on its own prompt and seed alone, not on the rest of
    the batch nor on whether it is streamed.

    Args:
      texts: one prompt, or one for each item; "" or None asks for nothing.
      seconds: of the music, the audio prompt included. More than `self.seconds`
        is made in windows.
      seed: one number, from which item i gets seed + i; or one for each.
      temperature: 0 always takes the likeliest code.
      top_k: sample from so many of the likeliest codes; 0: from all.
      top_p: sample from the likeliest codes that together have this
        probability.
      guidance: how much the conditions count; 1: as learned, in half the time.
      text_guidance: how much the text counts beside the other conditions, in
        double guidance; None: guidance is not double.
      audio: a prompt to continue: [samples], [samples, channels], [batch,
        samples, channels] or a list, one for each item.
      melody: audio whose melody the music is to have, in the same forms.
      rate: Hz of audio and melody; None: that of the model.
      joint: int [batch, codebooks], tokens of a joint embedding.
      conditions: values of further conditions by name, for models that have
        any.
      stride: seconds that each window adds to the one before; None: 60 % of a
        window.
      callback: gets every `Chunk` as it is made; if it returns True, the music
        ends there.
      block: seconds between two calls of it.

    Returns:
      float32 [batch, samples, channels] at `rate`.

    Raises:
      UserError: a value that can't be, or a condition that this model lacks.
    """
    request = GenerationRequest(
      texts=texts, seconds=seconds, seed=seed, temperature=temperature,
      top_k=top_k, top_p=top_p, guidance=guidance, text_guidance=text_guidance,
      audio=audio, melody=melody, rate=rate, joint=joint, conditions=conditions,
      stride=stride,
    )  # fmt: skip
    if callback is None:
      parts = list(self._parts(self._check(request), None))
      return self.codec.decode(np.concatenate(parts, axis=1))
    heard = []
    for chunk in self._stream(request, block):
      heard.append(chunk.audio)
      if callback(chunk):
        break
    return np.concatenate(heard, axis=1)

  def stream(
    self,
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
    conditions: Mapping[str, Any] | None = None,
    stride: float | None = None,
    block: float = 1.0,
  ) -> Iterator[Chunk]:
    """Makes music and hands it out as it is made; to stop, ask for no more.

    Takes the options of `generate`, with `block`, the seconds in each chunk.

    Yields:
      Chunks; joined, the codes are those of `generate_codes`, the audio that of
      `generate` (to float32 precision).

    Raises:
      UserError: see `generate`.
    """
    request = GenerationRequest(
      texts=texts, seconds=seconds, seed=seed, temperature=temperature,
      top_k=top_k, top_p=top_p, guidance=guidance, text_guidance=text_guidance,
      audio=audio, melody=melody, rate=rate, joint=joint, conditions=conditions,
      stride=stride,
    )  # fmt: skip
    yield from self._stream(request, block)

  def generate_codes(
    self,
    texts: str | Sequence[str | None] | None = None,
    *,
    progress: Callable[[int, int], None] | None = None,
    **options: Any,
  ) -> np.ndarray:
    """Makes music, as codes.

    Args:
      texts: as for `generate`.
      progress: called with (frames made, frames in all) every second of music.
      **options: as for `generate`; see `GenerationRequest`.

    Returns:
      int32 [batch, frames, codebooks].

    Raises:
      UserError: see `generate`.
    """
    checked = self.check(texts, **options)
    part = None if progress is None else max(1, round(self.frame_rate))
    parts, done = [], 0
    for codes in self._parts(checked, part):
      parts.append(codes)
      done += codes.shape[1]
      if progress is not None:
        progress(done, checked.codes.shape[1])
    return np.concatenate(parts, axis=1)

  def check(
    self, texts: str | Sequence[str | None] | None = None, **options: Any
  ) -> CheckedRequest:
    """Refuses what `generate` would refuse, before anything is made.

    Args:
      texts: as for `generate`.
      **options: as for `generate`; see `GenerationRequest`.

    Raises:
      UserError: see `generate`.
    """
    return self._check(GenerationRequest(texts=texts, **options))

  def _check(self, request: GenerationRequest) -> CheckedRequest:
    return check_request(request, self.model, self.codec, self.conditions)

  def _stream(
    self, request: GenerationRequest, block: float
  ) -> Iterator[Chunk]:
    """See `stream`."""
    if not 0 < block < np.inf:
      raise UserError(f"block is {block} s; it must be above 0.")
    size = max(1, round(block * self.frame_rate))
    checked, made = self._check(request), []
    nothing = checked.codes[:, :0]

    def passing() -> Iterator[np.ndarray]:
      for codes in self._parts(checked, size):
        made.append(codes)
        yield codes

    for audio in self.codec.decode_parts(passing(), size):
      codes = np.concatenate(made, axis=1) if made else nothing
      made.clear()
      yield Chunk(codes, audio)

  def _parts(
    self, request: CheckedRequest, part: int | None
  ) -> Iterator[np.ndarray]:
    """Codes [batch, frames, codebooks], in parts of `part` or by window."""
    state = self.sampler.start(request.codes, request.keys)
    if state.done:
      yield state.codes[:, : state.done]
    while window := self.sampler.next_window(state, request.stride):
      inputs = request.inputs(window.start / self.frame_rate)
      for new in self.sampler.sample_window(
        state, window, inputs, request.options, part
      ):
        yield new.codes[:, state.done : new.done]
        state = new


def check_codec(model: token_lm.TokenLM, codec: AudioCodec) -> None:
  """Makes sure that a codec can decode what a language model makes.

  Raises:
    UserError: it can't, or it needs more than codes.
  """
  if model.first_codebook:
    raise UserError(
      f"the language model makes codebooks from {model.first_codebook + 1} on,"
      " which mean nothing without those before: use it as a stage of a larger"
      " model."
    )
  if (
    model.codebooks > codec.codebooks
    or codec.codebook_size != model.codebook_size
  ):
    raise UserError(
      f"the codec has {codec.codebooks} x {codec.codebook_size} codes,"
      f" but the language model {model.codebooks} x {model.codebook_size}: they"
      " do not belong together."
    )
  codec.check_codes_suffice()
