"""MusicLM: music from text through a hierarchy of language models.

Agostinelli et al. 2023, arXiv 2301.11325. A prompt becomes joint tokens, from
which the semantic stage makes semantic tokens, the coarse stage the first
codebooks of a codec, and the fine stage the others:

  music = mmdcodec.load("bundles/musiclm")
  y = music.generate(["calm piano"], seconds=30)
  y = music.generate(story=[(0, "calm piano"), (15, "with drums")], seconds=30)

`musiclm_parts` opens the parts, `musiclm_request` checks requests, and
`musiclm_stages` runs the stages.
"""

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from mmdcodec.errors import UserError
from mmdcodec.generation import chunks, musiclm_parts
from mmdcodec.generation.chunks import Chunk
from mmdcodec.generation.musiclm_request import (
  CheckedRequest,
  MusicLMRequest,
  check_request,
)
from mmdcodec.generation.musiclm_stages import Hierarchy, Progress
from mmdcodec.generation.single_stages import SingleStages


class LoadedMusicLM(SingleStages):
  """A MusicLM with its weights; see `SingleStages` for runs of one stage.

  Attributes:
    config: content of the bundle's config.json.
    parts: the parts of the model.
    codec: the `AudioCodec` that decodes the codes.
    rate: sample rate of the audio in Hz.
    channels: channels of the audio.
    frame_rate: code frames per second.
    seconds: length of the windows of the first stage.
  """

  def __init__(
    self,
    config: dict[str, Any],
    variables: dict[str, Any],
    assets: Mapping[str, bytes] | None = None,
  ):
    """Takes what a bundle of kind "musiclm" holds.

    Args:
      config: `parts` holds the config of each part, see `musiclm_parts`.
      variables: variables of each part.
      assets: files of the joint embedding, by name.

    Raises:
      UserError: parts are missing or do not fit together.
    """
    self.config = config
    super().__init__(
      musiclm_parts.open_parts(config["parts"], variables, assets)
    )

  def place(self, mesh: jax.sharding.Mesh) -> None:
    """Shards the stages over a mesh; see `LoadedMusic.place`."""
    for stage in self.parts.stages.values():
      stage.place(mesh)

  def generate(
    self,
    texts: str | Sequence[str | None] | None = None,
    *,
    callback: Callable[[Chunk], bool | None] | None = None,
    block: float = 1.0,
    progress: Progress | None = None,
    **options: Any,
  ) -> np.ndarray:
    """Generates music.

    An item's music depends only on its own prompt and seed, not on the rest of
    the batch or on streaming.

    Args:
      texts: one prompt, or one per item; "" or None for no text.
      callback: receives every `Chunk` as it is generated; if it returns True,
        the music ends there.
      block: seconds of music between two callbacks.
      progress: called with (stage, frames done, total).
      **options: fields of `MusicLMRequest`: seconds, seed, story, audio,
        melody, guidance, temperature and so on.

    Returns:
      float32 [batch, samples, channels] at the model's rate.

    Raises:
      UserError: an invalid value, or something that this model cannot do.
    """
    if callback is None:
      tokens = self.generate_tokens(texts, progress=progress, **options)
      return self.decode(tokens["coarse"], tokens.get("fine"))
    made = self.stream(texts, block=block, progress=progress, **options)
    return chunks.hear(made, callback)

  def stream(
    self,
    texts: str | Sequence[str | None] | None = None,
    *,
    block: float = 1.0,
    progress: Progress | None = None,
    **options: Any,
  ) -> Iterator[Chunk]:
    """Generates music and yields it in chunks, while later windows are made.

    Args:
      texts: as for `generate`.
      block: seconds of a chunk.
      progress: called with (stage, frames done, total).
      **options: as for `generate`.

    Yields:
      Chunks; concatenated, their codes equal those of `generate_codes` and
      their audio that of `generate` (to float32 precision).

    Raises:
      UserError: see `generate`; best_of needs whole pieces.
    """
    size = chunks.frames_of(block, self.frame_rate)
    checked = self.check(texts, **options)
    if checked.best_of > 1:
      raise UserError(
        "best_of compares whole pieces, so it cannot be streamed; leave it out."
      )
    run = Hierarchy(self.parts, checked, live=True, progress=progress)
    known = checked.known
    nothing = self.join(known["coarse"], known.get("fine"))[:, :0]
    yield from chunks.decode(self.codec, run.stream(size), size, nothing)

  def generate_tokens(
    self,
    texts: str | Sequence[str | None] | None = None,
    *,
    progress: Progress | None = None,
    **options: Any,
  ) -> dict[str, Any]:
    """Generates music as the tokens of each level.

    Args:
      texts: as for `generate`.
      progress: called with (stage, frames done, total).
      **options: as for `generate`.

    Returns:
      int32 [batch, frames, codebooks] for "semantic", "coarse" and "fine", as
      far as the model has these stages; and "joint" in a form that
      `make_semantic` takes.

    Raises:
      UserError: see `generate`.
    """
    request = self.check(texts, **options)
    tokens = self._piece(request, 0, progress)
    if request.best_of > 1:
      best = self._likeness(request, tokens)
      for number in range(1, request.best_of):
        others = self._piece(request, number, progress)
        likeness = self._likeness(request, others)
        better = np.flatnonzero(likeness > best)
        best[better] = likeness[better]
        for name, codes in others.items():
          tokens[name][better] = codes[better]
    return {"joint": self.joint_form(request.joint), **tokens}

  def generate_codes(
    self, texts: str | Sequence[str | None] | None = None, **options: Any
  ) -> np.ndarray:
    """Generates music as codes of the codec.

    Args:
      texts: as for `generate`.
      **options: as for `generate_tokens`.

    Returns:
      int32 [batch, frames, codebooks], those of the coarse and the fine stage.

    Raises:
      UserError: see `generate`.
    """
    tokens = self.generate_tokens(texts, **options)
    return self.join(tokens["coarse"], tokens.get("fine"))

  def check(
    self, texts: str | Sequence[str | None] | None = None, **options: Any
  ) -> CheckedRequest:
    """Checks a request as `generate` does, without generating anything.

    Raises:
      UserError: see `generate`.
    """
    return check_request(MusicLMRequest(texts=texts, **options), self.parts)

  # --------------------------------------------------------------- best of n

  def _piece(
    self, request: CheckedRequest, number: int, progress: Progress | None
  ) -> dict[str, np.ndarray]:
    """Makes the tokens of one of the pieces that best_of compares."""
    # The first piece is the one that is made without best_of.
    if number:
      fold = lambda key: jax.random.fold_in(key, _PIECES + number)
      keys = jax.vmap(fold)(request.keys)
      request = dataclasses.replace(request, keys=keys)
    return Hierarchy(self.parts, request, progress=progress).tokens()

  def _likeness(
    self, request: CheckedRequest, tokens: dict[str, np.ndarray]
  ) -> np.ndarray:
    """Cosine [batch] of each piece and its prompts, weighted by their time."""
    joint = self.parts.joint
    assert joint is not None
    audio = self.decode(tokens["coarse"], tokens.get("fine"))
    # As it sounds: what exceeds full scale is clipped in files, too.
    audio = np.clip(audio, -1, 1)
    times = [*request.prompts.times, request.seconds]
    found = np.zeros(request.batch)
    for i, texts in enumerate(request.prompts.values):
      cut = audio[
        :, round(times[i] * self.rate) : round(times[i + 1] * self.rate)
      ]
      if not cut.shape[1]:
        continue
      heard = joint.embed_audio(cut, self.rate)
      cosine = (heard * joint.embed_text(texts)).sum(1)
      found += cosine * (times[i + 1] - times[i])
    return found / request.seconds


# Keys of further pieces are folded with numbers from here on, see `Hierarchy`
# for those of stages.
_PIECES = 1 << 16
