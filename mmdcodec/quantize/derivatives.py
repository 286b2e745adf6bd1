"""Which derivatives the losses over pairs of rows have.

Value and gradient come from sweeps over tiles, and the gradient is itself a
program: it can be differentiated forward, but not backward, because a backward
pass would have to store all n^2 pairs.

  jax.grad(loss), jax.vjp                 one more sweep
  jax.jvp(loss, ...), jax.jacfwd(loss)    the same
  jax.jvp(jax.grad(loss), ...), jax.hessian(loss)   forward over reverse
  jax.grad of a function of jax.grad(loss)          refused
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

from mmdcodec.errors import UserError


def forward_only(gradient: jax.Array) -> jax.Array:
  """Returns a gradient that has no derivative in reverse mode.

  Differentiating it backward raises a UserError that names the loss and the way
  out, instead of JAX's error about a loop inside.
  """
  return _forward_only.bind(gradient)


def _refuse(cotangent: Any, x: Any) -> list[Any]:
  raise UserError(
    "the gradient of independence_loss, mmd2 and dhsic can't be differentiated"
    " in reverse mode: use forward over reverse, such as"
    " jax.jvp(jax.grad(loss), (x,), (direction,)) or jax.hessian(loss)."
  )


_forward_only = Primitive("forward_only")
_forward_only.def_impl(lambda x: x)
_forward_only.def_abstract_eval(lambda x: x)
mlir.register_lowering(_forward_only, lambda ctx, x: [x])
ad.deflinear2(_forward_only, _refuse)
batching.defvectorized(_forward_only)


def reordered(z: jax.Array, order: jax.Array) -> jax.Array:
  """Reorders rows [n, codebooks, dim] by an order [codebooks, n].

  Its transpose gathers in the inverse order; that of plain indexing scatters.
  """
  return _reorder.bind(z, order)


def _gather(z: jax.Array, order: jax.Array) -> jax.Array:
  n, books, dim = z.shape
  entry = order.T * books + jnp.arange(books)
  return z.reshape(-1, dim)[entry.reshape(-1)].reshape(z.shape)


def _reorder_jvp(primals: Any, tangents: Any) -> Any:
  z, order = primals
  change = ad.instantiate_zeros(tangents[0])
  return _reorder.bind(z, order), _reorder.bind(change, order)


def _reorder_transpose(cotangent: Any, z: Any, order: Any) -> list[Any]:
  cotangent = ad.instantiate_zeros(cotangent)
  return [_reorder.bind(cotangent, jnp.argsort(order, axis=1)), None]


_reorder = Primitive("reorder")
_reorder.def_impl(_gather)
_reorder.def_abstract_eval(lambda z, order: z)
mlir.register_lowering(_reorder, mlir.lower_fun(_gather, False))
ad.primitive_jvps[_reorder] = _reorder_jvp
ad.primitive_transposes[_reorder] = _reorder_transpose
batching.primitive_batchers[_reorder] = lambda arrays, axes: (
  jax.vmap(_gather, axes)(*arrays),
  0,
)
