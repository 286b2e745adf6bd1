"""Audio through a codec: codes, and audio again."""

import dataclasses

import numpy as np

from mmdcodec.demo.models import Model
from mmdcodec.tokenizers.loaded_codec import LoadedCodec


@dataclasses.dataclass(frozen=True)
class Reconstruction:
  """What a codec makes of a clip.

  Attributes:
    original: float32 [samples, channels], at the codec's rate and channels.
    decoded: float32 of the same shape.
    codes: int32 [frames, codebooks].
    rate: Hz of both.
  """

  original: np.ndarray
  decoded: np.ndarray
  codes: np.ndarray
  rate: int


def reconstruct(
  model: Model, x: np.ndarray, rate: int, codebooks: int
) -> Reconstruction:
  """Encodes a clip with the first codebooks, and decodes it.

  Args:
    model: the model.
    x: float32 [samples, channels].
    rate: Hz of x.
    codebooks: number of codebooks; those that belong together are rounded up.

  Raises:
    UserError: x is no audio.
  """
  codec, step = model.codec, model.codebook_step
  codebooks = min(codec.codebooks, -(-max(1, codebooks) // step) * step)
  original, lengths = codec.prepare(x, rate)
  samples = int(lengths[0])
  if isinstance(codec, LoadedCodec):
    codes, scale = codec.encode(
      original, codebooks=codebooks, return_scale=True
    )
    decoded = codec.decode(codes, scale=scale, length=samples)
  else:
    codes = codec.encode(original, codebooks=codebooks)
    decoded = codec.decode(codes, length=samples)
  return Reconstruction(
    original[0, :samples], decoded[0], codes[0], codec.rate
  )
