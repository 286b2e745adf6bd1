"""A music model that has not been trained, for tests of what generates."""

import json

import jax
import numpy as np
import tokenizers
from random_codec import write_random_codec

from mmdcodec import bundle
from mmdcodec.models import token_lm
from mmdcodec.models.conditioning import EncodedConditions


def random_params(model, seed=0, scale=0.4):
  """Parameters that are no start of a training: every one matters."""
  encoded = None
  if model.cross and not model.conditions:
    # A decoder by itself, which is handed its vectors.
    states = np.zeros((1, 2, model.width), np.float32)
    encoded = EncodedConditions(states, np.ones((1, 2), bool))
  shapes = token_lm.shapes(model, encoded)["params"]
  rng = np.random.default_rng(seed)

  def fill(path, leaf):
    middle = 1.0 if path[-1].key == "scale" else 0.0
    return rng.normal(middle, scale, leaf.shape).astype(leaf.dtype)

  return jax.tree_util.tree_map_with_path(fill, shapes)


def word_tokenizer() -> str:
  """A tokenizer.json that knows a few words."""
  words = {"<unk>": 0, "</s>": 1, "tune": 2, "number": 3}
  made = tokenizers.Tokenizer(
    tokenizers.models.WordLevel(words, unk_token="<unk>")
  )
  made.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
  return made.to_str()


def random_music(folder, seed=0, codec=(), **changes):
  """Config and variables of a tiny music model with a tiny codec."""
  write_random_codec(folder, seed, **dict(codec))
  config = json.loads((folder / "config.json").read_text())
  codec = bundle.read(folder).variables
  model = token_lm.preset(
    "tiny",
    codebooks=config["model"]["codebooks"],
    codebook_size=config["model"]["codebook_size"],
    **changes,
  )
  params = random_params(token_lm.from_config(model), seed)
  return (
    {"kind": "lm", "model": model, "codec": config},
    {"params": params, "codec": codec},
  )
