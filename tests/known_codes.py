"""Codes whose dependence is known exactly, for the tests of its measures."""

import itertools

import numpy as np

CLIPS, FRAMES, SIZE = 40, 200, 8


def uniform(seed, books=3, size=SIZE, shape=(CLIPS, FRAMES)):
  return np.random.default_rng(seed).integers(0, size, (*shape, books))


def entropy(p):
  p = np.ravel(p)[np.ravel(p) > 0]
  return -np.sum(p * np.log2(p))


def exact(joint):
  """Total correlation, and mutual information of pairs, of a distribution."""
  books = joint.ndim
  axes = set(range(books))
  alone = [entropy(joint.sum(tuple(axes - {k}))) for k in range(books)]
  pairs = np.full((books, books), np.nan)
  for i, j in itertools.permutations(range(books), 2):
    both = entropy(joint.sum(tuple(axes - {i, j})))
    pairs[i, j] = alone[i] + alone[j] - both
  return sum(alone) - entropy(joint), pairs


def draw(joint, seed):
  """Codes of independent frames from a distribution."""
  p = joint.ravel()
  at = np.random.default_rng(seed).choice(
    p.size, (CLIPS, FRAMES), p=p / p.sum()
  )
  return np.stack(np.unravel_index(at, joint.shape), -1)


def copies(p, size=SIZE):
  """Codebooks 2 and 3 copy the first one with probability p."""
  given = p * np.eye(size) + (1 - p) / size
  return np.einsum("ab,ac->abc", given, given) / size


def noisy_sum(size=SIZE):
  """The third code is the sum of two uneven ones and one more, or not."""
  first = np.arange(1, size + 1) / np.arange(1, size + 1).sum()
  joint = np.zeros((size,) * 3)
  for a, b, more in itertools.product(range(size), range(size), (0, 1)):
    joint[a, b, (a + b + more) % size] += first[a] / size * (0.3, 0.7)[more]
  return joint


def xor(noise, size=2):
  joint = np.full((size,) * 3, noise / size**3)
  for a, b in itertools.product(range(size), repeat=2):
    joint[a, b, a ^ b] += (1 - noise) / size**2
  return joint
