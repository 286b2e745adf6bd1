"""Low-rank additions to the kernels of a model (LoRA).

Low-rank adaptation (Hu et al. 2022, arXiv 2106.09685) changes no module: a
kernel W is used as W + scale * A B, and only A and B are trained. B starts at
0, so that training starts from the original model.

Parameters with additions have the form that training uses: `frozen` are whole
parameters that do not change, `params` the trained ones, including
`lora/PATH/{a,b}` for the kernel at PATH of `frozen`.
"""

import math
from collections.abc import Mapping
from typing import Any

import flax
import jax
import jax.numpy as jnp

# Names of the parameters that are not trained, and of the additions.
FROZEN, LORA = "frozen", "lora"


def init(
  w: jax.Array, path: str, rank: int, key: jax.Array
) -> dict[str, jax.Array]:
  """Fresh additions to a stack of kernels.

  Args:
    w: [layers, ...], kernels of all layers of a Transformer.
    path: path of w among the parameters.
    rank: rank of the additions.
    key: random key.

  Returns:
    `a` [layers, in, rank], random, and `b` [layers, rank, out], zero.
  """
  # Only [layers, heads, head_dim, out] has two axes of inputs.
  ends = 3 if path.endswith("/out/kernel") else 2
  inputs, outputs = math.prod(w.shape[1:ends]), math.prod(w.shape[ends:])
  a = (
    jax.random.normal(key, (w.shape[0], inputs, rank), jnp.float32)
    * inputs**-0.5
  )
  return {"a": a, "b": jnp.zeros((w.shape[0], rank, outputs), jnp.float32)}


def whole(variables: Mapping[str, Any], scale: float | None) -> dict[str, Any]:
  """The variables of a whole model from those of a run.

  Args:
    variables: `params`, maybe FROZEN, and other collections.
    scale: see `join`.

  Returns:
    All parameters as `params`, and the other collections as they are.
  """
  others = dict(variables)
  params, frozen = others.pop("params"), others.pop(FROZEN, {})
  return {"params": join(params, frozen, scale), **others}


def join(
  params: Mapping[str, Any], frozen: Mapping[str, Any], scale: float | None
) -> dict[str, Any]:
  """The parameters of a whole model.

  Args:
    params: the trained parameters, with or without additions.
    frozen: the others.
    scale: scale of the additions; None if there are none.

  Returns:
    Nested dicts, as the model takes them.
  """
  flat = flax.traverse_util.flatten_dict(frozen, sep="/")
  trained = dict(params)
  added = trained.pop(LORA, {})
  flat |= flax.traverse_util.flatten_dict(trained, sep="/")
  for path, ab in flax.traverse_util.flatten_dict(
    added, is_leaf=lambda _, x: "a" in x, sep="/"
  ).items():
    assert scale is not None
    change = jnp.einsum("lir,lro->lio", ab["a"], ab["b"])
    flat[path] = flat[path] + scale * change.reshape(flat[path].shape)
  return flax.traverse_util.unflatten_dict(flat, sep="/")
