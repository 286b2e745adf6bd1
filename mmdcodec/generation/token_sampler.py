"""Samples code sequences from a language model, window by window.

The sampler handles the model, its cache, windows, guidance and sampling; codec
and prompts are up to the caller. State is passed explicitly, and every window
gets new conditions, so they may change between windows:

  state = sampler.start(codes, keys)
  while (window := sampler.next_window(state, stride)) is not None:
    inputs = ...  # conditions from window.start on
    *_, state = sampler.sample_window(state, window, inputs, options)
    # state.codes[:, : state.done] are complete.
"""

import contextlib
import dataclasses
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mmdcodec import platform, precision
from mmdcodec.generation import decoding, windows
from mmdcodec.generation.sampling import SamplingOptions
from mmdcodec.generation.windows import Window
from mmdcodec.models.conditioning import (
  Conditioner,
  EncodedConditions,
  Inputs,
  drop,
)
from mmdcodec.models.token_lm import TokenLM
from mmdcodec.parallel import rules
from mmdcodec.platform import bucket


@dataclasses.dataclass(frozen=True)
class SamplerState:
  """The progress of a batch of sequences.

  Attributes:
    codes: int32 [batch, frames, codebooks]; -1 for codes to sample.
    keys: random keys [batch].
    done: number of initial frames that are complete in every item.
  """

  codes: np.ndarray
  keys: jax.Array
  done: int


class TokenSampler:
  """Samples codes from a language model.

  Greedy decoding (temperature 0) is true float32 on every backend, also of a
  model that computes in bfloat16, see `mmdcodec.precision`. Sampling computes
  as the model does.

  Attributes:
    model: the language model.
    conditions: the model's conditions.
  """

  def __init__(self, model: TokenLM, params: dict[str, Any]):
    """Takes a model and its parameters."""
    self.model, self.conditions = model, model.make_conditions()
    self._mesh: jax.sharding.Mesh | None = None
    self._given = params
    self._params = self._prepared(model)
    # Of models in bfloat16, parameters for greedy decoding, once they are
    # needed.
    self._exact: dict[str, Any] | None = None
    # Not `model.encode_conditions`, because flax rejects the shape of prepared
    # heads.
    self._encode = jax.jit(
      lambda model, params, inputs: Conditioner(
        **model.conditioner_fields()
      ).apply({"params": params["conditioner"]}, inputs),
      static_argnums=0,
    )

  def place(self, params: dict[str, Any], mesh: jax.sharding.Mesh) -> None:
    """Shards parameters and, from now on, items over a mesh.

    Args:
      params: the model's parameters.
      mesh: from `mmdcodec.parallel.mesh.make_mesh`.
    """
    self._mesh = mesh
    self._given, self._exact = params, None
    self._params = self._prepared(self.model)

  def _prepared(self, model: TokenLM) -> dict[str, Any]:
    """The parameters on the devices, in the form to decode with."""
    if self._mesh is None:
      return jax.device_put(decoding.prepare(model, self._given))
    where = rules.shardings(self._given, self._mesh, rules.LM_RULES)
    with jax.set_mesh(self._mesh):
      return decoding.prepare(model, jax.device_put(self._given, where))

  def _form(self, options: SamplingOptions) -> tuple[TokenLM, dict[str, Any]]:
    """The model, and its parameters, to sample with these options."""
    exact = precision.in_float32(self.model)
    if options.temperature or exact is self.model:
      return self.model, self._params
    if self._exact is None:
      self._exact = self._prepared(exact)
    return exact, self._exact

  def start(self, codes: np.ndarray, keys: jax.Array) -> SamplerState:
    """Returns the state before anything is sampled.

    Args:
      codes: int [batch, frames, codebooks], the codes of a prompt; -1 for codes
        to sample.
      keys: random keys [batch].
    """
    missing = np.flatnonzero((codes < 0).any(axis=(0, 2)))
    done = int(missing[0]) if missing.size else codes.shape[1]
    return SamplerState(codes, keys, done)

  def next_window(
    self, state: SamplerState, stride: int | None
  ) -> Window | None:
    """Returns the next window to sample, or None if all is done.

    Args:
      state: state to continue from.
      stride: frames from the start of a window to that of the next; below
        `model.frames`. None samples music of any length in one window, for
        models whose attention has one.
    """
    if stride is not None:
      # As training crops, windows begin with a frame of added conditions.
      grid = self.model.grid
      stride = max(stride - stride % grid, min(stride, grid))
    left = windows.windows(
      state.codes.shape[1], state.done, self.model.frames, stride
    )
    return left[0] if left else None

  def sample_window(
    self,
    state: SamplerState,
    window: Window,
    inputs: Inputs,
    options: SamplingOptions,
    part: int | None = None,
  ) -> Iterator[SamplerState]:
    """Samples the rest of a window.

    Args:
      state: state to continue from.
      window: from `next_window`.
      inputs: conditions of the batch for this window.
      options: how to sample.
      part: frames between two yields; None yields only at the end.

    Yields:
      States, the last of which is complete up to `window.end`.
    """
    model, params = self._form(options)
    codes = state.codes[:, window.start : window.end]
    frames, done = codes.shape[1], state.done - window.start
    pattern = windows.pattern_of(model, frames)
    # Few distinct sizes, so that few programs are compiled.
    steps = bucket(len(pattern.steps))
    given = windows.given_tokens(pattern, codes, model.special, steps)
    first = windows.first_unknown(given)
    with self._scope(options):
      groups, encoded = self._encode_groups(
        model, params, inputs, options, len(codes)
      )
      request = decoding.DecodeRequest(
        encoded=encoded,
        frames=jnp.asarray(
          np.pad(
            pattern.frame_of_step,
            (0, steps - len(pattern.frame_of_step)),
            mode="edge",
          )
        ),
        given=jnp.asarray(given),
        keys=jax.vmap(lambda key: jax.random.fold_in(key, window.start))(
          state.keys
        ),
        temperature=jnp.float32(options.temperature),
        top_p=None if options.top_p is None else jnp.float32(options.top_p),
        guidance=jnp.float32(options.guidance),
        double_guidance=jnp.float32(options.double_guidance or 1.0),
      )
      decoded = decoding.prefill(
        model,
        params,
        request,
        first,
        count=min(bucket(first - 1), steps) if first > 1 else 0,
        groups=groups,
      )
    complete = windows.complete_frames(pattern)
    stops = range(frames, done, -part) if part else [frames]
    for stop in reversed(stops):
      with self._scope(options):
        decoded = decoding.advance(
          model,
          params,
          request,
          decoded,
          # The first step before which `stop` frames are complete.
          int(np.searchsorted(complete, stop)),
          groups=groups,
          top_k=options.top_k,
        )
      tokens = np.asarray(decoded.tokens)
      new = tokens[:, pattern.step_of[done:stop], np.arange(model.codebooks)]
      codes = state.codes.copy()
      codes[:, window.start + done : window.start + stop] = new
      state = SamplerState(codes, state.keys, window.start + stop)
      done = stop
      yield state

  @contextlib.contextmanager
  def _scope(self, options: SamplingOptions) -> Iterator[None]:
    """The mesh and the precision of the programs."""
    with contextlib.ExitStack() as stack:
      if self._mesh is not None:
        stack.enter_context(jax.set_mesh(self._mesh))
      # CPUs know nothing else than float32: one program serves both there.
      if not options.temperature and platform.traced_for() != "cpu":
        stack.enter_context(precision.exact())
      yield

  def _encode_groups(
    self,
    model: TokenLM,
    params: dict[str, Any],
    inputs: Inputs,
    options: SamplingOptions,
    batch: int,
  ) -> tuple[int, EncodedConditions]:
    """Encodes the conditions of all groups for guidance; counts the groups."""
    if not self.conditions:
      return 1, EncodedConditions()
    groups, nobody = [inputs], np.zeros(batch, bool)
    without = lambda *names: drop(self.conditions, inputs, nobody, *names)
    if options.double_guidance is not None:
      groups.append(without(options.doubled))
    if options.guidance != 1 or options.double_guidance is not None:
      groups.append(without(*(options.removed or ())))
    found = [self._encode(model, params, each) for each in groups]
    return len(groups), jax.tree.map(lambda *x: jnp.concatenate(x), *found)
