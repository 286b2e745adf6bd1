"""Converts the language model of a MusicGen.

Names are those of transformers for a separate decoder (`model_type`
"musicgen_decoder") and for the projections of its conditions. Older files also
contain the positions, which we compute.
"""

from typing import Any

import jax.numpy as jnp
import numpy as np

from mmdcodec.convert import layouts
from mmdcodec.convert.weights import Rule, fill, stacked
from mmdcodec.models import token_lm
from mmdcodec.models.conditioning import EncodedConditions

LAYER = "model.decoder.layers.{}.{}"
POSITIONS = "model.decoder.embed_positions.weights"

BLOCKS = "params/transformer/blocks"


def convert(
  arrays: dict[str, np.ndarray],
  fields: dict[str, Any],
  text: dict[str, Any] | None = None,
) -> dict[str, Any]:
  """Converts tensors to the parameters of a TokenLM.

  Args:
    arrays: tensors by name.
    fields: fields of the TokenLM. With cross-attention but without text, its
      conditions come from outside the model.
    text: parameters of its text encoder, if it has one.

  Returns:
    Nested parameters.

  Raises:
    UserError: a tensor is missing, left over, or of a wrong shape.
  """
  model = token_lm.from_config(fields)
  arrays = {name: a for name, a in arrays.items() if name != POSITIONS}
  encoded = None
  if model.cross and not model.conditions:
    states = jnp.zeros((1, 1, model.width))
    encoded = EncodedConditions(states, jnp.ones((1, 1), bool))
  like = token_lm.shapes(model, encoded)
  if text is not None:
    del like["params"]["conditioner"]["text_encoder"]
  params = fill(rules(model), arrays, like)["params"]
  if text is not None:
    params.setdefault("conditioner", {})["text_encoder"] = text
  return params


def rules(model: token_lm.TokenLM) -> list[Rule]:
  """Returns the rules for all tensors except those of the text encoder."""
  books = range(model.codebooks)
  embeddings = tuple(f"model.decoder.embed_tokens.{k}.weight" for k in books)
  heads = tuple(f"lm_heads.{k}.weight" for k in books)
  norm, last = "params/transformer/norm", "model.decoder.layer_norm"
  out = [
    Rule(("params/embedding",), embeddings, stacked(embeddings)),
    Rule(("params/head",), heads, stacked(heads, np.transpose)),
    Rule((f"{norm}/scale",), (f"{last}.weight",)),
    Rule((f"{norm}/bias",), (f"{last}.bias",)),
  ]
  text = model.conditions.get("text")
  if text and text["encoder"]["width"] != model.width:
    out += _projection("text_projection", "enc_to_dec_proj")
  if "melody" in model.conditions:
    out += _projection("melody_projection", "audio_enc_to_dec_proj")

  # Path in a block -> (name in a layer, conversion of the tensor).
  layers = {
    **_norm("feed_norm", "final_layer_norm"),
    "inner/kernel": ("fc1.weight", np.transpose),
    "outer/kernel": ("fc2.weight", np.transpose),
    **_attention(model, "attention", "self_attn"),
    **_norm("attention_norm", "self_attn_layer_norm"),
  }
  if model.cross:
    layers |= _attention(model, "cross_attention", "encoder_attn")
    layers |= _norm("cross_norm", "encoder_attn_layer_norm")
  for path, (name, make) in layers.items():
    names = tuple(LAYER.format(i, name) for i in range(model.layers))
    out.append(Rule((f"{BLOCKS}/{path}",), names, stacked(names, make)))
  return out


def _projection(to: str, key: str) -> list[Rule]:
  to = f"params/conditioner/{to}"
  return [
    Rule((f"{to}/kernel",), (f"{key}.weight",), lambda a: (a.T,)),
    Rule((f"{to}/bias",), (f"{key}.bias",)),
  ]


def _norm(to: str, key: str) -> dict[str, tuple]:
  return {
    f"{to}/scale": (f"{key}.weight", layouts.same),
    f"{to}/bias": (f"{key}.bias", layouts.same),
  }


def _attention(model: token_lm.TokenLM, to: str, key: str) -> dict[str, tuple]:
  heads = layouts.Heads(model.heads, model.width // model.heads)
  return {
    f"{to}/query/kernel": (f"{key}.q_proj.weight", heads.into),
    f"{to}/key/kernel": (f"{key}.k_proj.weight", heads.into),
    f"{to}/value/kernel": (f"{key}.v_proj.weight", heads.into),
    f"{to}/out/kernel": (f"{key}.out_proj.weight", heads.back),
  }
