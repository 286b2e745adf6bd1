"""Converts text encoders of BERT's form from transformers, such as MiniLM.

The network gives a vector per token. Sentence encoders average them, as the
file 1_Pooling/config.json of their folders says. What a folder has for other
tasks, a pooler of the first token and heads, is ignored.
"""

import json
import pathlib
import re
from typing import Any

import numpy as np

from mmdcodec.bounds import declared, one_of
from mmdcodec.convert import fields, layouts, weights
from mmdcodec.convert.weights import Rule, stacked
from mmdcodec.errors import UserError
from mmdcodec.models import bert, text_tokens
from mmdcodec.models.text_tokens import TOKENIZER_FILE
from mmdcodec.store import inputs

# Field of transformers' config -> our field. Missing ones have the defaults of
# transformers' BERT.
FIELDS = {
  "vocab_size": ("vocabulary", 30_522),
  "hidden_size": ("width", 768),
  "num_hidden_layers": ("layers", 12),
  "num_attention_heads": ("heads", 12),
  "intermediate_size": ("hidden", 3072),
  "max_position_embeddings": ("positions", 512),
  "type_vocab_size": ("types", 2),
  "layer_norm_eps": ("epsilon", 1e-12),
}
# Tensors of other tasks, and lists of numbers that some versions store.
IGNORED = (
  "pooler.",
  "cls.",
  "embeddings.position_ids",
  "embeddings.token_type_ids",
)
POOLING = pathlib.Path("1_Pooling/config.json")
VOCABULARY_FILE = "vocab.txt"


def bundled(
  arrays: dict[str, np.ndarray],
  config: dict[str, Any] | None,
  preset: str | None,
  folder: pathlib.Path,
) -> tuple[dict[str, Any], dict[str, Any], dict[str, bytes]]:
  """Makes the contents of a bundle with a sentence encoder.

  Args:
    arrays: tensors by name, as in the file.
    config: config.json of transformers.
    preset: not used.
    folder: folder of the weights and their other files.

  Returns:
    (config, variables, other files by name).

  Raises:
    UserError: a field or tensor is unknown, missing, or left over; there is no
      uncased tokenizer; or sentences are not means of tokens.
  """
  del preset
  asset = tokenizer(folder)
  text_tokens.make_tokenizer("word_pieces", {TOKENIZER_FILE: asset})
  if (folder / POOLING).is_file():
    pooling = inputs.read_object(folder / POOLING)
    mean = {k for k, v in pooling.items() if k.startswith("pooling_mode") and v}
    if mean != {"pooling_mode_mean_tokens"}:
      raise UserError(
        f"{folder / POOLING} has {', '.join(sorted(mean)) or 'no mode'};"
        " expected an encoder that averages its tokens."
      )
  found, variables = convert(arrays, config or {})
  out = {"kind": "text", "model": found, "tokenizer": "word_pieces"}
  return out, variables, {TOKENIZER_FILE: asset}


def tokenizer(folder: pathlib.Path) -> bytes:
  """Reads tokenizer.json, or makes it of a vocab.txt.

  Raises:
    UserError: the folder has neither, or a vocabulary with capitals.
  """
  if (folder / TOKENIZER_FILE).is_file():
    return inputs.read_bytes(folder / TOKENIZER_FILE)
  if (folder / VOCABULARY_FILE).is_file():
    words = inputs.read_text(folder / VOCABULARY_FILE).split("\n")
    ids = {word.rstrip("\r"): i for i, word in enumerate(words)}
    # Names in brackets are special tokens.
    cased = [w for w in ids if re.search("[A-Z]", w) and w[0] + w[-1] != "[]"]
    if cased:
      raise UserError(
        f"{folder / VOCABULARY_FILE} has pieces with capitals, such as"
        f" {cased[0]!r}; expected the vocabulary of an uncased BERT."
      )
    model = {"type": "WordPiece", "vocab": ids}
    return json.dumps({"model": model}).encode()
  raise UserError(
    f"{folder} holds no {TOKENIZER_FILE} or {VOCABULARY_FILE}, the tokenizer of"
    " texts: put that of the model there."
  )


def fields_of(config: dict[str, Any]) -> dict[str, Any]:
  """Converts a config.json to fields of the encoder, with BERT's defaults.

  Fields that do not affect the encoder (`initializer_range`, `use_cache` and
  others in published files) are ignored.

  Raises:
    UserError: the value of a field is not supported.
  """
  checks = declared(bert.Bert)
  found = fields.renamed(config, FIELDS, checks)
  fields.get(config, "hidden_act", "gelu", one_of(["gelu"]))
  fields.get(config, "position_embedding_type", "", one_of(["absolute"]))
  fields.get(config, "is_decoder", False, one_of([False]))
  return found


def convert(
  arrays: dict[str, np.ndarray],
  config: dict[str, Any],
  **changes: Any,
) -> tuple[dict[str, Any], dict[str, Any]]:
  """Converts a public encoder.

  Args:
    arrays: tensors by name, with or without the prefix "bert.".
    config: config.json of transformers.
    **changes: fields of `Bert` that do not follow from the config.

  Returns:
    (fields of the Bert, variables).

  Raises:
    UserError: a field or tensor is unknown, missing, or left over.
  """
  found = fields_of(config) | changes
  model = bert.from_config(found)
  like = bert.shapes({"model": found})
  arrays = weights.renamed(arrays, lambda name: name.removeprefix("bert."))
  arrays = {
    name: a for name, a in arrays.items() if not name.startswith(IGNORED)
  }
  return found, weights.fill(rules(model), arrays, like)


def rules(model: bert.Bert) -> list[Rule]:
  """Returns the rules for the tensors of an encoder."""
  out = [
    Rule(
      (f"params/{ours}/embedding",), (f"embeddings.{theirs}_embeddings.weight",)
    )
    for ours, theirs in (
      ("embedding", "word"),
      ("type_embedding", "token_type"),
      ("position_embedding", "position"),
    )
  ]
  norm = "embeddings.LayerNorm"
  out.append(Rule(("params/embedding_norm/scale",), (f"{norm}.weight",)))
  out.append(Rule(("params/embedding_norm/bias",), (f"{norm}.bias",)))
  heads = layouts.Heads(model.heads, model.width // model.heads)
  same = layouts.same
  layers = {
    f"{ours}/{end}": (f"{theirs}.{'bias' if end == 'bias' else 'weight'}", make)
    for ours, theirs, kernel, bias in (
      ("query", "attention.self.query", heads.into, heads.bias),
      ("key", "attention.self.key", heads.into, heads.bias),
      ("value", "attention.self.value", heads.into, heads.bias),
      ("out", "attention.output.dense", heads.back, same),
      ("inner", "intermediate.dense", np.transpose, same),
      ("outer", "output.dense", np.transpose, same),
    )
    for end, make in (("kernel", kernel), ("bias", bias))
  }
  layers |= {
    f"{ours}/{end}": (f"{theirs}.LayerNorm.{theirs_end}", same)
    for ours, theirs in (
      ("attention_norm", "attention.output"),
      ("feed_norm", "output"),
    )
    for end, theirs_end in (("scale", "weight"), ("bias", "bias"))
  }
  for path, (name, make) in layers.items():
    names = tuple(f"encoder.layer.{i}.{name}" for i in range(model.layers))
    out.append(Rule((f"params/blocks/{path}",), names, stacked(names, make)))
  return out
