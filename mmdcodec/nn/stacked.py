"""Blocks whose parameters are stacked on a leading axis and run in a scan.

So the compiler sees only one of them.
"""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax

# What the backward pass keeps, by what it recomputes; besides "none".
REMAT = {
  "full": jax.checkpoint_policies.nothing_saveable,
  "dots": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
}


def scan(
  block: type[nn.Module], count: int, *, remat: str = "none", static: int = 0
) -> Any:
  """A class that runs blocks one after another, made with a block's fields.

  Args:
    block: called with x and arguments that all blocks share; returns (x, None).
    count: number of blocks.
    remat: what the backward pass recomputes, "none" or a key of REMAT.
    static: the argument that is not an array, counted from `self`; 0: none.
  """
  if remat != "none":
    # Inside of a scan, XLA cannot merge the recomputation with the first
    # computation, so CSE need not be prevented.
    block = nn.remat(
      block,
      policy=REMAT[remat],
      prevent_cse=False,
      static_argnums=(static,) if static else (),
    )
  return nn.scan(
    block,
    variable_axes={"params": 0, "batch_stats": 0},
    split_rngs={"params": True, "dropout": True},
    in_axes=nn.broadcast,
    length=count,
  )


def run_first(
  block: nn.Module,
  stacked: Mapping[str, Any],
  count: int,
  x: jax.Array,
  *args: Any,
) -> Any:
  """Applies the first blocks of a stack, one after another.

  A loop over an index reads the parameters where they are; a scan over the
  first of them would copy them.

  Args:
    block: one block, without a parent. It returns x, or (x, anything).
    stacked: its variables by collection, with a leading axis of blocks.
    count: number of blocks to run.
    x: input of the first one.
    *args: further arguments of each block.

  Returns:
    The output of the last one.
  """

  def run(i: jax.Array, x: jax.Array) -> Any:
    y = block.apply(jax.tree.map(lambda a: a[i], dict(stacked)), x, *args)
    return y[0] if isinstance(y, tuple) else y

  return jax.lax.fori_loop(0, count, run, x)
