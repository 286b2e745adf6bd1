"""Checks of what makes, orders, draws and stores codes."""

import hashlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mmdcodec import patterns
from mmdcodec.bitstream import entropy
from mmdcodec.generation import sampling
from mmdcodec.quantize import kmeans, residual, vector
from mmdcodec.selftest import references
from mmdcodec.selftest.check import Check, Devices, differing, normal, off
from mmdcodec.selftest.references import wide

# SHA-256 of the bytes that `coded` takes.
_DIGESTS = {
  "adaptive": (
    "905e488bf6fa4b4ca9bd65e5fd6962deaae00d1756e367bd89c7816dd41a799a"
  ),
  "conditional": (
    "e1b53965db8879228b018af30a151fb56458495d47df2ae0e4e54827c8504570"
  ),
}


def quantizer(devices: Devices) -> dict[str, float]:
  """Residual codes, their vectors, and the running statistics of one step."""
  rows, embed = normal(300, 24), normal(3, 64, 24, seed=1)
  found, vectors = jax.jit(residual.encode)(rows, embed)
  wanted, certain = references.residual_codes(rows, embed)
  codes = np.asarray(found).T
  near, margin = references.nearest(rows, embed[0])
  weight = (np.arange(300) % 7 > 0).astype(np.float32)
  sums, counts = jax.jit(vector.statistics, static_argnums=3)(
    rows, near.astype(np.int32), weight, 64
  )
  hot = np.eye(64)[near] * weight[:, None]
  before = normal(64, 24, seed=2), 1 + np.abs(normal(64, seed=3))
  after = jax.jit(vector.ema_update)(*before, sums, counts, 0.9)
  total = 0.9 * wide(before[0]) + 0.1 * (hot.T @ wide(rows))
  number = 0.9 * wide(before[1]) + 0.1 * hot.sum(0)
  share = (number + 1e-5) / (number.sum() + 64e-5) * number.sum()
  return {
    "codes that are certain": differing(codes[certain], wanted[certain]),
    "their vectors": off(
      np.asarray(vectors).transpose(1, 0, 2),
      np.stack([embed[k][codes[:, k]] for k in range(3)], 1),
    ),
    "sums of rows": off(sums, hot.T @ wide(rows)),
    "numbers of rows": off(counts, hot.sum(0)),
    "the new codebook": off(
      jax.jit(vector.embedding)(*after), total / share[:, None]
    ),
  }


def trained(devices: Devices) -> dict[str, float]:
  """Codes that pass gradients on, and what the encoder pays for being far."""
  batch, frames, books, dim = 2, 20, 3, 8
  model = residual.ResidualVectorQuantizer(
    codebooks=books, size=16, dim=dim
  )
  z, embed = normal(batch, frames, dim), normal(books, 16, dim, seed=1)
  mask = np.arange(frames) < np.array([[20], [13]])
  state = {
    "sum": embed,
    "count": np.ones((books, 16), np.float32),
    "started": np.array(True),
  }
  of_z = normal(*z.shape, seed=2)
  of_streams = normal(batch, frames, books, dim, seed=3)
  price = 50.0

  def total(z: jax.Array) -> tuple[jax.Array, Any]:
    found: Any = model.apply({"codebook": state}, z, mask)
    held = mask[..., None]
    sums = (of_z * found.z * held).sum()
    sums += (of_streams * found.streams * held[..., None]).sum()
    return sums + price * found.commitment, found

  (_, found), slope = jax.jit(jax.value_and_grad(total, has_aux=True))(z)
  codes, _ = references.residual_codes(z, embed)
  vectors = np.stack([wide(embed[k])[codes[..., k]] for k in range(books)], 2)
  left = wide(z)[:, :, None] - np.cumsum(vectors, 2)
  pays = left * mask[..., None, None] / (mask.sum() * books * dim)
  wanted = of_z + of_streams.sum(2) + price * 2 * pays.sum(2)
  return {
    "the sum of vectors": off(
      np.asarray(found.z)[mask], vectors.sum(2)[mask]
    ),
    "the commitment": off(found.commitment, (left * pays).sum()),
    "the gradient": off(np.asarray(slope)[mask], wanted[mask]),
  }


def centres(devices: Devices) -> dict[str, float]:
  """K-means of rows in clusters that are far apart."""
  true = 10 * normal(8, 12)
  rows = np.repeat(true, 40, 0) + 0.1 * normal(320, 12, seed=1)
  wanted = wide(rows).reshape(8, 40, 12).mean(1)
  found = kmeans.fit(jax.random.key(0), rows, 8)
  order = references.nearest(wanted, found.centres)[0]
  spread = ((wide(rows).reshape(8, 40, 12) - wanted[:, None]) ** 2).sum()
  return {
    "the centres": off(found.centres[order], wanted),
    "rows of each": differing(found.counts, np.full(8, 40)),
    "squared distances": abs(found.inertia / spread - 1),
  }


def order(devices: Devices) -> dict[str, float]:
  """Codes in the steps of a delay pattern, and back."""
  codes = np.random.default_rng(0).integers(0, 50, (2, 9, 4)).astype(np.int32)
  pattern = patterns.delay(4)(9)
  found = jax.jit(lambda codes: pattern.build(codes, 50))(codes)
  wanted = np.full((2, 13, 4), 50)
  for k in range(4):
    wanted[:, 1 + k : 10 + k, k] = codes[:, :, k]
  return {
    "the steps": differing(found, wanted),
    "back": differing(jax.jit(pattern.revert)(found), codes),
  }


def draws(devices: Devices) -> dict[str, float]:
  """The likeliest code, and how often each of the likeliest is drawn."""
  count = 4000
  logits = normal(1, 2, 12)
  keys = jax.random.split(jax.random.key(0), count)
  many = np.repeat(logits, count, 0)

  def sample(temperature: float, top_k: int, top_p: Any) -> np.ndarray:
    draw = lambda logits, keys: sampling.sample(
      logits, keys, temperature=jnp.float32(temperature), top_p=top_p,
      top_k=top_k,
    )  # fmt: skip
    return np.asarray(jax.jit(draw)(many, keys))

  found = {
    "the likeliest": differing(
      sample(0.0, 5, None), np.repeat(logits.argmax(-1), count, 0)
    )
  }
  every = references.softmax(wide(logits[0]) / 0.8)
  order = np.argsort(-every, -1)
  ordered = np.take_along_axis(every, order, -1)
  ways = {
    "top k": (5, None, np.arange(12) < 5),
    "top p": (0, 0.6, np.cumsum(ordered, -1) - ordered < 0.6),
  }
  for name, (top_k, top_p, kept) in ways.items():
    drawn, share = sample(0.8, top_k, top_p), np.zeros_like(every)
    np.put_along_axis(share, order, np.where(kept, ordered, 0), -1)
    share /= share.sum(-1, keepdims=True)
    for k in range(2):
      often = np.bincount(drawn[:, k], minlength=12) / count
      error = np.sqrt(share[k] * (1 - share[k]) / count) + 1e-12
      # Five standard deviations are the limit.
      worst = (np.abs(often - share[k]) / error / 5).max()
      found[f"{name}, shares in codebook {k}"] = worst if worst >= 1 else 0.0
  return found


def guided(devices: Devices) -> dict[str, float]:
  """Logits moved away from those without conditions, in both forms."""
  every, without, free = (wide(normal(2, 3, 12, seed=i)) for i in range(3))
  plain = free + 3.0 * (every - free)
  double = free + 3.0 * (without + 5.0 * (every - without) - free)
  guide = jax.jit(sampling.guide, static_argnums=1)
  given = np.array([every, without, free], np.float32)
  ways = {"plain": (given[[0, 2]], plain), "double": (given, double)}
  return {
    name: off(
      guide(parts.reshape(-1, 3, 12), len(parts), 3.0, 5.0), wanted
    )
    for name, (parts, wanted) in ways.items()
  }


def coded() -> np.ndarray:
  """Codes [frames, 3] with structure, by integer arithmetic alone."""
  state, out = 12345, []
  for t in range(200 * 3):
    state = (1103515245 * state + 12345) % 2**31
    before = out[t - 3] if t >= 3 and state >> 16 & 3 else state >> 20
    out.append(before % 32)
  return np.array(out, np.int32).reshape(200, 3)


def coder(devices: Devices) -> dict[str, float]:
  """The entropy coder's bytes, which other machines read, and back."""
  codes, found = coded(), {}
  for kind, digest in _DIGESTS.items():
    parts = entropy.encode(codes, 32, kind)
    again = entropy.decode(parts, len(codes), 32, kind)
    made = hashlib.sha256(b"".join(parts)).hexdigest()
    found[f"{kind}, its bytes"] = float(made != digest)
    found[f"{kind}, its codes"] = differing(again, codes)
  return found


CHECKS = (
  Check("quantizer", "choose and move codes as in float64", quantizer),
  Check("quantizer, training", "pass on gradients as in float64", trained),
  Check("k-means", "find the means of clusters", centres),
  Check("patterns", "put every code where it belongs", order),
  Check("sampling", "draw by the softmax of the likeliest", draws),
  Check("guidance", "move logits as in float64", guided),
  Check("entropy coder", "write the bytes of every machine", coder, 0.0),
)
