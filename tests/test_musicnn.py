"""musicnn: the reader of its checkpoint, its network, and tags of clips.

Must catch: tensors that are read wrongly or lost, damage that goes unnoticed, a
network that differs from the published one, and tags that depend on padding or
batch mates.
"""

import json

import jax
import librosa
import numpy as np
import pytest
import tf_bundle
from public_packages import unpack

import mmdcodec
from mmdcodec.audio import synth
from mmdcodec.cli.main import main
from mmdcodec.convert import musicnn as converter
from mmdcodec.convert import tf_checkpoint
from mmdcodec.errors import UserError
from mmdcodec.models import musicnn

CONFIG = {"model_number": 17, "audio_rep": {"identifier": "mtt_float16"}}


def tensors(timbre=2, rhythm=1, middle=3, units=4, tags=50):
  """Random tensors by the names of the checkpoint."""
  rng = np.random.default_rng(0)
  out = {}

  def add(kind, number, **shapes):
    for end, shape in shapes.items():
      x = rng.normal(size=shape) / np.sqrt(max(1, np.prod(shape[:-1])))
      x = np.abs(x) + 0.5 if end in ("gamma", "moving_variance") else x
      key = f"{kind}_{number}" if number else kind
      out[f"{key}/{end}"] = x.astype(np.float32)

  front = 2 * timbre + 3 * rhythm
  kernels = [(7, 38, 1, timbre), (7, 67, 1, timbre)]
  kernels += [(n, 1, 1, rhythm) for n in (128, 64, 32)]
  kernels += [(7, n, 1, middle) for n in (front, middle, middle)]
  pooled = 2 * (front + 3 * middle)
  sizes = [1, *[k[-1] for k in kernels], pooled, units]
  for i, kernel in enumerate(kernels):
    add("conv2d", i, kernel=kernel, bias=kernel[-1:])
  for i, size in enumerate(sizes):
    ends = ("gamma", "beta", "moving_mean", "moving_variance")
    add("batch_normalization", i, **dict.fromkeys(ends, (size,)))
  add("dense", 0, kernel=(pooled, units), bias=(units,))
  add("dense", 1, kernel=(units, tags), bias=(tags,))
  return out


def write(folder, arrays, config=CONFIG):
  folder.mkdir()
  extra = {"dense/kernel/Adam": arrays["dense/kernel"]}
  extra["beta1_power"] = np.float32(0.9).reshape(())
  tf_bundle.write(folder, arrays | extra)
  (folder / "config.json").write_text(json.dumps(config))
  return folder


def reference(w, levels):
  """The network in float64, from the text of the paper's code."""
  w = {name: np.float64(a) for name, a in w.items()}

  def norm(x, i):
    key = f"batch_normalization_{i}" if i else "batch_normalization"
    mean, variance = w[f"{key}/moving_mean"], w[f"{key}/moving_variance"]
    x = (x - mean) / np.sqrt(variance + 1e-3)
    return x * w[f"{key}/gamma"] + w[f"{key}/beta"]

  def conv(x, i):
    """Convolution over [time, bands] with as much time as before."""
    kernel = w[f"conv2d_{i}/kernel" if i else "conv2d/kernel"][:, :, 0]
    long, high, _ = kernel.shape
    x = np.pad(x, (((long - 1) // 2, long // 2), (0, 0)))
    parts = np.lib.stride_tricks.sliding_window_view(x, (long, high))
    y = np.einsum("tbij,ijc->tbc", parts, kernel)
    y = np.maximum(y + w[f"conv2d_{i}/bias" if i else "conv2d/bias"], 0)
    return norm(y, i + 1)

  x = norm(np.float64(levels)[..., None], 0)[..., 0]
  front = np.concatenate([conv(x, i).max(1) for i in range(5)], 1)
  one = conv(front, 5)[:, 0]
  two = conv(one, 6)[:, 0] + one
  three = conv(two, 7)[:, 0] + two
  y = np.concatenate([front, one, two, three], 1)
  pooled = norm(np.stack([y.max(0), y.mean(0)], 1).ravel(), 9)
  hidden = np.maximum(pooled @ w["dense/kernel"] + w["dense/bias"], 0)
  embedding = norm(hidden, 10)
  return embedding @ w["dense_1/kernel"] + w["dense_1/bias"], embedding


def test_the_network_is_the_published_one():
  """Catches padding, pooling, shortcuts or norms in another place or order."""
  w = tensors()
  fields, variables = converter.convert(w)
  assert fields == dict(timbre=2, rhythm=1, middle=3, units=4, tags=50)
  levels = np.random.default_rng(1).normal(size=(2, 40, 96)).astype(np.float32)
  apply = jax.jit(musicnn.from_config(fields).apply)
  logits, embedding = apply(variables, levels)
  for i in range(2):
    want = reference(w, levels[i])
    np.testing.assert_allclose(logits[i], want[0], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(embedding[i], want[1], rtol=1e-4, atol=1e-5)


def test_the_front_end():
  """Catches half precision, other filters, and frames that begin elsewhere."""
  x = np.float32(0.5 * np.sin(np.arange(6000) * np.linspace(0.01, 1, 6000)))
  padded = np.pad(x, musicnn.WINDOW // 2)[None]
  found = jax.jit(musicnn.levels_of)(padded)[0]
  mel = librosa.feature.melspectrogram(
    y=x, sr=16_000, n_fft=512, hop_length=256, n_mels=96
  )
  want = np.log10(1e4 * mel.T + 1)
  np.testing.assert_allclose(found, want, atol=1e-4)


def test_checkpoints(tmp_path):
  """Catches wrong places, shapes and types, and lost tensors."""
  arrays = {
    "a/b": np.arange(6, dtype=np.float32).reshape(2, 3),
    "a/bc": np.array(7, np.int64),
    "z": np.zeros((0, 4), np.float32),
    "a" * 300: np.ones(200, np.float32),
  }
  tf_bundle.write(tmp_path, arrays, "model-1")
  found = tf_checkpoint.read(tf_checkpoint.find(tmp_path))
  assert {*found} == {*arrays}
  for name, array in arrays.items():
    np.testing.assert_array_equal(found[name], array)
    assert found[name].dtype == array.dtype
  without = tf_checkpoint.read(tf_checkpoint.find(tmp_path), without=("/bc",))
  assert {*without} == {*arrays} - {"a/bc"}


def test_damaged_checkpoints(tmp_path):
  """Any byte of either file may be wrong, and either cut or gone."""
  arrays = {"a/b": np.ones((2, 3), np.float32), "a/c": np.ones(5, np.float32)}
  tf_bundle.write(tmp_path, arrays)
  index, data = tmp_path / ".index", tmp_path / ".data-00000-of-00001"
  good, numbers = index.read_bytes(), data.read_bytes()
  outcomes = []
  rng = np.random.default_rng(0)
  bad = [good[:n] for n in range(0, len(good), 7)]
  for place in range(len(good)):
    changed = bytearray(good)
    changed[place] ^= int(rng.integers(1, 256))
    bad.append(bytes(changed))
  for content in bad:
    index.write_bytes(content)
    try:
      found = tf_checkpoint.read(index)
    except UserError as error:
      assert "\n" not in str(error) and str(error).endswith("again.")
      outcomes.append("refused")
    else:
      # In the footer are a few bytes that mean nothing.
      assert {name: a.tolist() for name, a in found.items()} == {
        name: a.tolist() for name, a in arrays.items()
      }
      outcomes.append("right")
  assert outcomes.count("right") < 48
  index.write_bytes(good)
  for place in range(len(numbers)):
    changed = bytearray(numbers)
    changed[place] ^= int(rng.integers(1, 256))
    data.write_bytes(changed)
    with pytest.raises(UserError, match="the checksum of a/[bc] is wrong"):
      tf_checkpoint.read(index)
  data.write_bytes(numbers[:-1])
  with pytest.raises(UserError, match="beyond the end"):
    tf_checkpoint.read(index)
  data.unlink()
  with pytest.raises(UserError, match="no such file"):
    tf_checkpoint.read(index)
  index.unlink()
  with pytest.raises(UserError, match="expected one"):
    tf_checkpoint.find(tmp_path)


def test_weights_that_do_not_fit(tmp_path, fails):
  """Catches a tensor that is lost or unknown, and tags without names."""
  w = tensors()
  lost = {k: a for k, a in w.items() if k != "conv2d_3/bias"}
  for name, arrays, said in (
    ("lost", lost, "missing (conv2d_3/bias)"),
    ("more", w | {"1CNN/bias": w["dense/bias"]}, "left over (1CNN/bias)"),
    ("names", tensors(tags=7), "7 tags"),
  ):
    folder = write(tmp_path / name, arrays)
    assert said in fails("convert", folder, tmp_path / "out")
  other = CONFIG | {"audio_rep": {"identifier": "fma"}}
  folder = write(tmp_path / "other", w, other)
  assert "'fma'" in fails("convert", folder, tmp_path / "out")


def test_tags_of_clips(tmp_path, capsys):
  """Catches frames that are lost between windows, and padding that counts."""
  w = tensors()
  folder = write(tmp_path / "public", w)
  assert not main(["convert", str(folder), str(tmp_path / "bundle")])
  assert "50 tags" in capsys.readouterr().out
  assert not main(["info", str(tmp_path / "bundle")])
  shown = capsys.readouterr().out
  assert "tagger" in shown and "4 dimensions" in shown
  tagger = mmdcodec.load(tmp_path / "bundle")
  assert tagger.tag_names[:2] == ("guitar", "classical")
  rng = np.random.default_rng(0)
  lengths = np.array([2 * 187 * 256 + 90, 5000, 1])
  x = rng.uniform(-1, 1, (3, lengths.max(), 1)).astype(np.float32)
  tags, embeddings, valid = tagger.windows(x, lengths=lengths)
  assert tags.shape == (3, 2, 50) and embeddings.shape == (3, 2, 4)
  assert [*valid.sum(1)] == [2, 1, 1]
  for i, length in enumerate(lengths):
    alone = tagger.tags(x[i, :length])[0]
    np.testing.assert_allclose(tags[i, valid[i]].mean(0), alone, atol=1e-6)
  mel = librosa.feature.melspectrogram(
    y=x[0, :, 0], sr=16_000, n_fft=512, hop_length=256, n_mels=96
  )
  levels = np.log10(1e4 * mel.T + 1)
  for i in range(2):
    logits, want = reference(w, levels[187 * i : 187 * (i + 1)])
    np.testing.assert_allclose(embeddings[0, i], want, rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(tags[0, i], 1 / (1 + np.exp(-logits)), atol=1e-3)
  best = tagger.top_tags(x, lengths=lengths, count=2)
  assert best[1][0] == tagger.tag_names[tags[1, 0].argmax()]
  with pytest.raises(UserError, match="finite"):
    tagger.tags(np.full(100, np.nan))


@pytest.mark.slow
def test_the_real_musicnn(request):
  """Catches what only the real weights show, in tags of built-in music."""
  package = unpack(request, "musicnn", "0.1.0")
  song = synth.render(
    3, seconds=7, rate=16_000, timbre="flute", drums=False, bass=False
  )
  loud = synth.render(
    5, seconds=7, rate=16_000, timbre="brass", drums=True, drum_style="dance"
  )
  tagger = mmdcodec.load(package / "musicnn/MTT_musicnn")
  quiet, beats = (tagger.tags(each.audio)[0] for each in (song, loud))
  names = list(tagger.tag_names)
  for tag in ("techno", "beat", "drums"):
    assert beats[names.index(tag)] > quiet[names.index(tag)], tag
  other = mmdcodec.load(package / "musicnn/MSD_musicnn")
  assert other.embed(song.audio).shape == (1, 200)
  assert np.isfinite(other.tags(loud.audio)).all()
