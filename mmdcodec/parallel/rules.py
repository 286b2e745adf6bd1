"""Which array is cut along which mesh axis: rules on parameter paths.

A table of `(pattern, PartitionSpec)` per model family, the first match wins.
Optimizer state and weight averages follow the parameters, for their paths
contain the parameter's. Modules know nothing of meshes.
"""

import math
import re
from collections.abc import Sequence
from typing import Any

import jax
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

Rules = Sequence[tuple[str, P]]

# Codecs are small (12 M parameters): data parallelism is what they want, and
# the rules are there for wide ones. Kernels are [taps, in, out]; a codebook
# [levels, codes, dim] is cut along its codes, each device then searches its
# share.
CODEC_RULES: Rules = (
  (r"(^|/)codebook/.*sum$", P(None, "model", None)),
  (r"(^|/)codebook/.*count$", P(None, "model")),
  (r"/(kernel|v|input_kernel|recurrent_kernel)$", P(None, "fsdp", "model")),
  (r".*", P()),
)

# Language models: heads and hidden units over `model`, as in Megatron-LM
# (arXiv 1909.08053), the width over `fsdp`. Kernels of attention are [..., in,
# heads, head_dim] and [..., heads, head_dim, out]. Tables of tokens have a row
# more than codes, so they are cut along the width.
LM_RULES: Rules = (
  (r"/(query|key|value)/kernel$", P("fsdp", "model", None)),
  (r"/out/kernel$", P("model", None, "fsdp")),
  (r"/(inner|gate)/kernel$", P("fsdp", "model")),
  (r"/outer/kernel$", P("model", "fsdp")),
  (r"(^|/)embedding$", P(None, ("fsdp", "model"))),
  (r"(^|/)head$", P("fsdp", "model")),
  (r".*", P()),
)


def path_name(path) -> str:
  """`params/encoder/conv_in/kernel` of a tree path."""
  return jax.tree_util.keystr(path, simple=True, separator="/")


def _fit(spec: P, shape: Sequence[int], mesh: Mesh) -> P:
  """Aligns the last axes, and leaves out mesh axes that do not divide."""
  missing = max(len(shape) - len(spec), 0)
  aligned = (None,) * missing + tuple(spec)[max(len(spec) - len(shape), 0) :]

  def parts(axis) -> int:
    names = axis if isinstance(axis, tuple) else (axis,)
    return math.prod(mesh.shape[name] for name in names)

  return P(
    *(
      axis if axis and size % parts(axis) == 0 else None
      for axis, size in zip(aligned, shape, strict=True)
    )
  )


def shardings(tree: Any, mesh: Mesh, rules: Rules) -> Any:
  """A NamedSharding for every array of a tree, by its path.

  Args:
    tree: arrays or `jax.ShapeDtypeStruct`s.
    mesh: what they are laid out on.
    rules: `(regular expression, PartitionSpec)`, searched in the path. The
      spec's last axis belongs to the array's last axis; an axis whose size does
      not divide by the mesh's is left whole.

  Raises:
    ValueError: a path that no rule matches.
  """

  def one(path, leaf):
    name = path_name(path)
    for pattern, spec in rules:
      if re.search(pattern, name):
        return NamedSharding(mesh, _fit(spec, leaf.shape, mesh))
    raise ValueError(f"no sharding rule matches {name}")

  return jax.tree_util.tree_map_with_path(one, tree)


def activation_spec(
  shape: Sequence[int], mesh: Mesh, *axes: str | tuple | None
) -> P:
  """How an activation is cut.

  Args:
    shape: of the activation.
    mesh: that cuts it.
    *axes: see `constrain`.
  """
  spec = P(*(("data", "fsdp") if axis == "batch" else axis for axis in axes))
  return _fit(spec, shape, mesh)


def constrain(x: jax.Array, *axes: str | tuple | None) -> jax.Array:
  """Pins an activation to mesh axes; does nothing outside a mesh.

  Args:
    x: the activation.
    *axes: one for each axis of x: a mesh axis, a tuple of them, or None.
      "batch" stands for the axes that cut the batch. An axis whose size does
      not divide is left whole.
  """
  mesh = jax.sharding.get_abstract_mesh()
  if mesh.empty:
    return x
  spec = activation_spec(x.shape, mesh, *axes)
  return jax.lax.with_sharding_constraint(x, spec)
