# %% [markdown]
# # Independent codebooks
#
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/mmdcodec/mmdcodec/blob/main/colab/independence.ipynb)
#
# A language model that predicts the codes of several codebooks in one step
# takes them for independent. How far they are from that can be measured, and a
# codec can be trained to keep them so ([arXiv
# 2406.02315](https://arxiv.org/abs/2406.02315)). Here you measure it on your
# own codes, and put the loss into a loop of your own, with Linen, NNX or
# Equinox.

# %%
# Installs the library if it is missing: from the checkout that this notebook is
# in, or from its repository, with JAX for the GPU or TPU of the runtime.
# MMDCODEC_SIZE=tiny makes everything below as small as the tests need it, and
# MMDCODEC_CODEC, MMDCODEC_MUSIC and MMDCODEC_MUSICLM name other models.
import glob
import importlib.util
import os
import re
import shutil
import subprocess
import sys

REPOSITORY = "https://github.com/mmdcodec/mmdcodec"

if importlib.util.find_spec("mmdcodec") is None:
  jax = "jax"
  if shutil.which("nvidia-smi"):
    told = subprocess.run(["nvidia-smi"], capture_output=True, text=True).stdout
    cuda = re.search(r"CUDA Version: (\d+)", told)
    jax = f"jax[cuda{13 if cuda and int(cuda[1]) >= 13 else 12}]"
  elif glob.glob("/dev/accel*") or glob.glob("/dev/vfio/[0-9]*"):
    jax = "jax[tpu]"
  checkout = os.path.abspath("..")
  if os.path.exists(f"{checkout}/mmdcodec/bundle.py"):
    package = f"{checkout}[colab]"
  else:
    package = f"mmdcodec[colab] @ git+{REPOSITORY}"
  subprocess.check_call(
    [sys.executable, "-m", "pip", "install", "--quiet", package, jax]
  )

TINY = os.environ.get("MMDCODEC_SIZE") == "tiny"
CODEC = os.environ.get("MMDCODEC_CODEC", "small")
MUSIC = os.environ.get("MMDCODEC_MUSIC", "small_music")
MUSICLM = os.environ.get("MMDCODEC_MUSICLM", "small_musiclm")

# %%
import equinox as eqx
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax
from flax import linen as nn
from flax import nnx

from mmdcodec import bundle
from mmdcodec.audio import synth
from mmdcodec.evaluate import codebooks, dependence
from mmdcodec.generation import patterns
from mmdcodec.quantize.independence import (
  GaussianKernel,
  dhsic,
  independence_loss,
  mmd2,
)
from mmdcodec.quantize.residual import ResidualVectorQuantizer

# %% [markdown]
# ## MMD: are two samples from one distribution?
#
# `mmd2(x, y, kernel)` estimates the squared maximum mean discrepancy. It is 0
# in expectation if both samples have one distribution, and is not clamped, so
# an estimate may be negative.

# %%
ROWS = 256 if TINY else 2048
KERNEL = GaussianKernel((0.7, 1.5), relative=True)  # radii / median distance
keys = jax.random.split(jax.random.key(0), 4)
x, y = (jax.random.normal(key, (ROWS, 2)) for key in keys[:2])

shifts = [0.0, 0.25, 0.5, 1.0]
distance = jax.jit(lambda x, y: mmd2(x, y, KERNEL))
for shift in shifts:
  print(f"shift {shift:4.2f}: MMD^2 {distance(x, y + shift):8.5f}")

# %% [markdown]
# ## dHSIC: are K variables independent?
#
# `dhsic(streams, kernel)` compares the joint distribution of K vectors with
# the product of their marginals. `independence_loss` with `estimator="mmd"`
# does the same by permuting each codebook, as the paper does. Here a part of
# the second codebook is a copy of the first.

# %%
a, b = (jax.random.normal(key, (ROWS, 1, 4)) for key in keys[2:])
shares = np.linspace(0, 1, 5)


@jax.jit
def estimates(share):
  """Both estimates, and dHSIC by itself, where a share is copied."""
  streams = jnp.concatenate([a, share * a + (1 - share**2) ** 0.5 * b], axis=1)
  found = {
    name: independence_loss(
      streams[None],  # [batch, frames, codebooks, dim]
      jax.random.key(1),
      pattern=patterns.parallel(2),
      estimator=name,
      kernel=KERNEL,
    )
    for name in ("dhsic", "mmd")
  }
  return found, dhsic(streams, KERNEL)


rows = [estimates(share) for share in shares]
found = {name: [float(row[name]) for row, _ in rows] for name in rows[0][0]}
for name, values in found.items():
  print(name, np.round(values, 4))
print("dhsic by itself", np.round([float(each) for _, each in rows], 4))

figure, axis = plt.subplots(figsize=(5, 3))
for name, values in found.items():
  axis.plot(shares, values, "o-", label=name)
axis.set_xlabel("share of the first codebook in the second")
axis.set_ylabel("loss")
axis.legend()
plt.show()

# %% [markdown]
# ## Your own codes
#
# Kernel measures can be lowered by a loss without lowering what a language
# model loses, so dependence is reported by measures that no loss has seen:
# *total correlation*, the bits that a memoryless model loses for each frame
# when it takes the codes for independent (a small network predicts each code
# from those before it, on held-out clips), mutual information of pairs, and
# coded size. "aligned" is for the codes of one frame, "together" for those
# that one step of the delay pattern predicts.
#
# Put your own music in place of the built-in songs, minutes of it: with few
# frames the estimates are lower bounds, and say so.

# %%
codec = bundle.load_codec(CODEC)
SONGS, SECONDS = (4, 2.0) if TINY else (24, 10.0)
clips = np.stack(
  [
    synth.render(seed, seconds=SECONDS, rate=codec.rate).audio
    for seed in range(SONGS)
  ]
)
if codec.channels > 1:
  clips = np.repeat(clips, codec.channels, axis=2)
codes = codec.encode(clips)
print("codes", codes.shape)

# %%
measured = dependence.measure(
  codes,
  codec.codebook_sizes,
  pattern="delay",
  vectors=codebooks.vectors(codec),
)
for warning in measured.warnings:
  print("note:", warning)
summary = measured.summary()
print(f"entropy {summary['entropy']:.1f} bits a frame")
print(f"code use {summary['usage']:.0%}")
for rows in ("aligned", "together"):
  of = {
    name: round(summary[f"{rows}/{name}"], 4)
    for name in (
      "total_correlation",
      "total_correlation_error",
      "dhsic",
      "dhsic_null",
    )
  }
  print(f"{rows}: {of}")

# %%
figure, axes = plt.subplots(1, 2, figsize=(8, 3.4))
for axis, rows in zip(axes, ("aligned", "together")):
  image = axis.imshow(getattr(measured, rows).pairs.bits, cmap="magma", vmin=0)
  axis.set_title(f"{rows}: mutual information, bits")
  axis.set_xlabel("codebook")
  figure.colorbar(image, ax=axis)
plt.show()

# %% [markdown]
# ## The loss in your own loop
#
# `independence_loss` is a pure function of an array `[batch, frames,
# codebooks, dim]`, so it goes into any loop. The example is as small as can
# be: an encoder maps frames of 16 numbers to two vectors, and a decoder maps
# these back. The data have dependent parts, so without the loss the vectors
# are dependent.

# %%
STEPS = 30 if TINY else 400
BATCH, FRAMES, DIM = 4, 64, 8
WEIGHT = 10.0
mixing = jax.random.normal(jax.random.key(2), (6, 2 * DIM)) / 2.5


def batch_of(key):
  """Frames [batch, frames, 2 * DIM] of a few hidden causes, with some noise."""
  causes, noise = jax.random.split(key)
  hidden = jax.random.normal(causes, (BATCH, FRAMES, 6)) @ mixing
  return hidden + 0.3 * jax.random.normal(noise, hidden.shape)


def objective(streams, decoded, x, key, weight):
  """Error of the reconstruction, and dependence of the two vectors."""
  error = jnp.mean((decoded - x) ** 2)
  together = independence_loss(
    streams,
    key,
    pattern=patterns.parallel(2),  # what the language model predicts at once
    estimator="dhsic",
    kernel=KERNEL,
  )
  return error + weight * together, (error, together)


def show(title, curves):
  """Draws error and dependence, with the loss and without."""
  figure, axes = plt.subplots(1, 2, figsize=(8, 2.6))
  for name, rows in curves.items():
    for axis, values in zip(axes, np.array(rows).T):
      axis.plot(values, label=name)
  for axis, name in zip(axes, ("error", "dHSIC")):
    axis.set_title(f"{title}: {name}")
    axis.set_xlabel("step")
  axes[1].legend()
  plt.show()
  for name, rows in curves.items():
    error, together = np.mean(rows[-10:], axis=0)
    print(f"{title}, {name}: error {error:.3f}, dHSIC {together:.4f}")


# %% [markdown]
# ### Flax Linen and Optax

# %%
class LinenCoder(nn.Module):
  """Two vectors for each frame, and the frame made of them."""

  @nn.compact
  def __call__(self, x):
    hidden = nn.gelu(nn.Dense(32)(x))
    streams = nn.Dense(2 * DIM)(hidden).reshape(*x.shape[:2], 2, DIM)
    flat = streams.reshape(*x.shape[:2], -1)
    return streams, nn.Dense(x.shape[-1])(nn.gelu(nn.Dense(32)(flat)))


linen, optimizer = LinenCoder(), optax.adam(3e-3)


@jax.jit
def linen_step(params, state, key, weight):
  x = batch_of(key)

  def loss(params):
    return objective(*linen.apply(params, x), x, key, weight)

  (_, found), gradient = jax.value_and_grad(loss, has_aux=True)(params)
  updates, state = optimizer.update(gradient, state)
  return optax.apply_updates(params, updates), state, found


def train_linen(weight):
  params = linen.init(jax.random.key(0), batch_of(jax.random.key(1)))
  state, rows = optimizer.init(params), []
  for i in range(STEPS):
    params, state, found = linen_step(params, state, jax.random.key(i), weight)
    rows.append(found)
  return jax.device_get(rows)


show(
  "Linen",
  {"without": train_linen(0.0), "with the loss": train_linen(WEIGHT)},
)

# %% [markdown]
# ### Flax NNX

# %%
class NnxCoder(nnx.Module):
  """The same coder as an NNX module."""

  def __init__(self, rngs):
    size = 2 * DIM
    self.a = nnx.Linear(size, 32, rngs=rngs)
    self.b = nnx.Linear(32, size, rngs=rngs)
    self.c = nnx.Linear(size, 32, rngs=rngs)
    self.d = nnx.Linear(32, size, rngs=rngs)

  def __call__(self, x):
    flat = self.b(nnx.gelu(self.a(x)))
    return flat.reshape(*x.shape[:2], 2, DIM), self.d(nnx.gelu(self.c(flat)))


@nnx.jit
def nnx_step(model, optimizer, key, weight):
  x = batch_of(key)

  def loss(model):
    return objective(*model(x), x, key, weight)

  (_, found), gradient = nnx.value_and_grad(loss, has_aux=True)(model)
  optimizer.update(model, gradient)
  return found


def train_nnx(weight):
  model = NnxCoder(nnx.Rngs(0))
  optimizer = nnx.Optimizer(model, optax.adam(3e-3), wrt=nnx.Param)
  rows = [
    nnx_step(model, optimizer, jax.random.key(i), weight) for i in range(STEPS)
  ]
  return jax.device_get(rows)


show(
  "NNX",
  {"without": train_nnx(0.0), "with the loss": train_nnx(WEIGHT)},
)

# %% [markdown]
# ### Equinox

# %%
class EquinoxCoder(eqx.Module):
  """The same coder as an Equinox module."""

  encoder: eqx.nn.MLP
  decoder: eqx.nn.MLP

  def __init__(self, key):
    keys, size = jax.random.split(key), 2 * DIM
    self.encoder, self.decoder = (
      eqx.nn.MLP(size, size, 32, 1, jax.nn.gelu, key=each) for each in keys
    )

  def __call__(self, x):
    over_frames = lambda mlp: jax.vmap(jax.vmap(mlp))
    flat = over_frames(self.encoder)(x)
    return flat.reshape(*x.shape[:2], 2, DIM), over_frames(self.decoder)(flat)


@eqx.filter_jit
def equinox_step(model, state, key, weight):
  x = batch_of(key)

  def loss(model):
    return objective(*model(x), x, key, weight)

  (_, found), gradient = eqx.filter_value_and_grad(loss, has_aux=True)(model)
  updates, state = optimizer.update(gradient, state)
  return eqx.apply_updates(model, updates), state, found


def train_equinox(weight):
  model, rows = EquinoxCoder(jax.random.key(0)), []
  state = optimizer.init(eqx.filter(model, eqx.is_array))
  for i in range(STEPS):
    key = jax.random.key(i)
    model, state, found = equinox_step(model, state, key, jnp.float32(weight))
    rows.append(found)
  return jax.device_get(rows)


show(
  "Equinox",
  {"without": train_equinox(0.0), "with the loss": train_equinox(WEIGHT)},
)

# %% [markdown]
# ## With a quantizer
#
# In a codec the vectors are those of the chosen codes. `Quantized.streams` has
# them with the gradient of the encoder's output, and `pattern` says which
# codes one step of the language model predicts: for the delay pattern, frame t
# - k of codebook k.

# %%
quantizer = ResidualVectorQuantizer(codebooks=4, size=64, dim=DIM)
z = jax.random.normal(jax.random.key(3), (BATCH, FRAMES, DIM))
key = jax.random.key(4)
variables = quantizer.init(key, z)


def of_latents(z):
  out, _ = quantizer.apply(
    variables, z, train=True, rngs={"quantize": key}, mutable=["codebook"]
  )
  return independence_loss(
    out.streams, key, pattern=patterns.delay(4), kernel=KERNEL
  )


value, gradient = jax.jit(jax.value_and_grad(of_latents))(z)
print("loss", float(value))
print("gradient", gradient.shape, "norm", float(jnp.linalg.norm(gradient)))

# %% [markdown]
# A loss that is too strong lowers dependence by using fewer codes, which is no
# gain: always look at code use and entropy beside it. In a training of this
# library the loss is a block of the config:
#
# ```
# mmdcodec train --config=codec_small --workdir=runs/independent \
#     --config.data.train=data/music --config.losses.independence.weight=30
# ```
