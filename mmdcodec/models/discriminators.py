"""Discriminators: networks that tell recorded from generated audio.

`from_config` makes one module from any set of them:

  model = from_config(
    ["multi_period", {"name": "multi_scale_stft", "filters": 16}]
  )
  params = model.init(key, x)["params"]
  for logits, features in model.apply({"params": params}, x): ...

x is audio [batch, samples, channels]. Each sub-discriminator (one window, scale
or period, with its own parameters) returns logits, float32 with the batch first
and one channel last, and the outputs of its layers for feature matching.

  name              from                            used by
  multi_scale_stft  EnCodec, arXiv 2210.13438       EnCodec, MusicGen
  multi_scale_wave  MelGAN, arXiv 1910.06711        SoundStream
  stft              SoundStream, arXiv 2107.03312   SoundStream
  multi_period      HiFi-GAN, arXiv 2010.05646      HiFi-GAN, DAC
"""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from mmdcodec import bounds
from mmdcodec.bounds import one_of
from mmdcodec.errors import UserError
from mmdcodec.models import fields as fields_lib
from mmdcodec.models.spectrum_discriminators import (
  MultiScaleSTFTDiscriminator,
  STFTDiscriminator,
)
from mmdcodec.models.wave_discriminators import (
  MultiPeriodDiscriminator,
  MultiScaleWaveDiscriminator,
)

DISCRIMINATORS = {
  "multi_scale_stft": MultiScaleSTFTDiscriminator,
  "multi_scale_wave": MultiScaleWaveDiscriminator,
  "stft": STFTDiscriminator,
  "multi_period": MultiPeriodDiscriminator,
}


class Discriminators(bounds.Checked, nn.Module):
  """A set of discriminators that process the same audio.

  Made by `from_config`. All variables are in the collection "params"; they
  depend on the number of channels, not on the length of the audio.

  Attributes:
    members: for each discriminator, its name in `DISCRIMINATORS` and its fields
      as pairs.
    dtype: compute dtype, "float32" or "bfloat16". Parameters, spectra,
      logits and features are float32.
  """

  called = "the discriminators"

  members: tuple[tuple[str, tuple[tuple[str, Any], ...]], ...]
  dtype: Annotated[str, bounds.dtype("float32", "bfloat16")] = "float32"

  @property
  def problem(self) -> str | None:
    """See the base class."""
    if unknown := {kind for kind, _ in self.members} - DISCRIMINATORS.keys():
      return f"there are none of the kinds {sorted(unknown)}"
    self.build(parent=None)  # they check their own fields
    return None

  @nn.nowrap
  def build(self, **options: Any) -> list[Any]:
    """The discriminators; the second one of a kind is named kind_2."""
    found, kinds = [], [kind for kind, _ in self.members]
    for i, (kind, fields) in enumerate(self.members):
      count = kinds[: i + 1].count(kind)
      found.append(
        DISCRIMINATORS[kind](
          **dict(fields),
          dtype=jnp.dtype(self.dtype),
          name=kind if count == 1 else f"{kind}_{count}",
          **options,
        )
      )
    return found

  @property
  def names(self) -> tuple[str, ...]:
    """Names of the sub-discriminators in the order of `__call__`."""
    return tuple(
      f"{module.name}/{part}"
      for module in self.build(parent=None)
      for part in module.parts
    )

  @property
  def shortest(self) -> int:
    """Minimum number of samples of a clip."""
    return max(module.shortest for module in self.build(parent=None))

  @nn.compact
  def __call__(self, x: jax.Array) -> list[tuple[jax.Array, list[jax.Array]]]:
    """Applies all discriminators to audio.

    Args:
      x: [batch, samples, channels].

    Returns:
      `(logits, features)` of each sub-discriminator: logits float32 [batch,
      ..., 1], features a list of float32 arrays, batch first, channels last.
      On TPUs, features of narrow layers are `mmdcodec.nn.folding.Folded`
      signals, which `folding.unfold` turns into arrays.

    Raises:
      UserError: the clips are shorter than a window.
      ValueError: x has other axes.
    """
    bounds.check_shape("x", x, batch=None, samples=None, channels=None)
    if x.shape[1] < self.shortest:
      raise UserError(
        f"the discriminators need clips of {self.shortest} samples, these have "
        f"{x.shape[1]}: take longer clips (data.seconds) or smaller windows"
      )
    found = [pair for module in self.build() for pair in module(x)]
    wide = lambda y: y.astype(jnp.float32)
    return [(wide(logits), [wide(y) for y in ys]) for logits, ys in found]


def from_config(
  config: Sequence[str | Mapping[str, Any]], dtype: str = "float32"
) -> Discriminators:
  """Builds discriminators from a config.

  Args:
    config: for each discriminator, its name, or a mapping with its `name` and
      the fields that differ from the defaults of its class.
    dtype: compute dtype, "float32" or "bfloat16".

  Raises:
    UserError: there is no discriminator, a name or field is unknown, or a value
      is out of its bounds.
  """
  if isinstance(config, str | Mapping) or not config:
    raise UserError(
      f"discriminators is {config!r:.80}; expected a list of names or of"
      " mappings with a `name`."
    )
  members = []
  for entry in config:
    fields: dict[str, Any] = (
      {"name": entry} if isinstance(entry, str) else dict(entry)
    )
    name = fields.pop("name", None)
    bounds.check("a discriminator", name, one_of(tuple(DISCRIMINATORS)))
    fields_lib.check_known(fields, DISCRIMINATORS[name], hidden=("dtype",))
    frozen = {key: fields_lib.freeze(value) for key, value in fields.items()}
    members.append((name, tuple(sorted(frozen.items()))))
  return Discriminators(tuple(members), dtype)
