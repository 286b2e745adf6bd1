"""Ahead-of-time compilation for a TPU slice, without having one.

Compiles a training step, a step of sampling from a language model, or the
independence loss alone, for a topology; see `parallel/topology.py`.
"""

import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from mmdcodec.errors import UserError
from mmdcodec.generation import decoding
from mmdcodec.models import token_lm
from mmdcodec.models.conditioning import Conditioner, EncodedConditions
from mmdcodec.parallel import mesh as mesh_lib
from mmdcodec.parallel import rules
from mmdcodec.parallel.topology import Compiled, account, topology_devices
from mmdcodec.quantize import independence
from mmdcodec.train import config_checks, settings
from mmdcodec.train import program as program_lib
from mmdcodec.train.task import make_task


def compile_step(config: Mapping, topology: str) -> Compiled:
  """Compiles the training step of a config for a TPU slice.

  Args:
    config: as for `train.loop.train`; no data set is read.
    topology: see `topology_devices`.

  Returns:
    The compiler's analysis, per chip.
  """
  chips = len(topology_devices(topology))
  return account(topology, chips, lower_step(config, topology))


def lower_step(config: Mapping, topology: str) -> jax.stages.Lowered:
  """Lowers the training step of a config for a TPU slice without compiling it.

  Args:
    config: as for `train.loop.train`.
    topology: see `topology_devices`.

  Raises:
    UserError: the topology cannot divide the mesh, the batch or its parts.
  """
  config = settings.plain(config)
  config_checks.check(config)
  mesh = mesh_lib.make_mesh(config["mesh"], topology_devices(topology))
  mesh_lib.check_batch(config["batch"], mesh, config.get("accumulate", 1))
  task = make_task(config)
  program = program_lib.make_program(task, config, mesh)
  sharding = mesh_lib.batch_sharding(mesh)
  batch = jax.tree.map(
    lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=sharding),
    task.batch_shapes(config["batch"]),
  )
  # The largest program of the run.
  step = program.step
  if program.long_step is not None:
    step, batch = program.long_step, (batch,) * task.history
  with jax.set_mesh(mesh):
    return step.trace(program.abstract, batch).lower(
      lowering_platforms=("tpu",)
    )


def compile_decode(config: Mapping, topology: str) -> Compiled:
  """Compiles sampling from a language model for a TPU slice.

  Args:
    config: as for `train.loop.train`; no data set is read. Its batch is the
      number of pieces, each with guidance if the model has conditions, and its
      `model.frames` their length.
    topology: see `topology_devices`.

  Returns:
    The compiler's analysis, per chip; operations and traffic are those of one
    step, because the compiler counts the content of a loop once.

  Raises:
    UserError: the config is not that of a language model.
  """
  devices = topology_devices(topology)
  config = settings.plain(config)
  config_checks.check(config)
  if config["task"] != "lm":
    raise UserError(
      f"the config has the task {config['task']!r}; only a language model (lm)"
      " is sampled from."
    )
  mesh = mesh_lib.make_mesh(config["mesh"], devices)
  model, batch = token_lm.from_config(config["model"]), config["batch"]
  params = token_lm.shapes(model)["params"]
  request, groups = _decode_request(model, params, batch)
  with jax.set_mesh(mesh):
    params = jax.eval_shape(functools.partial(decoding.prepare, model), params)
    state = jax.eval_shape(
      functools.partial(decoding.prefill, model, count=0, groups=groups),
      params, request, 1,
    )  # fmt: skip
    per_item = lambda x: jax.sharding.NamedSharding(
      mesh,
      rules.activation_spec(
        x.shape, mesh, *("batch", *(None,) * x.ndim)[: x.ndim]
      ),
    )
    place = functools.partial(
      jax.tree.map,
      lambda x, sharding: jax.ShapeDtypeStruct(
        x.shape, x.dtype, sharding=sharding
      ),
    )
    traced = decoding.advance.trace(
      model,
      place(params, rules.shardings(params, mesh, rules.LM_RULES)),
      place(
        request,
        # All but the frames of steps are of items.
        jax.tree.map(per_item, request).replace(
          frames=jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
        ),
      ),
      place(state, decoding.shardings(state, mesh)),
      jax.ShapeDtypeStruct((), jnp.int32),
      groups=groups,
      top_k=250,
    )
    lowered = traced.lower(lowering_platforms=("tpu",))
  return account(topology, len(devices), lowered)


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
  return account(topology, len(devices), lowered)
