"""A language model with its codec, ready to use: prompts in, music out.

MusicGen, Copet et al. 2023, arXiv 2306.05284. The decoding loop is in
`decoding.py`, what a model is asked for in `mmdcodec.models.conditioning`.
"""

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from mmdcodec.errors import UserError
from mmdcodec.generation import decoding, windows
from mmdcodec.generation.request import Order, make_order, melody_from
from mmdcodec.models import text_tokens, token_lm
from mmdcodec.models.conditioning import Conditioner, Conditions
from mmdcodec.parallel import rules
from mmdcodec.tokenizers.interface import AudioCodec
from mmdcodec.tokenizers.loaded_codec import bucket
from mmdcodec.tokenizers.stereo_codec import open_codec


@dataclasses.dataclass(frozen=True)
class Chunk:
  """Music as it is made.

  Attributes:
    codes: int32 [batch, frames, codebooks], those that are new.
    audio: float32 [batch, samples, channels], what is new of it. It may come
      later than its codes: from a codec that looks ahead.
  """

  codes: np.ndarray
  audio: np.ndarray


class LoadedMusic:
  """A music model: a language model, its text encoder and its codec.

  Attributes:
    config: dict of the bundle's config.json.
    model: the language model, a Linen module.
    variables: `{"params": ..., "codec": ...}` as in the bundle.
    codec: the `AudioCodec` that decodes its codes.
    rate: Hz of the audio. channels: of it. frame_rate: code frames per second.
    seconds: of the clips that it was trained on.
  """

  def __init__(
    self,
    config: dict,
    variables: dict,
    assets: Mapping[str, bytes] | None = None,
  ):
    """Puts a configuration and its variables together.

    Args:
      config: `model`, the fields of `TokenLM`, and `codec`, the config of the
        codec.
      variables: `{"params": ..., "codec": variables of the codec}`.
      assets: further files of the bundle by name (`prompts.TOKENIZER_FILE`).

    Raises:
      UserError: model and codec do not belong together, or a file is missing.
    """
    self.config, self.variables = config, variables
    self.model = model = token_lm.from_config(config["model"])
    self.codec = open_codec(config["codec"], variables["codec"])
    check_codec(model, self.codec)
    self.rate, self.channels = self.codec.rate, self.codec.channels
    self.frame_rate = self.codec.frame_rate
    self.seconds = model.frames / self.frame_rate
    self._mesh, self._assets = None, assets or {}
    self._params = decoding.prepare(model, jax.device_put(variables["params"]))
    # Not `model.condition`: flax finds prepared heads in another shape.
    self._condition = jax.jit(
      lambda params, inputs: Conditioner(**model.conditioner_fields()).apply(
        {"params": params["conditioner"]}, inputs
      )
    )

  @functools.cached_property
  def tokenizer(self):
    """Of prompts; not made before one is given, as it may need a library."""
    text = self.model.text
    return text and text_tokens.make_tokenizer(text["tokenizer"], self._assets)

  def place(self, mesh: jax.sharding.Mesh) -> None:
    """Spreads the model over a mesh, for large models and large batches.

    Items go over the axes `data` and `fsdp` where their number divides by them,
    parameters as in training. Music stays what it was, but for the rounding of
    sums that are cut.

    Args:
      mesh: of `mmdcodec.parallel.mesh.make_mesh`.
    """
    self._mesh = mesh
    params = self.variables["params"]
    where = rules.shardings(params, mesh, rules.LM_RULES)
    self._params = decoding.prepare(self.model, jax.device_put(params, where))

  # ------------------------------------------------------------------ public

  def generate(
    self,
    texts: str | Sequence[str] | None = None,
    *,
    callback: Callable[[Chunk], bool | None] | None = None,
    block: float = 1.0,
    **request,
  ) -> np.ndarray:
    """Makes music.

    An item's music depends on its own prompt and seed alone, not on those
    beside it nor on how it is looked at while it is made.

    Args:
      texts: one prompt, or one for each item; "" or None asks for nothing.
      callback: gets every `Chunk` as it is made; if it returns True, the music
        ends there.
      block: seconds between two calls of it.
      **request: see `generate_codes`.

    Returns:
      float32 [batch, samples, channels] at `rate`.

    Raises:
      UserError: see `generate_codes`.
    """
    if callback is None:
      codes = self.generate_codes(texts, **request)
      return self.codec.decode(codes)
    audio = []
    for chunk in self.stream(texts, block=block, **request):
      audio.append(chunk.audio)
      if callback(chunk):
        break
    return np.concatenate(audio, axis=1)

  def stream(
    self,
    texts: str | Sequence[str] | None = None,
    *,
    block: float = 1.0,
    **request,
  ) -> Iterator[Chunk]:
    """Makes music and gives it away as it is made; to stop, ask for no more.

    Args:
      texts: see `generate`.
      block: seconds in each chunk.
      **request: see `generate_codes`.

    Yields:
      Chunks; joined, the codes are those of `generate_codes`, the audio that of
      `generate` (to float32 precision).

    Raises:
      UserError: see `generate_codes`.
    """
    if not 0 < block < np.inf:
      raise UserError(f"block is {block} s; it must be above 0.")
    size = max(1, round(block * self.frame_rate))
    asked, made = self._order(texts, **request), []
    nothing = asked.codes[:, :0]

    def passing(parts):
      for part in parts:
        made.append(part)
        yield part

    parts = passing(self._codes(asked, size))
    for audio in self.codec.decode_parts(parts, size):
      codes = np.concatenate(made, axis=1) if made else nothing
      made.clear()
      yield Chunk(codes, audio)

  def generate_codes(
    self,
    texts: str | Sequence[str] | None = None,
    *,
    progress: Callable[[int, int], None] | None = None,
    **request,
  ) -> np.ndarray:
    """Makes music, as codes.

    Args:
      texts: see `generate`.
      progress: is told (frames made, frames in all) every second of music.
      **request:
        seconds: of the music, the audio prompt included (default 8). More than
          `LoadedMusic.seconds` is made in windows.
        seed: one number, from which item i gets seed + i; or one for each.
        temperature: 0 takes the likeliest code always (default 1).
        top_k: draw from so many of the likeliest codes (default 250; 0: all).
        top_p: draw from the likeliest that have this probability together.
        guidance: how much prompts count, 1: as learned (default 3).
        text_guidance: how much the text counts beside melody or joint tokens,
          in double guidance (default: guidance is not double).
        audio: a prompt to go on from: [samples], [samples, channels], [batch,
          samples, channels] or a list, one for each item.
        melody: audio whose tune the music is to have, in the same forms.
        rate: Hz of audio and melody; that of the model by default.
        joint: int [batch, codebooks], tokens of a joint embedding.
        stride: seconds that each window adds to the one before (default 60 % of
          a window).

    Returns:
      int32 [batch, frames, codebooks].

    Raises:
      UserError: a value that can't be, or what this model does not take.
    """
    asked = self._order(texts, **request)
    size = None if progress is None else max(1, round(self.frame_rate))
    parts, done = [], 0
    for part in self._codes(asked, size):
      parts.append(part)
      done += part.shape[1]
      if progress is not None:
        progress(done, asked.codes.shape[1])
    return np.concatenate(parts, axis=1)

  def check(self, texts: str | Sequence[str] | None = None, **request) -> None:
    """Refuses what `generate_codes` would refuse, before anything is made.

    Args:
      texts: see `generate`.
      **request: see `generate_codes`.

    Raises:
      UserError: see there.
    """
    self._order(texts, **request)

  # ---------------------------------------------------------------- in steps

  def _order(self, texts, **request) -> Order:
    return make_order(self.model, self.codec, self.tokenizer, texts, **request)

  def _codes(self, asked: Order, size: int | None) -> Iterator[np.ndarray]:
    """Codes [batch, frames, codebooks], in parts of `size` or by window."""
    codes, model = asked.codes.copy(), self.model
    total = codes.shape[1]
    known = (codes >= 0).all(axis=(0, 2))
    known = total if known.all() else int(np.argmin(known))
    if known:
      yield codes[:, :known]
    for window in windows.windows(total, known, model.frames, asked.stride):
      here = codes[:, window.start : window.end]
      yield from self._window(asked, window.start, known, here, size)
      known = window.end

  def _window(
    self,
    asked: Order,
    start: int,
    known: int,
    codes: np.ndarray,
    size: int | None,
  ) -> Iterator[np.ndarray]:
    """Makes what is missing of a window, in place, and yields it.

    Args:
      asked: for what.
      start: first frame of the window.
      known: the first frame of the music that is to be yielded.
      codes: int32 [batch, frames, codebooks] of the window, -1 for what is
        missing.
      size: frames of a part; None for all at once.
    """
    model, frames = self.model, codes.shape[1]
    pattern = windows.pattern_of(model, frames)
    # Sizes that few programs serve.
    steps = bucket(len(pattern.steps))
    given = windows.given_tokens(pattern, codes, model.special, steps)
    first = windows.first_unknown(given)
    with self._on_mesh():
      groups, conditions = self._conditions(asked, start)
      request = decoding.Request(
        conditions=conditions,
        given=jnp.asarray(given),
        keys=jnp.stack([jax.random.fold_in(key, start) for key in asked.keys]),
        temperature=jnp.float32(asked.temperature),
        top_p=None if asked.top_p is None else jnp.float32(asked.top_p),
        guidance=jnp.float32(asked.guidance),
        text_guidance=jnp.float32(asked.text_guidance or 1.0),
      )
      state = decoding.prefill(
        model,
        self._params,
        request,
        first,
        count=min(bucket(first - 1), steps) if first > 1 else 0,
        groups=groups,
      )
    complete, done = windows.complete_frames(pattern), known - start
    stops = range(frames, done, -size) if size else [frames]
    for stop in reversed(stops):
      with self._on_mesh():
        state = decoding.advance(
          model,
          self._params,
          request,
          state,
          # The step by which so many frames are whole.
          int(np.searchsorted(complete, stop)),
          groups=groups,
          top_k=asked.top_k,
        )
      tokens = np.asarray(state.tokens)
      now = tokens[:, pattern.step_of[done:stop], np.arange(model.codebooks)]
      codes[:, done:stop] = now
      yield now
      done = stop

  def _on_mesh(self):
    mesh = self._mesh
    return contextlib.nullcontext() if mesh is None else jax.set_mesh(mesh)

  def _conditions(self, asked: Order, frame: int) -> tuple[int, Conditions]:
    """How many groups guidance needs, and the conditions of all of them."""
    inputs = asked.inputs
    if inputs is None:
      return 1, Conditions()
    if inputs.melody is not None:
      heard = self.model.melody
      seconds = frame / self.frame_rate
      first = round(seconds * heard["rate"] / heard["hop"])
      tunes = melody_from(asked.melody, first, heard["frames"])
      inputs = inputs.replace(melody=tunes)
    groups = [inputs]
    nobody = np.zeros(len(asked.codes), bool)
    if asked.text_guidance is not None:
      groups.append(inputs.without(nobody, "text"))
    if asked.guidance != 1 or asked.text_guidance is not None:
      groups.append(inputs.without(nobody))
    found = [self._condition(self._params, each) for each in groups]
    return len(groups), jax.tree.map(lambda *x: jnp.concatenate(x), *found)


def check_codec(model: token_lm.TokenLM, codec: AudioCodec) -> None:
  """Makes sure that a codec's codes are what a language model speaks.

  Raises:
    UserError: they are not, or the codec keeps more than codes.
  """
  if (codec.codebooks, codec.codebook_size) != (
    model.codebooks,
    model.codebook_size,
  ):
    raise UserError(
      f"the codec has {codec.codebooks} x {codec.codebook_size} codes,"
      f" but the language model {model.codebooks} x {model.codebook_size}: they"
      " do not belong together."
    )
  codec.check_codes_suffice()
