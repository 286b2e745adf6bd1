"""Ahead-of-time compilation for a TPU slice, without having one.

`plan` lowers a program of a config: the training step, a step of sampling from
a language model, or encoding or decoding with a codec. `compile_report` has it
compiled and says whether it fits. See `parallel/topology.py` for the devices.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from mmdcodec import precision
from mmdcodec.errors import UserError
from mmdcodec.generation import decoding
from mmdcodec.models import codec as codec_model
from mmdcodec.models import token_lm
from mmdcodec.models.conditioning import Conditioner, EncodedConditions
from mmdcodec.parallel import flops, rules
from mmdcodec.parallel import mesh as mesh_lib
from mmdcodec.parallel.analysis import Compiled, account
from mmdcodec.parallel.topology import topology_devices
from mmdcodec.quantize import independence
from mmdcodec.train import config_checks, settings
from mmdcodec.train import program as program_lib
from mmdcodec.train.task import make_task


@dataclasses.dataclass(frozen=True)
class Plan:
  """A lowered program, and what is known of it without a compiler.

  Attributes:
    program: one of `PROGRAMS`.
    config: the config, as nested dicts.
    mesh: the devices.
    sizes: bytes on each device by kind ("parameters", "batch", ...), by the
      shapes and shardings of the arguments, without padding.
    operations: of matrix products and convolutions, on all devices together,
      with all turns of loops; see `flops`.
    lowered: the program.
  """

  program: str
  config: dict[str, Any]
  mesh: Mesh
  sizes: dict[str, int]
  operations: float
  lowered: jax.stages.Lowered


def plan(
  config: Mapping, topology: str | None = None, program: str = "train"
) -> Plan:
  """Lowers a program of a config without compiling it.

  Args:
    config: as for `train.loop.train`; no data set is read. Its batch is also
      the number of pieces that are made, or of clips of `data.seconds` that are
      encoded or decoded.
    topology: see `topology_devices`; None for the devices that are there.
    program: one of `PROGRAMS`.

  Raises:
    UserError: the config has no such program, or its mesh, batch or parts of a
      batch do not fit the devices.
  """
  devices = jax.devices() if topology is None else topology_devices(topology)
  config = settings.plain(config)
  config_checks.check(config)
  mesh = mesh_lib.make_mesh(config["mesh"], devices)
  parts = config.get("accumulate", 1) if program == "train" else 1
  mesh_lib.check_batch(config["batch"], mesh, parts)
  kind, trace = PROGRAMS[program]
  if kind not in (None, config["task"]):
    raise UserError(
      f"the config has the task {config['task']!r}; a program to {program} is"
      f" that of the task {kind!r}."
    )
  traced, arguments = trace(config, mesh)
  with jax.set_mesh(mesh):
    lowered = traced.lower(lowering_platforms=(devices[0].platform,))
  return Plan(
    program=program,
    config=config,
    mesh=mesh,
    sizes={name: _local_bytes(tree) for name, tree in arguments.items()},
    operations=flops.count(traced.jaxpr),
    lowered=lowered,
  )


# A traced program, and its arguments by kind, with shardings.
_Traced = tuple[jax.stages.Traced, dict[str, Any]]


def _train(config: dict[str, Any], mesh: Mesh) -> _Traced:
  """Traces the largest program of a run."""
  task = make_task(config)
  program = program_lib.make_program(task, config, mesh)
  batch: Any = _place(
    task.batch_shapes(config["batch"]), mesh_lib.batch_sharding(mesh)
  )
  step = program.step
  if program.long_step is not None:
    step, batch = program.long_step, (batch,) * task.history
  state = program.abstract
  arguments = {
    "parameters": state.params,
    "optimizer": state.opt_state,
    "averages": state.ema,
    "other state": (state.collections, state.extra),
    "batch": batch,
  }
  with jax.set_mesh(mesh):
    return step.trace(state, batch), arguments


def _generate(config: dict[str, Any], mesh: Mesh) -> _Traced:
  """Traces a step of sampling, with guidance if there are conditions."""
  model, batch = token_lm.from_config(config["model"]), config["batch"]
  params = token_lm.shapes(model)["params"]
  request, groups = _decode_request(model, params, batch)
  with jax.set_mesh(mesh):
    params = jax.eval_shape(functools.partial(decoding.prepare, model), params)
    state = jax.eval_shape(
      functools.partial(decoding.prefill, model, count=0, groups=groups),
      params, request, 1,
    )  # fmt: skip
    per_item = lambda x: NamedSharding(
      mesh,
      rules.activation_spec(
        x.shape, mesh, *("batch", *(None,) * x.ndim)[: x.ndim]
      ),
    )
    # All but the frames of steps are of items.
    layout = jax.tree.map(per_item, request).replace(
      frames=NamedSharding(mesh, PartitionSpec())
    )
    params = _place(params, rules.shardings(params, mesh, rules.LM_RULES))
    request = _place(request, layout)
    state = _place(state, decoding.shardings(state, mesh))
    traced = decoding.advance.trace(
      model,
      params,
      request,
      state,
      jax.ShapeDtypeStruct((), jnp.int32),
      groups=groups,
      top_k=250,
    )
  arguments = {"parameters": params, "cache": state, "batch": request}
  return traced, arguments


def _code(method: str, config: dict[str, Any], mesh: Mesh) -> _Traced:
  """Traces encoding or decoding with a codec."""
  task = make_task(config)
  # As a loaded codec computes.
  model = precision.in_float32(codec_model.from_config(config["model"]))
  variables = jax.eval_shape(task.init, jax.random.key(0))
  variables = _place(variables, rules.shardings(variables, mesh, task.rules))
  divided = mesh_lib.batch_sharding(mesh)
  batch: Any = _place(task.batch_shapes(config["batch"]), divided)
  encode = lambda v, audio, lengths: model.apply(
    v, audio, lengths, method="encode"
  )
  call, inputs = encode, (batch["audio"], batch["lengths"])
  if method == "decode":
    with jax.set_mesh(mesh):
      out = jax.eval_shape(encode, variables, *inputs)
    inputs = _place((out.codes, out.scale, out.lengths), divided)
    call = lambda v, codes, scale, lengths: model.apply(
      v, codes, scale=scale, lengths=lengths, method="decode"
    )
  params = variables.pop("params")
  arguments = {"parameters": params, "other state": variables, "batch": inputs}
  variables = {"params": params, **variables}
  with jax.set_mesh(mesh):
    jitted = jax.jit(call, out_shardings=divided)
    return jitted.trace(variables, *inputs), arguments


# The task that has the program (None: every one), and what traces it.
PROGRAMS: dict[str, tuple[str | None, Callable[[dict, Mesh], _Traced]]] = {
  "train": (None, _train),
  "generate": ("lm", _generate),
  "encode": ("codec", functools.partial(_code, "encode")),
  "decode": ("codec", functools.partial(_code, "decode")),
}


def _place(tree: Any, layout: Any) -> Any:
  """Adds shardings, one for all or a tree of them, to a tree of shapes."""
  if isinstance(layout, NamedSharding):
    layout = jax.tree.map(lambda _: layout, tree)
  return jax.tree.map(
    lambda x, where: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=where),
    tree,
    layout,
  )


def _local_bytes(tree: Any) -> int:
  """Bytes of a tree of shapes on each device."""
  return sum(
    math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize
    for leaf in jax.tree.leaves(tree)
  )


def _decode_request(
  model: token_lm.TokenLM, params: Any, batch: int
) -> tuple[decoding.DecodeRequest, int]:
  """Shapes of a request for pieces of `model.frames`, and its groups."""
  encoded, groups = EncodedConditions(), 1
  if model.conditions:
    groups = 2
    encoded = jax.eval_shape(
      lambda params: Conditioner(**model.conditioner_fields()).apply(
        {"params": params["conditioner"]}, model.no_conditions(groups * batch)
      ),
      params,
    )
  steps = len(model.pattern_of(model.frames).steps)
  frames: Any = jax.ShapeDtypeStruct((steps,), jnp.int32)
  given: Any = jax.ShapeDtypeStruct(
    (batch, steps + 1, model.codebooks), jnp.int32
  )
  number: Any = jax.ShapeDtypeStruct((), jnp.float32)
  request = decoding.DecodeRequest(
    encoded=encoded,
    frames=frames,
    given=given,
    keys=jax.eval_shape(lambda: jax.random.split(jax.random.key(0), batch)),
    temperature=number,
    top_p=None,
    guidance=number,
    double_guidance=number,
  )
  return request, groups


def compile_independence(
  topology: str, *, rows: int, codebooks: int, dim: int, estimator: str
) -> Compiled:
  """Compiles the independence loss and its gradient for a TPU slice.

  Args:
    topology: see `topology_devices`.
    rows: rows of the global batch, which is divided among the chips; rounded up
      to a multiple of their number.
    codebooks: number of streams.
    dim: dimension of a code vector.
    estimator: see `independence.ESTIMATORS`.

  Returns:
    The compiler's analysis, per chip.

  Raises:
    UserError: a chip has too little memory.
  """
  devices = topology_devices(topology)
  mesh = mesh_lib.make_mesh({}, devices)
  loss = lambda streams, seed: independence.independence_loss(
    streams, jax.random.key(seed), estimator=estimator
  )
  shape = (len(devices), -(-rows // len(devices)), codebooks, dim)
  sharding = mesh_lib.batch_sharding(mesh)
  whole = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
  with jax.set_mesh(mesh):
    traced = jax.jit(
      jax.value_and_grad(loss), out_shardings=(whole, sharding)
    ).trace(
      jax.ShapeDtypeStruct(shape, "float32", sharding=sharding),
      jax.ShapeDtypeStruct((), "int32", sharding=whole),
    )
    lowered = traced.lower(lowering_platforms=("tpu",))
  found = account(lowered)
  if not isinstance(found, Compiled):
    raise UserError(f"the independence loss does not fit: {found.message}")
  return found
