"""Public EnCodec weights through the converter.

The fixtures hold weights, input and output of tiny models of the public
implementation, with codebooks fitted so that codes are diverse.
"""

import json
import os
import pathlib
import re
import subprocess
import sys

import chex
import jax
import numpy as np
import pytest
import safetensors.numpy

import mmdcodec
from mmdcodec import bundle, convert, folders
from mmdcodec.cli.main import main
from mmdcodec.convert import encodec, hub, weights
from mmdcodec.errors import UserError
from mmdcodec.models import codec as codec_model
from mmdcodec.quantize import vector
from mmdcodec.tokenizers import loaded_codec

DATA = pathlib.Path(__file__).parent / "data"
NAMES = (
  "encodec24_tiny",
  "encodec32_tiny",
  "encodec48_tiny",
  "encodec48_chunked_tiny",
)


def fixture(name):
  """(config, tensors by name, input and output) of a stored tiny EnCodec."""
  config = json.loads((DATA / f"{name}.json").read_text())
  arrays = dict(np.load(DATA / f"{name}.npz"))
  # The same model in shorter chunks, stored without its weights.
  of = np.load(DATA / f"{name.replace('_chunked', '')}.npz")
  w = {key[2:]: of[key] for key in of if key.startswith("w/")}
  return config, w, arrays


def write_folder(folder, config, w):
  """A folder as the public library writes it."""
  folder.mkdir(parents=True)
  if config is not None:
    (folder / "config.json").write_text(json.dumps(config))
  safetensors.numpy.save_file(w, folder / "model.safetensors")
  return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  """The 24 kHz fixture as a public folder; no test changes it."""
  config, w, _ = fixture("encodec24_tiny")
  return write_folder(tmp_path_factory.mktemp("public") / "tiny24", config, w)


@pytest.mark.parametrize(
  "name",
  [
    # The same model in chunks is fast enough for every run.
    pytest.param(
      name, marks=pytest.mark.slow if name == "encodec48_tiny" else ()
    )
    for name in NAMES
  ],
)
def test_codes_and_audio_are_those_of_the_source(tmp_path, name, request):
  """Catches any difference of converter or model from the public one.

  In structure, layout of weights, padding, LSTM, norms, scale or overlaps. One
  of them with XLA's optimisations, the others compiled fast.
  """
  if name != "encodec24_tiny":
    request.getfixturevalue("compile_fast")
  config, w, arrays = fixture(name)
  source = write_folder(tmp_path / "public", config, w)
  codec = loaded_codec.LoadedCodec(*convert.read(source)[:2])

  wanted, audio = arrays["out/codes"], arrays["out/audio"].swapaxes(1, 2)
  # Chunk after chunk: [chunks, batch, books, frames] -> [batch, frames, books].
  wanted = np.moveaxis(wanted, 0, 2).reshape(*wanted.shape[1:3], -1)
  wanted = wanted.swapaxes(1, 2)
  wanted = wanted[:, : wanted.shape[1] - arrays["out/last_frame_pad_length"]]
  assert len(np.unique(wanted[..., 0])) > 8, "too uniform to prove anything"

  x = arrays["in/audio"].swapaxes(1, 2)
  codes, scale = codec.encode(x, codebooks=wanted.shape[2], return_scale=True)
  np.testing.assert_array_equal(codes, wanted)
  if "out/scale" in arrays:
    np.testing.assert_allclose(scale, arrays["out/scale"][..., 0].T, rtol=1e-6)
  y = codec.decode(codes, scale=scale)
  assert y.shape == audio.shape
  assert np.abs(y - audio).max() < 1e-5 * np.abs(audio).max()


def same(a, b):
  """Whether two sets of variables are equal to the last bit."""
  chex.assert_trees_all_equal(a, b)


def released(name):
  """A tensor's name in the releases of the authors, with the old weight norm.

  Written from their module tree, and not with the converter's patterns.
  """
  if name.startswith("quantizer."):
    return name.replace("quantizer.layers", "quantizer.vq.layers").replace(
      ".codebook.", "._codebook."
    )
  half, rest = name.split(".layers.")
  up = half == "decoder" and re.match(r"(3|6|9|12)\.", rest)
  kind = "convtr" if up else "conv"
  rest = rest.replace(".conv.", f".{kind}.{kind}.")
  rest = rest.replace(".norm.", f".{kind}.norm.")
  for old, new in (("original0", "weight_g"), ("original1", "weight_v")):
    rest = rest.replace(f"parametrizations.weight.{old}", new)
  return f"{half}.model.{rest}"


def old_norm(name):
  """A tensor's name in files of transformers before PyTorch's new one."""
  for old, new in (("original0", "weight_g"), ("original1", "weight_v")):
    name = name.replace(f"parametrizations.weight.{old}", new)
  return name


def test_old_names_give_the_same_model(tmp_path, folder):
  """Catches g and v swapped, or a name of an older file that is not known."""
  config, w, _ = fixture("encodec24_tiny")
  wanted = convert.read(folder)
  renamed = {old_norm(name): a for name, a in w.items()}
  assert len(renamed.keys() - w.keys()) == 2 * 36
  old = write_folder(tmp_path / "old", config, renamed)
  same(convert.read(old)[1], wanted[1])
  assert convert.read(old)[0]["model"] == wanted[0]["model"]


def test_a_file_beside_its_config(tmp_path, folder):
  """Catches a config.json that is ignored, or that is not the file's own."""
  config, w, _ = fixture("encodec24_tiny")
  by_file = convert.read(folder / "model.safetensors")
  wanted = convert.read(folder)
  same(by_file[1], wanted[1])
  assert by_file[0]["model"] == wanted[0]["model"]
  assert by_file[0]["source"]["config"] == config
  with pytest.raises(UserError, match="omit --preset"):
    convert.read(folder / "model.safetensors", "encodec_24khz")
  # A bundle's config, or that of another model, says nothing of these weights.
  for other, tensors, preset in [
    ({"kind": "codec", "model": {}}, w, "encodec_24khz"),
    (
      {"model_type": "musicgen"},
      {released(name): a for name, a in w.items()},
      "encodec_24khz",
    ),
  ]:
    place = write_folder(tmp_path / str(len(other)), other, tensors)
    found = convert.read(place / "model.safetensors", preset)
    assert found[0]["source"]["config"] is None
    same(found[1], wanted[1])


def test_public_weights_are_never_replaced(tmp_path, folder, fails):
  """Catches a --force that destroys weights, whose files have our names."""
  config, w, _ = fixture("encodec24_tiny")
  other = write_folder(tmp_path / "public", config, w)
  before = {p.name: p.read_bytes() for p in other.iterdir()}
  link = tmp_path / "link"
  link.symlink_to(other)
  for target in (other, link, tmp_path / "none" / ".." / "public"):
    assert "public weights" in fails("convert", folder, target, "--force")
    for source in (other, other / "model.safetensors"):
      assert "public weights" in fails("convert", source, target, "--force")
    with pytest.raises(UserError, match="public weights"):
      bundle.save(target, {"kind": "codec"}, {}, force=True)
    with pytest.raises(UserError, match="public weights"):
      with folders.replacing(target, ("config.json",), force=True):
        raise AssertionError("it was to be refused")
  # Weights of a release beside a config.json that is nobody's.
  (other / "config.json").write_text("{}")
  for source in (other, other / "model.safetensors"):
    assert "come from" in fails("convert", source, other, "--force")
  (other / "config.json").write_bytes(before["config.json"])
  assert "no --workdir" in fails("export", other, tmp_path / "exported")
  assert {p.name: p.read_bytes() for p in other.iterdir()} == before


@pytest.mark.parametrize(
  "name,preset,rate",
  [
    ("encodec24_tiny", "encodec_24khz", 24000),
    ("encodec48_tiny", "encodec_48khz", 48000),
  ],
)
def test_a_release_without_a_config(tmp_path, name, preset, rate):
  """Catches names of the authors' own code, and shapes that are misread."""
  config, w, _ = fixture(name)
  source = write_folder(tmp_path / "hf", config, w)
  alone = {released(name): a for name, a in w.items()}
  assert not alone.keys() & w.keys()
  file = write_folder(tmp_path / "alone", None, alone) / "model.safetensors"
  with pytest.raises(UserError, match="--preset"):
    convert.read(file)
  told = [convert.read(source), convert.read(file, preset)]
  same(told[0][1], told[1][1])
  assert told[0][0]["model"] == told[1][0]["model"]
  assert told[1][0]["model"]["rate"] == rate


def telling_shapes(model):
  """Shapes of the tensors that tell a published model, by name."""
  filters, norm = model.filters, model.norm
  weight = "conv.parametrizations.weight.original1"
  if norm != "weight":
    weight = "conv.weight"
  top = 16 * filters
  out = {
    f"encoder.layers.0.{weight}": (filters, model.channels, 7),
    f"encoder.layers.15.{weight}": (128, top, 7),
    "encoder.layers.13.lstm.weight_hh_l0": (4 * top, top),
    "encoder.layers.13.lstm.weight_hh_l1": (4 * top, top),
  }
  if norm != "weight":
    out["encoder.layers.0.norm.weight"] = (filters,)
  for i, ratio in enumerate(reversed(model.ratios)):
    width, block = filters * 2**i, f"encoder.layers.{1 + 3 * i}"
    out[f"{block}.block.1.{weight}"] = (width // 2, width, 3)
    out[f"{block}.block.3.{weight}"] = (width, width // 2, 1)
    if model.shortcut == "conv":
      out[f"{block}.shortcut.{weight}"] = (width, width, 1)
    down = f"encoder.layers.{3 + 3 * i}.{weight}"
    out[down] = (2 * width, width, 2 * ratio)
  for i in range(model.codebooks):
    key = f"quantizer.layers.{i}.codebook.embed"
    out[key] = (model.codebook_size, 128)
  return out


def test_published_shapes_are_known():
  """Catches a release that needs --preset, or is taken for another one."""
  for name in encodec.PRESETS:
    model = codec_model.from_config(codec_model.preset(name))
    shapes = telling_shapes(model)
    arrays = {k: np.broadcast_to(np.float32(0), s) for k, s in shapes.items()}
    assert codec_model.from_config(encodec.guess(arrays)) == model


def test_code_vectors_are_kept_to_the_last_bit():
  """Catches codes that move because sum / count rounds."""
  embed = np.random.default_rng(0).standard_normal((3, 1024, 8))
  embed = (embed * 10.0 ** np.arange(-4, 4)).astype(np.float32)
  sum, count = encodec.codebook_state(embed, [0.0, 4.7, 1e-3])
  assert count[0, 0] == 1 and count[1, 0] == 4 and 0 < count[2, 0] < 2e-3
  found = jax.jit(vector.embedding)(sum, count)
  np.testing.assert_array_equal(found, embed)


def test_every_tensor_is_needed_and_none_is_ignored(folder):
  """Catches weights that are silently left out or made up."""
  config, w, _ = fixture("encodec24_tiny")
  lost = "decoder.layers.3.conv.parametrizations.weight.original0"
  extra = "encoder.layers.13.lstm.weight_hr_l0"
  wrong = "encoder.layers.15.conv.bias"
  bias = "decoder.layers.1.lstm.bias_hh_l0"
  sizes, average = (
    f"quantizer.layers.0.codebook.{what}"
    for what in ("cluster_size", "embed_avg")
  )
  made = encodec.convert(w, config)
  rules = encodec.rules(codec_model.from_config(made[0]))
  shapes = {k: a.shape for k, a in loaded_codec.flatten(made[1]).items()}
  check = lambda new: weights.apply(rules, new, shapes)
  for change, words in [
    (lambda w: w.pop(lost), f"1 tensor is missing .{lost}"),
    (lambda w: w.update({extra: w[wrong]}), f"1 tensor is left over .{extra}"),
    (lambda w: w.update({wrong: w[wrong][1:]}), wrong),
    (lambda w: w.update({average: w[wrong]}), average),
    (lambda w: w.update({sizes: w[sizes][:3]}), sizes),
    (lambda w: w.update({bias: w[bias][:1]}), bias),
    (lambda w: w.update({wrong: w[wrong] * np.nan}), f"finite.*{wrong}"),
    (lambda w: w.update({average: w[average] + np.inf}), f"finite.*{average}"),
    (lambda w: w.update({wrong: w[wrong].astype(int)}), f"floats.*{wrong}"),
  ]:
    new = dict(w)
    change(new)
    with pytest.raises(UserError, match=words):
      check(new)
  with pytest.raises(UserError, match="the same tensor"):
    encodec.convert(w | {old_norm(lost): w[lost]}, config)
  # Averages and counts add nothing to the code vectors but inertia.
  few = {k: v for k, v in w.items() if not re.search("avg|size|inited", k)}
  assert len(few) < len(w)
  same(check(few), loaded_codec.flatten(made[1]))
  w |= {k: 0 * v for k, v in w.items() if k.endswith("inited")}
  assert not check(w)["codebook/quantizer/started"]


def test_files_in_parts_and_of_half_precision(tmp_path, folder):
  """Catches a part that is not read, and bfloat16 taken for bytes."""
  import ml_dtypes

  config, w, _ = fixture("encodec24_tiny")
  split = tmp_path / "split"
  split.mkdir()
  (split / "config.json").write_text(json.dumps(config))
  names, files = sorted(w), ("a.safetensors", "b.safetensors")
  where = {name: files[i % 2] for i, name in enumerate(names)}
  for file in files:
    part = {name: w[name] for name in names if where[name] == file}
    safetensors.numpy.save_file(part, split / file)
  index = split / "model.safetensors.index.json"
  index.write_text(json.dumps({"weight_map": where}))
  same(convert.read(split)[1], convert.read(folder)[1])
  (split / "b.safetensors").unlink()
  with pytest.raises(UserError, match="b.safetensors.*missing"):
    convert.read(split)
  index.write_text(json.dumps({"weight_map": {"a": "../a.safetensors"}}))
  with pytest.raises(UserError, match="missing"):
    convert.read(split)

  half = {name: a.astype(ml_dtypes.bfloat16) for name, a in w.items()}
  source = write_folder(tmp_path / "half", config, half)
  params = convert.read(source)[1]["params"]
  exact = convert.read(folder)[1]["params"]
  rough = params["encoder"]["block_0"]["down"]["v"]
  exact = exact["encoder"]["block_0"]["down"]["v"]
  assert rough.dtype == np.float32 and (rough != exact).any()
  np.testing.assert_allclose(rough, exact, rtol=2**-8)


def test_mistakes_are_named(tmp_path, folder, fails):
  """Catches a pickle that is opened, and errors that end in a traceback."""
  out = tmp_path / "out"
  pickled = tmp_path / "pickled"
  pickled.mkdir()
  (pickled / "pytorch_model.bin").write_bytes(b"\x80\x04.")
  (pickled / "config.json").write_text('{"model_type": "encodec"}')
  error = fails("convert", pickled, out)
  assert "pickle" in error and "safetensors.torch.save_file" in error
  assert "best_state" in error
  assert "pickle" in fails("convert", pickled / "pytorch_model.bin", out)
  assert "holds no model.safetensors" in fails("convert", tmp_path, out)
  assert "no such file" in fails("convert", tmp_path / "nothing", out)
  assert "omit --preset" in fails(
    "convert", folder, out, "--preset", "encodec_24khz"
  )
  other = tmp_path / "other"
  other.mkdir()
  (other / "config.json").write_text('{"model_type": "dac"}')
  assert "'dac'" in fails("convert", other, out)
  (other / "config.json").write_text('{"model_type": ["encodec"]}')
  assert "['encodec']" in fails("convert", other, out)
  (other / "config.json").write_text("[" * 10**5)
  assert "JSON" in fails("convert", other, out)
  (other / "config.json").unlink()
  safetensors.numpy.save_file({"a": np.ones(3)}, other / "model.safetensors")
  assert "not the weights of an EnCodec" in fails("convert", other, out)
  (other / "model.safetensors").write_bytes(b"nonsense")
  assert "damaged" in fails("convert", other, out)
  (other / "second.safetensors").write_bytes(b"")
  (other / "model.safetensors").rename(other / "first.safetensors")
  assert "2 files" in fails("convert", other, out)
  assert not out.exists()


def test_the_bundle_says_where_it_comes_from(tmp_path, folder, capsys):
  """Catches lost provenance, and a path of this machine in the bundle."""
  out = tmp_path / "out"
  assert main(["convert", str(folder), str(out)]) == 0
  config = json.loads((out / "config.json").read_text())
  assert config["source"]["name"] == "tiny24"
  public = json.loads((folder / "config.json").read_text())
  assert config["source"]["config"] == public
  assert str(folder) not in json.dumps(config)
  capsys.readouterr()
  assert main(["info", str(out)]) == 0
  shown = capsys.readouterr().out
  assert re.search(r"converted from +tiny24\n", shown)
  assert "64 x 32" in shown and re.search(r"\n +64 +24.00\n?$", shown)
  # Without a bundle in between, the same model.
  assert mmdcodec.load(folder).hash == mmdcodec.load(out).hash


def test_an_id_is_downloaded(tmp_path, folder, monkeypatch, fails):
  """Catches a hub that is asked for paths, for pickles, or without need."""
  import huggingface_hub

  asked = []

  def download(name, **options):
    asked.append((name, options))
    if name == "some/body":
      raise OSError("404 Client Error\nRequest ID")
    return str(folder)

  monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
  monkeypatch.chdir(tmp_path)
  assert mmdcodec.load("owner/model").rate == 24000
  name, options = asked.pop()
  assert name == "owner/model"
  assert not any(".bin" in p or p == "*" for p in options["allow_patterns"])
  error = fails("convert", "some/body", "out")
  assert "404 Client Error" in error and "Request" not in error
  asked.clear()
  (tmp_path / "runs").mkdir()
  for path in ("runs/small", "/some/body", "a/b/c", "../a", "model"):
    with pytest.raises(UserError):
      mmdcodec.load(path)
  assert mmdcodec.load(folder) and not asked
  monkeypatch.setitem(sys.modules, "huggingface_hub", None)
  with pytest.raises(UserError, match=r"pip install 'mmdcodec\[hub\]'"):
    mmdcodec.load("owner/model")


def test_the_cache_of_the_hub_works_offline(tmp_path, folder):
  """Catches a model that is there already, but is not found or not named."""
  commit = "0123456789abcdef0123456789abcdef01234567"
  cache = tmp_path / "models--owner--tiny-24"
  snapshot = cache / "snapshots" / commit
  snapshot.mkdir(parents=True)
  (cache / "refs").mkdir()
  (cache / "refs" / "main").write_text(commit)
  (cache / "blobs").mkdir()
  for file in folder.iterdir():
    blob = cache / "blobs" / f"blob-of-{file.name}"
    blob.write_bytes(file.read_bytes())
    (snapshot / file.name).symlink_to(os.path.relpath(blob, snapshot))
  # In a process of its own, as the hub reads its settings when it is imported.
  done = subprocess.run(
    [
      sys.executable,
      "-c",
      "from mmdcodec.convert import hub; print(hub.find('owner/tiny-24'))",
    ],
    env={**os.environ, "HF_HUB_CACHE": str(tmp_path), "HF_HUB_OFFLINE": "1"},
    cwd=tmp_path,
    check=True,
    stdout=subprocess.PIPE,
    text=True,
  )
  found = pathlib.Path(done.stdout.strip())
  assert found.samefile(snapshot)
  config, variables, _ = convert.read(found)
  assert config["source"]["name"] == "owner/tiny-24"
  same(variables, convert.read(folder)[1])


def test_rules_that_do_not_fit_the_model_are_a_fault_of_ours():
  """Catches a converter that uses a tensor twice, or forgets a parameter."""
  one, shapes = {"a": np.ones(2)}, {"x": (2,)}
  rule = weights.Rule(("x",), ("a",))
  np.testing.assert_array_equal(weights.apply([rule], one, shapes)["x"], 1)
  again = weights.Rule(("y",), ("a",))
  for rules, wanted in [
    ([rule, again], {"x": (2,), "y": (2,)}),
    ([rule], {"x": (2,), "y": (2,)}),
    ([rule, again], shapes),
  ]:
    with pytest.raises(ValueError, match="rules"):
      weights.apply(rules, one, wanted)
  assert hub.is_id("facebook/encodec_24khz") and not hub.is_id("a//b")
