"""A tagger of music with its weights.

A clip is heard in windows of 3 s, one after the other; the last seconds that
fill no window are left out. A clip shorter than a window is repeated in it.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mmdcodec.errors import UserError
from mmdcodec.models import musicnn
from mmdcodec.tokenizers import long_features, validation
from mmdcodec.tokenizers.loaded_codec import fingerprint, owned


class LoadedTagger:
  """A musicnn with its weights.

  Attributes:
    config: content of the bundle's config.json.
    variables: parameters.
    hash: identifies settings and weights.
    tag_names: names of the tags.
    width: size of an embedding.
    rate: sample rate of the input in Hz.
    channels: number of input channels.
    window: seconds of a window.
  """

  rate, channels = musicnn.RATE, 1
  window = musicnn.FRAMES * musicnn.HOP / musicnn.RATE

  def __init__(
    self,
    config: dict[str, Any],
    variables: Mapping[str, Any],
    assets: Mapping[str, bytes] | None = None,
  ) -> None:
    """Takes what a bundle of kind "tagger" holds.

    Raises:
      UserError: a field is out of its bounds, or there are too few names.
    """
    del assets
    self.config = config
    self.hash = fingerprint(config, dict(variables))
    self.variables = owned(dict(variables))
    self.model = musicnn.from_config(config["model"])
    self.width = self.model.units
    names = config.get("tags")
    if not isinstance(names, list) or len(names) != self.model.tags:
      raise UserError(
        f"the tagger has {self.model.tags} tags; expected as many names under"
        " `tags` in its config.json."
      )
    self.tag_names = tuple(str(name) for name in names)
    self._apply = jax.jit(self._of_windows)

  def windows(
    self, x: Any, rate: int | None = None, *, lengths: Any = None
  ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Tags the windows of clips.

    Args:
      x: float audio in [-1, 1]: [samples], [samples, channels] or [batch,
        samples, channels].
      rate: sample rate of x in Hz; None: the tagger's own.
      lengths: valid samples of each item [batch]; None: all.

    Returns:
      (probabilities of the tags float32 [batch, windows, tags], embeddings
      float32 [batch, windows, width], bool [batch, windows], False where a clip
      has fewer). The windows of a clip do not depend on the rest of the batch.

    Raises:
      UserError: x has another shape or is not finite.
    """
    x, lengths = validation.audio_batch(
      x, rate, lengths, to=self.rate, channels=self.channels
    )
    valid = np.arange(x.shape[1]) < lengths[:, None]
    # Frame t is centred on sample t * HOP.
    half = musicnn.WINDOW // 2
    x = np.pad(np.where(valid, x[..., 0], 0), ((0, 0), (half, half)))
    frames = 1 + lengths // musicnn.HOP

    def network(x: np.ndarray, lengths: np.ndarray) -> np.ndarray:
      return np.asarray(self._apply(self.variables, x, lengths))

    rows, valid = long_features.of_windows(
      network,
      x[..., None].astype(np.float32),
      lengths + 2 * half,
      span=musicnn.SAMPLES,
      hop=musicnn.FRAMES * musicnn.HOP,
      counts=np.maximum(1, frames // musicnn.FRAMES),
    )
    tags = self.model.tags
    return rows[..., :tags], rows[..., tags:], valid

  def _of_windows(
    self, variables: Any, x: jax.Array, lengths: jax.Array
  ) -> jax.Array:
    """Probabilities and embeddings [n, tags + width] of padded windows."""
    levels = musicnn.levels_of(x[..., 0])
    frames = 1 + jnp.maximum(lengths - musicnn.WINDOW, 0) // musicnn.HOP
    at = jnp.arange(musicnn.FRAMES) % frames[:, None]
    levels = jnp.take_along_axis(levels, at[..., None], axis=1)
    found: Any = self.model.apply(variables, levels)
    logits, embedding = found
    return jnp.concatenate([jax.nn.sigmoid(logits), embedding], -1)

  def tags(
    self, x: Any, rate: int | None = None, *, lengths: Any = None
  ) -> np.ndarray:
    """Probabilities of the tags of clips: the mean of their windows.

    Returns:
      float32 [batch, tags], in the order of `tag_names`; see `windows`.
    """
    found, _, valid = self.windows(x, rate, lengths=lengths)
    return _mean(found, valid)

  def embed(
    self, x: Any, rate: int | None = None, *, lengths: Any = None
  ) -> np.ndarray:
    """Embeddings of clips: the mean of their windows.

    Returns:
      float32 [batch, width]; see `windows`.
    """
    _, found, valid = self.windows(x, rate, lengths=lengths)
    return _mean(found, valid)

  def top_tags(
    self,
    x: Any,
    rate: int | None = None,
    *,
    count: int = 3,
    lengths: Any = None,
  ) -> list[Sequence[str]]:
    """Names of the most probable tags of each clip, the best one first."""
    order = np.argsort(-self.tags(x, rate, lengths=lengths), axis=1)
    return [[self.tag_names[i] for i in row[:count]] for row in order]


def _mean(rows: np.ndarray, valid: np.ndarray) -> np.ndarray:
  """Mean of the valid rows [batch, rows, dim] of each item."""
  kept = np.where(valid[..., None], rows, 0).sum(1, dtype=np.float64)
  return (kept / valid.sum(1)[:, None]).astype(np.float32)
