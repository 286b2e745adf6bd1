"""A small residual quantizer, its steps and its inputs, for tests."""

import functools

import jax
import numpy as np

from mmdcodec.quantize.residual import ResidualVectorQuantizer


@functools.partial(jax.jit, static_argnums=0)
def train(module, variables, z, key, mask=None):
  return module.apply(
    variables,
    z,
    mask,
    train=True,
    mutable=["codebook"],
    rngs={"quantize": key},
  )


@functools.partial(jax.jit, static_argnums=0)
def evaluate(module, variables, z, mask=None):
  return module.apply(variables, z, mask)


@functools.partial(jax.jit, static_argnums=0)
def initial(module, z):
  return module.init(jax.random.key(0), z)


def embed(variables):
  state = variables["codebook"]
  return np.asarray(state["sum"] / state["count"][..., None])


def small(**changes):
  options = dict(codebooks=3, size=32, dim=8, kmeans_iterations=0)
  return ResidualVectorQuantizer(**options | changes)


def latents(seed, shape=(4, 40, 8)):
  """Correlated vectors with a mean, not white noise around zero."""
  mix = np.random.default_rng(0).normal(size=(shape[-1], shape[-1]))
  z = np.random.default_rng(seed + 1).normal(size=shape) @ mix + 0.5
  return z.astype(np.float32)
