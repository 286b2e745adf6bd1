"""The text encoder, and T5's weights in it.

Must catch: another function than the public one's, in either form of its
feed-forward layer; distances in a wrong bucket; a text that depends on those
beside it; weights that are lost or fit nothing.
"""

import json
import math
import pathlib

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmdcodec.convert import t5
from mmdcodec.errors import UserError
from mmdcodec.models import lm_presets, text_encoder
from mmdcodec.models.text_condition import Text
from mmdcodec.nn.positions import relative_buckets

DATA = pathlib.Path(__file__).parent / "data"


def source():
  """Config and tensors of a tiny public model, its input and its output."""
  arrays = dict(np.load(DATA / "t5enc_tiny.npz"))
  config = json.loads((DATA / "t5enc_tiny.json").read_text())
  w = {name[2:]: a for name, a in arrays.items() if name.startswith("w/")}
  return config, w, arrays


def test_the_public_model():
  """Catches any difference in structure, norms, buckets or layout."""
  config, w, arrays = source()
  fields, variables = t5.convert(w, config)
  mask = arrays["in/mask"] > 0
  assert 0 < mask.sum() < mask.size
  y = text_encoder.T5Encoder(**fields).apply(variables, arrays["in/ids"], mask)
  want = arrays["out/hidden"]
  np.testing.assert_allclose(
    y[mask], want[mask], atol=1e-5 * np.abs(want).max()
  )
  assert not np.any(y[~mask])


def reference(params, tokens, heads):
  """The gated encoder of one text in float64, straight from the papers."""
  p = jax.tree.map(np.float64, params)
  norm = lambda x, scale: (
    x / np.sqrt(np.mean(x**2, -1, keepdims=True) + 1e-6) * scale
  )
  x = p["embedding"]["embedding"][tokens]
  count = len(tokens)
  bias = np.array(
    [
      [p["distance_bias"][bucket(k - q, 32, 128)] for k in range(count)]
      for q in range(count)
    ]
  )
  for i in range(p["blocks"]["attention_norm"]["scale"].shape[0]):
    b = jax.tree.map(lambda a, i=i: a[i], p["blocks"])
    y = norm(x, b["attention_norm"]["scale"])
    q, k, v = (
      np.einsum("tw,whd->htd", y, b[name]["kernel"])
      for name in ("query", "key", "value")
    )
    for h in range(heads):
      scores = q[h] @ k[h].T + bias[..., h]
      share = np.exp(scores - scores.max(-1, keepdims=True))
      share /= share.sum(-1, keepdims=True)
      x = x + share @ v[h] @ b["out"]["kernel"][h]
    y = norm(x, b["feed_norm"]["scale"])
    gate = y @ b["gate"]["kernel"]
    gate *= 0.5 * (
      1 + np.tanh(math.sqrt(2 / math.pi) * (gate + 0.044715 * gate**3))
    )
    x = x + gate * (y @ b["inner"]["kernel"]) @ b["outer"]["kernel"]
  return norm(x, p["norm"]["scale"])


def bucket(distance, buckets, longest):
  """Of one distance; `relative_buckets` of the paper's code, in words."""
  side = buckets // 2
  start, away = (side if distance > 0 else 0), abs(distance)
  exact = side // 2
  if away < exact:
    return start + away
  far = math.log(away / exact) / math.log(longest / exact) * (side - exact)
  return start + min(exact + int(far + 1e-6), side - 1)


def test_buckets_of_distances():
  """Catches a wrong side, an edge that is off by one, a last one that ends."""
  found = relative_buckets(
    np.arange(300) - np.arange(300)[:, None],
    buckets=32,
    max_distance=128,
    bidirectional=True,
  )
  for q in (0, 150, 299):
    want = [bucket(k - q, 32, 128) for k in range(300)]
    np.testing.assert_array_equal(found[q], want)
  assert set(found.ravel()) == set(range(32)) - {16}


def gated():
  """An encoder of T5 1.1's form with random weights."""
  model = text_encoder.T5Encoder(
    vocabulary=50,
    width=12,
    layers=2,
    heads=3,
    head_dim=5,
    hidden=20,
    gated=True,
  )
  tokens = jnp.zeros((1, 4), jnp.int32)
  params = jax.jit(model.init)(jax.random.key(0), tokens, tokens == 0)
  params = params["params"]
  keys = iter(jax.random.split(jax.random.key(1), 99))
  # Norms that are not all 1.
  params = jax.tree.map(
    lambda a: a + 0.3 * jax.random.normal(next(keys), a.shape), params
  )
  return model, params


def test_the_gated_form_and_batch_mates():
  """Catches gates that are swapped, and padding that is attended to."""
  model, params = gated()
  random = np.random.default_rng(0)
  long, short = random.integers(0, 50, 40), random.integers(0, 50, 7)
  # Padded with what is no token, and beside an empty text.
  tokens = np.full((3, 40), 99)
  tokens[0], tokens[1, :7] = long, short
  mask = np.arange(40) < np.array([40, 7, 0])[:, None]
  y = jax.jit(model.apply)({"params": params}, tokens, mask)
  assert not np.any(y[2])
  for row, text in zip(y[:2], (long, short), strict=True):
    want = reference(params, text, heads=3)
    np.testing.assert_allclose(
      row[: len(text)], want, atol=2e-5 * np.abs(want).max()
    )
  alone = model.apply({"params": params}, short[None], np.full((1, 7), True))
  np.testing.assert_allclose(alone[0], y[1, :7], atol=1e-5)


def test_in_bfloat16():
  """Catches norms or sums of layers that are not float32."""
  config, w, arrays = source()
  fields, variables = t5.convert(w, config)
  mask, want = arrays["in/mask"] > 0, arrays["out/hidden"]
  model = text_encoder.T5Encoder(**fields, dtype=jnp.bfloat16)
  y = model.apply(variables, arrays["in/ids"], mask)
  error = np.linalg.norm((y - want)[mask]) / np.linalg.norm(want[mask])
  assert 1e-5 < error < 0.03
  # With nothing but the norm behind the table, nothing may be rounded.
  params = variables["params"]
  for name in ("out", "outer"):
    params["blocks"][name]["kernel"] *= 0
  y = model.apply(variables, arrays["in/ids"], mask)
  x = np.float64(params["embedding"]["embedding"])[arrays["in/ids"]]
  x /= np.sqrt(np.mean(x**2, -1, keepdims=True) + 1e-6)
  want = x * params["norm"]["scale"]
  np.testing.assert_allclose(y[mask], want[mask], rtol=1e-5, atol=1e-6)


def public_names(params):
  """Weights of a gated encoder under transformers' names."""
  b = params["blocks"]
  w = {
    "shared.weight": params["embedding"]["embedding"],
    "encoder.final_layer_norm.weight": params["norm"]["scale"],
    "encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight": (
      params["distance_bias"]
    ),
  }
  for i in range(len(b["attention_norm"]["scale"])):
    attend, feed = (f"encoder.block.{i}.layer.{j}" for j in (0, 1))
    w[f"{attend}.layer_norm.weight"] = b["attention_norm"]["scale"][i]
    w[f"{feed}.layer_norm.weight"] = b["feed_norm"]["scale"][i]
    for ours, theirs in (("query", "q"), ("key", "k"), ("value", "v")):
      kernel = b[ours]["kernel"][i]
      w[f"{attend}.SelfAttention.{theirs}.weight"] = np.concatenate(
        [kernel[:, h].T for h in range(kernel.shape[1])]
      )
    w[f"{attend}.SelfAttention.o.weight"] = np.concatenate(
      [kernel.T for kernel in b["out"]["kernel"][i]], axis=1
    )
    for ours, theirs in (("gate", "wi_0"), ("inner", "wi_1"), ("outer", "wo")):
      kernel = b[ours]["kernel"][i]
      w[f"{feed}.DenseReluDense.{theirs}.weight"] = kernel.T
  return {name: np.asarray(a) for name, a in w.items()}


def test_weights_of_the_gated_form():
  """Catches a gate that is taken for the layer it opens, or mixed-up heads."""
  model, params = gated()
  config = dict(
    vocab_size=50, d_model=12, num_layers=2, num_heads=3, d_kv=5, d_ff=20,
    feed_forward_proj="gated-gelu", dense_act_fn="gelu_new",
  )  # fmt: skip
  fields, variables = t5.convert(public_names(params), config)
  assert text_encoder.T5Encoder(**fields) == model
  chex.assert_trees_all_equal(variables["params"], dict(params))


QUERY = "encoder.block.{}.layer.0.SelfAttention.q.weight"


@pytest.mark.parametrize(
  "changes, words",
  [
    ({"encoder.final_layer_norm.weight": None}, "missing.*final_layer_norm"),
    ({"encoder.more": np.ones(3, np.float32)}, "left over.*encoder.more"),
    (
      {"encoder.embed_tokens.weight": np.ones((60, 16), np.float32)},
      "embed_tokens.weight differ",
    ),
    ({QUERY.format(1): np.ones((3, 16), np.float32)}, "1 of another shape"),
    # Of the right size.
    (
      {QUERY.format(i): np.ones((32, 8), np.float32) for i in (0, 1)},
      "2 of another shape",
    ),
  ],
)
def test_weights_that_do_not_fit(changes, words):
  """Catches a tensor that is left out, or bent to fit, without a word."""
  config, w, _ = source()
  w = {k: v for k, v in (w | changes).items() if v is not None}
  with pytest.raises(UserError, match=words):
    t5.convert(w, config)


@pytest.mark.parametrize("name", t5.TABLES)
def test_one_name_of_the_table_is_enough(name):
  """Catches a refusal of files that hold shared tensors once."""
  config, w, _ = source()
  _, want = t5.convert(w, config)
  (other,) = {*t5.TABLES} - {name}
  del w[other]
  _, variables = t5.convert(w, config)
  chex.assert_trees_all_equal(variables, want)


@pytest.mark.parametrize(
  "changes, words",
  [
    ({"feed_forward_proj": "gated-silu"}, "feed_forward_proj.*gated-silu"),
    ({"dense_act_fn": "gelu_new"}, "dense_act_fn"),
    ({"is_gated_act": True}, "is_gated_act"),
    ({"relative_attention_num_buckets": 2}, "num_buckets = 2"),
    ({"relative_attention_num_buckets": 31}, "num_buckets = 31"),
    ({"relative_attention_max_distance": 8}, "max_distance = 8"),
    ({"layer_norm_epsilon": 1e-5}, "layer_norm_epsilon"),
    ({"d_model": "wide"}, "d_model"),
  ],
)
def test_configs_that_are_not_supported(changes, words):
  """Catches another function than the weights were trained for."""
  config, w, _ = source()
  with pytest.raises(UserError, match=words):
    t5.convert(w, config | changes)


def test_a_whole_model_has_a_decoder():
  """Catches a refusal of the files that are published."""
  config, w, _ = source()
  w["decoder.block.0.layer.0.SelfAttention.q.weight"] = np.ones((16, 16))
  w["lm_head.weight"] = np.ones((60, 16))
  _, variables = t5.convert(w, config)
  assert variables["params"]["blocks"]["query"]["kernel"].shape == (2, 16, 2, 8)


def test_captions_that_are_cut_keep_their_end():
  """Catches texts that end otherwise in training than any prompt does."""
  encoder = lm_presets.TINY_BYTES["encoder"]
  text = Text(name="text", tokenizer="bytes", longest=256, encoder=encoder)
  text = text.in_training({"text_tokens": 4})
  for caption, want in (("abcdef", b"abc"), ("abc", b"abc"), ("a", b"a")):
    found = text.read({"caption": caption}, 0.0)
    tokens = found["tokens"][: found["lengths"]]
    np.testing.assert_array_equal(tokens, [*want, 256])


def test_weights_of_16_bits():
  """Catches sums in the type that weights are stored in."""
  config, w, arrays = source()
  fields, variables = t5.convert(w, config)
  stored = jax.tree.map(lambda x: jnp.asarray(x, jnp.bfloat16), variables)
  rounded = jax.tree.map(lambda x: x.astype(jnp.float32), stored)
  encoder = text_encoder.T5Encoder(**fields)
  given = arrays["in/ids"], arrays["in/mask"] > 0
  y, want = (encoder.apply(each, *given) for each in (stored, rounded))
  assert y.dtype == jnp.float32
  np.testing.assert_allclose(y, want, atol=1e-5 * np.abs(want).max())
