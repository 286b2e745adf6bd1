"""Checks of codecs and tokenizers with random weights.

A codec is computed in float64 too. Everything else is compared with the CPU,
and, on every device, with itself computed in another way: a clip alone and in a
batch, a stream and a whole clip.

Whatever makes codes is called as users call it, see `check.as_users`.
"""

import functools
from typing import Any

import jax
import numpy as np

from mmdcodec.models import codec as codec_model
from mmdcodec.models import melody_embedding, mulan, semantic
from mmdcodec.selftest import reference_codecs, references
from mmdcodec.selftest.check import (
  Check,
  Devices,
  as_users,
  differing,
  normal,
  off,
)
from mmdcodec.selftest.references import wide
from mmdcodec.tokenizers.loaded_codec import LoadedCodec
from mmdcodec.tokenizers.melody_embedding import Melody
from mmdcodec.tokenizers.mulan import Mulan
from mmdcodec.tokenizers.semantic import SemanticTokenizer

# Of a dozen layers, relative to the largest number.
_DEEP = 1e-4


def filled(shapes: Any, size: float = 0.3) -> Any:
  """Random variables that are no start of a training: every one matters."""
  random = np.random.default_rng(0)

  def one(path: Any, leaf: Any) -> np.ndarray:
    name = path[-1].key
    x = random.standard_normal(leaf.shape)
    if leaf.dtype == bool or name == "count":
      x = np.ones(leaf.shape)
    elif name in ("magnitude", "variance", "deviation"):
      x = np.exp(size * x)
    else:
      x = size * x + (name == "scale")
    return x.astype(leaf.dtype)

  return jax.tree_util.tree_map_with_path(one, shapes)


def _codec(preset: str, **changes: Any) -> LoadedCodec:
  config = codec_model.preset(preset, **changes)
  model = codec_model.from_config(config)
  x = jax.ShapeDtypeStruct((1, 2 * model.stride, model.channels), np.float32)
  shapes = jax.eval_shape(model.init, jax.random.key(0), x)
  return LoadedCodec({"kind": "codec", "model": config}, filled(shapes))


def _sound(codec: Any, frames: int = 24) -> np.ndarray:
  return 0.3 * normal(2, frames * codec.stride, codec.channels)


def soundstream(devices: Devices) -> dict[str, float]:
  """Codes and audio of a codec, layer by layer in float64."""
  codec = _codec("soundstream_tiny", dilations=(1, 3))
  x, params = _sound(codec), jax.device_get(codec.variables["params"])
  embed = np.asarray(codec.variables["codebook"]["quantizer"]["sum"])
  z = reference_codecs.soundstream_latents(codec.model, params["encoder"], x)
  codes, certain = references.residual_codes(z, embed)
  q = np.sum([wide(x)[codes[..., k]] for k, x in enumerate(embed)], 0)
  audio = reference_codecs.soundstream_audio(codec.model, params["decoder"], q)
  latents = jax.jit(
    functools.partial(codec.model.apply, method="latents")
  )(codec.variables, x)
  with as_users():
    found = codec.encode(x)
  return {
    "latents": off(latents, z),
    "codes that are certain": differing(found[certain], codes[certain]),
    "audio": off(codec.decode(codes.astype(np.int32)), audio),
  }


def _both_ways(
  devices: Devices, preset: str, **changes: Any
) -> dict[str, float]:
  codec = _codec(preset, **changes)
  x, model = _sound(codec), codec.model
  latents = jax.jit(functools.partial(model.apply, method="latents"))
  z = latents(codec.variables, x)
  books = np.asarray(codec.variables["codebook"]["quantizer"]["sum"])
  wanted, certain = references.residual_codes(z, books)
  streamer = codec.streamer()
  with as_users():
    codes, stream = codec.encode(x), streamer.encode(x[0], last=True)
  audio = codec.decode(codes)
  found = {
    "codes": differing(codes[certain], wanted[certain]),
    "codes of a stream": differing(stream[certain[0]], wanted[0][certain[0]]),
    "audio of a stream": off(streamer.decode(codes[0], last=True), audio[0]),
  }
  if (there := devices.reference) is not None:
    other = codec.on(there)
    with as_users():
      again = other.encode(x)
    found |= {
      "codes on the CPU": differing(again[certain], codes[certain]),
      "audio on the CPU": off(audio, other.decode(codes)),
    }
  return found


def encodec(devices: Devices) -> dict[str, float]:
  """A codec with weight norm, reflection and an LSTM."""
  return _both_ways(devices, "encodec_tiny")


def spectral(devices: Devices) -> dict[str, float]:
  """A codec around an MDCT."""
  return _both_ways(devices, "spectral_tiny", causal=True)


def _tokenizer(kind: str) -> tuple[Any, np.ndarray]:
  kinds: dict[str, Any] = {
    "semantic": (semantic, semantic.init, SemanticTokenizer),
    "mulan": (mulan, mulan.initial, Mulan),
    "melody": (melody_embedding, melody_embedding.initial, Melody),
  }
  module, init, loaded = kinds[kind]
  fields = module.preset("tiny")
  model = module.from_config(fields)
  shapes = jax.eval_shape(functools.partial(init, model), jax.random.key(0))
  plain = loaded({"kind": kind, "model": fields}, filled(dict(shapes)))
  dim = model.width if kind == "semantic" else model.dim
  # Vectors of length 1 are coded as they are.
  embed = normal(4, 256, dim) / (1 if plain.standardise else np.sqrt(dim))
  # The finer, the smaller the error that shows, though a clip has few codes.
  embed *= np.float32(0.7) ** np.arange(4, dtype=np.float32)[:, None, None]
  statistics = {"mean": np.zeros(dim), "scale": np.ones(dim)}
  return loaded(*plain.with_codebooks(statistics, embed)), embed


def tokenizer(kind: str, devices: Devices) -> dict[str, float]:
  """Features of a clip beside a longer one, and the codes of its features."""
  model, embed = _tokenizer(kind)
  x = 0.3 * normal(2, round(1.5 * model.rate), 1)
  lengths = np.array([x.shape[1], round(0.9 * model.rate)])
  heard, valid = (np.asarray(a) for a in model.features(*model.prepare(
    x, None, lengths
  )))  # fmt: skip
  alone = np.asarray(model.features(*model.prepare(x[1, : lengths[1]]))[0])
  with as_users():
    codes = model.encode(x, lengths=lengths)
  valid = valid[:, : codes.shape[1]]
  wanted, certain = references.residual_codes(heard[:, : codes.shape[1]], embed)
  sure = certain & valid[..., None]
  count = model.frames_of(int(lengths[1]))
  found = {
    "features beside a longer clip": off(heard[1, :count], alone[0, :count]),
    "codes": differing(codes[sure], wanted[sure]),
  }
  if kind == "mulan":
    texts = ["calm piano", "loud drums and a bass"]
    both = model.embed_text(texts)
    found["texts beside others"] = off(both[:1], model.embed_text(texts[:1]))
  if (there := devices.reference) is not None:
    other = model.on(there)
    again = np.asarray(other.features(*other.prepare(x, None, lengths))[0])
    with as_users():
      codes_there = other.encode(x, lengths=lengths)
    found |= {
      "features on the CPU": off(heard, again),
      "codes on the CPU": differing(codes_there[sure], codes[sure]),
    }
  return found


_WAYS = "give the same codes and audio in every way"
CHECKS = (
  Check("SoundStream", "equal its layers in float64", soundstream, _DEEP),
  Check("EnCodec", _WAYS, encodec, _DEEP),
  Check("spectral codec", _WAYS, spectral, _DEEP),
  *(
    Check(
      f"{name} tokenizer",
      "give a clip the same features and codes in every way",
      functools.partial(tokenizer, kind),
      _DEEP,
    )
    for kind, name in (
      ("semantic", "semantic"), ("mulan", "joint"), ("melody", "melody"),
    )
  ),  # fmt: skip
)
