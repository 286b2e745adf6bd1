"""Codes are true float32 on every backend, and as fast as asked for otherwise.

No test has a GPU or a TPU. What a program asks of one is in its text, as it is
lowered for that platform: every product and every convolution has a precision.
"""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from random_codec import write_random_codec
from random_music import random_music

import mmdcodec
from mmdcodec import platform, stablehlo
from mmdcodec.evaluate import mel_tokens
from mmdcodec.generation import decoding
from mmdcodec.generation.musicgen import LoadedMusic
from mmdcodec.models import melody_embedding, mulan, semantic, streaming
from mmdcodec.quantize import kmeans, vector
from mmdcodec.tokenizers import long_clips, piecewise, window_coder
from mmdcodec.tokenizers.melody_embedding import Melody
from mmdcodec.tokenizers.mulan import Mulan
from mmdcodec.tokenizers.semantic import SemanticTokenizer

# As JAX names backends, and as it names the platforms of lowering.
each_platform = pytest.mark.parametrize(
  "backend, target", [("gpu", "cuda"), ("tpu", "tpu")]
)


def products(text):
  """The lines of a program that multiply: products and convolutions."""
  # A product inside of a library's call would have no precision to read.
  known = {"Sharding", "shape_assertion"}
  assert set(re.findall(r"custom_call @(\w+)", text)) <= known
  return [
    line
    for line in text.splitlines()
    if re.search(r"stablehlo\.(dot|dot_general|convolution)\b", line)
  ]


def is_exact(line):
  """Whether a product asks for all bits of both factors, and they have them."""
  types = re.findall(r"tensor<(?:[\d?]+x)*(\w+)>", line)
  return line.count("HIGHEST") == 2 and set(types) == {"f32"}


class Programs:
  """Lowers programs for a chip, as on it, where they would run."""

  def __init__(self, monkeypatch, backend, target):
    monkeypatch.setattr(platform, "traced_for", lambda: backend)
    self.patch, self.target = monkeypatch.setattr, target
    self.texts = {}

  def lower(self, function, *args, **options):
    """Lowers a jitted function; returns shapes of its results."""
    traced = function.trace(*args, **options)
    # Windows run one program for each part of a network.
    name = " ".join(
      [repr(function), *(a.__name__ for a in args if hasattr(a, "__name__"))]
    )
    if name not in self.texts:
      lowered = traced.lower(lowering_platforms=(self.target,))
      self.texts[name] = lowered.as_text()
    return traced.out_info

  def replace(self, owner, *names):
    """Jitted functions are lowered when they are called, and return zeros."""

    def instead(function, *args, **options):
      out = self.lower(function, *args, **options)
      return jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), out)

    for name in names:
      function = functools.partial(instead, getattr(owner, name))
      self.patch(owner, name, function)

  def check(self, programs, least):
    """Asserts that so many programs were lowered, all of them exact."""
    assert len(self.texts) == programs, [*self.texts]
    lines = [line for text in self.texts.values() for line in products(text)]
    assert len(lines) >= least
    assert [line for line in lines if not is_exact(line)] == []


@pytest.fixture
def programs(monkeypatch, backend, target):
  return Programs(monkeypatch, backend, target)


def hear(programs, codec):
  """Encodes short clips, long ones and streams; nothing is computed."""
  programs.replace(codec, "_encode")
  programs.replace(streaming, "compiled_encode_step")
  programs.replace(window_coder, "_run_window", "_run_recurrent")
  programs.replace(piecewise, "_encode_chunks")
  samples = (long_clips.WHOLE + 1) * codec.stride
  x = np.zeros((1, samples, codec.channels), np.float32)
  codec.encode(x[:, : 2 * codec.stride])
  codec.encode(x)
  if streaming.obstacle(codec.model) is None:
    codec.streamer().encode(x[0, : codec.stride], last=True)


@each_platform
@pytest.mark.parametrize(
  "preset, changes, count",
  [
    ("soundstream_tiny", dict(dilations=(1,)), 2),
    # Three parts, because it looks ahead and has an LSTM.
    ("encodec_tiny", dict(causal=False, dilations=(1,)), 4),
    ("encodec_stereo_tiny", dict(dilations=(1,)), 2),
    ("spectral_tiny", {}, 2),
  ],
)
def test_codecs(preset, changes, count, programs, tmp_path):
  """Catches a layer that computes as fast as the chip likes, or in bfloat16.

  In each way to encode: whole, in steps of a stream, in windows, in chunks.
  """
  changes = dict(changes, dtype="bfloat16")
  path = write_random_codec(tmp_path / "codec", 0, preset, **changes)
  hear(programs, mmdcodec.load(path))
  programs.check(count, least=8)


def test_exported_programs(tmp_path):
  """Catches an export whose codes depend on the chip."""
  path = write_random_codec(tmp_path / "codec", 0, dtype="bfloat16")
  codec = mmdcodec.load(path)
  made = stablehlo.programs(codec.model, codec.variables)["encode"]
  lines = products(made.mlir_module())
  assert len(lines) > 10 and all(map(is_exact, lines))


def make_tokenizer(kind):
  """A tiny tokenizer in bfloat16, all zeros, with two codebooks."""
  module, init, loaded = {
    "semantic": (semantic, semantic.init, SemanticTokenizer),
    "mulan": (mulan, mulan.initial, Mulan),
    "melody": (melody_embedding, melody_embedding.initial, Melody),
  }[kind]
  fields = module.preset("tiny", dtype="bfloat16")
  model = module.from_config(fields)
  shapes = jax.eval_shape(functools.partial(init, model), jax.random.key(0))
  zeros = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), shapes)
  plain = loaded({"kind": kind, "model": fields}, zeros)
  dim = model.width if kind == "semantic" else model.dim
  statistics = {"mean": np.zeros(dim), "scale": np.ones(dim)}
  return loaded(*plain.with_codebooks(statistics, np.ones((2, 4, dim))))


@each_platform
@pytest.mark.parametrize(
  "kind, names",
  [
    ("semantic", ("_features", "_codes")),
    ("mulan", ("_audio", "_text", "_codes")),
    ("melody", ("_apply", "_codes")),
  ],
)
def test_other_tokenizers(kind, names, programs):
  """Catches features that depend on the chip: their codes are data as well."""
  tokenizer = make_tokenizer(kind)
  programs.replace(tokenizer, *names)
  tokenizer.encode(np.zeros(tokenizer.rate // 2, np.float32))
  if kind == "mulan":
    tokenizer.embed_text("loud")
  programs.check(len(names), least=8)


@each_platform
def test_mel_tokens(programs):
  """Catches bands that depend on the chip."""
  programs.lower(mel_tokens._log_mel, np.zeros((1, 2048), np.float32))
  programs.check(1, least=1)


@each_platform
def test_quantizer_and_kmeans(programs):
  """Catches distances in fewer bits, of codes and of centres."""
  rows, embed = jnp.ones((64, 8)), jnp.ones((16, 8))
  blocks = kmeans.place(np.ones((64, 8), np.float32), None)
  key = jax.random.key(0)
  programs.lower(jax.jit(vector.nearest), rows, embed)
  programs.lower(
    jax.jit(lambda key, rows: vector.kmeans(key, rows, rows[:, 0] > 0, 16, 2)),
    key,
    rows,
  )
  programs.lower(kmeans._start, key, blocks.rows, np.arange(9), 4, 2)
  programs.lower(kmeans._lloyd, blocks.rows, blocks.weight, embed)
  programs.lower(kmeans.subtract, blocks.rows, blocks.weight, embed)
  programs.check(5, least=6)


def draw(programs, music, temperature):
  """Samples a few codes; nothing is computed."""
  programs.replace(decoding, "prefill", "advance")
  programs.replace(music.sampler, "_encode")
  music.generate_codes(["a"], seconds=0.2, temperature=temperature)


@each_platform
@pytest.mark.parametrize("depth", (None, {"layers": 1}))
def test_greedy_decoding(depth, programs, tmp_path):
  """Catches a language model whose likeliest code depends on the chip."""
  changes = dict(dtype="bfloat16", depth=depth)
  music = LoadedMusic(*random_music(tmp_path / "lm", **changes))
  draw(programs, music, temperature=0)
  programs.check(3, least=20)


@each_platform
def test_sampling_as_the_config_says(programs, tmp_path):
  """Catches sampling that pays for precision nobody asked for."""
  music = LoadedMusic(*random_music(tmp_path / "lm", dtype="bfloat16"))
  draw(programs, music, temperature=1)
  lines = [line for text in programs.texts.values() for line in products(text)]
  assert not any("HIGHEST" in line for line in lines)
  assert any("bf16" in line for line in lines)


@pytest.mark.parametrize("backend, target", [("gpu", "cuda")])
def test_speed_on_demand(programs, tmp_path):
  """Catches JAX's own setting without effect, and its effect on distances."""
  path = write_random_codec(tmp_path / "codec", 0, dtype="bfloat16")
  x = np.zeros((1, 400, 1), np.float32)
  with jax.default_matmul_precision("default"):
    codec = mmdcodec.load(path)
    programs.replace(codec, "_encode")
    codec.encode(x)
  (text,) = programs.texts.values()
  lines = products(text)
  # The nearest code, in a loop over the codebooks.
  assert sum(map(is_exact, lines)) == 1
  assert sum("bf16" in line for line in lines) == len(lines) - 1


def test_greedy_codes_of_bfloat16_models(tmp_path):
  """Catches greedy codes that are not those of the same model in float32."""
  config, variables = random_music(tmp_path / "lm", dtype="bfloat16")
  found = LoadedMusic(config, variables)
  config = {**config, "model": {**config["model"], "dtype": "float32"}}
  wanted = LoadedMusic(config, variables)
  draw = lambda music: music.generate_codes(
    ["a"], seconds=0.1, temperature=0, guidance=1
  )
  np.testing.assert_array_equal(draw(found), draw(wanted))
