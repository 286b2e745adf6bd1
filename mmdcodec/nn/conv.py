"""One-dimensional convolutions whose lengths and edges are exact.

A convolution of stride s maps n samples to ceil(n / s) frames, a transposed
one maps n frames to n * s samples, whatever the kernel. Padding and trimming
follow the public EnCodec models (arXiv 2210.13438), so that their weights give
the same numbers:

  convolution  total = (kernel - 1) * dilation + 1 - stride samples of padding:
               all on the left when causal, else total // 2 on the right and
               the rest on the left; whatever is missing to a whole number of
               strides goes to the right.
  transposed   total = kernel - stride samples too many: causal removes
               ceil(total * trim_right_ratio) on the right, else total // 2 on
               the right, and the rest on the left.

`lengths` [batch] holds the valid samples (frames) of each example. With it the
edge of each example is treated where the example ends, not where the array
ends, and everything after the end is zero, so an example gives the same result
alone and in a batch. Every layer expects its input to be zero after the end
and returns such an output. Without `lengths` nothing is masked.

Inside `apply(..., mutable=[STREAM])` the layers take a clip in pieces: what a
causal layer needs of the pieces before is in the collection STREAM, see
`mmdcodec.models.streaming`.

Which form is fast was measured on 2 CPU cores, by hand; no command repeats it.
Convolutions, also strided, are XLA's: sums of shifted matmuls, im2col and
folding time into channels take 1.5 to 5 times as long for single layers of
stride 1, and with rows of whole strides the whole encoder of `encodec_24khz`
takes 1.05 to 1.1 times. Transposed ones are matmuls: as convolutions of two
taps they decode in 0.87 of the time, but a training step of `codec_small` takes
3 times as long, for the gradient of so wide a kernel; `lax.conv_transpose`
takes 15 to 25 times. On TPUs the narrow layers are given `fold.Folded` signals,
see `mmdcodec.nn.fold`.
"""

import math
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from mmdcodec.nn import fold
from mmdcodec.nn.mirror import continued, reflect, reflect_at

PAD_MODES = ("constant", "reflect")
NORMS = ("none", "weight", "time_group")
STREAM = "stream"


def frames(samples, stride: int):
  """Number of strided frames that cover `samples`: ceil(samples / stride).

  Args:
    samples: int or integer array.
    stride: samples per frame.
  """
  return -(-samples // stride)


def length_mask(lengths: jax.Array, size: int) -> jax.Array:
  """True where an example is valid: lengths [batch] -> bool [batch, size]."""
  return jnp.arange(size) < lengths[:, None]


def mask_after(x: jax.Array, lengths: jax.Array | None) -> jax.Array:
  """Zeroes x [batch, time, channels] from `lengths` on (None: unchanged)."""
  if isinstance(x, fold.Folded):
    return fold.mask_after(x, lengths)
  if lengths is None:
    return x
  return jnp.where(length_mask(lengths, x.shape[1])[..., None], x, 0)


def padding(
  kernel: int, stride: int, dilation: int, causal: bool
) -> tuple[int, int]:
  """Samples of padding (left, right), before filling up the last stride.

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
    dtype: of the result; that of x by default.

  Returns:
    [batch, (time + sum(pad) - (taps - 1) * dilation - 1) // stride + 1, out].
  """
  return lax.conv_general_dilated(
    x,
    kernel.astype(x.dtype),
    (stride,),
    [pad],
    rhs_dilation=(dilation,),
    dimension_numbers=fold.LAYOUTS[1],
    preferred_element_type=dtype,
  )


def padded_conv(
  x: jax.Array,
  kernel: jax.Array,
  *,
  stride: int = 1,
  dilation: int = 1,
  causal: bool = True,
  pad_mode: str = "constant",
  lengths: jax.Array | None = None,
) -> jax.Array:
  """Convolution to ceil(time / stride) frames (see the head of this file).

  Args:
    x: [batch, time, in]; zero after `lengths`.
    kernel: [taps, in, out].
    stride: samples per frame.
    dilation: step of the taps in samples.
    causal: frame t sees no sample after the last one of its stride.
    pad_mode: "constant" (zeros) or "reflect".
    lengths: [batch] valid samples, or None.

  Returns:
    [batch, ceil(time / stride), out]; after an example's end not yet zero.
  """
  time = x.shape[1]
  left, right = padding(kernel.shape[0], stride, dilation, causal)
  extra = frames(time, stride) * stride - time
  options = dict(stride=stride, dilation=dilation)
  folded = isinstance(x, fold.Folded)
  if pad_mode == "constant":
    if folded:
      return fold.conv(x, kernel, left=left, **options)
    return conv(x, kernel, pad=(left, right + extra), **options)
  if folded:
    whole = stride == 1 or (lengths is None and not extra)
    if causal and whole and time > left:
      # Only the start has a mirror.
      return fold.conv(x, kernel, left=left, mirror=True, **options)
    factor, x = x.factor, fold.unfold(x)
  if lengths is None:
    x = reflect(x, left, right + extra)
  else:
    rights = right + frames(lengths, stride) * stride - lengths
    x = reflect_at(x, left, rights, lengths, right + stride - 1)
    x = x[:, : left + time + right + extra]
  if folded:
    y = fold.conv(fold.fold(x, factor), kernel, **options)
    return y.first(frames(time, stride))
  return conv(x, kernel, **options)


def conv_transpose(
  x: jax.Array, kernel: jax.Array, *, stride: int, dtype: Any = None
) -> jax.Array:
  """Transposed convolution y[s * t + j] += x[t] @ kernel[j], nothing cut.

  Polyphase: an output frame is one stride of samples, and one matmul gives it
  from the input frames that reach it, side by side: two for taps = 2 * stride.

  Args:
    x: [batch, time, in].
    kernel: [taps, in, out].
    stride: samples between input frames.
    dtype: of the result; that of x by default.

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
  x = [jnp.pad(x, ((0, 0), pad, (0, 0))) for pad in around]
  y = jnp.matmul(jnp.concatenate(x, -1), matrix, preferred_element_type=dtype)
  y = y.reshape(batch, -1, out)
  return y[:, : y.shape[1] - short] if short else y


def weight_norm(g: jax.Array, v: jax.Array, axis: int) -> jax.Array:
  """Kernel g * v / ||v||, the norm over all axes of v but `axis`.

  Salimans and Kingma 2016 (arXiv 1602.07868). The public weights have one g
  per output channel in a convolution (axis 2 of [taps, in, out]), but one per
  input channel in a transposed one (axis 1).
  """
  others = tuple(i for i in range(v.ndim) if i != axis)
  norm = jnp.sqrt(jnp.sum(v * v, others, keepdims=True))
  return v * (jnp.expand_dims(g, others) / norm)


def time_group_norm(
  x: jax.Array,
  scale: jax.Array,
  bias: jax.Array,
  lengths: jax.Array | None = None,
  epsilon: float = 1e-5,
) -> jax.Array:
  """Normalises each example over time and channels together, in float32.

  The GroupNorm with one group of the 48 kHz EnCodec.

  Args:
    x: [batch, time, channels].
    scale: [channels].
    bias: [channels].
    lengths: [batch] valid steps that the statistics are taken over, or None.
    epsilon: added to the variance.
  """
  wide = x.astype(jnp.float32)
  where = count = None
  if lengths is not None:
    where = length_mask(lengths, x.shape[1])[..., None]
    count = jnp.maximum(lengths, 1)[:, None, None] * x.shape[2]

  def mean(values):
    if where is None:
      return jnp.mean(values, (1, 2), keepdims=True)
    return jnp.sum(jnp.where(where, values, 0), (1, 2), keepdims=True) / count

  wide = wide - mean(wide)
  wide = wide * lax.rsqrt(mean(wide * wide) + epsilon)
  return (wide * scale + bias).astype(x.dtype)


class TimeGroupNorm(nn.Module):
  """Holds scale and bias of `time_group_norm`."""

  @nn.compact
  def __call__(self, x, lengths=None):
    """[batch, time, channels] -> the same shape."""
    scale = self.param("scale", nn.initializers.ones, x.shape[-1:])
    bias = self.param("bias", nn.initializers.zeros, x.shape[-1:])
    return time_group_norm(x, scale, bias, lengths)


def _kernel(module: nn.Module, shape, init: Callable, axis: int) -> jax.Array:
  """The kernel of a layer: one parameter, or g and v under weight norm."""
  if module.norm not in NORMS:
    raise ValueError(f"norm must be one of {NORMS}, not {module.norm!r}")
  if module.norm != "weight":
    return module.param("kernel", init, shape)
  v = module.param("v", init, shape)
  others = tuple(i for i in range(3) if i != axis)
  # g starts as the norm of v, so that the kernel starts as v.
  g = module.param("g", lambda _: jnp.sqrt(jnp.sum(v * v, others)))
  return weight_norm(g, v, axis)


def streaming(module: nn.Module) -> bool:
  """True where the module shall keep its state in the collection STREAM."""
  mutable = module.is_mutable_collection(STREAM)
  return mutable and not module.is_initializing()


class Conv(nn.Module):
  """Convolution, normalisation and bias; [batch, time, in] -> [.., features].

  Attributes:
    features: output channels.
    kernel_size: taps.
    stride: samples per output frame.
    dilation: step of the taps.
    causal: pad on the left only.
    pad_mode: "constant" or "reflect".
    norm: "none", "weight" or "time_group".
    dtype: dtype of the computation; parameters are float32.
  """

  features: int
  kernel_size: int
  stride: int = 1
  dilation: int = 1
  causal: bool = True
  pad_mode: str = "constant"
  norm: str = "none"
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x, lengths=None):
    """Returns ceil(time / stride) frames, zero after ceil(lengths / stride)."""
    if self.pad_mode not in PAD_MODES:
      raise ValueError(f"pad_mode must be one of {PAD_MODES}")
    if self.norm == "time_group":
      x = fold.unfold(x)  # its statistics are over all of time
    shape = (self.kernel_size, x.shape[-1], self.features)
    kernel = _kernel(self, shape, nn.initializers.lecun_uniform(), 2)
    bias = self.param("bias", nn.initializers.zeros, (self.features,))
    x = x.astype(self.dtype)
    steps = dict(stride=self.stride, dilation=self.dilation)
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

  def _continued(self, x, lengths):
    """Puts x after its context, and keeps that of the next piece."""
    left, _ = padding(self.kernel_size, self.stride, self.dilation, True)
    if left == 0 and self.stride == 1:
      return x
    batch, _, width = x.shape
    context = self.variable(
      STREAM, "context", jnp.zeros, (batch, left, width), x.dtype
    )
    seen = self.variable(STREAM, "seen", jnp.zeros, (batch,), bool)
    x = continued(
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


class ConvTranspose(nn.Module):
  """Transposed convolution; [batch, time, in] -> [batch, time * stride, ..].

  Attributes:
    features: output channels.
    kernel_size: taps.
    stride: samples per input frame.
    causal: cut `trim_right_ratio` of the surplus on the right, else half.
    trim_right_ratio: 1 makes output sample s * t + j depend on frames <= t.
    norm: "none", "weight" or "time_group" (whose statistics include what is
      cut afterwards, as in the public weights).
    dtype: dtype of the computation; parameters are float32.
  """

  features: int
  kernel_size: int
  stride: int
  causal: bool = True
  trim_right_ratio: float = 1.0
  norm: str = "none"
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x, lengths=None):
    """Returns time * stride samples, zero after lengths * stride."""
    if self.norm == "time_group":
      x = fold.unfold(x)  # its statistics are over all of time
    shape = (self.kernel_size, x.shape[-1], self.features)

    def init(key, shape):
      # kernel / stride taps meet in one output sample: variance 1 / fan in.
      fan_in = shape[1] * self.kernel_size / self.stride
      return jax.random.uniform(key, shape, minval=-1) * (3 / fan_in) ** 0.5

    kernel = _kernel(self, shape, init, 1)
    bias = self.param("bias", nn.initializers.zeros, (self.features,))
    left, right = trimming(
      self.kernel_size, self.stride, self.causal, self.trim_right_ratio
    )
    surplus = self.kernel_size - self.stride
    x, ends = x.astype(self.dtype), None
    if lengths is not None:
      ends = lengths * self.stride
    if isinstance(x, fold.Folded):
      y = fold.conv_transpose(x, kernel, stride=self.stride, left=left)
      return mask_after(y + bias.astype(self.dtype), ends)
    if streaming(self):
      # A clip in one piece is summed in float32 and rounded once: so is this.
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
