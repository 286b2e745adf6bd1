"""Functions that see the arrays of one device: `jax.shard_map`, `jax.pmap`.

Under `jax.jit` a batch is that of all devices, and so are its statistics. A
mapped function sees the rows of its own device and cannot know which of the
mapped axes divide the batch. What needs the whole batch takes their names as
`axis_name` and refuses to be called without (`check_global`). Each of these
axes must divide the rows, which is checked where `shard_map` tracks it
(`check_vma`, its default).

Gradients follow the convention of `lax.pmean`: after `pmean` over the devices,
as in any data-parallel step of `pmap`, the gradient of parameters is that of
the loss of all rows. Where `shard_map` tracks which values vary (`check_vma`),
and outside of it, gradients are exact without.

Everything here returns its argument if `axis_name` is None.
"""

import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from mmdcodec.errors import UserError

# One mapped axis, several, or none.
AxisName = str | tuple[str, ...] | None


def check_global(
  what: str,
  axis_name: AxisName = None,
  *,
  takes_name: bool = False,
  rows: Sequence[jax.Array] = (),
) -> None:
  """Checks that the caller sees, or can gather, the rows of all devices.

  Args:
    what: what needs the whole batch, in words.
    axis_name: the mapped axes that divide the batch, if the caller named them.
    takes_name: whether the caller could have named them.
    rows: arrays that the named axes must divide.

  Raises:
    UserError: the caller is traced for one of several devices, and no axis is
      named; a named axis is not mapped over devices, or is known not to divide
      the rows; or all mapped axes have one device, beside others of several.
  """
  mesh = jax.sharding.get_abstract_mesh()
  several = math.prod(mesh.shape[axis] for axis in mesh.manual_axes) > 1
  if axis_name is not None:
    names = (axis_name,) if isinstance(axis_name, str) else axis_name
    given = f"{what} has axis_name={axis_name!r}"
    for name in names:
      if name not in mesh.manual_axes:
        raise UserError(
          f"{given}, but {name!r} is not an axis of a jax.shard_map or jax.pmap"
          " around it; an axis of jax.vmap cannot be named."
        )
      if mesh.shape[name] > 1 and not all(_may_divide(name, x) for x in rows):
        raise UserError(
          f"{given}, but {name!r} does not divide the rows: its"
          f" {mesh.shape[name]} devices have the same ones, which would count"
          " several times; name only the axes that divide them."
        )
    others = [axis for axis in mesh.auto_axes if mesh.shape[axis] > 1]
    if mesh.manual_axes and others and not several:
      raise UserError(
        f"{what} is inside a jax.shard_map over {list(mesh.manual_axes)}, which"
        f" is one device, beside {others} with several, and XLA cannot add up"
        " over such an axis: map an axis of several devices, all axes, or none."
      )
    return
  if several:
    named = "name the axes that divide it (axis_name=), or " * takes_name
    raise UserError(
      f"{what} needs the whole batch, but inside jax.shard_map or jax.pmap it"
      f" may see only a part: {named}call it outside, in a jax.jit whose batch"
      " is sharded over the devices."
    )


def _may_divide(name: str, x: jax.Array) -> bool:
  """Whether an array may differ along an axis."""
  tracked = name in varies(lax.axis_index(name))
  return not tracked or name in varies(x)


def gather(x: jax.Array, axis_name: AxisName) -> jax.Array:
  """The rows [n, ...] of all devices, in their order; with a gradient."""
  return x if axis_name is None else lax.all_gather(x, axis_name, tiled=True)


def gather_constant(
  x: jax.Array, axis_name: AxisName, axis: int = 0
) -> jax.Array:
  """The entries of all devices along an axis, equal on each; no gradient."""
  if axis_name is None:
    return x
  return lax.all_gather(
    lax.stop_gradient(x), axis_name, axis=axis, tiled=True, to="invarying"
  )


def first(key: jax.Array, axis_name: AxisName) -> jax.Array:
  """The random key of the first device, so that all draw the same numbers."""
  if axis_name is None:
    return key
  typed = jnp.issubdtype(key.dtype, jax.dtypes.prng_key)
  data = jax.random.key_data(key) if typed else key
  data = lax.all_gather(data, axis_name, to="invarying")[0]
  if not typed:
    return data
  return jax.random.wrap_key_data(data, impl=jax.random.key_impl(key))


def own(x: jax.Array, axis_name: AxisName) -> jax.Array:
  """This device's rows of an array [n, ...] that is the same on all devices."""
  if axis_name is None:
    return x
  count = len(x) // lax.axis_size(axis_name)
  return lax.dynamic_slice_in_dim(x, lax.axis_index(axis_name) * count, count)


def size(axis_name: AxisName) -> int:
  """The number of devices along the axes."""
  return 1 if axis_name is None else lax.axis_size(axis_name)


def total(tree: Any, axis_name: AxisName) -> Any:
  """The sums of arrays over the devices."""
  return tree if axis_name is None else lax.psum(tree, axis_name)


def mean(x: jax.Array, axis_name: AxisName) -> jax.Array:
  """The mean over the devices."""
  return x if axis_name is None else lax.pmean(x, axis_name)


def varying_like(tree: Any, reference: jax.Array) -> Any:
  """Marks arrays as different on each device if the reference is.

  Where `shard_map` tracks this (`check_vma`), both branches of a condition and
  all turns of a loop must agree in it. Does nothing anywhere else.
  """
  wanted = varies(reference)

  def one(x: jax.Array) -> jax.Array:
    missing = tuple(wanted - varies(x))
    return lax.pcast(x, missing, to="varying") if missing else x

  return jax.tree.map(one, tree) if wanted else tree


def varies(x: jax.Array) -> frozenset:
  """The mapped axes along which an array is known to vary.

  Only where `shard_map` tracks this (`check_vma`), where Pallas kernels that do
  not say the same of their results are refused.
  """
  kind: Any = jax.typeof(x)
  # Where it is depends on the version of JAX.
  manual = getattr(kind, "mat", kind)
  return getattr(manual, "varying", getattr(kind, "vma", frozenset()))
