"""Maps embeddings of texts to embeddings of the kind that audio has.

On the unit sphere of a joint embedding, texts and audio lie in different
regions (Liang et al. 2022, arXiv 2203.02053), so codebooks fitted to audio do
not suit texts. Two remedies, both fitted to pairs after training:

  shift    a text moves by the difference of the two means, back to the sphere;
  mapper   a small network that adds what it has learned to the text's vector.
           It starts as the identity, and of all steps that one is kept whose
           outputs are nearest to the audio of pairs it did not learn from.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from mmdcodec.nn.norms import unit_vectors

# Hidden units of the mapper per dimension.
WIDER = 4
# Steps of a fit, and of each part of it that ends with a measurement.
STEPS, PART, BATCH = 2000, 100, 256
# Of all clips, those whose pairs choose the step.
HELD_OUT = 0.1
# With fewer clips there is nothing to learn from.
FEWEST = 20


class Fit(NamedTuple):
  """A fitted mapper.

  Attributes:
    params: see `apply`.
    before: mean cosine of held-out texts with their audio, without it.
    after: the same with it.
    step: step that was kept; 0 is the identity.
  """

  params: dict[str, Any]
  before: float
  after: float
  step: int


def shift(text: jax.Array, means: Mapping[str, jax.Array]) -> jax.Array:
  """Moves texts by the gap between the means.

  Args:
    text: float32 [..., dim].
    means: "text" and "audio" [dim].

  Returns:
    float32 [..., dim] of norm 1.
  """
  return unit_vectors(text - means["text"] + means["audio"])


def init(key: jax.Array, dim: int) -> dict[str, Any]:
  """Parameters of a mapper that changes nothing."""
  hidden = WIDER * dim
  zeros = lambda *shape: jnp.zeros(shape, jnp.float32)
  # The input has norm 1, so each hidden unit varies by about 1.
  inner = jax.random.normal(key, (dim, hidden), jnp.float32)
  return {
    "inner": {"kernel": inner, "bias": zeros(hidden)},
    "outer": {"kernel": zeros(hidden, dim), "bias": zeros(dim)},
  }


def apply(params: Mapping[str, Any], text: jax.Array) -> jax.Array:
  """Maps embeddings of texts.

  Args:
    params: "inner" and "outer", each with "kernel" and "bias".
    text: float32 [..., dim].

  Returns:
    float32 [..., dim] of norm 1.
  """
  inner, outer = params["inner"], params["outer"]
  y = jax.nn.gelu(text @ inner["kernel"] + inner["bias"])
  return unit_vectors(text + y @ outer["kernel"] + outer["bias"])


def fit(key: jax.Array, text: Any, audio: Any) -> Fit:
  """Fits a mapper to pairs, by 1 - cosine.

  Args:
    key: random key.
    text: [pairs, dim] of norm 1.
    audio: [pairs, dim] of norm 1, of the same clips; equal for several texts of
      one clip, which are all held out or none.

  Returns:
    The mapper of the best step; the identity if there are fewer than `FEWEST`
    clips or nothing is better.
  """
  text, audio = (np.asarray(x, np.float32) for x in (text, audio))
  start_key, order_key, key = jax.random.split(key, 3)
  params = init(start_key, text.shape[1])
  clips, clip = np.unique(audio, axis=0, return_inverse=True)
  place = np.asarray(jax.random.permutation(order_key, len(clips)))
  judges = place[clip.reshape(-1)] < max(1, round(HELD_OUT * len(clips)))
  held, rest = np.flatnonzero(judges), np.flatnonzero(~judges)
  learned = jnp.asarray(text[rest]), jnp.asarray(audio[rest])
  judged = jnp.asarray(text[held]), jnp.asarray(audio[held])
  optimizer = optax.adamw(
    optax.cosine_decay_schedule(1e-3, STEPS), weight_decay=1e-3
  )

  def loss(params: Any, at: jax.Array) -> jax.Array:
    mapped = apply(params, learned[0][at])
    return 1 - jnp.mean(jnp.sum(mapped * learned[1][at], -1))

  def step(carry: tuple[Any, Any], key: jax.Array) -> tuple[Any, None]:
    params, state = carry
    at = jax.random.randint(key, (BATCH,), 0, len(rest), jnp.int32)
    updates, state = optimizer.update(jax.grad(loss)(params, at), state, params)
    return (optax.apply_updates(params, updates), state), None

  @jax.jit
  def part(params: Any, state: Any, key: jax.Array) -> tuple[Any, Any]:
    keys = jax.random.split(key, PART)
    return jax.lax.scan(step, (params, state), keys)[0]

  @jax.jit
  def judge(params: Any) -> jax.Array:
    return jnp.mean(jnp.sum(apply(params, judged[0]) * judged[1], -1))

  before = float(judge(params))
  best = Fit(jax.device_get(params), before, before, 0)
  if len(clips) < FEWEST:
    return best
  state = optimizer.init(params)
  for i in range(STEPS // PART):
    params, state = part(params, state, jax.random.fold_in(key, i))
    found = float(judge(params))
    if found > best.after:
      best = Fit(jax.device_get(params), before, found, (i + 1) * PART)
  return best
