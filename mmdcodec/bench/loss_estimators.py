"""`mmdcodec bench independence`: the loss compared with the plain formula.

Times value and gradient over `--rows` rows, with the six radii of arXiv
2406.02315. All variants take turns in one run, so that other load slows all of
them. Operations are those of the matrix products between rows: every pair of
rows in the formula, once for the kernel and twice for the gradient (dHSIC
computes the kernel twice). The floor is their time at the matmul speed of this
machine, which is measured in the same run. The last column is the precision
that the products of a row ask for, which decides speed on GPUs and TPUs.
"""

import argparse
import functools
import importlib.util
import re
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mmdcodec.bench import floor, timing
from mmdcodec.errors import UserError
from mmdcodec.quantize import independence
from mmdcodec.quantize.kernels import PAPER_RADII

HELP = "speed and memory of the independence loss, beside the plain formula"
EXAMPLE = "mmdcodec bench independence --rows 8192"
# The paper's 32 batches of 8 clips of 46 rows.
MACRO_BATCH = 11_776


def add_arguments(parser: argparse.ArgumentParser) -> None:
  """Adds the subject's arguments."""
  for name, value, what in (
    ("rows", 8192, "rows that the loss is taken over"),
    ("codebooks", 4, "streams"),
    ("dim", 128, "dimensions of a code's vector"),
    ("runs", 3, "timed runs, of which the median counts"),
  ):
    parser.add_argument(
      f"--{name}", type=int, default=value, help=f"{what} (%(default)s)"
    )
  parser.add_argument(
    "--estimator",
    choices=independence.ESTIMATORS,
    help="only this one (default: both)",
  )
  parser.add_argument(
    "--topology",
    metavar="NAME",
    help="say too what the loss needs on a TPU slice, such as v5e:4x4 (takes"
    " `pip install libtpu`, and minutes)",
  )


def plain(z: jax.Array, key: jax.Array) -> jax.Array:
  """Computes the permuted MMD by its formula, with matrices [n, n].

  Args:
    z: [n, codebooks, dim].
    key: random key of the permutations.
  """
  z = (z - z.mean(0)) / z.std(0, ddof=1)
  # The same precision as in the losses that this is compared with.
  with jax.default_matmul_precision("highest"):
    x, y = _original_and_permuted(z, key)
    return _mmd(x, y, jnp)


def _original_and_permuted(
  z: jax.Array, key: jax.Array
) -> tuple[jax.Array, jax.Array]:
  permuted = jnp.stack(
    [
      jax.random.permutation(k, z[:, i])
      for i, k in enumerate(jax.random.split(key, z.shape[1]))
    ],
    1,
  )
  return z.reshape(len(z), -1), permuted.reshape(len(z), -1)


def plain_torch(z: Any, orders: Sequence[Any]) -> Any:
  """Computes `plain` in PyTorch, with permutations [codebooks, n]."""
  import torch

  z = (z - z.mean(0)) / z.std(0)
  permuted = torch.stack([z[o, i] for i, o in enumerate(orders)], 1)
  return _mmd(z.reshape(len(z), -1), permuted.reshape(len(z), -1), torch)


def _mmd(x: Any, y: Any, library: Any) -> Any:
  """Computes MMD^2 without pairs of a row with itself, in jnp or torch."""
  n = len(x)

  def total(a: Any, b: Any) -> Any:
    distance = (a * a).sum(1)[:, None] + (b * b).sum(1)[None] - 2 * (a @ b.T)
    distance = distance.clip(0.0)
    return sum(library.exp(distance * (-0.5 / r**2)).sum() for r in PAPER_RADII)

  own = n * len(PAPER_RADII)
  return (total(x, x) + total(y, y) - 2 * own) / (n * (n - 1)) - (
    2 * total(x, y) / n**2
  )


# Matrix products of n x n pairs: three matrices (plain), or half of the pairs
# of 2 n (mmd) or n rows (dhsic), times 3 for the kernel and both gradients (4
# for dhsic, which computes its kernel twice).
PRODUCTS = {"plain jnp": 9.0, "plain PyTorch": 9.0, "mmd": 6.0, "dhsic": 2.0}


def gflop(name: str, rows: int, codebooks: int, dim: int) -> float:
  """Returns 1e9 operations of value and gradient; see `PRODUCTS`."""
  return PRODUCTS[name] * 2.0 * rows**2 * codebooks * dim / 1e9


def losses(estimators: Sequence[str]) -> dict[str, Callable]:
  """Returns losses by name: (z [n, codebooks, dim], key) -> scalar."""

  def make(estimator: str) -> Callable:
    return lambda z, key: independence.independence_loss(
      z[None], key, estimator=estimator
    )

  return {"plain jnp": plain, **{name: make(name) for name in estimators}}


def lowered(loss: Callable, rows: int, codebooks: int, dim: int) -> Any:
  """Lowers value and gradient for the default device."""
  shape = jax.ShapeDtypeStruct((rows, codebooks, dim), jnp.float32)
  key = jax.eval_shape(lambda: jax.random.key(0))
  return jax.jit(jax.value_and_grad(loss)).lower(shape, key)


def compiled(loss: Callable, rows: int, codebooks: int, dim: int) -> Any:
  """Compiles value and gradient for the default device."""
  return lowered(loss, rows, codebooks, dim).compile()


def precision(program: str) -> str:
  """What the products of a program are computed in, by its StableHLO.

  Args:
    program: text of the lowered program. Pallas kernels are not read; they ask
      for float32.

  Returns:
    "float32"; or "default", which is float32 on CPUs, TF32 on NVIDIA GPUs and
    bfloat16 on TPUs, if any product leaves it to the backend.
  """
  products = re.findall(r"stablehlo\.dot_general.*", program)
  exact = all("[HIGHEST, HIGHEST]" in line for line in products)
  return "float32" if exact else "default"


def temporaries(program: Any) -> float:
  """Returns MiB of temporary memory, by the compiler's own analysis."""
  return program.memory_analysis().temp_size_in_bytes / 2**20


def run(args: argparse.Namespace) -> int:
  """Measures, and prints the table."""
  if min(args.rows, args.codebooks, args.dim) < 2 or args.runs < 1:
    raise UserError(
      "bench independence needs at least 2 rows, 2 codebooks, 2 dimensions and"
      f" 1 run; got {args.rows}, {args.codebooks}, {args.dim} and {args.runs}."
    )
  sizes = args.rows, args.codebooks, args.dim
  estimators = [args.estimator] if args.estimator else independence.ESTIMATORS
  formulas = losses(estimators)
  machine = floor.Machine.measure()
  print(
    f"{jax.devices()[0].device_kind}: matmul {machine.flops / 1e9:.0f} GFLOP/s"
    " (measured)"
  )
  z = jax.random.normal(jax.random.key(0), sizes)
  key = jax.random.key(1)
  before = {name: lowered(f, *sizes) for name, f in formulas.items()}
  products = {name: precision(f.as_text()) for name, f in before.items()}
  programs = {name: f.compile() for name, f in before.items()}
  ways: dict[str, Callable] = {
    name: functools.partial(program, z, key)
    for name, program in programs.items()
  }
  if has_torch := importlib.util.find_spec("torch") is not None:
    ways["plain PyTorch"] = _torch_way(np.asarray(z))
    products["plain PyTorch"] = "float32"
  times = timing.take_turns(ways, args.runs)
  seconds = {name: float(np.median(found)) for name, found in times.items()}

  ours = estimators[0]
  print(
    f"{args.rows} rows of {args.codebooks} x {args.dim}, {len(PAPER_RADII)}"
    f" radii, value and gradient, median of {args.runs}"
  )
  print(
    f"{'':<14}{'seconds':>9}{'x ' + ours:>9}{'GFLOP':>9}{'floor s':>9}"
    f"{'x floor':>9}{'temporary MiB':>15}{'products':>10}"
  )
  for name in [*ways]:
    work = gflop(name, *sizes)
    least = work * 1e9 / machine.flops
    memory = (
      f"{temporaries(programs[name]):15,.1f}"
      if name in programs
      else f"{'-':>15}"
    )
    print(
      f"{name:<14}{seconds[name]:9.3g}"
      f"{timing.ratio(times[name], times[ours]):9.2f}"
      f"{work:9.3g}{least:9.3g}{seconds[name] / least:9.2f}{memory}"
      f"{products[name]:>10}"
    )
  if not has_torch:
    print("plain PyTorch: not installed here (`pip install torch` adds it)")

  print(f"temporary memory of {MACRO_BATCH:,} rows, not run:")
  for name, formula in formulas.items():
    program = compiled(formula, MACRO_BATCH, *sizes[1:])
    print(f"  {name:<12}{temporaries(program):12,.1f} MiB")
  if args.topology:
    _slice(args, estimators)
  return 0


def _torch_way(z: np.ndarray) -> Callable:
  import torch

  z = torch.tensor(z)

  def way() -> Any:
    orders = [torch.randperm(len(z)) for _ in range(z.shape[1])]
    rows = z.clone().requires_grad_()
    plain_torch(rows, orders).backward()
    return rows.grad

  return way


def _slice(args: argparse.Namespace, estimators: Sequence[str]) -> None:
  """Prints what a TPU slice needs, by its compiler's analysis."""
  from mmdcodec.train import compile as compile_lib

  print(f"{MACRO_BATCH:,} rows on {args.topology}, compiled only:")
  for estimator in estimators:
    found = compile_lib.compile_independence(
      args.topology,
      rows=MACRO_BATCH,
      codebooks=args.codebooks,
      dim=args.dim,
      estimator=estimator,
    )
    # Without operations: the compiler does not know how often a loop runs.
    collectives = ", ".join(
      f"{one.number} {kind}" for kind, one in (found.collectives or {}).items()
    )
    print(
      f"  {estimator:<12}{found.memory / 2**20:12,.1f} MiB per chip, of them"
      f" {found.temporaries / 2**20:,.1f} temporary; {found.kernels} Pallas"
      f" kernels; {collectives or 'collectives not known'}"
    )
