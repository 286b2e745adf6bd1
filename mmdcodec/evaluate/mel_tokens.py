"""K-means of mel frames: the tokens that a semantic tokenizer must beat."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from mmdcodec import precision
from mmdcodec.audio import transforms
from mmdcodec.quantize import fit_residual
from mmdcodec.tokenizers.clustered import Clustered

_WINDOW, _HOP, _BANDS = 1024, 640, 64
# Rows that k-means needs for each centre.
_ROWS = 4


class MelTokens(Clustered):
  """Log-mel frames of 64 bands, 25 a second, coded by k-means."""

  kind, rate, channels, frame_rate = "mel", 16000, 1, 16000 / _HOP

  def features(
    self, x: np.ndarray, lengths: np.ndarray
  ) -> tuple[np.ndarray, np.ndarray]:
    """See `Clustered.features`."""
    frames = self.frames_of(x.shape[1])
    short = (frames - 1) * _HOP + _WINDOW - x.shape[1]
    x = np.pad(x[..., 0], ((0, 0), (0, max(short, 0))))
    valid = np.arange(frames) * _HOP < lengths[:, None]
    return np.asarray(_log_mel(x))[:, :frames], valid


@jax.jit
@precision.exactly
def _log_mel(x: jax.Array) -> jax.Array:
  energy = transforms.mel(
    x,
    rate=MelTokens.rate,
    window=_WINDOW,
    hop=_HOP,
    mels=_BANDS,
    center=False,
  )
  return jnp.log10(energy + 1e-5)


def fitted(
  songs: Sequence[np.ndarray], rate: int, *, levels: int, size: int
) -> MelTokens:
  """Fits codebooks to songs.

  Args:
    songs: float32 [samples, channels].
    rate: Hz.
    levels: number of codebooks.
    size: codes in each; fewer if the songs are too short for that many.
  """
  bare = MelTokens({"kind": MelTokens.kind, "model": {}}, {})
  rows = np.concatenate([frames(bare, song, rate) for song in songs])
  mean, spread = rows.mean(0), rows.std(0)
  statistics = {"mean": mean, "scale": 1 / np.maximum(spread, 1e-6)}
  books = fit_residual.fit(
    jax.random.key(0),
    (rows - mean) * statistics["scale"],
    levels,
    min(size, max(1, len(rows) // _ROWS)),
  )
  return MelTokens(*bare.with_codebooks(statistics, books.embed))


def frames(tokenizer: Clustered, song: np.ndarray, rate: int) -> np.ndarray:
  """Features [frames, dim] of a song [samples, channels]."""
  rows, valid = tokenizer.features(*tokenizer.prepare(song, rate))
  return np.asarray(rows, np.float32)[np.asarray(valid)]
