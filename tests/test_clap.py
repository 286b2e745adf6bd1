"""LAION-CLAP: its networks, its front end and public weights in them.

Must catch: another function than the public one's; windows of patches that see
the wrong neighbours; weights that are lost or fit nothing.
"""

import json
import pathlib
import re

import jax
import librosa
import numpy as np
import pytest
import safetensors.numpy

import mmdcodec
from mmdcodec.cli.main import main
from mmdcodec.convert import clap as converter
from mmdcodec.convert import weights
from mmdcodec.errors import UserError
from mmdcodec.models import clap, htsat

DATA = pathlib.Path(__file__).parent / "data"


def source():
  """Config and tensors of a tiny public model, its inputs and outputs."""
  arrays = dict(np.load(DATA / "clap_tiny.npz"))
  config = json.loads((DATA / "clap_tiny.json").read_text())
  w = {name[2:]: a for name, a in arrays.items() if name.startswith("w/")}
  return config, w, arrays


def unit(x):
  return x / np.linalg.norm(x, axis=-1, keepdims=True)


def test_the_public_model():
  """Catches any difference in structure, norms, stretching or layout."""
  config, w, arrays = source()
  fields, variables = converter.convert(w, config)
  model = clap.from_config(fields)
  audio, text = jax.jit(model.apply)(
    variables, arrays["in/mel"][:, 0], arrays["in/ids"], arrays["in/mask"]
  )
  np.testing.assert_allclose(unit(audio), arrays["out/audio"], atol=1e-5)
  np.testing.assert_allclose(unit(text), arrays["out/text"], atol=1e-5)


def test_the_public_tower_with_shifted_windows():
  """Catches windows shifted the wrong way, and patches merged in disorder."""
  arrays = dict(np.load(DATA / "htsat_shifted_tiny.npz"))
  model = htsat.HTSAT(
    mels=16, side=64, width=8, depths=(2, 1), heads=(2, 4), window=4
  )
  levels = arrays["in/levels"]
  like = jax.eval_shape(model.init, jax.random.key(0), levels)
  like = {"params": {"audio_tower": like["params"]}}
  w = {f"audio_model.{k[2:]}": a for k, a in arrays.items() if k[0] == "w"}
  variables = weights.fill(converter.tower_rules(model), w, like)
  found = jax.jit(model.apply)(
    {"params": variables["params"]["audio_tower"]}, levels
  )
  np.testing.assert_allclose(found, arrays["out/vector"], atol=1e-5)


def test_weights_that_do_not_fit():
  """Catches a tensor that is lost, unknown or of another shape."""
  config, w, _ = source()
  block = "audio_model.audio_encoder.layers.1.blocks.0"
  name = f"{block}.attention.self.relative_position_bias_table"
  missing = {k: a for k, a in w.items() if k != name}
  with pytest.raises(UserError, match=f"missing.*{re.escape(name)}"):
    converter.convert(missing, config)
  with pytest.raises(UserError, match="left over.*fusion_model.weight"):
    converter.convert(w | {"fusion_model.weight": w[name]}, config)
  with pytest.raises(UserError, match=re.escape(name)):
    converter.convert(w | {name: w[name][1:]}, config)
  norm = "audio_model.audio_encoder.batch_norm.running_var"
  with pytest.raises(UserError, match=re.escape(norm)):
    converter.convert(w | {norm: w[norm][1:]}, config)
  for part, change, said in (
    ("audio_config", {"enable_fusion": True}, "enable_fusion = True"),
    ("audio_config", {"window_size": 7}, "multiple"),
    ("text_config", {"hidden_act": "relu"}, "hidden_act = 'relu'"),
  ):
    with pytest.raises(UserError, match=said):
      converter.convert(w, config | {part: config[part] | change})


def test_neighbours_in_shifted_windows():
  """Catches a mask of other windows, by a search over all pairs."""
  side, window, shift = 8, 4, 2
  mask = htsat.shifted_mask(side, window, shift)
  assert mask.shape == (4, 1, 16, 16)
  place = np.arange(side**2).reshape(side, side)
  moved = np.roll(place, (-shift, -shift), (0, 1))
  for w in range(4):
    row, column = divmod(w, 2)
    inside = moved[4 * row :, 4 * column :][:4, :4].ravel()
    for q, a in enumerate(inside):
      for k, b in enumerate(inside):
        # Patches from opposite edges of the image meet after the roll.
        far = max(abs(a // side - b // side), abs(a % side - b % side))
        assert mask[w, 0, q, k] == (far < window), (w, q, k)


def test_biases_of_distances():
  """Catches a table that is read upside down."""
  found = htsat.distances(3)
  assert found.shape == (9, 9) and len(np.unique(found)) == 25
  # From the middle to the patch above it, to that on its left, to itself.
  assert [found[4, 1], found[4, 3], found[4, 4]] == [17, 13, 12]


def test_cubic_interpolation():
  """Catches a kernel that moves straight lines, or ends that move."""
  matrix = htsat.resize_matrix(21, 32)
  np.testing.assert_allclose(matrix.sum(1), 1, atol=1e-6)
  line = matrix @ np.arange(21.0)
  np.testing.assert_allclose(line[[0, -1]], [0, 20], atol=1e-6)
  middle = slice(2, -2)
  straight = np.linspace(0, 20, 32)[middle]
  np.testing.assert_allclose(line[middle], straight, atol=0.2)
  np.testing.assert_allclose(htsat.resize_matrix(9, 9), np.eye(9), atol=1e-7)


def test_the_front_end():
  """Catches other filters, edges, frames or levels than the public ones."""
  rng = np.random.default_rng(0)
  t = np.arange(12_000) / clap.RATE
  x = 0.3 * np.sin(2 * np.pi * 880 * t) + 0.01 * rng.normal(size=12_000)
  found = clap.log_mel(
    x[None].astype(np.float32), mels=64, fmin=50.0, fmax=14_000.0
  )
  want = librosa.feature.melspectrogram(
    y=x,
    sr=clap.RATE,
    n_fft=clap.WINDOW,
    hop_length=clap.HOP,
    n_mels=64,
    fmin=50,
    fmax=14_000,
    pad_mode="reflect",
  )
  want = 10 * np.log10(np.maximum(want, 1e-10)).T
  np.testing.assert_allclose(found[0], want, atol=1e-3)


def test_short_windows_are_repeated():
  """Catches a part of a repetition, and what lies in the padding."""
  x = np.tile(np.arange(1.0, 8.0), (3, 1))
  found = clap.fill_windows(x, np.array([7, 3, 1]))
  want = [[1, 2, 3, 4, 5, 6, 7], [1, 2, 3, 1, 2, 3, 0], [1] * 7]
  np.testing.assert_array_equal(found, want)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  """A folder as the public library writes it, with a tiny tokenizer."""
  tokenizers = pytest.importorskip("tokenizers")
  from tokenizers import models, pre_tokenizers, processors

  words = ["<s>", "<pad>", "</s>", "<unk>", *"abcdefghijklmnopqrstuvwxyz"]
  public = tokenizers.Tokenizer(
    models.WordLevel({w: i for i, w in enumerate(words)}, "<unk>")
  )
  public.pre_tokenizer = pre_tokenizers.Split("", "isolated")
  public.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0))
  config, w, _ = source()
  folder = tmp_path_factory.mktemp("public")
  public.save(str(folder / "tokenizer.json"))
  (folder / "config.json").write_text(json.dumps(config))
  front = {"frequency_min": 60, "sampling_rate": clap.RATE}
  (folder / "preprocessor_config.json").write_text(json.dumps(front))
  safetensors.numpy.save_file(w, folder / "model.safetensors")
  return folder


def test_a_bundle_embeds_audio_and_texts(folder, tmp_path, capsys):
  """Catches windows that are lost, cut, or scaled before the mean."""
  assert not main(["convert", str(folder), str(tmp_path / "bundle")])
  assert "16 dimensions" in capsys.readouterr().out
  assert not main(["info", str(tmp_path / "bundle")])
  loaded = mmdcodec.load(tmp_path / "bundle")
  assert (loaded.model.fmin, loaded.window, loaded.rate) == (60, 10, clap.RATE)
  assert loaded.frames_of(12 * clap.RATE) == 3
  rng = np.random.default_rng(0)
  x = rng.normal(size=11 * clap.RATE).astype(np.float32) / 10
  found = loaded.embed_audio(x)
  embed = jax.jit(
    lambda v, x: loaded.model.apply(
      v, x, np.full(len(x), clap.SAMPLES), method="embed_audio"
    )
  )
  windows = np.stack([x[: clap.SAMPLES], x[clap.RATE :]])[..., None]
  want = np.mean(embed(loaded.variables, windows), 0)
  np.testing.assert_allclose(found[0], unit(want), atol=1e-5)
  rows, valid = loaded.features(*loaded.prepare(x))
  assert rows.shape == (1, 2, 16) and valid.all()
  np.testing.assert_allclose(np.linalg.norm(rows, axis=-1), 1, atol=1e-5)
  with pytest.raises(UserError, match="mmdcodec cluster"):
    loaded.encode(x)
  texts = loaded.embed_text(["abc", "", "ab" * 60])
  tokens = np.array([[0, 4, 5, 6, 2]])
  want = jax.jit(
    lambda v: loaded.model.apply(v, tokens, tokens >= 0, method="project_text")
  )(loaded.variables)
  np.testing.assert_allclose(texts[0], unit(want)[0], atol=1e-5)
  np.testing.assert_array_equal(texts[2], loaded.embed_text("ab" * 60)[0])


def test_front_ends_that_are_refused():
  """Catches another front end than that of the networks."""
  with pytest.raises(UserError, match="hop_length = 512"):
    converter.front_end({"hop_length": 512})
  found = converter.front_end({"frequency_min": 0, "truncation": "fusion"})
  assert found == {"fmin": 0, "fmax": 14_000.0}
