"""Checks of codecs and tokenizers with random weights.

Codecs are computed in float64 too. Tokenizers are compared with the CPU, and,
on every device, with themselves computed in another way: a clip alone and in a
batch. What their networks compute is in `stored`.

Whatever makes codes is called as users call it, see `check.as_users`.
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

from mmdcodec.models import codec as codec_model
from mmdcodec.models import melody_embedding, mulan, semantic
from mmdcodec.nn import mdct
from mmdcodec.selftest import reference_codecs, references
from mmdcodec.selftest.check import (
  Check,
  Devices,
  as_users,
  both_ways,
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

# Audio to latents, and back.
Encode = Callable[[np.ndarray], np.ndarray]
Decode = Callable[[np.ndarray], np.ndarray]


def filled(shapes: Any, size: float = 0.3) -> Any:
  """Random variables that are no start of a training: every one matters."""
  random = np.random.default_rng(0)

  def one(path: Any, leaf: Any) -> np.ndarray:
    name = path[-1].key
    x = random.standard_normal(leaf.shape)
    if leaf.dtype == bool or name == "count":
      x = np.ones(leaf.shape)
    elif name in ("magnitude", "variance", "var", "deviation"):
      x = np.exp(size * x)
    elif name == "g":
      # Of weight norm: the signal neither dies out nor drowns in the biases.
      x = 1.5 * np.exp(size * x)
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


def _seanet(codec: Any) -> tuple[Encode, Decode]:
  """Encoder and decoder in float64."""
  params = jax.device_get(codec.variables["params"])
  return (
    lambda x: reference_codecs.latents(codec.model, params["encoder"], x),
    lambda z: reference_codecs.audio(codec.model, params["decoder"], z),
  )


def _spectral(codec: Any) -> tuple[Encode, Decode]:
  """The same, around an MDCT in float32."""
  variables, hop = jax.device_get(codec.variables), codec.stride
  forward = jax.jit(lambda x: mdct.mclt(x, hop))
  inverse = jax.jit(lambda x: mdct.imdct(x, hop))

  def encode(x: np.ndarray) -> np.ndarray:
    return reference_codecs.spectral_latents(
      codec.model, variables, *forward(x[..., 0])
    )

  def decode(z: np.ndarray) -> np.ndarray:
    bins = reference_codecs.spectral_bins(codec.model, variables, z)
    return np.asarray(inverse(np.float32(bins)))[..., None]

  return encode, decode


def coding(
  make: Callable[[Any], tuple[Encode, Decode]],
  preset: str,
  changes: Mapping[str, Any],
  devices: Devices,
) -> dict[str, float]:
  """A codec's latents, codes and audio, whole and in a stream.

  Args:
    make: makes encoder and decoder in float64.
    preset: the codec.
    changes: fields to change.
    devices: of the run.
  """
  codec = _codec(preset, **changes)
  x, model, (encode, decode) = _sound(codec), codec.model, make(codec)
  latents = jax.jit(functools.partial(model.apply, method="latents"))
  z = encode(x)
  books = np.asarray(codec.variables["codebook"]["quantizer"]["sum"])
  wanted, certain = references.residual_codes(z, books)
  q = np.sum([wide(x)[wanted[..., k]] for k, x in enumerate(books)], 0)
  streamer = codec.streamer()
  with as_users():
    codes, stream = codec.encode(x), streamer.encode(x[0], last=True)
  audio, given = decode(q), wanted.astype(np.int32)
  found = {
    "latents": off(latents(codec.variables, x), z),
    "codes": differing(codes[certain], wanted[certain]),
    "codes of a stream": differing(stream[certain[0]], wanted[0][certain[0]]),
    "audio": off(codec.decode(given), audio),
    "audio of a stream": off(streamer.decode(given[0], last=True), audio[0]),
  }
  if (there := devices.reference) is not None:
    other = codec.on(there)
    with as_users():
      again = other.encode(x)
    found["codes on the CPU"] = differing(again[certain], codes[certain])
  return found


def training(devices: Devices) -> dict[str, float]:
  """EnCodec without its codebooks: gradients of all parameters."""
  codec = _codec("encodec_tiny")
  x, model = _sound(codec, 8), codec.model
  leaves, tree = jax.tree.flatten(jax.device_get(codec.variables["params"]))
  books = codec.variables["codebook"]

  def found(*leaves: Any) -> jax.Array:
    variables = {"params": jax.tree.unflatten(tree, leaves), "codebook": books}
    z = model.apply(variables, x, method="latents")
    y: Any = model.apply(variables, z, method="synthesize")
    return y

  def wanted(*leaves: Any) -> np.ndarray:
    params = jax.tree.unflatten(tree, leaves)
    z = reference_codecs.latents(model, params["encoder"], x)
    return reference_codecs.audio(model, params["decoder"], z)

  return both_ways("audio", found, wanted, leaves)


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
  # Each codebook is finer than the one before. So small errors change codes,
  # although a clip has few.
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


CHECKS = (
  *(
    Check(
      name,
      "equal its layers in float64, in a stream too",
      functools.partial(coding, make, preset, changes),
      _DEEP,
    )
    for name, make, preset, changes in (
      ("SoundStream", _seanet, "soundstream_tiny", dict(dilations=(1, 3))),
      ("EnCodec", _seanet, "encodec_tiny", {}),
      ("spectral codec", _spectral, "spectral_tiny", dict(causal=True)),
    )
  ),
  Check(
    "EnCodec, training",
    "have the audio and gradients of float64",
    training,
    _DEEP,
  ),
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
