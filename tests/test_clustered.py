"""Tokenizers whose codes are fitted to features, and removal of repeats."""

import numpy as np
import pytest
from extension.shape import Shape

from mmdcodec.errors import UserError
from mmdcodec.quantize.repeats import collapse_repeats


def make(levels=2, size=16, seed=0):
  bare = Shape(
    {"kind": "shape", "model": {}}, {"params": {"weight": np.ones(3)}}
  )
  rng = np.random.default_rng(seed)
  statistics = {
    "mean": np.array([0.1, -1.0, 3.0]),
    "scale": np.array([9.0, 5.0, 0.0]),
  }
  embed = (
    rng.normal(size=(levels, size, 3)) / (1 + np.arange(levels))[:, None, None]
  )
  return bare, statistics, embed, Shape(*bare.with_codebooks(statistics, embed))


def test_codes_are_the_nearest_of_standardised_features():
  """Catches a wrong order of mean and scale, or levels without residuals."""
  bare, statistics, embed, tokenizer = make()
  x = np.random.default_rng(1).uniform(-1, 1, (3, 60000, 1))
  rows, _ = bare.features(x, np.full(3, 60000))
  z = (rows - statistics["mean"]) * statistics["scale"]
  codes = tokenizer.encode(x)
  assert codes.shape == (3, 600, 2) and codes.dtype == np.int32
  for level, book in enumerate(embed):
    distance = ((z[:, :, None] - book) ** 2).sum(-1)
    want = distance.argmin(-1)
    # In float32 the nearest two may be equally near.
    assert (want == codes[..., level]).mean() > 0.999
    z = z - book[codes[..., level]]
  assert tokenizer.codebook_sizes == (16, 16) and bare.codebook_sizes == ()
  assert len({tokenizer.hash, bare.hash, make(seed=1)[-1].hash}) == 3


def test_a_clip_does_not_depend_on_its_batch():
  """Catches padding that counts, and codes of frames that are not valid."""
  tokenizer = make()[-1]
  x = np.random.default_rng(1).uniform(-1, 1, (2, 9001, 1)).astype(np.float32)
  together = tokenizer.encode(x, lengths=[3001, 9001])
  assert together.shape == (2, tokenizer.frames_of(9001), 2)
  alone = tokenizer.encode(x[0, :3001])
  np.testing.assert_array_equal(together[:1, : alone.shape[1]], alone)
  assert not together[0, alone.shape[1] :].any()
  np.testing.assert_array_equal(together[1:], tokenizer.encode(x[1]))


def test_bad_codebooks_are_refused_in_a_sentence():
  """Catches codes of a model without codebooks, and arrays that don't fit."""
  bare, statistics, embed, tokenizer = make()
  with pytest.raises(UserError, match="no codebooks yet.*mmdcodec cluster"):
    bare.encode(np.zeros(100))
  with pytest.raises(UserError, match="mean \\[dim\\]"):
    bare.with_codebooks({**statistics, "mean": np.zeros(2)}, embed)
  with pytest.raises(UserError, match="not finite"):
    bare.with_codebooks(statistics, embed * np.nan)
  with pytest.raises(UserError, match="features .* are not finite"):
    tokenizer.codes_of(np.full((1, 2, 3), np.nan), np.ones((1, 2)))
  # A width of 1 would be spread over all dimensions.
  for dim in (1, 5):
    narrow = {name: np.ones(dim) for name in ("mean", "scale")}
    other = Shape(*bare.with_codebooks(narrow, np.ones((2, 16, dim))))
    with pytest.raises(UserError, match=f"of {dim} dimensions.* have 3"):
      other.encode(np.zeros(1000))
  with pytest.raises(UserError, match="the codebook"):
    Shape(bare.config, {**bare.variables, "codebook": np.zeros(3)})


def test_repeats_are_removed_as_by_hand():
  """Catches repeats across a gap, in the padding or in one codebook alone."""
  rng = np.random.default_rng(0)
  codes = rng.integers(0, 2, (5, 20, 2)).astype(np.int32)
  lengths = np.array([20, 7, 1, 0, 19])
  kept, counts = map(np.asarray, collapse_repeats(codes, lengths))
  assert kept.shape == codes.shape
  for item, length, got, count in zip(
    codes, lengths, kept, counts, strict=True
  ):
    want = [
      row
      for i, row in enumerate(item[:length])
      if i == 0 or (row != item[i - 1]).any()
    ]
    assert count == len(want)
    np.testing.assert_array_equal(got[:count], np.reshape(want, (-1, 2)))
    assert not got[count:].any()
