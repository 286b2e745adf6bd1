"""Collectives in the text of a compiled program, and its refusal.

Defects that these tests must catch: a collective that counts once for each
piece that it is cut into, one in a loop that counts once, and figures of the
wrong array.
"""

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from mmdcodec.parallel import analysis, collectives
from mmdcodec.parallel.collectives import Traffic

# In the form of TPUs: one gather in two pieces inside a loop of six turns, a
# reduce-scatter, an all-reduce of two arrays, and a sum between slices.
PROGRAM = """\
HloModule jit_step, num_partitions=4

%piece.1 (p.1: bf16[2,8]) -> bf16[8,8] {
  %p.1 = bf16[2,8]{1,0} parameter(0)
  ROOT %all-gather.1 = bf16[8,8]{1,0:T(8,128)} all-gather(%p.1), channel_id=7
}

%piece.2 (p.2: bf16[2,8]) -> bf16[8,8] {
  %p.2 = bf16[2,8]{1,0} parameter(0)
  ROOT %all-gather.2 = bf16[8,8]{1,0} all-gather(%p.2), channel_id=7
}

%all-reduce-scatter.3 (p.3: f32[16]) -> f32[4] {
  %p.3 = f32[16]{0} parameter(0)
  %all-reduce.3 = f32[16]{0} all-reduce(%p.3), channel_id=8, to_apply=%add
  ROOT %slice = f32[4]{0} slice(%all-reduce.3), slice={[0:4]}
}

%body (at: (s32[], bf16[2,8])) -> (s32[], bf16[2,8]) {
  %at = (s32[], bf16[2,8]{1,0}) parameter(0)
  %x = bf16[2,8]{1,0} get-tuple-element(%at), index=1
  %fusion.1 = bf16[8,8]{1,0} fusion(%x), kind=kLoop, calls=%piece.1
  ROOT %fusion.2 = bf16[8,8]{1,0} fusion(%x), kind=kLoop, calls=%piece.2
}

%condition (at: (s32[], bf16[2,8])) -> pred[] {
  %at.1 = (s32[], bf16[2,8]{1,0}) parameter(0)
  %i = s32[] get-tuple-element(%at.1), index=0
  %n = s32[]{:T(128)} constant(6)
  ROOT %less = pred[] compare(%i, %n), direction=LT
}

ENTRY %main (a: bf16[2,8], b: f32[16]) -> f32[4] {
  %b = f32[16]{0} parameter(1)
  %loop = (s32[], bf16[2,8]{1,0}) while(%t), condition=%condition, body=%body
  %c = f32[4]{0} fusion(%b), kind=kCustom, calls=%all-reduce-scatter.3
  %d = (f32[2]{0}, /*index=1*/f32[3,2]{1,0}) all-reduce(%e, %f), channel_id=9
  %g = (f32[5]{0}, u32[], token[]) send(%h, %k), channel_id=2, \
frontend_attributes={_xla_host_transfer_handler_name="xla_megascale_runtime"}
  ROOT %r = f32[4]{0} collective-permute(%c), channel_id=10
}
"""


def test_of_a_tpu():
  """Catches pieces for collectives, and one turn for all of a loop."""
  assert collectives.read(PROGRAM) == {
    "all-reduce": Traffic(1, 4 * (2 + 6)),
    "all-gather": Traffic(6, 6 * 2 * 64),
    "reduce-scatter": Traffic(1, 4 * 16),
    "collective-permute": Traffic(1, 4 * 4),
    collectives.SLICES: Traffic(1, 4 * 5),
  }


def test_of_what_is_compiled_here(monkeypatch):
  """Catches a form of the text that is not read any more.

  jaxlib cannot print some programs of libtpu.
  """

  def as_text(compiled):
    raise jax.errors.JaxRuntimeError("INTERNAL: RET_CHECK failure")

  monkeypatch.setattr(jax.stages.Compiled, "as_text", as_text)
  mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
  rows, whole = (NamedSharding(mesh, spec) for spec in (P("data"), P()))

  def step(x, w):
    add = lambda w, part: (w + part.sum(0), None)
    return jax.lax.scan(add, w, x.swapaxes(0, 1))[0]

  program = jax.jit(step, in_shardings=(rows, whole), out_shardings=whole)
  shapes = [jax.ShapeDtypeStruct(s, jnp.float32) for s in ((16, 5, 64), (64,))]
  found = analysis.account(program.trace(*shapes).lower())
  assert found.collectives["all-reduce"].bytes in (5 * 256, 256)
  assert found.arguments >= 2 * 5 * 256 + 256


@pytest.mark.parametrize(
  ("message", "needed", "available"),
  [
    (
      "RESOURCE_EXHAUSTED: E1000: CompileTimeHbmOom: Ran out of memory on HBM,"
      " the total memory required for HLO temporaries (96.72G) exceeds"
      " available HBM (15.75G). HLO module: jit_step.\nSee https://openxla.org",
      96.72,
      15.75,
    ),
    (
      "RESOURCE_EXHAUSTED: XLA:TPU compile permanent error. Used 20.50G of"
      " 15.75G hbm. Exceeded hbm capacity by 4.75G.",
      20.5,
      15.75,
    ),
    ("RESOURCE_EXHAUSTED: something new", None, None),
  ],
)
def test_a_refusal(message, needed, available):
  """Catches a compiler's figures that are lost, or end in a traceback."""

  class Program:
    def compile(self, compiler_options):
      raise jax.errors.JaxRuntimeError(message)

  found = analysis.account(Program())
  scale = lambda gib: None if gib is None else int(gib * 2**30)
  assert found.needed == scale(needed)
  assert found.available == scale(available)
  assert "\n" not in found.message


def test_other_errors_of_the_compiler():
  """Catches a defect that is taken for a lack of memory."""

  class Program:
    def compile(self, compiler_options):
      raise jax.errors.JaxRuntimeError("INTERNAL: broken")

  with pytest.raises(jax.errors.JaxRuntimeError, match="broken"):
    analysis.account(Program())
