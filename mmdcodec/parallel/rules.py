"""Sharding rules: which mesh axis divides which array, by parameter path.

Each model family has a table of `(pattern, PartitionSpec)`; the first match
wins. Optimizer state and averaged weights follow the parameters because their
paths contain the parameters' paths. Modules are independent of meshes.
"""

import math
import re
from collections.abc import Sequence
from typing import Any

import jax
from jax.sharding import AbstractMesh, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from mmdcodec import bounds

Rules = Sequence[tuple[str, P]]
AnyMesh = Mesh | AbstractMesh

# Most codecs are small (12 M parameters) and only need data parallelism; these
# rules are for wide ones. Kernels are [taps, in, out]. A codebook [levels,
# codes, dim] is divided along its codes, and each device searches its share.
CODEC_RULES: Rules = (
  (r"(^|/)codebook/.*sum$", P(None, "model", None)),
  (r"(^|/)codebook/.*count$", P(None, "model")),
  (r"/(kernel|v|input_kernel|recurrent_kernel)$", P(None, "fsdp", "model")),
  (r".*", P()),
)

# Language models: heads and hidden units over `model`, as in Megatron-LM
# (arXiv 1909.08053), the width over `fsdp`. Attention kernels are [..., in,
# heads, head_dim] and [..., heads, head_dim, out]. Token embeddings have one
# row more than there are codes, so they are divided along the width.
LM_RULES: Rules = (
  (r"/(query|key|value)/kernel$", P("fsdp", "model", None)),
  (r"/out/kernel$", P("model", None, "fsdp")),
  (r"/(inner|gate)/kernel$", P("fsdp", "model")),
  (r"/outer/kernel$", P("model", "fsdp")),
  (r"(^|/)embedding$", P(None, ("fsdp", "model"))),
  (r"(^|/)(head|projection)$", P("fsdp", "model")),
  (r".*", P()),
)

# The semantic network: as above, with the conformers' convolution modules. The
# statistics and the frozen targets are small.
SEMANTIC_RULES: Rules = (
  *LM_RULES[:4],
  (r"/(expand|context|head|logits)/kernel$", P("fsdp", "model")),
  (r"/project/kernel$", P("model", "fsdp")),
  (r"/quantizer/codebook$", P("model", "fsdp")),
  (r".*", P()),
)


def path_name(path: tuple[Any, ...]) -> str:
  """Formats a tree path, such as `params/encoder/conv_in/kernel`."""
  return jax.tree_util.keystr(path, simple=True, separator="/")


def _fit(spec: P, shape: Sequence[int], mesh: AnyMesh) -> P:
  """Aligns a spec at the last axis and drops mesh axes that do not divide.

  Axes that the mesh does not have, and those of a mapped function, whose arrays
  are those of one device already, are dropped too.
  """
  auto = auto_axes(mesh)
  missing = max(len(shape) - len(spec), 0)
  aligned = (None,) * missing + tuple(spec)[max(len(spec) - len(shape), 0) :]

  def one(axis: Any, size: int) -> Any:
    names = axis if isinstance(axis, tuple) else (axis,)
    names = tuple(name for name in names if name in auto)
    if not names or size % math.prod(mesh.shape[name] for name in names):
      return None
    return names if len(names) > 1 else names[0]

  return P(*map(one, aligned, shape))


def auto_axes(mesh: AnyMesh) -> tuple[str, ...]:
  """Returns the axes over which the compiler divides arrays.

  Those of a mapped function (Manual ones) are not among them.

  Raises:
    UserError: the mesh has Explicit axes.
  """
  bounds.check_axes(mesh)
  return tuple(mesh.auto_axes)


def shardings(tree: Any, mesh: Mesh, rules: Rules) -> Any:
  """Returns a NamedSharding for each array of a tree, by its path.

  Args:
    tree: arrays or `jax.ShapeDtypeStruct`s.
    mesh: the mesh to shard over.
    rules: `(regular expression, PartitionSpec)`; the expression is searched in
      the path. Specs are aligned at the last axis. An axis that the mesh axis
      does not divide evenly stays whole.

  Raises:
    ValueError: no rule matches a path.
  """

  def one(path: tuple[Any, ...], leaf: Any) -> NamedSharding:
    name = path_name(path)
    for pattern, spec in rules:
      if re.search(pattern, name):
        return NamedSharding(mesh, _fit(spec, leaf.shape, mesh))
    raise ValueError(f"no sharding rule matches {name}")

  return jax.tree_util.tree_map_with_path(one, tree)


def activation_spec(
  shape: Sequence[int], mesh: AnyMesh, *axes: str | tuple[str, ...] | None
) -> P:
  """Returns the PartitionSpec of an activation.

  Args:
    shape: shape of the activation.
    mesh: the mesh to shard over.
    *axes: one per axis of the activation; see `constrain`.
  """
  spec = P(*(("data", "fsdp") if axis == "batch" else axis for axis in axes))
  return _fit(spec, shape, mesh)


def constrain(x: jax.Array, *axes: str | tuple[str, ...] | None) -> jax.Array:
  """Constrains the sharding of an activation; does nothing outside a mesh.

  Axes that the mesh does not have are left out, so any mesh will do.

  Args:
    x: the activation.
    *axes: one for each axis of x: a mesh axis, a tuple of them, or None.
      "batch" stands for the axes that divide the batch. An axis that the mesh
      axis does not divide evenly stays whole.

  Raises:
    UserError: the mesh has Explicit axes.
  """
  bounds.check_jax(x)
  mesh = jax.sharding.get_abstract_mesh()
  if not auto_axes(mesh):
    return x
  spec = activation_spec(x.shape, mesh, *axes)
  return jax.lax.with_sharding_constraint(x, spec)
