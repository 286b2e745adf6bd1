"""LSTM: equations, gate order and carried state.

Must catch: gates in another order than i, f, g, o, a state that is dropped or
not returned between pieces of a sequence, layers that share parameters.
"""

import jax
import numpy as np

from mmdcodec.nn.lstm import LSTM


def reference(params, x):
  """The stack in float64, step by step; x [batch, time, in]."""
  sigmoid = lambda a: 1 / (1 + np.exp(-a))
  for layer in sorted(params):
    p = {k: np.asarray(v, np.float64) for k, v in params[layer].items()}
    dim = p["recurrent_kernel"].shape[0]
    h = c = np.zeros((len(x), dim))
    out = []
    for t in range(x.shape[1]):
      gates = x[:, t] @ p["input_kernel"] + h @ p["recurrent_kernel"]
      i, f, g, o = np.split(gates + p["bias"], 4, -1)
      c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
      h = sigmoid(o) * np.tanh(c)
      out.append(h)
    x = np.stack(out, 1)
  return x, h, c


def test_equations_and_carried_state():
  rng = np.random.default_rng(0)
  x = rng.standard_normal((2, 11, 5))
  model = LSTM(7, 2)
  shapes = jax.eval_shape(model.init, jax.random.key(0), x)["params"]
  params = jax.tree.map(
    lambda s: rng.standard_normal(s.shape).astype(np.float32) * 0.5, shapes
  )
  want, h, c = reference(params, x)
  run = jax.jit(model.apply)
  y, state = run({"params": params}, x.astype(np.float32))
  np.testing.assert_allclose(y, want, atol=1e-5)
  np.testing.assert_allclose(state[-1][0], h, atol=1e-5)
  np.testing.assert_allclose(state[-1][1], c, atol=1e-5)

  state, pieces = None, []
  for at, end in ((0, 1), (1, 6), (6, 11)):
    piece = x[:, at:end].astype(np.float32)
    y, state = run({"params": params}, piece, state)
    pieces.append(y)
  np.testing.assert_allclose(np.concatenate(pieces, 1), want, atol=1e-5)
  np.testing.assert_allclose(state[-1][1], c, atol=1e-5)
