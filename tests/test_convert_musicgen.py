"""Public MusicGen weights through the converter.

musicgenlm_tiny holds weights, input and logits of a decoder of the public
implementation (transformers 5.23). musicgen_tiny and musicgen_melody_tiny are
whole models of it with random weights, each of which matters: text encoder,
codec and decoder, saved by it, with the codes of its own greedy `generate` for
two prompts, given as tokens, without guidance and with guidance 3. No two
logits that a choice is between are nearer than 3e-3. The text model had both
prompts in one batch; the melody model one at a time, as it attends to padding.
musicgen_stereo_tiny (5.24) is the text model with 8 codebooks for two channels;
with the audio.

Must catch: another function than the public one's; a tensor or a setting that
is lost or passed over; names of older files or of the authors' release that are
not known; a bundle that can't be used.
"""

import re

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from musicgen_weights import NAMES, source, write_folder
from random_music import random_music

import mmdcodec
from mmdcodec import bundle, convert
from mmdcodec.cli.main import main
from mmdcodec.convert import (
  hub,
  musicgen,
  musicgen_config,
  musicgen_decoder,
)
from mmdcodec.errors import UserError
from mmdcodec.generation import decoding
from mmdcodec.generation.musicgen import LoadedMusic
from mmdcodec.models import token_lm
from mmdcodec.models.conditioning import EncodedConditions, drop


def test_logits_of_the_decoder(compile_fast):
  """Catches any difference in structure, norms, positions or layout."""
  config, w, arrays = source("musicgenlm_tiny")
  fields = musicgen_config.decoder_fields(config)
  params = musicgen_decoder.convert(w, fields)
  in_ours = lambda a: a.reshape(2, 4, *a.shape[1:]).swapaxes(1, 2)
  codes, want = in_ours(arrays["in/codes"]), in_ours(arrays["out/logits"])
  mask = arrays["in/encmask"] > 0
  assert 0 < mask.sum() < mask.size
  y = token_lm.from_config(fields).apply(
    {"params": params}, codes, encoded=EncodedConditions(arrays["in/enc"], mask)
  )
  np.testing.assert_allclose(y, want, atol=1e-5 * np.abs(want).max())


def greedy(model, params, inputs, *, frames, guidance):
  """The likeliest codes, one step after the other."""
  params, groups = {"params": params}, [inputs]
  batch = len(inputs["text"]["tokens"])
  if guidance != 1:
    nobody = np.zeros(batch, bool)
    groups.append(drop(model.make_conditions(), inputs, nobody))
  found = [
    model.apply(params, each, method="encode_conditions") for each in groups
  ]
  pattern = model.pattern_of(frames)
  given = np.where(pattern.frame_of < 0, model.special, -1)
  request = decoding.DecodeRequest(
    encoded=jax.tree.map(lambda *x: jnp.concatenate(x), *found),
    frames=jnp.asarray(pattern.frame_of_step),
    given=np.repeat(given[None], batch, axis=0),
    keys=jax.random.split(jax.random.key(0), batch),
    temperature=jnp.float32(0),
    top_p=None,
    guidance=jnp.float32(guidance),
    double_guidance=jnp.float32(1),
  )
  state = decoding.prefill(
    model, params["params"], request, 1, count=0, groups=len(groups)
  )
  state = decoding.advance(
    model,
    params["params"],
    request,
    state,
    len(pattern.steps) + 1,
    groups=len(groups),
    top_k=0,
  )
  return np.asarray(pattern.revert(state.tokens))


@pytest.mark.parametrize(
  "name, guidance",
  [
    *((name, 3) for name in NAMES),
    pytest.param(NAMES[0], 1, marks=pytest.mark.slow),
  ],
)
def test_greedy_codes_are_those_of_the_source(
  tmp_path, name, guidance, compile_fast
):
  """Catches a wrong condition, order of parts, position, delay or guidance.

  Prompts of different lengths in one batch: their padding must not count.
  """
  config, w, arrays = source(name)
  found, variables, _ = convert.read(write_folder(tmp_path / "in", config, w))
  model = token_lm.from_config(found["model"])
  mask = arrays["in/mask"] > 0
  assert 0 < mask.sum() < mask.size
  given = np.ones(len(mask), bool)
  assert (np.diff(mask.astype(int), axis=1) <= 0).all()
  inputs = {
    "text": dict(tokens=arrays["in/ids"], lengths=mask.sum(1), given=given)
  }
  if "in/melody" in arrays:
    inputs["melody"] = dict(classes=arrays["in/melody"], given=given)
  want = arrays[f"out/codes_{guidance}"]
  assert len(np.unique(want, axis=1)) > 1
  codes = greedy(
    model,
    variables["params"],
    inputs,
    frames=want.shape[1],
    guidance=guidance,
  )
  np.testing.assert_array_equal(codes, want)


def test_what_is_not_in_a_tensor():
  """Catches a wrong length of clips, delay, melody or text."""
  config, w, _ = source("musicgen_tiny")
  fields, codec = musicgen_config.fields_of(config)
  assert fields["frames"] == 30 * 50 and codec["rate"] == 400
  assert fields["conditions"]["text"]["tokenizer"] == "t5" and fields["cross"]
  model = token_lm.from_config(fields)
  assert [step[-1] for step in model.pattern_of(9).steps[:5]] == [
    (0, 0), (0, 1), (0, 2), (0, 3), (1, 3),
  ]  # fmt: skip
  config, w, _ = source("musicgen_melody_tiny")
  fields, _ = musicgen_config.fields_of(config)
  assert fields["conditions"]["melody"]["frames"] == 6 and not fields["cross"]


# As transformers wrote it into every part of a config when the public models
# were made.
OLD = dict(
  _name_or_path="", add_cross_attention=False, bad_words_ids=None,
  begin_suppress_tokens=None, diversity_penalty=0.0, do_sample=False,
  early_stopping=False, encoder_no_repeat_ngram_size=0, finetuning_task=None,
  forced_eos_token_id=None, id2label={"0": "LABEL_0"}, length_penalty=1.0,
  max_length=20, num_beams=1, pruned_heads={}, return_dict=True,
  sep_token_id=None, temperature=1.0, tie_encoder_decoder=False, top_k=50,
  top_p=1.0, torch_dtype="float32", torchscript=False, typical_p=1.0,
  use_bfloat16=False,
)  # fmt: skip


def test_older_files_give_the_same_model():
  """Catches a refusal of the published files, or a name taken for another."""
  config, w, _ = source("musicgen_tiny")
  want = musicgen.convert(w, config)
  old = {**config, **OLD}
  for name in ("text_encoder", "audio_encoder", "decoder"):
    old[name] = {**OLD, **config[name]}
  old["audio_encoder"]["tie_word_embeddings"] = True
  renamed = {
    name.replace("parametrizations.weight.original0", "weight_g").replace(
      "parametrizations.weight.original1", "weight_v"
    ): a
    for name, a in w.items()
  }
  positions = "decoder.model.decoder.embed_positions.weights"
  renamed[positions] = np.ones((2048, 16), np.float32)
  assert len(renamed.keys() - w.keys()) > 10
  found = musicgen.convert(renamed, old)
  assert found[:2] == want[:2]
  chex.assert_trees_all_equal(found[2], want[2])


QUERY = "decoder.model.decoder.layers.1.self_attn.q_proj.weight"


@pytest.mark.parametrize(
  "changes, words",
  [
    ({QUERY: None}, rf"decoder of this.*missing .*{QUERY[8:]}"),
    ({"decoder.more": np.ones(3, np.float32)}, "decoder.*left over .more"),
    ({"more": np.ones(3, np.float32)}, "left over .more"),
    ({"enc_to_dec_proj.bias": None}, "missing .enc_to_dec_proj.bias"),
    # Of the right size.
    ({QUERY: np.ones((8, 32), np.float32)}, "1 of another shape"),
    (
      {"text_encoder.encoder.final_layer_norm.weight": None},
      "text_encoder of this.*missing",
    ),
    (
      {"audio_encoder.decoder.layers.0.conv.bias": None},
      "audio_encoder of this.*missing",
    ),
  ],
)
def test_weights_that_do_not_fit(changes, words):
  """Catches a tensor that is left out, or bent to fit, without a word."""
  config, w, _ = source("musicgen_tiny")
  w = {k: v for k, v in (w | changes).items() if v is not None}
  with pytest.raises(UserError, match=words):
    musicgen.convert(w, config)


def test_a_text_of_the_same_width():
  """Catches a projection that is made up, or one that is passed over."""
  config, w, _ = source("musicgen_tiny")
  fields, _ = musicgen_config.fields_of(config)
  fields["conditions"]["text"]["encoder"]["width"] = fields["width"]
  decoder = {
    k.removeprefix("decoder."): a
    for k, a in w.items()
    if k.startswith("decoder.")
  }
  params = musicgen_decoder.convert(decoder, fields, {"a": 1})
  assert params["conditioner"] == {"text_encoder": {"a": 1}}
  extra = {k: a for k, a in w.items() if k.startswith("enc_to_dec_proj")}
  with pytest.raises(UserError, match="2 tensors are left over"):
    musicgen_decoder.convert(decoder | extra, fields, {"a": 1})


@pytest.mark.parametrize(
  "part, changes, words",
  [
    ("decoder", {"scale_embedding": True}, "scale_embedding = True"),
    ("decoder", {"tie_word_embeddings": True}, "tie_word_embeddings"),
    ("decoder", {"activation_function": "silu"}, "'silu'.*'gelu' or 'relu'"),
    ("decoder", {"pad_token_id": 0}, "pad_token_id = 0.*32"),
    ("decoder", {"cross_attention_hidden_size": 12}, "cross_attention"),
    ("decoder", {"hidden_size": "wide"}, "hidden_size"),
    ("decoder", {"rotary": True}, "'rotary'"),
    ("decoder", {"audio_channels": 3}, "audio_channels"),
    ("decoder", {"audio_channels": 2, "num_codebooks": 3}, "even number"),
    ("text_encoder", {"model_type": "bert"}, "text_encoder.*'bert'"),
    ("text_encoder", {"feed_forward_proj": "silu"}, "feed_forward_proj"),
    ("audio_encoder", {"model_type": "dac"}, "audio_encoder.*'dac'"),
    ("audio_encoder", {"pad_mode": "edge"}, "audio_encoder.*pad_mode"),
    ("audio_encoder", {"bands": 3}, "audio_encoder.*'bands'"),
    (None, {"decoder": None}, "decoder = None"),
    (None, {"num_chroma": 12}, "'num_chroma'"),
  ],
)
def test_configs_that_are_not_supported(part, changes, words):
  """Catches another function than the weights were trained for."""
  config, _, _ = source("musicgen_tiny")
  musicgen_config.fields_of(config)
  (config if part is None else config[part]).update(changes)
  with pytest.raises(UserError, match=words):
    musicgen_config.fields_of(config)


def test_the_bundle(tmp_path, capsys, fails):
  """Catches a bundle that lacks the codec, the tokenizer or its provenance."""
  config, w, _ = source("musicgen_melody_tiny")
  folder = write_folder(tmp_path / "tiny", config, w, '{"a": 1}')
  out = tmp_path / "out"
  assert main(["convert", str(folder), str(out)]) == 0
  shown = capsys.readouterr().out
  assert "text and melody" in shown and "400 Hz, 4 x 32 codes" in shown
  assert (out / "tokenizer.json").read_text() == '{"a": 1}'
  music = mmdcodec.load(out)
  assert isinstance(music, LoadedMusic) and music.rate == 400
  want = musicgen.convert(w, config)[2]
  chex.assert_trees_all_equal(music.variables, want)
  chex.assert_trees_all_equal(bundle.read(out).variables, want)
  # Without a bundle in between, the same model.
  assert (
    mmdcodec.load(folder).config["model"] == convert.read(folder)[0]["model"]
  )
  assert main(["info", str(out)]) == 0
  shown = capsys.readouterr().out
  assert re.search(r"takes +text, melody\n", shown)
  assert re.search(r"converted from +tiny\n", shown)
  # A bundle with a tokenizer is a bundle too, and is replaced as one.
  assert main(["convert", str(folder), str(out), "--force"]) == 0
  (out / "more").write_text("")
  assert "not a bundle" in fails("convert", folder, out, "--force")


def test_a_bundle_without_all_its_arrays(tmp_path):
  """Catches a missing array of the language model or of its codec."""
  config, variables = random_music(tmp_path / "codec")
  bundle.save(tmp_path / "whole", config, variables)
  assert not (tmp_path / "whole" / "tokenizer.json").exists()
  assert mmdcodec.load(tmp_path / "whole").model.codebooks
  for path in (["params", "conditioner"], ["codec", "codebook"]):
    less = jax.tree.map(lambda a: a, variables)
    del less[path[0]][path[1]]
    bundle.save(tmp_path / path[1], config, less)
    with pytest.raises(UserError, match=f"do not fit.*{'/'.join(path)}"):
      mmdcodec.load(tmp_path / path[1])
  with pytest.raises(ValueError, match="other"):
    bundle.save(tmp_path / "o", config, variables, assets={"other": b""})


def test_mistakes_are_named(tmp_path, fails):
  """Catches a model without a tokenizer that is only found when it is used."""
  config, w, _ = source("musicgen_tiny")
  folder = write_folder(tmp_path / "in", config, w, tokenizer=None)
  out = tmp_path / "out"
  error = fails("convert", folder, out)
  assert "holds no tokenizer.json," in error and "t5-base" in error
  (folder / "spiece.model").write_bytes(b"")
  assert "spiece.model is not enough" in fails("convert", folder, out)
  assert not out.exists()
  assert "tokenizer.json" in hub.PATTERNS
  (folder / "tokenizer.json").write_text("{}")
  assert "omit --preset" in fails("convert", folder, out, "--preset", "tiny")
  alone = folder / "model.safetensors"
  found = convert.read(alone)
  chex.assert_trees_all_equal(found[1], convert.read(folder)[1])
  (folder / "config.json").write_text('{"model_type": "musicgen_decoder"}')
  assert "'musicgen_decoder'" in fails("convert", folder, out)
