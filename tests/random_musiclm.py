"""A tiny MusicLM that has not been trained, for tests of what generates.

Its stages are of three kinds: flattened, with a depth transformer, and delayed.
Semantic tokens at 25 Hz, codes at 40 Hz, melody tokens at 4/3 Hz. Windows of
1.6 s (semantic) and 0.8 s (coarse), chunks of 0.3 s (fine).
"""

import copy
import functools
import json
import tempfile

import jax
import numpy as np
from random_codec import write_random_codec
from random_music import random_params

from mmdcodec import bundle
from mmdcodec.models import (
  melody_embedding,
  mulan,
  semantic,
  token_lm,
  weights,
)
from mmdcodec.tokenizers.melody_embedding import Melody
from mmdcodec.tokenizers.mulan import Mulan
from mmdcodec.tokenizers.semantic import SemanticTokenizer
from mmdcodec.tokenizers.stereo_codec import open_codec

RATE = 8000
SIZES = {"semantic": 16, "joint": 16, "melody": 8, "codec": 32}


@functools.cache
def _codec():
  with tempfile.TemporaryDirectory() as folder:
    changes = dict(ratios=(5, 5, 8), dilations=(1,))
    write_random_codec(folder, 0, **changes)
    found = bundle.read(folder)
  return found.config, found.variables


def _codebook(tokenizer, levels, size, dim):
  rng = np.random.default_rng(levels)
  statistics = {"mean": np.zeros(dim), "scale": np.ones(dim)}
  return tokenizer.with_codebooks(
    statistics, rng.standard_normal((levels, size, dim))
  )


def _random(config, **fixed):
  """Random variables of a network; nothing is compiled to make them."""
  rng = np.random.default_rng(0)

  def fill(path, leaf):
    middle = 1.0 if path[-1].key in ("scale", "var") else 0.0
    return rng.normal(middle, 0.3, leaf.shape).astype(leaf.dtype)

  shapes = weights.shapes(config)
  return jax.tree_util.tree_map_with_path(fill, shapes) | fixed


@functools.cache
def _semantic():
  config = {"kind": "semantic", "model": semantic.preset("tiny")}
  bands = np.arange(config["model"]["mels"], dtype=np.float32)
  statistics = {"mean": -20 - bands, "deviation": 10 + bands}
  plain = SemanticTokenizer(config, _random(config, statistics=statistics))
  return _codebook(plain, 1, SIZES["semantic"], plain.model.width)


@functools.cache
def _joint():
  config = {"kind": "mulan", "model": mulan.preset("tiny")}
  plain = Mulan(config, _random(config))
  return _codebook(plain, 3, SIZES["joint"], plain.model.dim)


@functools.cache
def _melody():
  config = {"kind": "melody_embedding"}
  config["model"] = melody_embedding.preset("tiny")
  plain = Melody(config, _random(config))
  return _codebook(plain, 2, SIZES["melody"], plain.model.dim)


TOKENIZERS = {
  "codec": (_codec, open_codec),
  "semantic": (_semantic, SemanticTokenizer),
  "joint": (_joint, Mulan),
  "melody": (_melody, Melody),
}


@functools.cache
def tokenizer(key):
  """One of the tokenizers, opened."""
  make, cls = TOKENIZERS[key]
  return cls(*make())


def _tokens(key, order, **fields):
  return dict(kind="tokens", size=SIZES[key], order=order, **fields)


CONDITIONS = {
  "joint": _tokens("joint", 0, codebooks=3),
  "melody": _tokens("melody", 1, codebooks=2, frames=2, frame_rate=4 / 3),
  "semantic": _tokens("semantic", 2, frames=20, frame_rate=25.0),
  "coarse": _tokens("codec", 2, codebooks=2, frames=12, frame_rate=40.0),
}
SOURCES = {"coarse": "codec"}
STAGES = {
  "semantic": dict(
    codebooks=1, codebook_size=16, frames=40, takes=("joint", "melody")
  ),
  "coarse": dict(
    codebooks=2, codebook_size=32, frames=32, takes=("joint", "semantic"),
    pattern=dict(name="parallel"),
    depth=dict(width=8, layers=1, heads=1, hidden=8),
  ),
  "fine": dict(
    codebooks=2, codebook_size=32, first_codebook=2, frames=12,
    takes=("joint", "coarse"), pattern=dict(name="delay"),
  ),
}  # fmt: skip


def stage(name, seed=0, **changes):
  """Config and variables of one stage."""
  fields = {"pattern": dict(name="flatten"), **STAGES[name], **changes}
  takes = fields.pop("takes")
  model = token_lm.preset(
    "tiny", width=8, heads=1, layers=1, hidden=16, cross=False,
    positions="relative",
    conditions={each: CONDITIONS[each] for each in takes}, **fields,
  )  # fmt: skip
  made = tokenizer("semantic" if name == "semantic" else "codec")
  heard = {each: tokenizer(SOURCES.get(each, each)) for each in takes}
  config = {
    "kind": "stage",
    "model": json.loads(json.dumps(model)),
    "target": {
      "tokenizer": made.kind, "hash": made.hash, "frame_rate": made.frame_rate
    },
    "streams": {
      each: {"tokenizer": of.kind, "hash": of.hash}
      for each, of in heard.items()
    },
  }  # fmt: skip
  params = random_params(token_lm.from_config(model), seed)
  return config, {"params": params}


def musiclm(without=(), **stages):
  """Config and variables of a whole MusicLM.

  Args:
    without: keys of parts to leave out.
    **stages: changes of the fields of a stage, by its name.
  """
  made = {key: make() for key, (make, _) in TOKENIZERS.items()}
  for i, name in enumerate(STAGES):
    made[f"{name}_lm"] = stage(name, seed=i, **stages.get(name, {}))
  made = {key: each for key, each in made.items() if key not in without}
  config = {key: copy.deepcopy(config) for key, (config, _) in made.items()}
  variables = {key: variables for key, (_, variables) in made.items()}
  return {"kind": "musiclm", "parts": config}, variables
