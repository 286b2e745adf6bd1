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
from mmdcodec.errors import UserError

Rules = Sequence[tuple[str, P]]
AnyMesh = Mesh | AbstractMesh

# Most codecs are small (12 M parameters) and only need data parallelism; these
# rules are for wide ones. Kernels are [taps, in, out]. A codebook [levels,
# codes, dim] is divided along its codes, and each device searches its share.
CODEC_RULES: Rules = (
  (r"(^|/)codebook/.*sum$", P(None, ("fsdp", "model"), None)),
  (r"(^|/)codebook/.*count$", P(None, ("fsdp", "model"))),
  (r"/(kernel|v|input_kernel|recurrent_kernel)$", P(None, "fsdp", "model")),
  (r".*", P()),
)

# Language models: heads and hidden units over `model`, as in Megatron-LM
# (arXiv 1909.08053), the width over `fsdp`. Attention kernels are [..., in,
# heads, head_dim] and [..., heads, head_dim, out]. Token embeddings have one
# row more than there are codes, so they are divided along the width, as are
# those of conditions.
LM_RULES: Rules = (
  (r"/(query|key|value|query_key_value)/kernel$", P("fsdp", "model", None)),
  (r"/out/kernel$", P("model", None, "fsdp")),
  (r"/(inner|gate|gate_and_inner)/kernel$", P("fsdp", "model")),
  (r"/outer/kernel$", P("model", "fsdp")),
  (r"(^|[/_])embedding$", P(None, ("fsdp", "model"))),
  (r"(^|/)(head|projection|\w+_projection/kernel)$", P("fsdp", "model")),
  (r".*", P()),
)

# What is added to a language model's kernels, [layers, inputs, rank] and
# [layers, rank, outputs].
LOW_RANK_RULES: Rules = (
  (r"(^|/)lora/.*/a$", P(None, ("fsdp", "model"), None)),
  (r"(^|/)lora/.*/b$", P(None, None, ("fsdp", "model"))),
)

# The semantic network: as above, with the conformers' convolution modules. The
# statistics and the frozen targets are small.
SEMANTIC_RULES: Rules = (
  *LM_RULES[:4],
  (r"/(expand|context|head|logits)/kernel$", P("fsdp", "model")),
  (r"/(project/kernel|quantizer/codebook)$", P("model", "fsdp")),
  (r".*", P()),
)

# The joint embedding: two towers, of transformers or of convolutions [height,
# width, in, out], each with a projection.
MULAN_RULES: Rules = (
  *LM_RULES[:4],
  (r"/(audio_out|text_out|conv\w*)/kernel$", P("fsdp", "model")),
  (r"/embedding$", P(None, ("fsdp", "model"))),
  (r".*", P()),
)

# The melody embedding: one transformer, and small layers around it.
MELODY_RULES: Rules = (*LM_RULES[:4], (r".*", P()))

# Bytes from which an array must not stay whole where `fsdp` could divide it.
_LARGE = 8 * 2**20


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


def check(tree: Any, layout: Any, rules: Rules) -> None:
  """Checks that rules fit a model: all are used, and nothing large stays whole.

  Args:
    tree: arrays or `jax.ShapeDtypeStruct`s.
    layout: their shardings, from `shardings`.
    rules: the rules that it was made with.

  Raises:
    UserError: a rule besides ".*" is the first to match no path, or an array of
      more than 8 MiB is on every device of a mesh with fsdp > 1.
  """
  leaves = jax.tree_util.tree_leaves_with_path(tree)
  names = [path_name(path) for path, _ in leaves]
  used = {
    next(p for p, _ in rules if re.search(p, name)) for name in set(names)
  }
  for pattern, _ in rules:
    if pattern not in used | {".*"}:
      raise UserError(
        f"the sharding rule {pattern!r} is the first to match no parameter (one"
        f" of them is {names[0]}); mend it or take it out."
      )
  for name, (_, leaf), where in zip(
    names, leaves, jax.tree.leaves(layout), strict=True
  ):
    parts = where.mesh.shape.get("fsdp", 1)
    size = math.prod(leaf.shape) * leaf.dtype.itemsize
    if parts > 1 and size > _LARGE and where.is_fully_replicated:
      raise UserError(
        f"{name}, {list(leaf.shape)} of {size / 2**20:.0f} MiB, would be whole"
        f" on every device, though mesh.fsdp is {parts}: choose sizes that it"
        " divides, or give the task a sharding rule for this path, or set"
        " mesh.fsdp=1."
      )


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
