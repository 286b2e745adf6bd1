"""Checks that nonsense is refused by the modules themselves, in one sentence.

A config may come from a bundle, a public folder, a command line or Python code,
and its numbers may be anything. What cannot be a model must not be built, and
what can must not need memory before its weights are known to fit.
"""

import dataclasses
import json
import resource
from typing import Annotated

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
from random_codec import write_random_codec

import mmdcodec
from mmdcodec import UserError, bounds, bundle
from mmdcodec.losses import spectral
from mmdcodec.models import codec, discriminators, token_lm, weights
from mmdcodec.models.melody_condition import Melody
from mmdcodec.models.text_encoder import T5Encoder
from mmdcodec.models.token_conditions import Tokens
from mmdcodec.nn.attention import Attention
from mmdcodec.nn.conv import Conv, ConvTranspose
from mmdcodec.nn.conv_nd import ConvNd
from mmdcodec.nn.encoder import Encoder
from mmdcodec.nn.lstm import LSTM
from mmdcodec.nn.transformer import Transformer
from mmdcodec.quantize.independence import independence_loss
from mmdcodec.quantize.residual import ResidualVectorQuantizer

NAN, INF = float("nan"), float("inf")
CODEC = {
  "topology": ["seanett", None],
  "rate": [0, -1, 24000.0, NAN, True, "24000"],
  "channels": [0, 10**8],
  "causal": [1, "yes"],
  "filters": [0, 10**9],
  "ratios": [[40000, 50000], [], [0], 4, [2.5], [2] * 9, [256] * 3],
  "dim": [0, 10**9],
  "kernel": [0, 10**9],
  "dilations": [[10**9], []],
  "compress": [0, 33],
  "lstm_layers": [-1, 10**5],
  "norm": ["batch", ["weight"]],
  "pad_mode": ["replicate"],
  "trim_right_ratio": [7, -1, NAN],
  "normalize": ["no", 0],
  "chunk_seconds": [-1, INF, NAN, 1e-6],
  "overlap": [5, -0.1, NAN],
  "codebooks": [0, 10**8],
  "codebook_size": [1, 10**9],
  "decay": [1.5, -0.1, NAN],
  "epsilon": [-1e-5, NAN],
  "threshold": [-1, NAN, INF],
  "threshold_kind": ["percent"],
  "kmeans_iterations": [-1, 10**9, 1.5],
  "quantizer_dropout": [-0.1, 2],
  "dtype": ["bf16", "int8", None],
  "remat": ["full"],
}
LM = {
  "codebooks": [0, 10**8],
  "codebook_size": [0, 10**9],
  "first_codebook": [-1],
  "pattern": [
    "delay",
    {"name": "delay", "empty_initial": 10**9},
    {"name": "delay", "delays": [0, 1, 2, 10**9]},
    {"name": "grouped", "sizes": "a"},
    {"name": ["delay"]},
  ],
  "frames": [0, 10**9],
  "width": [0, 10**9, 1022],
  "layers": [0, 10**9],
  "heads": [0, 10**9],
  "kv_heads": [-1, 3],
  "hidden": [0, 10**9],
  "activation": ["swish"],
  "positions": ["absolute", None],
  "qk_norm": ["no"],
  "cross": [0],
  "conditions": [
    "text",
    {"text": "t5"},
    {"text": {"kind": []}},
    {"text": dict(tokenizer="t5", longest=10**9, encoder={})},
    {"text": dict(tokenizer="t5", longest=9, encoder={"layers": 10**9})},
    {"text": dict(tokenizer="t5", longest=9, encoder={"size": 1})},
    {"melody": dict(classes=12, frames=10**9, rate=1, window=1, hop=1)},
    {"x": {"kind": "tokens", "size": 4, "frames": 1 << 20, "codebooks": 4096}},
    {"x": {"kind": "embedding", "size": 4, "order": NAN}},
  ],
  "dropout": [-1, NAN, 2],
  "remat": ["half"],
  "dtype": ["bf16"],
}


def one_sentence(call, *args, **options):
  """The message of the UserError of a call."""
  with pytest.raises(UserError) as error:
    call(*args, **options)
  text = str(error.value)
  assert len(text) < 500 and "\n" not in text
  return text


@pytest.mark.parametrize(
  "build, preset, bad",
  [
    (codec.from_config, codec.preset("encodec_24khz"), CODEC),
    (token_lm.from_config, token_lm.preset("musicgen_small"), LM),
  ],
)
def test_configs(build, preset, bad):
  """Catches a field that no one checks, of any config of a whole model."""
  build(preset)
  for key, values in bad.items():
    for value in values:
      one_sentence(build, preset | {key: value})
  for config in ([1], None, "x", {1: 2}):
    one_sentence(build, config)


@pytest.mark.parametrize(
  "kind, good, bad",
  [
    (codec.Codec, {}, {"topology": "seanett", "decay": 1.5, "dtype": "bf16"}),
    (token_lm.TokenLM, {}, {"width": 0, "dropout": NAN, "dtype": "bf16"}),
    (
      ResidualVectorQuantizer,
      dict(codebooks=2, size=4, dim=3),
      {"decay": 1.5, "size": 0, "dim": -1, "threshold_kind": "none"},
    ),
    (T5Encoder, {}, {"layers": 0, "buckets": 31, "longest": 8, "gated": 1}),
    (
      Transformer,
      dict(layers=1, width=8, heads=2, kv_heads=1, hidden=4),
      {"positions": "x", "activation": "x", "width": 6, "remat": True},
    ),
    (
      Transformer,
      dict(layers=1, width=8, heads=2, kv_heads=1, hidden=4)
      | dict(positions="relative", buckets=8, max_distance=5),
      {"max_distance": 4, "buckets": 10},
    ),
    (
      Attention,
      dict(width=4, heads=2, kv_heads=2, head_dim=2),
      {"kv_heads": 3, "scale": 0.0, "dtype": "bf16"},
    ),
    (
      Attention,
      dict(width=4, heads=2, kv_heads=2, head_dim=2, rotary=True, turned=True),
      {"head_dim": 3, "use_bias": True},
    ),
    (Conv, dict(features=1, kernel_size=3), {"norm": "x", "stride": 0}),
    (
      ConvTranspose,
      dict(features=1, kernel_size=4, stride=2),
      {"trim_right_ratio": 7, "features": 10**9},
    ),
    (ConvNd, dict(features=1, taps=(3,)), {"taps": (), "norm": "time_group"}),
    (LSTM, dict(dim=2), {"layers": 10**5, "dim": 0}),
    (
      Melody,
      dict(name="x", classes=12, frames=3, rate=8, window=4, hop=2),
      {"hop": 0, "frames": 10**9},
    ),
    (Tokens, dict(name="x", size=4), {"size": 0, "frame_rate": INF}),
    (
      discriminators.Discriminators,
      dict(members=(("stft", ()),)),
      {"members": (("stft", (("hop", 0),)),), "dtype": "float16"},
    ),
    *(
      (kind, {}, {"filters": 10**9, "slope": NAN, "dtype": "bf16"})
      for kind in discriminators.DISCRIMINATORS.values()
    ),
  ],
)
def test_modules(kind, good, bad):
  """Catches a check that only `from_config` makes."""
  kind(**good)
  for key, value in bad.items():
    one_sentence(kind, **{**good, key: value})


@pytest.mark.parametrize(
  "change", [dict(forget=0.1), dict(window=4), dict(sinks=1)]
)
def test_what_only_decoders_do(change):
  """Catches an encoder that silently does not, or an answer in riddles."""
  fields = dict(layers=1, width=8, heads=2, kv_heads=1, hidden=4)
  ((name, value),) = change.items()
  Encoder(**fields, **{name: 0})
  words = one_sentence(Encoder, **fields, **change)
  assert words.startswith(f"the encoder: its {name} is {value}, but only dec")
  assert words.endswith("set it to 0.")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  """A bundle of a codec."""
  path = tmp_path_factory.mktemp("bundles") / "codec"
  write_random_codec(path, 0)
  return path


def changed(folder, path, config=(), weights=()):
  """A copy of a bundle with changed fields and arrays."""
  path.mkdir()
  told = json.loads((folder / "config.json").read_text())
  told["model"] |= dict(config)
  (path / "config.json").write_text(json.dumps(told))
  arrays = safetensors.numpy.load_file(folder / "model.safetensors")
  for name, change in dict(weights).items():
    arrays[name] = change(arrays[name])
  safetensors.numpy.save_file(arrays, path / "model.safetensors")
  return path


KERNEL = "params/encoder/conv_in/bias"


def poisoned(value):
  """A change of one entry of an array."""

  def change(array):
    array = array.copy()
    array.reshape(-1)[-1] = value
    return array

  return change


@pytest.mark.parametrize(
  "config, weights, words",
  [
    ({"rate": NAN}, {}, "rate of the codec is nan"),
    ({"overlap": 5}, {}, "overlap"),
    ({"trim_right_ratio": 7}, {}, "trim_right_ratio"),
    ({"normalize": "no"}, {}, "normalize"),
    ({"ratios": [40000, 50000]}, {}, "ratios"),
    ({"channels": 10**8}, {}, "channels"),
    ({"lstm_layers": 10**5}, {}, "lstm_layers"),
    ({"codebooks": 10**8}, {}, "codebooks"),
    ({"codebooks": {"a": 1}}, {}, "{ a: 1, }"),
    ({"ratios": [256, 256, 16]}, {}, "do not fit"),
    ({}, {KERNEL: poisoned(np.nan)}, f"{KERNEL} holds NaN"),
    ({}, {KERNEL: poisoned(-np.inf)}, "infinite"),
    ({}, {"codebook/quantizer/count": poisoned(np.inf)}, "count holds"),
    ({}, {KERNEL: lambda a: a.astype(np.int8)}, "int8 instead of float32"),
    (
      {},
      {"codebook/quantizer/started": lambda a: a.astype(np.float32)},
      "float32 instead of bool",
    ),
  ],
)
def test_bundles(folder, tmp_path, config, weights, words):
  """Catches a bundle that opens as something that its maker did not mean."""
  path = changed(folder, tmp_path / "changed", config, weights)
  text = one_sentence(mmdcodec.load, path)
  assert words in text and str(path) in text
  if config:
    assert one_sentence(bundle.read_codec, path) == text


@pytest.mark.parametrize(
  "config",
  [
    {},
    {"kind": ["codec"]},
    {"kind": "codec"},
    {"kind": "codec", "model": [1]},
    {"kind": "lm", "model": token_lm.preset("tiny")},
    {"kind": "lm", "model": token_lm.preset("tiny"), "codec": {"model": 3}},
  ],
)
def test_bundles_without_a_model(folder, tmp_path, config):
  """Catches a KeyError for a config that says too little."""
  path = changed(folder, tmp_path / "changed")
  (path / "config.json").write_text(json.dumps(config))
  one_sentence(mmdcodec.load, path)


def test_half_precision_still_opens(folder, tmp_path):
  """Catches a refusal of weights that were rounded to save space."""
  half = {KERNEL: lambda a: a.astype(np.float16)}
  mmdcodec.load(changed(folder, tmp_path / "half", weights=half))


def test_shapes_take_no_memory():
  """Catches real zeros in the place of shapes: 0.5 GB for this codec."""
  model = codec.preset("encodec_24khz", channels=64, ratios=[256, 256, 16])
  before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
  weights.shapes({"kind": "codec", "model": model})
  after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
  assert after - before < 200_000  # kB


FLOATS, INTEGERS = jnp.float32, jnp.int32


def apply(module, *init):
  """A function that applies a module without variables of its own."""
  shapes = jax.eval_shape(module.init, jax.random.key(0), *init)
  return lambda *args, **options: jax.eval_shape(
    lambda v, *args: module.apply(v, *args, **options), shapes, *args
  )


def array(*shape, dtype=FLOATS):
  """An array that is nothing but its shape."""
  return jax.ShapeDtypeStruct(shape, dtype)


def test_bounds_in_text_are_no_bounds():
  """`from __future__ import annotations` would check nothing any more."""
  bound = Annotated[int, bounds.whole(1, 2)]
  for wrong in ("int", "Annotated[int, bounds.whole(1, 2)]"):
    fields = [("good", bound), ("wrong", wrong)]
    kind = dataclasses.make_dataclass("Kind", fields, bases=(bounds.Checked,))
    with pytest.raises(TypeError, match=r"of Kind are text \(wrong\)"):
      kind(1, 1)


@pytest.mark.parametrize(
  "wanted, good, bad, words",
  [
    (bounds.flag(), np.bool_(True), np.int64(1), "true or false"),
    (
      bounds.number(0, bounds.LARGEST),
      3e37,
      INF,
      "a finite number of at least",
    ),
    (bounds.number(-3e38, 3e38), -3e38, NAN, "a finite number that float32"),
    (bounds.number(0, 2), np.float32(2), 2.5, "a number from 0 to 2"),
  ],
)
def test_bounds_in_words(wanted, good, bad, words):
  bounds.check("x", good, wanted)
  with pytest.raises(UserError, match=words):
    bounds.check("x", bad, wanted)


def test_shapes_of_arguments():
  """Catches errors from deep inside, and arrays that are broadcast to fit."""
  model = apply(codec.Codec(filters=2, ratios=(2,), dim=4), array(1, 4, 1))
  quantizer = apply(ResidualVectorQuantizer(2, 4, 3), array(1, 2, 3))
  key = jax.random.key(0)
  loss = lambda s: independence_loss(s, key)
  mel = lambda x, y: spectral.multi_scale_mel(x, y, rate=8000)
  for call, words in [
    (lambda: model(array(2, 40)), "x has shape [2, 40]; expected [batch, s"),
    (lambda: model(array(40), method="encode"), "[40]; expected [batch, samp"),
    (lambda: model(array(1, 0, 1)), "not empty"),
    (lambda: model(array(1, 4, 2), method="latents"), "channels = 1]"),
    (lambda: model(array(1, 3, 4), method="decode"), "codes holds float32"),
    (
      lambda: model(array(5, 4, dtype=INTEGERS), method="decode"),
      "codes has shape [5, 4]; expected [batch, frames, codebooks]",
    ),
    (lambda: model(array(1, 3, 5), method="synthesize"), "dim = 4]"),
    (lambda: quantizer(array(1, 0, 3)), "z has shape [1, 0, 3]"),
    (lambda: quantizer(array(1, 2, 5), method="encode"), "dim = 3]"),
    (lambda: quantizer(array(1, 2, 3), array(2, 2)), "mask has shape [2, 2]"),
    (lambda: jax.eval_shape(loss, array(2, 3, 4)), "streams has shape"),
    (lambda: jax.eval_shape(loss, array(2, 3, 0, 4)), "not empty"),
    (lambda: jax.eval_shape(mel, array(2, 40), array(2, 40)), "x has shape"),
    (lambda: spectral.waveform_l1(array(1, 4, 1), array(1, 4, 2)), "y has"),
  ]:
    with pytest.raises(ValueError) as error:
      call()
    text = str(error.value)
    assert words in text and len(text) < 200 and "\n" not in text
  # Blocks of a stream may be empty.
  assert model(array(1, 0, 1), method="encode").codes.shape == (1, 0, 32)


@pytest.mark.parametrize(
  "name", ["encodec_24khz", "spectral_small", "musicgen_small"]
)
def test_names_of_presets(name, tmp_path, monkeypatch):
  """Catches "holds no model" for a name that the README shows as a preset."""
  monkeypatch.chdir(tmp_path)
  assert "is the name of a preset" in one_sentence(mmdcodec.load, name)


@pytest.mark.parametrize("read", [mmdcodec.load, bundle.read_codec])
def test_adapters(read, tmp_path):
  """Catches an adapter that is taken for a release or a damaged model."""
  (tmp_path / "adapter_config.json").write_text("{}")
  (tmp_path / "adapter_model.safetensors").write_bytes(b"")
  assert "merge_and_unload" in one_sentence(read, tmp_path)
