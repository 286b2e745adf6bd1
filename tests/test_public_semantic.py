"""Public networks for semantic tokens, and their front ends.

The fixtures hold weights, a clip and features of tiny models of the public
implementations. Those of MusicFM come from its description, written down in
PyTorch with transformers' conformer.

Must catch: another function than the public one's in any front end, layer or
layout of weights; clips that depend on padding or on their batch; tensors that
are lost; settings that are taken for others.
"""

import json
import pathlib

import jax
import numpy as np
import pytest
import safetensors.numpy

import mmdcodec
from mmdcodec import bundle, convert
from mmdcodec.audio import kaldi
from mmdcodec.cli.main import main
from mmdcodec.errors import UserError
from mmdcodec.tokenizers import semantic

DATA = pathlib.Path(__file__).parent / "data"


def fixture(name):
  """(config or None, tensors by name, arrays) of a tiny public model."""
  arrays = dict(np.load(DATA / f"{name}.npz"))
  file = DATA / f"{name}.json"
  config = json.loads(file.read_text()) if file.is_file() else None
  w = {key[2:]: a for key, a in arrays.items() if key.startswith("w/")}
  return config, w, arrays


def write_folder(folder, name, change=lambda w: w, config=None, front=None):
  """A folder as the public libraries and releases write it."""
  found, w, _ = fixture(name)
  folder.mkdir()
  if found is not None:
    text = json.dumps(found | (config or {}))
    (folder / "config.json").write_text(text)
  else:
    stats = (DATA / f"{name}_stats.json").read_bytes()
    (folder / "fma_stats.json").write_bytes(stats)
  if front is not None:
    (folder / "preprocessor_config.json").write_text(json.dumps(front))
  safetensors.numpy.save_file(change(dict(w)), folder / "model.safetensors")
  return folder


def clip(arrays):
  """Stored as 16-bit integers."""
  return arrays["x"].astype(np.float32) / 32768


def first_layer(tokenizer):
  """The same tokenizer with the features of block 1."""
  config = json.loads(json.dumps(tokenizer.config))
  config["model"]["feature_layer"] = 1
  return type(tokenizer)(config, jax.device_get(tokenizer.variables))


def check_alone(tokenizer, x, length):
  """A clip gives the same rows alone and padded beside another one."""
  both = np.stack([x, x[::-1]])[..., None]
  lengths = np.array([length, len(x)])
  rows, valid = tokenizer.features(*tokenizer.prepare(both, lengths=lengths))
  count = tokenizer.frames_of(length)
  assert valid.sum(1).tolist() == [count, tokenizer.frames_of(len(x))]
  alone, seen = tokenizer.features(*tokenizer.prepare(x[:length]))
  assert seen.all() and alone.shape[1] == count
  scale = np.abs(alone).max()
  np.testing.assert_allclose(rows[0, :count], alone[0], atol=2e-5 * scale)
  # A clip and its reverse differ.
  assert np.abs(rows[1, :count] - alone[0]).max() > 0.01 * scale


@pytest.mark.parametrize(
  "name",
  [
    "hubert_tiny",
    pytest.param("hubert_prenorm_tiny", marks=pytest.mark.slow),
    "musicfm_tiny",
  ],
)
def test_features_are_those_of_the_source(name, tmp_path):
  """Catches any difference in structure, norms, layout or front end.

  And statistics of padding, and convolutions that see it.
  """
  arrays = fixture(name)[2]
  tokenizer = mmdcodec.load(write_folder(tmp_path / name, name))
  x = clip(arrays)
  assert tokenizer.frames_of(len(x)) == len(arrays["layer2"])
  both = ("layer2", tokenizer), ("layer1", first_layer(tokenizer))
  for layer, found in both:
    rows, valid = found.features(*found.prepare(x))
    want = arrays[layer]
    np.testing.assert_allclose(
      rows[valid], want, atol=2e-5 * np.abs(want).max()
    )
  # As short as the same program allows, which is compiled already.
  check_alone(tokenizer, x, len(x) - 37)


def test_kaldi_features_are_those_of_the_source():
  """Catches another window, filter or emphasis, and a frame too many."""
  arrays = dict(np.load(DATA / "kaldi_tiny.npz"))
  x, want = clip(arrays), arrays["features"]

  @jax.jit
  def features(x, length):
    found = kaldi.fbank(x[None], 80)
    valid = np.arange(found.shape[1]) < kaldi.frame_count(length)
    return kaldi.standardise(found, valid[None])[0]

  count = kaldi.frame_count(len(x))
  assert count % 2 and len(want) == count // 2
  # What comes after the clip changes nothing.
  longer = np.concatenate([x, np.full(1000, 0.1, np.float32)])
  found = np.asarray(features(longer, len(x)))
  assert not found[count:].any()
  np.testing.assert_allclose(
    found[: count - 1].reshape(len(want), -1), want, atol=1e-4
  )


@pytest.fixture(scope="module")
def w2v_bert(tmp_path_factory):
  """w2v-BERT as a tokenizer, from its public folder."""
  folder = tmp_path_factory.mktemp("public") / "w2vbert"
  return mmdcodec.load(write_folder(folder, "w2vbert_tiny"))


def test_w2v_bert(w2v_bert):
  """Catches another network between the front end and the features."""
  arrays = fixture("w2vbert_tiny")[2]
  mask, model = arrays["in/mask"] > 0, w2v_bert.model
  assert model.layers == 2 and w2v_bert.frame_rate == 50

  @jax.jit(static_argnums=0)
  def run(layer, variables, spectra, mask):
    return model.apply(variables, spectra, mask, layer, method="encode")

  for layer, name in ((2, "hidden"), (1, "layer1")):
    y = run(layer, w2v_bert.variables, arrays["in/features"], mask)
    want = arrays[f"out/{name}"]
    np.testing.assert_allclose(
      y[mask], want[mask], atol=1e-5 * np.abs(want[mask]).max()
    )


def test_w2v_bert_does_not_depend_on_its_batch(w2v_bert):
  """Likewise: deviations over time, attention, convolutions."""
  x = clip(dict(np.load(DATA / "kaldi_tiny.npz")))
  check_alone(w2v_bert, x, 3220)
  for length in (1, 560):
    rows, valid = w2v_bert.features(*w2v_bert.prepare(x[:length]))
    assert valid.sum() == 1 and np.isfinite(rows).all()
  assert w2v_bert.frames_of(0) == 0 and w2v_bert.frames_of(880) == 2


def test_long_clips_have_no_gaps(w2v_bert, monkeypatch):
  """Catches the end of a window, where a frame is missing, in a long clip."""
  monkeypatch.setattr(semantic, "WINDOW_SECONDS", 0.16)
  monkeypatch.setattr(semantic, "EDGE_SECONDS", 0.04)
  x = clip(dict(np.load(DATA / "kaldi_tiny.npz")))
  x = np.tile(x, 3)
  rows, valid = w2v_bert.features(*w2v_bert.prepare(x))
  assert valid.all() and valid.sum() == w2v_bert.frames_of(len(x))
  assert np.abs(rows).max(-1).min() > 0.1


def test_the_command(tmp_path, capsys):
  """Catches a bundle that is not what was converted, and lost tensors."""
  for name, words in (
    ("hubert_tiny", "hubert 2 x 16, features of layer 2"),
    ("musicfm_tiny", "musicfm 2 x 16, features of layer 2"),
  ):
    folder = write_folder(tmp_path / name, name)
    out = tmp_path / f"{name}_bundle"
    assert main(["convert", str(folder), str(out)]) == 0
    assert words in capsys.readouterr().out
    one, other = mmdcodec.load(folder), bundle.load_tokenizer(out)
    assert one.kind == other.kind == "semantic"
    assert one.model == other.model
    jax.tree.map(np.testing.assert_array_equal, one.variables, other.variables)
    with pytest.raises(UserError, match="mmdcodec cluster"):
      other.encode(np.zeros(100))


def without(name):
  return lambda w: {k: a for k, a in w.items() if k != name}


POSITIONS = "encoder.pos_conv_embed.conv.parametrizations.weight.original"


def no_length(w):
  """Weight norm of a kernel of zeros, which is no number."""
  return w | {f"{POSITIONS}1": np.zeros_like(w[f"{POSITIONS}1"])}


def twice(w):
  """A tensor under its old name and its new one."""
  old = "encoder.pos_conv_embed.conv.weight_g"
  return w | {old: w[f"{POSITIONS}0"] + 1}


def test_what_does_not_fit_is_named(tmp_path):
  """Catches tensors that are ignored or missing, and unknown settings."""
  out = lambda i: tmp_path / str(i)
  missing = "model.conformer.layers.1.ffn2.output_dense.bias"
  table = (
    ("musicfm_tiny", without(missing), {}, missing.removeprefix("model.")),
    (
      "musicfm_tiny",
      lambda w: w | {"model.x": np.ones(2)},
      {},
      r"left over \(x",
    ),
    ("hubert_tiny", lambda w: w | {"y": np.ones(2)}, {}, r"left over \(y"),
    ("hubert_tiny", no_length, {}, rf"not finite \({POSITIONS}"),
    ("hubert_tiny", twice, {}, "are the same tensor"),
    (
      "hubert_tiny",
      without("encoder.layer_norm.bias"),
      {},
      "encoder.layer_norm",
    ),
    (
      "hubert_tiny",
      lambda w: w,
      {"feature_extractor_cqt": True},
      "_cqt = True",
    ),
    ("hubert_tiny", lambda w: w, {"hidden_size": 17}, "multiple of 2"),
    ("w2vbert_tiny", lambda w: w, {"add_adapter": True}, "add_adapter"),
    (
      "w2vbert_tiny",
      lambda w: w,
      {"position_embeddings_type": "relative"},
      "position_embeddings_type",
    ),
  )
  for i, (name, change, config, words) in enumerate(table):
    with pytest.raises(UserError, match=words):
      convert.read(write_folder(out(i), name, change, config))
  folder = write_folder(out("bare"), "musicfm_tiny")
  (folder / "fma_stats.json").unlink()
  with pytest.raises(UserError, match="melspec_2048_mean"):
    convert.read(folder)


def test_mert_is_hubert_at_another_rate(tmp_path):
  """Catches a rate or a normalisation of the wave that is not the file's."""
  mert = {"model_type": "mert_model", "sample_rate": 24_000}
  fields = convert.read(
    write_folder(tmp_path / "a", "hubert_tiny", config=mert)
  )[0]["model"]
  assert fields["rate"] == 24_000 and not fields["normalise"]
  front = {"do_normalize": True, "sampling_rate": 24_000}
  fields = convert.read(
    write_folder(tmp_path / "b", "hubert_tiny", config=mert, front=front)
  )[0]["model"]
  assert fields["rate"] == 24_000 and fields["normalise"]

  # Old files name the parts of the weight norm otherwise.
  def old(w):
    names = {"original0": "weight_g", "original1": "weight_v"}
    for new, before in names.items():
      name = "encoder.pos_conv_embed.conv."
      w[name + before] = w.pop(f"{name}parametrizations.weight.{new}")
    return w

  same = [
    convert.read(write_folder(tmp_path / n, "hubert_tiny", change))[1]
    for n, change in (("c", lambda w: w), ("d", old))
  ]
  jax.tree.map(np.testing.assert_array_equal, *same)
