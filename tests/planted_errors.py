"""Errors that the checks of `mmdcodec selftest` have to find.

PLANTS are (check, module:name, what replaces it) for every run of the tests,
SLOW_PLANTS those of checks that take long.
"""

import jax
import jax.numpy as jnp
import numpy as np


def scaled(factor):
  """A function whose results are all a little too large."""

  def plant(function):
    def wrong(*args, **options):
      found = function(*args, **options)
      grow = lambda x: x * np.asarray(factor, x.dtype)
      return jax.tree.map(grow, found)

    return wrong

  return plant


def without(first, last, axis=1):
  """A function that leaves out a part of its result."""

  def plant(function):
    def wrong(*args, **options):
      def drop(x):
        at = np.arange(x.shape[axis])
        keep = (at < first) | (at >= last)
        return x * keep.reshape(-1, *(1,) * (x.ndim - 1 - axis)).astype(x.dtype)

      return jax.tree.map(drop, function(*args, **options))

    return wrong

  return plant


def given(factor, which=0):
  """A function that gets one of its arguments a little too large."""

  def plant(function):
    def wrong(*args, **options):
      args = list(args)
      args[which] = args[which] * factor
      return function(*args, **options)

    return wrong

  return plant


def set_to(value):
  return lambda _: value


def with_scale(function):
  """Attention with a wrong scale of its logits."""

  def wrong(q, *args, scale=None, **options):
    return function(q, *args, scale=1.01 * q.shape[-1] ** -0.5, **options)

  return wrong


def without_top_p(function):
  """Draws from codes that top p leaves out."""
  return lambda *args, top_p, **options: function(*args, top_p=None, **options)


def by_more(share):
  """A function with right results and gradients that are too large."""

  def plant(function):
    def wrong(*args, **options):
      grow = lambda x: (1 + share) * x - share * jax.lax.stop_gradient(x)
      return jax.tree.map(grow, function(*args, **options))

    return wrong

  return plant


steeper = by_more(0.001)


def a_frame_late(function):
  """Codes of the frame after theirs."""
  return lambda frames: function(np.minimum(frames + 1, frames.max()))


def without_tile(function):
  """A sweep that leaves out the pairs of the first two blocks."""

  def wrong(tile, blocks, zeros, weights=None, axis_name=None):
    count = len(blocks[0].z)
    kept = np.ones((count, count), np.float32)
    kept[0, 1] = kept[1, 0] = 0
    kept = jnp.asarray(kept)
    weights = kept if weights is None else weights * kept
    return function(tile, blocks, zeros, weights, axis_name)

  return wrong


def kept(factor):
  """A cache that changes what it keeps."""

  def plant(function):
    def wrong(held, new, sources):
      seen, stored = function(held, new, sources)
      return seen, factor * stored

    return wrong

  return plant


def one_less(function):
  """Indices that are one too small."""
  return lambda *args, **options: np.maximum(function(*args, **options) - 1, 0)


def all_seen(function):
  """A mask that hides nothing."""
  return lambda *args: np.ones_like(function(*args))


def all_valid(function):
  """Padding that counts."""
  return lambda *args: jnp.ones_like(function(*args))


def scaled_schedule(function):
  """A rate that is a little too high."""
  return lambda *args: lambda step: 1.001 * function(*args)(step)


grown = scaled(1.05)
PLANTS = [
  ("quantizer", "quantize.vector:nearest", given(1.05)),
  ("quantizer", "quantize.vector:embedding", scaled(1.001)),
  ("quantizer", "quantize.vector:statistics", without(0, 1, axis=0)),
  ("quantizer, training", "quantize.vector:straight_through", steeper),
  ("quantizer, training", "quantize.vector:straight_through", given(1.01, 1)),
  ("guidance", "generation.sampling:guide", given(1.01, 2)),
  ("k-means", "quantize.vector:statistics", without(3, 4, axis=0)),
  ("patterns", "patterns:Pattern.revert", lambda f: lambda s, t: f(s, t[::-1])),
  ("sampling", "generation.sampling:sample", None),
  ("sampling", "generation.sampling:sample", without_top_p),
  ("entropy coder", "bitstream.entropy:_BACKOFF", set_to(25)),
  ("convolution", "nn.conv:conv", scaled(1.001)),
  ("convolution", "nn.conv:conv", without(3, 4)),
  ("convolution", "nn.conv:conv", steeper),
  ("transposed convolution", "nn.conv:conv_transpose", steeper),
  ("transposed convolution", "nn.conv:conv_transpose", without(8, 12)),
  ("folded convolution", "nn.folded_conv:_between_rows", scaled(1.001)),
  ("folded convolution", "nn.folded_conv:_between_rows", steeper),
  ("LSTM", "nn.lstm:lstm", scaled(1.001)),
  ("LSTM", "nn.lstm:lstm", steeper),
  ("convolution over axes", "nn.conv_nd:grouped_conv", scaled(1.001)),
  ("convolution over axes", "nn.conv_nd:fold_strides", given(1.001, 1)),
  ("convolution over axes", "nn.conv_nd:_plain_conv", steeper),
  ("convolution over axes", "nn.conv_nd:_folded_conv", without(3, 4)),
  ("norms", "nn.norms:weight_norm", scaled(1.001)),
  ("norms", "nn.norms:time_group_norm", steeper),
  ("norms", "nn.norms:unit_vectors", scaled(1.001)),
  ("rotary positions", "nn.positions:rotate", scaled(1.001)),
  ("rotary positions", "nn.positions:rotate", given(1.001)),
  ("sinusoids", "nn.positions:sinusoids", scaled(1.001)),
  ("relative positions", "nn.positions:look_up", without(8, 12, axis=2)),
  ("relative positions", "nn.positions:relative_logits", steeper),
  ("attention", "nn.attention:attend", with_scale),
  ("attention", "nn.attention:attend", steeper),
  ("attention, bfloat16", "nn.attention:attend", scaled(1.05)),
  ("attention, bfloat16", "nn.attention:attend", by_more(0.05)),
  ("sliding attention", "nn.sliding:attend", without(11, 19)),
  ("sliding attention", "nn.sliding:attend", steeper),
  ("sliding attention, cached", "nn.ring:store", kept(1.01)),
  ("sliding attention, cached", "nn.ring:plan", None),
  ("conformer attention", "nn.conformer_attention:with_chunk_before", None),
  ("STFT", "audio.transforms:hann", scaled(1.001)),
  ("mel", "audio.transforms:mel_filters", scaled(1.001)),
  ("MDCT", "nn.mdct:dct_iv", scaled(1.001)),
  ("Griffin-Lim", "nn.griffin_lim:MOMENTUM", set_to(0.9)),
  ("independence loss", "quantize.tiles:gradients", scaled(1.001)),
  ("independence loss", "quantize.pairs:sweep", without_tile),
  (
    "independence loss of streams, mmd",
    "quantize.derivatives:reordered",
    lambda f: lambda z, order: f(z, order[::-1]),
  ),
  (
    "independence loss of streams, mmd",
    "quantize.rows:standardized",
    scaled(1.01),
  ),
  ("independence loss of streams, dhsic", "quantize.rows:_span", a_frame_late),
  (
    "independence loss of streams, dhsic",
    "quantize.rows:standardized",
    steeper,
  ),
  ("spectral losses", "losses.spectral:_frame_weight", without(5, 9, axis=2)),
  (
    "spectral losses",
    "losses.spectral:_nonempty_filters",
    without(3, 5, axis=0),
  ),
  ("adversarial losses", "losses.adversarial:_mean", scaled(1.001)),
  ("adversarial losses", "losses.adversarial:_mean", steeper),
  ("cross-entropy", "losses.cross_entropy:cross_entropy", steeper),
  ("contrastive losses", "losses.contrastive:contrastive", scaled(1.001)),
  ("losses of features", "losses.triplet:semi_hard", steeper),
  (
    "losses of features",
    "losses.contrastive_masked:unit_vectors",
    scaled(1.001),
  ),
  ("balancer", "losses.balancer:gradient_norm", given(1.001)),
  ("SoundStream", "models.seanet:elu", scaled(1.001)),
  ("training, updates", "train.optimizer:_decays", lambda f: lambda *a: True),
  ("training, updates", "train.optimizer:make_schedule", scaled_schedule),
  ("training, codec", "selftest.training:_losses", None),
  ("training, language model", "selftest.training:_losses", None),
]
SLOW_PLANTS = [
  ("splash attention", "nn.splash:_attend", without(256, 512)),
  ("splash attention", "nn.splash:_attend", steeper),
  (
    "independence loss, Pallas interpreter",
    "quantize.pallas_pairs:tiled",
    scaled(1.001),
  ),
  ("EnCodec", "nn.conv:continue_clip", scaled(1.01)),
  ("EnCodec", "nn.norms:weight_norm", scaled(1.001)),
  ("EnCodec, training", "nn.norms:weight_norm", steeper),
  ("spectral codec", "nn.convnext:mask_after", scaled(1.001)),
  ("spectral codec", "nn.mdct:imdct_piece", None),
  ("semantic tokenizer", "quantize.residual:encode", given(1.05)),
  ("language model, heads, drawing", "nn.cache:_put", given(1.05, 1)),
  ("language model, depth, drawing", "nn.cache:_put", given(1.05, 1)),
  ("language model, window, drawing", "nn.ring:plan", None),
  ("MusicLM, semantic stage", "nn.positions:look_up", scaled(1.01)),
  ("MusicLM, coarse stage", "models.token_conditions:length_mask", all_valid),
  ("MusicLM, fine stage", "models.token_lm:logits", scaled(1.01)),
  ("language model, heads, cached", "nn.cache:cross_keys", scaled(1.001)),
  ("language model, window, cached", "nn.ring:store", kept(1.01)),
  ("language model, heads, training", "models.token_lm:embed", scaled(1.001)),
  ("language model, depth, training", "nn.positions:look_up", scaled(1.01)),
  ("language model, window, training", "nn.positions:rotate", scaled(1.001)),
  ("joint tokenizer", "quantize.residual:encode", given(1.05)),
  ("melody tokenizer", "quantize.residual:encode", given(1.05)),
  ("stored outputs, semantic network", "models.semantic:mask_after", grown),
  ("stored outputs, w2v-BERT", "nn.positions:relative_logits", grown),
  ("stored outputs, HuBERT", "nn.attention:attend", grown),
  ("stored outputs, HuBERT, norms first", "nn.attention:attend", grown),
  ("stored outputs, MusicFM", "nn.positions:rotate", grown),
  ("stored outputs, joint embedding", "nn.attention:attend", grown),
  (
    "stored outputs, joint embedding, ResNet",
    "models.resnet:_halved",
    all_valid,
  ),
  ("stored outputs, melody embedding", "nn.attention:attend", grown),
  (
    "stored outputs, melody embedding, intervals",
    "models.intervals:intervals",
    without(2, 9, axis=2),
  ),
  ("stored outputs, CLAP", "models.htsat:shifted_mask", all_seen),
  ("stored outputs, T5", "nn.attention:attend", grown),
  (
    "stored outputs, T5, gated",
    "models.text_encoder:relative_buckets",
    one_less,
  ),
  ("stored outputs, musicnn", "models.musicnn:Affine.__call__", grown),
  ("stored outputs, discriminators", "models.wave_discriminators:halve", grown),
  ("stored outputs, stereo codec", "nn.norms:time_group_norm", grown),
  (
    "stored outputs, spectral codec of magnitudes",
    "nn.griffin_lim:MOMENTUM",
    set_to(0.9),
  ),
  ("stored outputs, conditions, text", "nn.attention:attend", grown),
  (
    "stored outputs, conditions, added",
    "models.conditioning:EncodedConditions.at",
    grown,
  ),
  (
    "independence loss, other kernels",
    "quantize.kernels:LaplacianKernel.roots",
    scaled(1.001),
  ),
  (
    "independence loss, several devices",
    "quantize.pairs:sweep",
    without_tile,
  ),
]


def hotter(function):
  def wrong(*args, temperature, **options):
    return function(*args, temperature=2 * temperature, **options)

  return wrong


def only_its_own(function):
  """Chunks without the one before."""

  def wrong(x, size):
    found = function(x, size)
    return found.at[:, :, :size].set(jnp.zeros((), found.dtype))

  return wrong


def late(function):
  """A piece whose overlap with the one before is lost."""

  def wrong(*args, overlap=None, **options):
    if overlap is not None:
      overlap = jax.tree.map(lambda x: 0.9 * x, overlap)
    return function(*args, overlap=overlap, **options)

  return wrong


def in_the_slot_before(function):
  """A ring in which a new token takes the slot of the one before it."""

  def wrong(*args):
    found = function(*args)
    return found.replace(slot=jnp.maximum(found.slot - 1, 0))

  return wrong


def apart(_):
  """Trainings whose second step has another gradient on several devices.

  Without the minutes that a training takes to compile.
  """

  def found(kind, devices):
    off = 0.006 * (len(devices) > 1)
    return [dict(loss=2.0, gradient_norm=3.0 + off * k) for k in range(2)]

  return found


SPECIAL = {"sample": hotter, "with_chunk_before": only_its_own}
SPECIAL |= {"_losses": apart}
SPECIAL |= {"imdct_piece": late, "plan": in_the_slot_before}
