"""A complete music model: prompts in, music out.

MusicGen, Copet et al. 2023, arXiv 2306.05284. `LoadedMusic` combines the parts:
`request.py` checks the request, `token_sampler.py` samples codes, and the codec
decodes them.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from mmdcodec.errors import UserError
from mmdcodec.generation import chunks
from mmdcodec.generation.chunks import Chunk
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


class LoadedMusic:
  """A music model: a language model, its conditions and its codec.

  Attributes:
    config: content of the bundle's config.json.
    model: the language model, a Linen module.
    variables: `{"params": ..., "codec": ...}` as in the bundle.
    conditions: the model's conditions, which check and encode user input.
    sampler: the `TokenSampler`.
    codec: the `AudioCodec` that decodes the codes.
    rate: sample rate of the audio in Hz.
    channels: channels of the audio.
    frame_rate: code frames per second.
    seconds: length of the training clips.
  """

  def __init__(
    self,
    config: dict[str, Any],
    variables: dict[str, Any],
    assets: Mapping[str, bytes] | None = None,
  ):
    """Builds the music model from a configuration and its variables.

    Args:
      config: `model` holds the fields of `TokenLM`, `codec` the codec's config.
      variables: `{"params": ..., "codec": variables of the codec}`.
      assets: other files of the bundle, by name.

    Raises:
      UserError: model and codec do not fit together.
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

  def __repr__(self) -> str:
    """What the model takes, and its codec."""
    names = ", ".join(each.name for each in self.conditions) or "no conditions"
    return f"<{type(self).__name__}: takes {names}; {self.codec!r}>"

  def place(self, mesh: jax.sharding.Mesh) -> None:
    """Shards the model over a mesh, for large models and large batches.

    Items are divided over the axes `data` and `fsdp` if these divide their
    number, parameters as in training. The music stays the same, up to the
    rounding of sums that are split.

    Args:
      mesh: from `mmdcodec.parallel.mesh.make_mesh`.
    """
    self.sampler.place(self.variables["params"], mesh)

  def takes(self, condition: str) -> bool:
    """Returns whether the model has this condition, such as "text"."""
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
    """Generates music.

    An item's music depends only on its own prompt and seed, not on the rest of
    the batch or on streaming.

    Args:
      texts: one prompt, or one per item; "" or None for no text.
      seconds: length of the music, including the audio prompt. Music longer
        than `self.seconds` is generated in windows.
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
      stride: seconds that each window adds to the previous one; None: 60 % of a
        window, or no windows if the model's attention has one.
      callback: receives every `Chunk` as it is generated; if it returns True,
        the music ends there.
      block: seconds of music between two callbacks.

    Returns:
      float32 [batch, samples, channels] at the model's rate.

    Raises:
      UserError: an invalid value, or a condition that this model lacks.
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
    return chunks.hear(self._stream(request, block), callback)

  def stream(
    self,
    texts: str | Sequence[str | None] | None = None,
    *,
    block: float = 1.0,
    **options: Any,
  ) -> Iterator[Chunk]:
    """Generates music and yields it in chunks; stop iterating to end it.

    Args:
      texts: as for `generate`.
      block: seconds of a chunk.
      **options: as for `generate`; see `GenerationRequest`.

    Yields:
      Chunks; concatenated, their codes equal those of `generate_codes` and
      their audio that of `generate` (to float32 precision).

    Raises:
      UserError: see `generate`.
    """
    request = GenerationRequest(texts=texts, **options)
    yield from self._stream(request, block)

  def generate_codes(
    self,
    texts: str | Sequence[str | None] | None = None,
    *,
    progress: Callable[[int, int], None] | None = None,
    **options: Any,
  ) -> np.ndarray:
    """Generates music as codes.

    Args:
      texts: as for `generate`.
      progress: called with (frames done, total) after each second of music.
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
    """Checks a request as `generate` does, without generating anything.

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
    size = chunks.frames_of(block, self.frame_rate)
    checked = self._check(request)
    parts = self._parts(checked, size)
    yield from chunks.decode(self.codec, parts, size, checked.codes[:, :0])

  def _parts(
    self, request: CheckedRequest, part: int | None
  ) -> Iterator[np.ndarray]:
    """Yields codes [batch, frames, codebooks], by `part` frames or window."""
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
  """Checks that a codec can decode the codes of a language model.

  Raises:
    UserError: it cannot, or it needs more than codes.
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
