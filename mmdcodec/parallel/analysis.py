"""What a compiler says of a program: memory, operations, collectives.

Nothing is timed, and no device need be there (see `topology`).
"""

import dataclasses
import pathlib
import re
import tempfile

import jax

from mmdcodec.parallel import collectives

_UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}

# The compiler writes the program as text. `Compiled.as_text` has jaxlib read
# libtpu's program, which it cannot if that has operations newer than its own.
_PRINTED = {"xla_dump_hlo_as_text": True}


@dataclasses.dataclass(frozen=True)
class Compiled:
  """The compiler's analysis of one program, per device.

  Attributes:
    arguments, outputs, temporaries, aliased, code: bytes. Donated arguments,
      such as the state of a run, are aliased and count once.
    flops: floating-point operations; bytes_accessed: memory traffic; of both,
      the content of a loop counts once.
    collectives: by kind; None if the compiler does not print programs.
    kernels: number of Pallas kernels in the program.
  """

  arguments: int
  outputs: int
  temporaries: int
  aliased: int
  code: int
  flops: float
  bytes_accessed: float
  collectives: dict[str, collectives.Traffic] | None
  kernels: int

  @property
  def memory(self) -> int:
    """Peak memory of one device, in bytes."""
    return (
      self.arguments
      + self.outputs
      - self.aliased
      + self.temporaries
      + self.code
    )


@dataclasses.dataclass(frozen=True)
class OutOfMemory:
  """The compiler's refusal of a program.

  Attributes:
    needed: bytes that it needs on a device; None if the message does not tell.
    available: bytes that a device has, according to the compiler, or None.
    message: the first line of what it said.
  """

  needed: int | None
  available: int | None
  message: str


def account(lowered: jax.stages.Lowered) -> Compiled | OutOfMemory:
  """Compiles a lowered program and returns the compiler's analysis.

  Args:
    lowered: the program.

  Returns:
    The analysis, or the refusal if a device has too little memory.
  """
  with tempfile.TemporaryDirectory() as folder:
    try:
      compiled = lowered.compile(
        compiler_options={**_PRINTED, "xla_dump_to": folder}
      )
    except jax.errors.JaxRuntimeError as error:
      if "RESOURCE_EXHAUSTED" not in str(error):
        raise
      return _refusal(str(error))
    printed = _printed(pathlib.Path(folder)) or _text(compiled)
  memory, cost = compiled.memory_analysis(), compiled.cost_analysis()
  assert memory is not None and cost is not None
  return Compiled(
    arguments=memory.argument_size_in_bytes,
    outputs=memory.output_size_in_bytes,
    temporaries=memory.temp_size_in_bytes,
    aliased=memory.alias_size_in_bytes,
    code=memory.generated_code_size_in_bytes,
    flops=cost.get("flops", 0.0),
    bytes_accessed=cost.get("bytes accessed", 0.0),
    collectives=collectives.read(printed) if printed else None,
    kernels=lowered.as_text().count("@tpu_custom_call"),
  )


def _refusal(message: str) -> OutOfMemory:
  """Reads the figures of a compiler that ran out of memory.

  libtpu says "... for HLO temporaries (96.72G) exceeds available HBM (15.75G)",
  and means arguments and results too; earlier versions "Used 20.10G of 15.75G
  hbm".
  """

  def size(pattern: str) -> int | None:
    found = re.search(pattern + r"([\d.]+)([KMGT]?)", message)
    return found and int(float(found.group(1)) * _UNITS[found.group(2)])

  return OutOfMemory(
    needed=size(r"HLO temporaries \(") or size(r"Used "),
    available=size(r"available HBM \(") or size(r"Used \S+ of "),
    message=message.splitlines()[0],
  )


def _printed(folder: pathlib.Path) -> str | None:
  """The text of a program whose compiler was given a folder and `_PRINTED`."""
  found = [*folder.glob("*after_optimizations.txt")]
  return found[0].read_text() if len(found) == 1 else None


def _text(compiled: jax.stages.Compiled) -> str | None:
  """The text of a program that its compiler did not write, if jaxlib can."""
  try:
    return compiled.as_text()
  except jax.errors.JaxRuntimeError:
    return None
