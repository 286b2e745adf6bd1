"""How exactly products and convolutions are computed where codes are made.

Accelerators multiply float32 numbers in fewer bits unless a program asks for
more: NVIDIA GPUs in TF32 (11 bits), TPUs in one pass of bfloat16 (8 bits).
Training and sampling gain speed from that and lose nothing. Codes are data,
though: made on one machine, read on another. A quarter of those of EnCodec with
random weights differed between a GPU in TF32 and a CPU.

So what makes codes is true float32 on every backend: encoding with any
tokenizer, and decoding a language model greedily (temperature 0). A model that
was trained in bfloat16 computes its codes in float32 too.

JAX's own setting asks for speed instead, for all of a process or a part of it:

  JAX_DEFAULT_MATMUL_PRECISION=default mmdcodec tokenize ...

  with jax.default_matmul_precision("default"):
    codec = mmdcodec.load(path)
    codes = codec.encode(x)

"default" is the backend's fastest; see JAX for "tensorfloat32", "high" and
others. Models then also keep the dtype that they were trained in, which is
chosen when they are loaded. Distances to codebooks and k-means are in float32
even then: they cost little, and one wrong bit is another code.
"""

import contextlib
import functools
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import jax
import jax.numpy as jnp

F = TypeVar("F", bound=Callable[..., Any])
T = TypeVar("T")

# What JAX calls full float32.
_FULL = (None, "highest", "float32", "F32_F32_F32")


def wanted() -> bool:
  """Whether codes are to be exact: JAX's setting asks for nothing else."""
  modes: Any = jax.config
  return modes.jax_default_matmul_precision in _FULL


@contextlib.contextmanager
def exact() -> Iterator[None]:
  """What is traced inside multiplies in full float32, if that is `wanted`.

  The setting is a part of JAX's keys of compiled programs, so one that changes
  between two calls is respected.
  """
  with contextlib.ExitStack() as stack:
    if wanted():
      stack.enter_context(jax.default_matmul_precision("highest"))
    yield


def exactly(function: F) -> F:
  """Decorates a function that JAX traces: it is traced inside of `exact`."""

  @functools.wraps(function)
  def traced(*args: Any, **kwargs: Any) -> Any:
    with exact():
      return function(*args, **kwargs)

  found: Any = traced
  return found


def in_float32(model: T) -> T:
  """The same Linen module, to compute in float32 if that is `wanted`."""
  module: Any = model
  if not wanted() or jnp.dtype(module.dtype) == jnp.float32:
    return model
  full = "float32" if isinstance(module.dtype, str) else jnp.float32
  return module.clone(dtype=full)
