"""Weights of MusicGen as its authors released them.

Must catch: queries, keys and values mixed up; names of the release that are not
known; parts that are missing.
"""

import re

import chex
import numpy as np
import pytest
import safetensors.numpy
from musicgen_weights import NAMES, source, write_folder

from mmdcodec import convert
from mmdcodec.convert import (
  musicgen,
  musicgen_decoder,
  musicgen_release,
)
from mmdcodec.errors import UserError
from mmdcodec.models import token_lm


def released(w):
  """A decoder's tensors as the authors' library names and joins them.

  Written from its module tree, and not with the converter's patterns.
  """
  conditioners = "condition_provider.conditioners"
  projections = {"audio_enc": "self_wav", "enc": "description"}
  parts = {
    "self_attn_layer_norm": "norm1",
    "encoder_attn_layer_norm": "norm_cross",
    "final_layer_norm": "norm2",
    "fc1": "linear1",
    "fc2": "linear2",
    "self_attn": "self_attn",
    "encoder_attn": "cross_attention",
  }
  out = {}
  for name, a in w.items():
    words = name.removeprefix("decoder.").split(".")
    if words[0].endswith("_to_dec_proj"):
      kind = projections[words[0].removesuffix("_to_dec_proj")]
      out[f"{conditioners}.{kind}.output_proj.{words[-1]}"] = a
    elif words[0] == "lm_heads":
      out[f"linears.{words[1]}.weight"] = a
    elif words[2] == "embed_tokens":
      out[f"emb.{words[3]}.weight"] = a
    elif words[2] == "layer_norm":
      out[f"out_norm.{words[-1]}"] = a
    else:
      layer = f"transformer.layers.{words[3]}.{parts[words[4]]}"
      if words[5] in ("q_proj", "k_proj", "v_proj"):
        joined = out.setdefault(f"{layer}.in_proj_weight", [None] * 3)
        joined["qkv".index(words[5][0])] = a
      else:
        out[".".join([layer, *words[5:]])] = a
  return {
    k: np.concatenate(a) if isinstance(a, list) else a for k, a in out.items()
  }


def write_release(folder, config, w):
  """A folder with the weights of the authors and the other parts."""
  of = lambda prefix: {
    name.removeprefix(prefix): a
    for name, a in w.items()
    if name.startswith(prefix)
  }
  for part, prefix in (("text_encoder", "text"), ("codec", "audio")):
    prefix += "_encoder"
    write_folder(folder / part, config[prefix], of(f"{prefix}."))
  rest = {k: a for k, a in w.items() if not re.match("(text|audio)_encoder", k)}
  rest = released(rest)
  if config["model_type"] == "musicgen_melody":
    chroma = "condition_provider.conditioners.self_wav.chroma"
    rest[f"{chroma}.fbanks"] = np.ones((12, 9), np.float32)
  safetensors.numpy.save_file(rest, folder / "any_name.safetensors")
  return folder


@pytest.mark.parametrize("name", NAMES)
def test_the_release_is_the_same_model(tmp_path, name):
  """Catches queries, keys and values mixed up, and names that are not known."""
  config, w, _ = source(name)
  want = musicgen.convert(w, config)
  folder = write_release(tmp_path / "release", config, w)
  with pytest.raises(UserError, match="no published MusicGen.*--preset"):
    convert.read(folder)
  for path in (folder, folder / "any_name.safetensors"):
    found, variables, assets = convert.read(path, "tiny")
    chex.assert_trees_all_equal(variables, want[2])
    assert found["codec"]["model"] == want[1] and assets
  ours, theirs = found["model"], want[0]
  # What only a config tells: what is heard of a melody, and dropout.
  assert ours["heads"] == theirs["heads"]
  if "melody" in ours["conditions"]:
    assert ours["conditions"]["melody"]["frames"] == 235
    ours["conditions"]["melody"] = theirs["conditions"]["melody"]
  assert ours | {"dropout": 0.1} == theirs


def test_a_release_that_is_not_whole(tmp_path):
  """Catches a missing part that is not named."""
  config, w, _ = source("musicgen_tiny")
  folder = write_release(tmp_path / "release", config, w)
  (folder / "text_encoder" / "config.json").rename(folder / "kept")
  with pytest.raises(UserError, match="text_encoder of this.*config.json"):
    convert.read(folder, "tiny")
  (folder / "kept").rename(folder / "text_encoder" / "config.json")
  (folder / "codec" / "model.safetensors").unlink()
  with pytest.raises(UserError, match="codec of this.*no model.safetensors"):
    convert.read(folder, "tiny")
  (folder / "text_encoder" / "tokenizer.json").unlink()
  with pytest.raises(UserError, match="tokenizer.json"):
    convert.read(folder, "tiny")


def test_published_shapes_are_known():
  """Catches a release that needs --preset, or is taken for another one."""
  layer = musicgen_decoder.LAYER
  for name in musicgen_release.PRESETS:
    fields = token_lm.preset(name)
    width, hidden = fields["width"], fields["hidden"]
    shapes = {f"lm_heads.{k}.weight": (2048, width) for k in range(4)}
    for i in range(fields["layers"]):
      shapes[layer.format(i, "fc1.weight")] = (hidden, width)
    if fields["cross"]:
      shapes[layer.format(0, "encoder_attn.q_proj.weight")] = (width, width)
    else:
      shapes["audio_enc_to_dec_proj.weight"] = (width, 12)
    arrays = {k: np.broadcast_to(np.float32(0), s) for k, s in shapes.items()}
    found = musicgen_release.guess(arrays)
    assert token_lm.from_config(found) == token_lm.from_config(fields)
