"""Teaches a text encoder the words of captions, before it meets music.

A language model learns to ignore a text encoder that knows no words: for
thousands of steps its vectors are noise, and a clip of music shows its own
instruments after a few frames. So the encoder first learns to name the traits
of built-in songs from their captions alone, which takes minutes. MusicGen, for
the same reason, takes a T5 that was trained on other text.
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from mmdcodec.audio import song_captions, song_plan
from mmdcodec.models.text_condition import Text
from mmdcodec.models.text_encoder import T5Encoder

TRAITS = ("drums", "bass", "speed", "timbre", "chords", "mode", "beats")
CAPTIONS, SEED = 20_000, 7002
BATCH, LEARNING_RATE = 64, 2e-3


class Namer(nn.Module):
  """Names traits from the mean vector of a text.

  Attributes:
    encoder: fields of the T5Encoder.
    sizes: number of values of each trait.
  """

  encoder: Mapping[str, Any]
  sizes: tuple[int, ...]

  @nn.compact
  def __call__(self, tokens: jax.Array, lengths: jax.Array) -> list[jax.Array]:
    """Logits [batch, values] of each trait, from tokens [batch, bytes]."""
    mask = jnp.arange(tokens.shape[1]) < lengths[:, None]
    x = T5Encoder(**self.encoder, name="encoder")(tokens, mask)
    x = jnp.where(mask[..., None], x, 0).sum(1) / lengths[:, None]
    return [
      nn.Dense(size, name=name)(x)
      for name, size in zip(TRAITS, self.sizes, strict=True)
    ]


def learn(
  condition: Text, steps: int, log: Callable[[str], None]
) -> dict[str, Any]:
  """Trains the encoder of a text condition.

  Args:
    condition: the condition.
    steps: steps of BATCH captions.
    log: hears of the progress.

  Returns:
    Parameters of its T5Encoder.
  """
  texts, labels, sizes = captions()
  arrays = condition.arrays(texts, 0.0)
  model = Namer(condition.encoder, sizes)
  rng = np.random.default_rng(SEED)
  schedule = optax.warmup_cosine_decay_schedule(
    0.0, LEARNING_RATE, min(50, steps // 4), steps
  )
  optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(schedule))

  def loss(params: Any, x: Any, lengths: Any, y: Any) -> tuple[Any, Any]:
    logits = model.apply({"params": params}, x, lengths)
    nats = [
      optax.softmax_cross_entropy_with_integer_labels(z, y[:, i]).mean()
      for i, z in enumerate(logits)
    ]
    right = [(z.argmax(-1) == y[:, i]).mean() for i, z in enumerate(logits)]
    return sum(nats), jnp.stack(right)

  @jax.jit
  def step(params: Any, state: Any, *batch: Any) -> tuple:
    (_, right), grads = jax.value_and_grad(loss, has_aux=True)(params, *batch)
    updates, state = optimizer.update(grads, state, params)
    return optax.apply_updates(params, updates), state, right

  start = functools.partial(model.init, jax.random.key(SEED))
  params = jax.jit(start)(arrays["tokens"][:1], arrays["lengths"][:1])["params"]
  state = optimizer.init(params)
  for number in range(1, steps + 1):
    rows = rng.integers(0, len(texts), BATCH)
    batch = arrays["tokens"][rows], arrays["lengths"][rows], labels[rows]
    params, state, right = step(params, state, *batch)
    if number % 100 == 0 or number == steps:
      named = dict(zip(TRAITS, np.asarray(right), strict=True))
      log(", ".join(f"{k} {v:.0%}" for k, v in named.items()))
  return jax.device_get(params["encoder"])


def captions() -> tuple[list[str], np.ndarray, tuple[int, ...]]:
  """Captions of songs that nobody has to render.

  Returns:
    (texts, index of each trait's value [texts, traits], number of values of
    each trait).
  """
  texts, found = [], []
  for i, choices in enumerate(song_plan.balanced(SEED, CAPTIONS)):
    tags = {**song_plan.plan(SEED + i, choices), "seed": SEED + i}
    texts.append(song_captions.caption(tags))
    found.append([str(tags[trait]) for trait in TRAITS])
  columns = [
    np.unique(column, return_inverse=True)
    for column in zip(*found, strict=True)
  ]
  labels = np.stack([index for _, index in columns], 1)
  return texts, labels, tuple(len(values) for values, _ in columns)
