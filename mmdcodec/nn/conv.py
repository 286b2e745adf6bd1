"""One-dimensional convolutions with exact lengths and edges.

A convolution of stride s maps n samples to ceil(n / s) frames, and a transposed
one maps n frames to n * s samples, for any kernel. Padding and trimming follow
the public EnCodec models (arXiv 2210.13438), so their weights give the same
numbers:

  convolution  pads total = (kernel - 1) * dilation + 1 - stride samples. Causal
               ones pad only the left; others put total // 2 on the right and
               the rest on the left. The right also fills the last stride.
  transposed   trims total = kernel - stride samples. Causal ones trim
               ceil(total * trim_right_ratio) on the right, others total // 2;
               the rest is trimmed on the left.

`lengths` [batch] holds the number of valid samples or frames of each example.
It puts the edge of each example where the example ends, not where the array
ends, and everything after it is zero, so an example gives the same result alone
and in a batch. Every layer expects such an input and returns such an output.
Without `lengths`, nothing is masked.

Inside `apply(..., mutable=[STREAM])` the layers process a clip in pieces: the
collection STREAM carries the state of causal layers between pieces, see
`mmdcodec.models.streaming`.

These forms were chosen by manual measurements on 2 CPU cores; no command
repeats them. Convolutions, including strided ones, use XLA's. Sums of shifted
matmuls, im2col and folded time take 1.5 to 5 times as long for single layers of
stride 1; with rows of whole strides, the whole encoder of `encodec_24khz` takes
1.05 to 1.1 times as long. Transposed convolutions are matmuls. As convolutions
of two taps they decode in 0.87 of the time, but a training step of
`codec_small` takes 3 times as long, because of the gradient of such a wide
kernel; `lax.conv_transpose` takes 15 to 25 times as long. On TPUs, narrow
layers get `mmdcodec.nn.folding.Folded` signals.
"""

import math
from typing import Annotated, Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from mmdcodec import bounds
from mmdcodec.bounds import flag, number, one_of, whole
from mmdcodec.nn import folded_conv, folding
from mmdcodec.nn.folding import Folded
from mmdcodec.nn.norms import NORMS, TimeGroupNorm, kernel_param
from mmdcodec.nn.reflect_padding import (
  continue_clip,
  reflect,
  reflect_lengths,
)

PAD_MODES = ("constant", "reflect")
STREAM = "stream"

# [batch, time, channels]: an array or a `Folded`.
Signal = Any


def frames(samples: Any, stride: int) -> Any:
  """Number of frames that cover `samples`: ceil(samples / stride).

  Args:
    samples: int or integer array.
    stride: samples per frame.

  Returns:
    Same type as `samples`.
  """
  return -(-samples // stride)


def length_mask(lengths: jax.Array, size: int) -> jax.Array:
  """True where an example is valid: lengths [batch] -> bool [batch, size]."""
  return jnp.arange(size) < lengths[:, None]


def mask_after(x: Signal, lengths: jax.Array | None) -> Signal:
  """Zeroes x [batch, time, channels] after `lengths`; None changes nothing."""
  if isinstance(x, Folded):
    return folding.mask_after(x, lengths)
  if lengths is None:
    return x
  return jnp.where(length_mask(lengths, x.shape[1])[..., None], x, 0)


def padding(
  kernel: int, stride: int, dilation: int, causal: bool
) -> tuple[int, int]:
  """Samples of padding (left, right), without those that fill the last stride.

  Raises:
    ValueError: the dilated kernel is shorter than the stride.
  """
  total = (kernel - 1) * dilation + 1 - stride
  if total < 0:
    raise ValueError(f"kernel {kernel} is shorter than stride {stride}")
  right = 0 if causal else total // 2
  return total - right, right


def trimming(
  kernel: int, stride: int, causal: bool, trim_right_ratio: float = 1.0
) -> tuple[int, int]:
  """Samples (left, right) to cut from a full transposed convolution.

  Raises:
    ValueError: the kernel is shorter than the stride.
  """
  total = kernel - stride
  if total < 0:
    raise ValueError(f"kernel {kernel} is shorter than stride {stride}")
  right = math.ceil(total * trim_right_ratio) if causal else total // 2
  return total - right, right


def conv(
  x: jax.Array,
  kernel: jax.Array,
  *,
  stride: int = 1,
  dilation: int = 1,
  pad: tuple[int, int] = (0, 0),
  dtype: Any = None,
) -> jax.Array:
  """Convolution y[t] = sum_j x[t * stride + j * dilation] @ kernel[j].

  Args:
    x: [batch, time, in].
    kernel: [taps, in, out].
    stride: step of the output in samples.
    dilation: step of the taps in samples.
    pad: zeros before and after x.
    dtype: dtype of the result; None means that of x.

  Returns:
    [batch, (time + sum(pad) - (taps - 1) * dilation - 1) // stride + 1, out].
  """
  return lax.conv_general_dilated(
    x,
    kernel.astype(x.dtype),
    (stride,),
    [pad],
    rhs_dilation=(dilation,),
    dimension_numbers=folded_conv.LAYOUTS[1],
    preferred_element_type=dtype,
  )


def padded_conv(
  x: Signal,
  kernel: jax.Array,
  *,
  stride: int = 1,
  dilation: int = 1,
  causal: bool = True,
  pad_mode: str = "constant",
  lengths: jax.Array | None = None,
) -> Signal:
  """Convolves to ceil(time / stride) frames, padded as in the module docstring.

  Args:
    x: [batch, time, in]; zero after `lengths`.
    kernel: [taps, in, out].
    stride: samples per frame.
    dilation: step of the taps in samples.
    causal: frame t does not depend on samples after its own stride.
    pad_mode: "constant" (zeros) or "reflect".
    lengths: [batch] valid samples, or None.

  Returns:
    [batch, ceil(time / stride), out]. Frames after the end of an example are
    not zero.
  """
  time = x.shape[1]
  left, right = padding(kernel.shape[0], stride, dilation, causal)
  extra = frames(time, stride) * stride - time
  options: dict[str, Any] = dict(stride=stride, dilation=dilation)
  folded = isinstance(x, Folded)
  if pad_mode == "constant":
    if folded:
      return folded_conv.conv(x, kernel, left=left, **options)
    return conv(x, kernel, pad=(left, right + extra), **options)
  if folded:
    whole = stride == 1 or (lengths is None and not extra)
    if causal and whole and time > left:
      # Only the start is reflected.
      return folded_conv.conv(x, kernel, left=left, reflect=True, **options)
    factor, x = x.factor, folding.unfold(x)
  if lengths is None:
    x = reflect(x, left, right + extra)
  else:
    rights = right + frames(lengths, stride) * stride - lengths
    x = reflect_lengths(x, left, rights, lengths, right + stride - 1)
    x = x[:, : left + time + right + extra]
  if folded:
    y = folded_conv.conv(folding.fold(x, factor), kernel, **options)
    return y.first(frames(time, stride))
  return conv(x, kernel, **options)


def conv_transpose(
  x: jax.Array, kernel: jax.Array, *, stride: int, dtype: Any = None
) -> jax.Array:
  """Transposed convolution y[s * t + j] += x[t] @ kernel[j], untrimmed.

  Polyphase: one matmul computes each stride of output samples from the input
  frames that reach it, laid side by side (two frames if taps = 2 * stride).

  Args:
    x: [batch, time, in].
    kernel: [taps, in, out].
    stride: samples between input frames.
    dtype: dtype of the result; None means that of x.

  Returns:
    [batch, (time - 1) * stride + taps, out].
  """
  batch, _, width = x.shape
  taps, _, out = kernel.shape
  pieces = frames(taps, stride)
  short = pieces * stride - taps
  if short:
    kernel = jnp.pad(kernel, ((0, short), (0, 0), (0, 0)))
  matrix = kernel.reshape(pieces, stride, width, out).transpose(0, 2, 1, 3)
  matrix = matrix.reshape(pieces * width, -1).astype(x.dtype)
  around = [(i, pieces - 1 - i) for i in range(pieces)]
  shifted = [jnp.pad(x, ((0, 0), pad, (0, 0))) for pad in around]
  y = jnp.matmul(
    jnp.concatenate(shifted, -1), matrix, preferred_element_type=dtype
  )
  y = y.reshape(batch, -1, out)
  return y[:, : y.shape[1] - short] if short else y


def streaming(module: nn.Module) -> bool:
  """Whether the module keeps its state in the collection STREAM."""
  mutable = module.is_mutable_collection(STREAM)
  return mutable and not module.is_initializing()


class Conv(bounds.Checked, nn.Module):
  """Convolution, normalisation and bias.

  Attributes:
    features: output channels.
    kernel_size: taps.
    stride: samples per output frame.
    dilation: step of the taps.
    causal: pad on the left only.
    pad_mode: "constant" or "reflect".
    norm: "none", "weight" or "time_group".
    dtype: compute dtype; parameters are float32.
  """

  features: Annotated[int, whole(1, 1 << 18)]
  kernel_size: Annotated[int, whole(1, 1 << 12)]
  stride: Annotated[int, whole(1, 1 << 12)] = 1
  dilation: Annotated[int, whole(1, 1 << 12)] = 1
  causal: Annotated[bool, flag()] = True
  pad_mode: Annotated[str, one_of(PAD_MODES)] = "constant"
  norm: Annotated[str, one_of(NORMS)] = "none"
  dtype: Annotated[Any, bounds.dtype(*bounds.FLOATS)] = jnp.float32

  @nn.compact
  def __call__(self, x: Signal, lengths: jax.Array | None = None) -> Signal:
    """Convolves x.

    Args:
      x: [batch, time, in], or folded; zero after `lengths`.
      lengths: [batch] valid samples, or None.

    Returns:
      [batch, ceil(time / stride), features], zero after ceil(lengths / stride);
      folded if x was, except with "time_group".
    """
    bounds.check_shape("x", x, batch=..., time=..., channels=None)
    if self.norm == "time_group":
      x = folding.unfold(x)  # statistics run over all of time
    shape = (self.kernel_size, x.shape[-1], self.features)
    init = nn.initializers.lecun_uniform()
    kernel = kernel_param(self, self.norm, shape, init, axis=2)
    bias = self.param(
      "bias", nn.initializers.zeros, (self.features,), jnp.float32
    )
    x = x.astype(self.dtype)
    steps: dict[str, Any] = dict(stride=self.stride, dilation=self.dilation)
    if streaming(self):
      y = conv(self._continued(x, lengths), kernel, **steps)
    else:
      y = padded_conv(
        x,
        kernel,
        causal=self.causal,
        pad_mode=self.pad_mode,
        lengths=lengths,
        **steps,
      )
    y = y + bias.astype(self.dtype)
    ends = None if lengths is None else frames(lengths, self.stride)
    if self.norm == "time_group":
      y = TimeGroupNorm(name="norm")(y, ends)
    return mask_after(y, ends)

  def _continued(self, x: jax.Array, lengths: Any) -> jax.Array:
    """Puts x after its context, and stores the context of the next piece."""
    left, _ = padding(self.kernel_size, self.stride, self.dilation, True)
    if left == 0 and self.stride == 1:
      return x
    batch, _, width = x.shape
    context = self.variable(
      STREAM, "context", jnp.zeros, (batch, left, width), x.dtype
    )
    seen = self.variable(STREAM, "seen", jnp.zeros, (batch,), bool)
    x = continue_clip(
      x,
      context.value,
      seen.value,
      lengths,
      stride=self.stride,
      pad_mode=self.pad_mode,
    )
    context.value = x[:, x.shape[1] - left :]
    seen.value = jnp.ones_like(seen.value)
    return x


class ConvTranspose(bounds.Checked, nn.Module):
  """Transposed convolution, normalisation and bias.

  Attributes:
    features: output channels.
    kernel_size: taps.
    stride: samples per input frame.
    causal: trims `trim_right_ratio` of the surplus on the right, else half.
    trim_right_ratio: with 1, output sample s * t + j depends on frames <= t.
    norm: "none", "weight" or "time_group", whose statistics include the samples
      that are trimmed afterwards, as in the public weights.
    dtype: compute dtype; parameters are float32.
  """

  features: Annotated[int, whole(1, 1 << 18)]
  kernel_size: Annotated[int, whole(1, 1 << 12)]
  stride: Annotated[int, whole(1, 1 << 12)]
  causal: Annotated[bool, flag()] = True
  trim_right_ratio: Annotated[float, number(0, 1)] = 1.0
  norm: Annotated[str, one_of(NORMS)] = "none"
  dtype: Annotated[Any, bounds.dtype(*bounds.FLOATS)] = jnp.float32

  @nn.compact
  def __call__(self, x: Signal, lengths: jax.Array | None = None) -> Signal:
    """Convolves x.

    Args:
      x: [batch, time, in], or folded; zero after `lengths`.
      lengths: [batch] valid frames, or None.

    Returns:
      [batch, time * stride, features], zero after lengths * stride; folded if
      x was, except with "time_group".
    """
    if self.norm == "time_group":
      x = folding.unfold(x)  # statistics run over all of time
    shape = (self.kernel_size, x.shape[-1], self.features)

    def init(key: jax.Array, shape: tuple[int, ...], dtype: Any) -> jax.Array:
      # kernel / stride taps meet in one output sample: variance 1 / fan in.
      fan_in = shape[1] * self.kernel_size / self.stride
      return jax.random.uniform(key, shape, dtype, -1) * (3 / fan_in) ** 0.5

    kernel = kernel_param(self, self.norm, shape, init, axis=1)
    bias = self.param(
      "bias", nn.initializers.zeros, (self.features,), jnp.float32
    )
    left, right = trimming(
      self.kernel_size, self.stride, self.causal, self.trim_right_ratio
    )
    surplus = self.kernel_size - self.stride
    x, ends = x.astype(self.dtype), None
    if lengths is not None:
      ends = lengths * self.stride
    if isinstance(x, Folded):
      y = folded_conv.conv_transpose(x, kernel, stride=self.stride, left=left)
      return mask_after(y + bias.astype(self.dtype), ends)
    if streaming(self):
      # Summed in float32 and rounded once, as for a clip in one piece.
      wide = jnp.float32
      y = conv_transpose(x, kernel, stride=self.stride, dtype=wide)
      overlap = self.variable(
        STREAM, "overlap", jnp.zeros, (len(y), surplus, y.shape[2]), wide
      )
      y = y.at[:, :surplus].add(overlap.value)
      overlap.value = y[:, y.shape[1] - surplus :]
      y = y.astype(self.dtype)
    else:
      y = conv_transpose(x, kernel, stride=self.stride)
    y = y + bias.astype(self.dtype)
    if self.norm == "time_group":
      y = TimeGroupNorm(name="norm")(
        y, None if ends is None else ends + surplus
      )
    return mask_after(y[:, left : y.shape[1] - right], ends)
