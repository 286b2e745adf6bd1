"""Runs some of the blocks whose parameters a scan has stacked."""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax


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
