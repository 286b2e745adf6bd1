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
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

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

DTYPES = ("float32", "bfloat16")
DISCRIMINATORS = {
  "multi_scale_stft": MultiScaleSTFTDiscriminator,
  "multi_scale_wave": MultiScaleWaveDiscriminator,
  "stft": STFTDiscriminator,
  "multi_period": MultiPeriodDiscriminator,
}


class Discriminators(nn.Module):
  """A set of discriminators that process the same audio.

  Made by `from_config`. All variables are in the collection "params"; they
  depend on the number of channels, not on the length of the audio.

  Attributes:
    members: for each discriminator, its name in `DISCRIMINATORS` and its fields
      as pairs.
    dtype: compute dtype, "float32" or "bfloat16". Parameters, spectra,
      logits and features are float32.
  """

  members: tuple[tuple[str, tuple[tuple[str, Any], ...]], ...]
  dtype: str = "float32"

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
    """
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
      is out of bounds.
  """
  if dtype not in DTYPES:
    raise UserError(f"dtype must be one of {', '.join(DTYPES)}, not {dtype!r}")
  if isinstance(config, str | Mapping) or not config:
    raise UserError(
      "discriminators must be a list of names or of mappings with a `name`"
    )
  members = []
  for entry in config:
    fields = {"name": entry} if isinstance(entry, str) else dict(entry)
    name = fields.pop("name", None)
    if name not in DISCRIMINATORS:
      raise UserError(
        f"there is no discriminator {name!r}; there are "
        f"{', '.join(DISCRIMINATORS)}"
      )
    members.append((name, _checked(name, fields)))
  return Discriminators(tuple(members), dtype)


def _checked(name: str, fields: dict) -> tuple[tuple[str, Any], ...]:
  """The fields of a discriminator as sorted pairs; raises UserError."""
  kind = DISCRIMINATORS[name]
  known = fields_lib.defaults(kind, hidden=("dtype",))
  fields_lib.check_known(fields, known, f"discriminator {name}")
  for key, value in fields.items():
    fields[key] = _checked_value(name, key, value, known[key])
  module = kind(**fields, parent=None)
  problem = module.problem()
  if len(set(module.parts)) < len(module.parts):
    problem = "a value appears twice"
  if problem:
    raise UserError(f"discriminator {name}: {problem}")
  return tuple(sorted(fields.items()))


def _checked_value(name: str, key: str, value: Any, default: Any) -> Any:
  """The value of a field, of the type of its default; raises UserError."""
  where = f"{key} of discriminator {name}"
  many = isinstance(default, tuple)
  if many != isinstance(value, list | tuple) or (many and not value):
    what = "a list of numbers" if many else "a number"
    raise UserError(f"{where} must be {what}, not {value!r}")
  whole = key != "slope"
  least = 1 if whole else 0
  for number in value if many else (value,):
    if isinstance(number, bool) or not isinstance(
      number, int if whole else int | float
    ):
      what = "a whole number" if whole else "a number"
      raise UserError(f"{where} must be {what}, not {number!r}")
    if number < least:
      raise UserError(f"{where} must be at least {least}, not {number}")
  return tuple(value) if many else value
