"""The language model, at once and token by token.

Must catch: another function than the papers', in any of its forms; a token that
sees those after it; a cache that is not what teacher forcing sees; padding that
is seen; sizes that are not the published ones.
"""

import dataclasses
import functools

import flax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from random_music import random_params

from mmdcodec import platform
from mmdcodec.errors import UserError
from mmdcodec.models import conditioning, token_lm
from mmdcodec.models.conditioning import EncodedConditions
from mmdcodec.nn import attention, cache, positions
from mmdcodec.nn.transformer import Transformer

FORMS = {
  "sinusoidal": dict(positions="sinusoidal"),
  "rotary": dict(positions="rotary", qk_norm=True, kv_heads=2, heads=4),
  "relative": dict(positions="relative", activation="relu", kv_heads=1),
  "gated": dict(positions="relative", activation="geglu"),
}
MELODY = dict(classes=12, frames=5, rate=8000, window=512, hop=128)


def make(**changes):
  """A tiny model with random parameters."""
  model = token_lm.from_config(token_lm.preset("tiny", **changes))
  return model, random_params(model)


def codes(model, batch, steps, seed=0):
  random = np.random.default_rng(seed)
  return random.integers(0, model.special + 1, (batch, steps, model.codebooks))


def some_conditions(model, batch, length=4, seed=1):
  """Vectors, of which each item sees fewer than the one before."""
  random = np.random.default_rng(seed)
  x = random.normal(size=(batch, length, model.width)).astype(np.float32)
  mask = np.arange(length) < (length - np.arange(batch))[:, None]
  return (
    EncodedConditions(states=x, states_mask=mask)
    if model.cross
    else EncodedConditions(prefix=x, prefix_mask=mask)
  )


def reference(model, params, tokens, conditions):
  """Logits of one item in float64, in loops, straight from the papers."""
  p = jax.tree.map(np.float64, params)
  heads, width = model.heads, model.width
  size, shared = width // heads, heads // (model.kv_heads or heads)
  t = p["transformer"]

  def norm(x, w):
    x = x - x.mean(-1, keepdims=True)
    return (
      x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-5) * w["scale"]
      + (w["bias"])
    )

  def unit(x, w):
    return x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-6) * w["scale"]

  def turn(x, at):
    half = size // 2
    for i in range(half):
      c = (x[i] + 1j * x[i + half]) * np.exp(1j * at * 10_000.0 ** (-i / half))
      x[i], x[i + half] = c.real, c.imag
    return x

  def attention(x, states, w, causal, repeat, place):
    q = np.einsum("tw,whd->thd", x, w["query"]["kernel"])
    k = np.einsum("tw,whd->thd", states, w["key"]["kernel"])
    v = np.einsum("tw,whd->thd", states, w["value"]["kernel"])
    if model.qk_norm:
      q, k = unit(q, w["query_norm"]), unit(k, w["key_norm"])
    out = np.zeros((len(x), heads, size))
    for i in range(len(x)):
      for h in range(heads):
        seen = range(i + 1) if causal else range(len(states))
        a = q[i, h].copy()
        keys = [k[j, h // repeat].copy() for j in seen]
        if place and model.positions == "rotary":
          a = turn(a, i)
          keys = [turn(b, j) for b, j in zip(keys, seen, strict=True)]
        scores = np.array([a @ b for b in keys]) / np.sqrt(size)
        if place and model.positions == "relative":
          scores += [t["distance_bias"][bucket(i - j)][h] for j in seen]
        share = np.exp(scores - scores.max())
        share /= share.sum()
        out[i, h] = sum(
          s * v[j, h // repeat] for s, j in zip(share, seen, strict=True)
        )
    return np.einsum("thd,hdw->tw", out, w["out"]["kernel"])

  def bucket(away):
    if away < 16:
      return away
    return min(31, 16 + int(np.log(away / 16) / np.log(128 / 16) * 16))

  x = sum(p["embedding"][k][tokens[:, k]] for k in range(model.codebooks))
  before = 0
  if conditions.prefix is not None:
    x = np.concatenate([conditions.prefix, x])
    before = len(conditions.prefix)
  if model.positions == "sinusoidal":
    half = width // 2
    angle = np.arange(len(x))[:, None] * 10_000.0 ** (
      -np.arange(half) / (half - 1)
    )
    x = x + np.concatenate([np.cos(angle), np.sin(angle)], -1)
  from scipy.special import erf

  gelu = lambda x: x * (1 + erf(x / np.sqrt(2))) / 2
  act = {"relu": lambda x: np.maximum(x, 0)}.get(model.activation, gelu)
  for i in range(model.layers):
    b = jax.tree.map(lambda a, i=i: a[i], t["blocks"])
    y = norm(x, b["attention_norm"])
    x = x + attention(y, y, b["attention"], True, shared, True)
    if conditions.states is not None:
      y = norm(x, b["cross_norm"])
      w, states = b["cross_attention"], conditions.states
      x = x + attention(y, states, w, False, 1, False)
    y = norm(x, b["feed_norm"])
    inner = y @ b["inner"]["kernel"]
    if model.activation == "geglu":
      inner = act(y @ b["gate"]["kernel"]) * inner
    else:
      inner = act(inner)
    x = x + inner @ b["outer"]["kernel"]
  x = norm(x, t["norm"])[before:]
  return np.einsum("sw,kwv->skv", x, p["head"])


@pytest.mark.parametrize("cross", (True, False))
@pytest.mark.parametrize("form", FORMS)
def test_the_function(form, cross, compile_fast):
  """Catches any difference in structure, also in what padding does."""
  model, params = make(**FORMS[form], cross=cross, conditions={})
  tokens = codes(model, 2, 20)
  conditions = some_conditions(model, 2)
  found = jax.jit(model.apply)({"params": params}, tokens, encoded=conditions)
  for i in range(2):
    # Alone, and without what pads it.
    alone = jax.tree.map(lambda a, i=i: a[i, : 4 - i], conditions)
    want = reference(model, params, tokens[i], alone)
    np.testing.assert_allclose(
      found[i], want, atol=2e-5 * np.abs(want).max(), rtol=0
    )


# By default every pair of two settings, with --slow all three.
@pytest.mark.parametrize(
  "form, cross, apart",
  [
    # Every two of the three together.
    ("sinusoidal", True, False),
    ("sinusoidal", False, True),
    ("rotary", True, True),
    ("rotary", False, False),
    ("relative", True, False),
    ("relative", False, True),
    pytest.param("gated", True, True, marks=pytest.mark.slow),
    ("gated", False, False),
  ],
)
def test_with_a_cache(form, cross, apart, compile_fast):
  """Catches places, masks or biases that are not those of teacher forcing."""
  model, params = make(**FORMS[form], cross=cross, conditions={})
  tokens, conditions = codes(model, 3, 12), some_conditions(model, 3)
  want = jax.jit(model.apply)({"params": params}, tokens, encoded=conditions)
  transformer = Transformer(**model.transformer_fields())
  own = params["transformer"]
  own = cache.by_block(own, model.layers) if apart else own
  x = token_lm.embed(tokens, params["embedding"])
  valid = np.ones((1, 12), bool)
  crosses, before = None, 0
  if cross:
    crosses = cache.cross_keys(
      transformer, own, conditions.states, conditions.states_mask
    )
  else:
    before = 4
    x = jnp.concatenate([conditions.prefix, x], axis=1)
    valid = np.pad(
      conditions.prefix_mask, ((0, 0), (0, 12)), constant_values=True
    )
  place = np.maximum(np.cumsum(valid, axis=1) - 1, 0)

  @jax.jit
  def run(own, crosses):
    held = cache.empty(transformer, own, 3, before + 12 + 5)
    room = lambda a, fill: jnp.pad(a, ((0, 0), (0, 5)), constant_values=fill)
    out, at = [], 0
    for count in (before + 3, 1, 1, 4, 1, 1, 1):
      y, held = cache.extend(
        transformer, own, x[:, at : at + count], held, jnp.int32(at),
        place[:, at : at + count], room(valid, True), room(place, 99), crosses,
      )  # fmt: skip
      out.append(y)
      at += count
    return jnp.concatenate(out, axis=1)[:, before:]

  found = token_lm.logits(
    run(own, crosses), params["head"], model.codebooks, jnp.dtype(model.dtype)
  )
  np.testing.assert_allclose(
    found, want, atol=1e-5 * np.abs(want).max(), rtol=0
  )


@pytest.mark.parametrize("kv_heads", (1, 2, 4))
def test_merged_heads_change_nothing(kv_heads):
  """Catches heads, masks or biases that go to other rows."""
  random = np.random.default_rng(0)
  draw = lambda *shape: random.standard_normal(shape).astype(np.float32)
  q, k, v = draw(3, 2, 4, 8), draw(3, 5, kv_heads, 8), draw(3, 5, kv_heads, 8)
  mask = random.random((3, 1, 2, 5)) > 0.4
  mask[1, 0, 1] = False  # sees nothing
  for options in ({}, {"mask": mask}, {"mask": mask, "bias": draw(1, 4, 2, 5)}):
    want = attention.attend(q, k, v, **options)
    merged = attention.merge_heads(k), attention.merge_heads(v)
    found = attention.attend(q, *merged, **options)
    np.testing.assert_allclose(found, want, atol=1e-6)


def test_no_step_sees_those_after_it(compile_fast):
  """Catches a mask that is off by one: by the gradient, in every form."""
  for cross in (True, False):
    model, params = make(cross=cross, conditions={})
    conditions = some_conditions(model, 1)

    def at(x, step, model=model, params=params, conditions=conditions):
      # The Transformer's part of `__call__`, from vectors on.
      before = 0
      if conditions.prefix is not None:
        x = jnp.concatenate([conditions.prefix, x], axis=1)
        before = 4
      y = Transformer(**model.transformer_fields()).apply(
        {"params": params["transformer"]},
        x,
        states=conditions.states,
        states_mask=conditions.states_mask,
      )
      return y[0, before + step].sum()

    x = np.random.default_rng(0).normal(size=(1, 8, model.width))
    slope_of = jax.jit(jax.grad(at))
    for step in (0, 3, 7):
      slope = np.abs(slope_of(x.astype(np.float32), step)[0]).max(-1)
      assert (slope[: step + 1] > 0).all() and not slope[step + 1 :].any()


@pytest.mark.parametrize(
  "remat", ("full", pytest.param("dots", marks=pytest.mark.slow))
)
def test_recomputing_changes_nothing(remat, compile_fast):
  """Catches a policy that drops what it needs, and dropout drawn twice."""
  model, params = make(conditions={}, dropout=0.2)
  tokens, conditions = codes(model, 2, 6), some_conditions(model, 2)

  def gradient(model):
    def loss(params):
      y = model.apply(
        {"params": params}, tokens, encoded=conditions, train=True,
        rngs={"dropout": jax.random.key(3)},
      )  # fmt: skip
      return (jax.nn.log_softmax(y)[..., 0]).mean()

    return jax.jit(jax.grad(loss))(params)

  plain = gradient(model)
  again = gradient(dataclasses.replace(model, remat=remat))
  for a, b in zip(jax.tree.leaves(plain), jax.tree.leaves(again), strict=True):
    np.testing.assert_allclose(a, b, atol=1e-6)


def test_dropout_acts_in_training_alone(compile_fast):
  """Catches dropout that is left out, or that evaluation has too."""
  model, params = make(conditions={}, dropout=0.5)
  tokens, conditions = codes(model, 1, 4), some_conditions(model, 1)

  @functools.partial(jax.jit, static_argnames="train")
  def run(key, train=False):
    return model.apply(
      {"params": params}, tokens, encoded=conditions, train=train,
      rngs={"dropout": jax.random.key(key)},
    )  # fmt: skip

  assert np.any(run(0, train=True) != run(1, train=True))
  np.testing.assert_array_equal(run(0), run(1))


def test_bfloat16_is_near(compile_fast):
  """Catches a type that is not passed on, or norms that are not float32."""
  model, params = make(conditions={})
  tokens, conditions = codes(model, 2, 8), some_conditions(model, 2)
  run = lambda model: jax.jit(model.apply)(
    {"params": params}, tokens, encoded=conditions
  )
  want, found = run(model), run(dataclasses.replace(model, dtype="bfloat16"))
  assert found.dtype == jnp.float32
  error = np.abs(found - want).max() / np.abs(want).max()
  assert 1e-5 < error < 0.05


def count(tree):
  return sum(leaf.size for leaf in jax.tree.leaves(tree))


@pytest.mark.parametrize(
  "name, millions",
  # Of the public files: all, less the codec's 56.885 M.
  (("musicgen_small", 586.9 - 56.885), ("musicgen_melody", 1552.1 - 56.885)),
)
def test_the_published_sizes(name, millions):
  """Catches a layer, a head or a projection more or less."""
  model = token_lm.from_config(token_lm.preset(name))
  assert abs(count(token_lm.shapes(model)) / 1e6 - millions) < 0.06


def test_what_a_condition_reaches(compile_fast):
  """Catches an empty text that is not empty, and one item's in another's."""
  text = token_lm.preset("tiny")["conditions"]["text"]
  model, params = make(
    cross=False,
    conditions={
      "text": text,
      "melody": MELODY,
      "joint": dict(kind="tokens", codebooks=2, size=7),
      "semantic": dict(kind="tokens", size=9, frames=4, frame_rate=25.0),
      "mood": dict(kind="embedding", size=3),
    },
  )
  tokens = np.repeat(codes(model, 1, 5), 3, axis=0)
  random = np.random.default_rng(0)
  given = np.ones(3, bool)
  draw = lambda size, *shape: random.integers(0, size, shape)
  inputs = {
    "text": dict(
      tokens=draw(256, 3, 3), lengths=np.array([3, 2, 3]), given=given
    ),
    "melody": dict(classes=draw(12, 3, 5), given=given),
    "joint": dict(
      tokens=draw(7, 3, 1, 2), lengths=np.array([1, 1, 1]), given=given
    ),
    "semantic": dict(
      tokens=draw(9, 3, 4, 1), lengths=np.array([4, 3, 4]), given=given
    ),
    "mood": dict(
      vector=random.normal(size=(3, 3)).astype(np.float32), given=given
    ),
  }
  conditions = model.make_conditions()
  assert {each.name for each in conditions} == inputs.keys()
  run = jax.jit(lambda inputs: model.apply({"params": params}, tokens, inputs))
  y = run(inputs)
  for name in inputs:
    kept = np.array([True, False, True])
    other = run(conditioning.drop(conditions, inputs, kept, name))
    np.testing.assert_allclose(other[0], y[0], atol=1e-6)
    assert np.abs(other[1] - y[1]).max() > 1e-3, name
  # Without all of them, what they were does not matter.
  none = conditioning.drop(conditions, inputs, np.zeros(3, bool))
  changed = {
    name: {k: x if k in ("given", "lengths") else x + 1 for k, x in a.items()}
    for name, a in none.items()
  }
  changed["joint"]["tokens"] = draw(7, 3, 1, 2)
  changed["semantic"]["tokens"] = draw(9, 3, 4, 1)
  np.testing.assert_array_equal(run(none), run(changed))
  # Tokens in padding do not matter either.
  inputs["semantic"]["tokens"][1, 3] = (
    inputs["semantic"]["tokens"][1, 3] + 1
  ) % 9
  np.testing.assert_array_equal(run(inputs), y)


def test_tokens_that_have_ended_are_none(compile_fast):
  """Catches attention to padding, where nothing else is there to attend to."""
  fields = dict(kind="tokens", codebooks=2, size=8, frames=3, frame_rate=2.0)
  model, params = make(conditions={"notes": fields}, layers=1)
  (notes,) = model.make_conditions()
  items = [np.ones((4, 2), np.int32), None]
  run = jax.jit(model.apply)

  def found(start):
    inputs = {"notes": notes.arrays(items, start)}
    return run({"params": params}, codes(model, 1, 3).repeat(2, 0), inputs)

  heard, ended = found(0.0), found(2.0)
  assert np.abs(heard[0] - heard[1]).max() > 1e-3
  np.testing.assert_allclose(ended[0], ended[1], atol=1e-5)


def test_fields_of_earlier_versions():
  """Catches an old bundle that becomes another model, or is refused."""
  text = token_lm.preset("tiny")["conditions"]["text"]
  old = token_lm.preset("tiny")
  del old["conditions"], old["kv_heads"], old["qk_norm"]
  old |= dict(text=text, melody=MELODY, joint=(2, 7), key_heads=1)
  model = token_lm.from_config({**old, "normalize": True})
  names = [each.name for each in model.make_conditions()]
  assert names == ["melody", "text", "joint"]
  assert (model.kv_heads, model.qk_norm) == (1, True)
  flat = flax.traverse_util.flatten_dict(token_lm.shapes(model)["params"])
  found = {path[1] for path in flat if path[0] == "conditioner"}
  assert found == {
    "text_encoder", "text_projection", "melody_projection", "joint_embedding",
  }  # fmt: skip
  plain = token_lm.from_config(
    {**old, "text": None, "melody": None, "joint": ()}
  )
  assert not plain.conditions
  changed = token_lm.preset("musicgen_melody", text=text)["conditions"]
  assert changed.keys() == {"text", "melody"} and changed["text"] == text


def test_positions():
  """Catches cosine and sine swapped, and a rate that is not the public one."""
  at = np.array([[0, 1, 1499]])
  found = positions.sinusoids(at, 8)
  rates = 10_000.0 ** (-np.arange(4) / 3)
  want = at[..., None] * rates
  want = np.concatenate([np.cos(want), np.sin(want)], -1)
  np.testing.assert_allclose(found, want, atol=2e-4)


@pytest.mark.parametrize("size, longest", [(32, 128), (8, 6)])
def test_buckets_without_a_gather(size, longest, monkeypatch):
  """Catches a bias that is another one on TPUs, at the edge of a bucket too.

  With 8 buckets for distances up to 6, some are empty.
  """
  buckets = positions.relative_buckets(
    -np.arange(longest + 1),
    buckets=size,
    max_distance=longest,
    bidirectional=False,
  )
  table = np.random.default_rng(0).normal(size=(size, 3))
  distance = np.arange(-3, 2 * longest).reshape(1, -1, 1)
  distance = np.concatenate([distance, distance + 1], axis=2)
  want = positions.look_up(jnp.asarray(table), buckets, distance)
  assert want.shape == (1, 3, *distance.shape[1:])
  monkeypatch.setattr(platform, "traced_for", lambda: "tpu")
  found = positions.look_up(jnp.asarray(table), buckets, distance)
  np.testing.assert_array_equal(found, want)


@pytest.mark.parametrize(
  "changes, words",
  (
    (dict(positions="absolute"), "positions"),
    (dict(heads=3), "width"),
    (dict(kv_heads=3), "heads"),
    (dict(pattern=dict(name="delays")), "pattern"),
    (dict(depth=3), "depth"),
    (dict(first_codebook=-1), "first_codebook"),
    (dict(conditions={"mood": {}}), "'mood' has the unknown kind"),
    (dict(conditions={"text": {"size": 3}}), "'text' has no field 'size'"),
    (dict(conditions={"x": {"kind": "embedding"}}), "'x' lacks size"),
    (dict(conditions={"a b": {"kind": "tokens"}}), "letters"),
    (dict(conditions={"x": {"kind": "tokens", "size": 0}}), "size of"),
  ),
)
def test_settings_that_can_not_be(changes, words):
  """Catches a setting that is taken and fails later, or never."""
  with pytest.raises(UserError, match=words):
    token_lm.from_config({**token_lm.preset("tiny"), **changes})
