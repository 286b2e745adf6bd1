"""Codes audio while it is still arriving, with an explicit state.

Pure functions, for use inside your own `jit`:

  state = encoder_state(model, variables, batch)
  codes, state = encode_step(model, variables, state, x, lengths, start)

and the same for the decoder. `state` is a pytree whose leaves have the batch
axis first: the last samples that each convolution saw, the overlap of each
transposed convolution, the state of the LSTM. A step takes any whole number of
frames. However a clip is cut, its codes and audio are those of the whole clip,
up to the rounding of float32 sums (codecs that compute in bfloat16 sum overlaps
in float32, too). The items of a batch are separate streams: each step specifies
for each of them whether it begins (`start`), continues (`lengths` = the step),
ends inside the step (`lengths` less than that) or waits (`lengths` = 0).

Only causal codecs can be streamed: SoundStream and the 24 kHz EnCodec. Mirrored
padding copies samples that come after the start of a clip, so a stream of a
codec with such layers must begin with a step of at least
`latency(model)[...].start` frames, unless it ends in that step.
`mmdcodec.tokenizers.streamer` does all of this for arrays of any size.

A spectral codec transforms overlapping frames, so its steps overlap by
`overlap(model)` samples: the encoder takes that much more than whole frames and
sees it again in its next step; the decoder returns that much more. Its audio
begins that much before its first frame, and the last of it holds only if the
clip ends with this step.

A step of one frame takes as long as reading the weights. `without_weight_norm`
computes the kernels once instead of in every step.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from mmdcodec import precision
from mmdcodec.errors import UserError
from mmdcodec.models import receptive_field
from mmdcodec.models.codec import Codec
from mmdcodec.models.spectral_networks import SpectralNetwork
from mmdcodec.nn.conv import STREAM, frames, mask_after
from mmdcodec.nn.norms import weight_norm

State = Any


@dataclasses.dataclass(frozen=True)
class Latency:
  """Input that a stream needs before it returns output.

  Attributes:
    start: frames needed for the first frame.
    steady: frames needed for each further frame (1: only that frame).
    stride: samples per frame.
    rate: Hz.
    overlap: samples needed besides these frames.
  """

  start: int
  steady: int
  stride: int
  rate: int
  overlap: int = 0

  @property
  def start_samples(self) -> int:
    """Samples needed for the first frame."""
    return self.start * self.stride + self.overlap

  @property
  def steady_samples(self) -> int:
    """Samples needed for each further frame."""
    return self.steady * self.stride

  @property
  def steady_ms(self) -> float:
    """Milliseconds of audio needed for each further frame."""
    return 1000 * self.steady_samples / self.rate


def obstacle(model: Codec) -> str | None:
  """Why a codec can't be streamed, as words to follow "it", or None."""
  reasons = {
    "finds phases from later frames (phase_iterations is not 0)": (
      model.topology == "spectral" and model.phase_iterations > 0
    ),
    "looks ahead (causal=False)": not model.causal,
    "looks ahead (trim_right_ratio is not 1)": model.trim_right_ratio != 1,
    "works in chunks": model.chunk is not None,
    "measures the loudness of the whole clip": model.normalize,
    "normalises over the whole clip": model.norm == "time_group",
  }
  return next((reason for reason, holds in reasons.items() if holds), None)


def check(model: Codec) -> None:
  """Raises a UserError unless the codec can be streamed."""
  reason = obstacle(model)
  if reason:
    raise UserError(
      f"this codec can't be streamed: it {reason}. Use encode_blocks and"
      " decode_blocks, which take audio of any length in pieces, or a causal"
      " codec such as encodec_24khz or soundstream_24khz."
    )


def overlap(model: Codec) -> int:
  """Samples by which steps of a stream overlap: 0, or half a frame."""
  spectral = model.topology == "spectral" and not model.phase_iterations
  return model.stride // 2 if spectral else 0


def latency(model: Codec) -> dict[str, Latency]:
  """Latency of a stream, by "encoder" and "decoder".

  For the encoder, from the first sample of a frame to its codes; for the
  decoder, from the codes of a frame to its samples, in frames of codes.

  Raises:
    UserError: the codec can't be streamed.
  """
  check(model)
  n = model.network
  if isinstance(n, SpectralNetwork):
    way = Latency(1, 1, model.stride, model.rate, overlap(model))
    return {"encoder": way, "decoder": way}
  layers = {
    "encoder": (sum(receptive_field.encoder_layers(n), []), model.stride),
    "decoder": (sum(receptive_field.decoder_layers(n), []), 1),
  }
  return {
    name: Latency(
      receptive_field.lead(way, n, rate), 1, model.stride, model.rate
    )
    for name, (way, rate) in layers.items()
  }


def encoder_state(model: Codec, variables: Any, batch: int) -> State:
  """Initial state of `batch` streams into the encoder, all zeros.

  Raises:
    UserError: the codec can't be streamed.
  """
  check(model)
  samples = model.stride + overlap(model)
  x = jnp.zeros((batch, samples, model.channels), jnp.float32)
  return zero_state(model, variables, _encode, x, None)


def decoder_state(model: Codec, variables: Any, batch: int) -> State:
  """Initial state of `batch` streams out of the decoder, all zeros.

  Raises:
    UserError: the codec can't be streamed.
  """
  check(model)
  return zero_state(
    model, variables, _decode, jnp.zeros((batch, 1, 1), jnp.int32)
  )


def encode_step(
  model: Codec,
  variables: Any,
  state: State,
  x: jax.Array,
  lengths: jax.Array,
  start: jax.Array,
  *,
  codebooks: int | None = None,
) -> tuple[jax.Array, State]:
  """Encodes the next samples of each stream.

  Args:
    model: the codec.
    variables: variables of the codec.
    state: state from `encoder_state` or the previous step.
    x: [batch, n * stride + overlap(model), channels], any n.
    lengths: [batch] valid samples: all if the stream continues, at most n *
      stride if it ends here, 0 if it waits.
    start: bool [batch], True where a stream begins. If n is less than
      `latency(model)["encoder"].start`, it must end here too.
    codebooks: number of codebooks to use, from the first on; None means all.

  Returns:
    codes int32 [batch, n, codebooks], 0 after frames(lengths, stride), and the
    state.
  """
  return _step(model, variables, state, lengths, start, _encode, x, codebooks)


def decode_step(
  model: Codec,
  variables: Any,
  state: State,
  codes: jax.Array,
  lengths: jax.Array,
  start: jax.Array,
) -> tuple[jax.Array, State]:
  """Decodes the next codes of each stream.

  Args:
    model: the codec.
    variables: variables of the codec.
    state: state from `decoder_state` or the previous step.
    codes: int32 [batch, n, k], any n.
    lengths: [batch] valid frames: n if the stream continues, fewer if it ends
      here, 0 if it waits.
    start: bool [batch], True where a stream begins. If n is less than
      `latency(model)["decoder"].start`, it must end here too.

  Returns:
    audio float32 [batch, n * stride + overlap(model), channels], and the state.
    Without an overlap, the audio is 0 after lengths * stride.
  """
  return _step(model, variables, state, lengths, start, _decode, codes)


@precision.exactly
def _encode(
  model: Codec, x: jax.Array, lengths: jax.Array, codebooks: int | None
) -> jax.Array:
  z = model.encoder(mask_after(x, lengths), lengths)
  codes = model.quantizer.encode(z, codebooks)
  return mask_after(codes, frames(lengths, model.stride))


def _decode(model: Codec, codes: jax.Array, lengths: jax.Array) -> jax.Array:
  z = mask_after(model.quantizer.decode(codes), lengths)
  return model.decoder(z, lengths)


def zero_state(
  model: Codec, variables: Any, method: Callable, inputs: Any, *rest: Any
) -> State:
  """A state of zeros for the layers in `method(model, inputs, lengths, *rest)`.

  Only the shapes are evaluated.
  """

  def run(variables: Any, inputs: jax.Array) -> Any:
    lengths = jnp.zeros(len(inputs), jnp.int32)
    return model.apply(
      variables, inputs, lengths, *rest, method=method, mutable=[STREAM]
    )[1].get(STREAM, {})

  shapes = jax.eval_shape(run, variables, inputs)
  return jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)


def _step(
  model: Codec,
  variables: Any,
  state: State,
  lengths: Any,
  start: Any,
  method: Callable,
  inputs: jax.Array,
  *rest: Any,
) -> tuple[jax.Array, State]:
  """Runs a method with the state of streams, and returns the next state."""

  def choose(where: jax.Array, a: State, b: State) -> State:
    pick = lambda a, b: jnp.where(where.reshape(-1, *(1,) * (b.ndim - 1)), a, b)
    return jax.tree.map(pick, a, b)

  lengths, start = jnp.asarray(lengths), jnp.asarray(start)
  before = choose(start, jax.tree.map(jnp.zeros_like, state), state)
  out, after = model.apply(
    {**variables, STREAM: before},
    inputs,
    lengths,
    *rest,
    method=method,
    mutable=[STREAM],
  )
  return out, choose(lengths > 0, after[STREAM], state)


def without_weight_norm(model: Codec, variables: Any) -> tuple[Codec, Any]:
  """The same codec with its kernels as plain parameters.

  Returns:
    (model, variables) for `encode_step` and `decode_step`; the arguments
    themselves if the codec has no weight norm.
  """
  if model.norm != "weight" or model.topology == "spectral":
    return model, variables

  params = _plain_kernels(variables["params"])
  return model.clone(norm="none"), {**variables, "params": params}


@jax.jit
def _plain_kernels(params: dict) -> dict:
  def walk(tree: dict, name: str = "") -> dict:
    if "v" in tree:
      axis = 1 if name == "up" else 2  # as in ConvTranspose and Conv
      return {
        "kernel": weight_norm(tree["g"], tree["v"], axis),
        "bias": tree["bias"],
      }
    return {
      key: walk(value, key) if isinstance(value, dict) else value
      for key, value in tree.items()
    }

  return walk(params)


# Shared by all streamers of a codec: modules are compared by their fields.
compiled_encode_step = functools.partial(
  jax.jit, static_argnums=0, static_argnames="codebooks"
)(encode_step)
compiled_decode_step = jax.jit(decode_step, static_argnums=0)
