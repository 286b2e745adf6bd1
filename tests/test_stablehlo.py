"""Exported programs: without this package, of any length, the same result."""

import json
import subprocess
import sys

import jax
import jax.export
import numpy as np
import pytest
from random_codec import write_random_codec

import mmdcodec
from mmdcodec import stablehlo
from mmdcodec.cli.main import main
from mmdcodec.nn import folding

# The example of README.txt for clips of several lengths, in a process that
# finds JAX and NumPy but not this package (nor Flax).
RUN = """
import sys
class Hidden:
  def find_spec(self, name, path=None, target=None):
    if name.split(".")[0] in ("mmdcodec", "flax", "safetensors"):
      raise ImportError(name)
sys.meta_path.insert(0, Hidden())
import json, jax, numpy as np
from jax import export
load = lambda name: jax.jit(export.deserialize(open(name, "rb").read()).call)
encode, decode = load("encode.stablehlo"), load("decode.stablehlo")
weights = dict(np.load("weights.npz"))
about = json.load(open("signature.json"))
unit, least = about["unit_samples"], about["least_units"]
given, out = np.load("in.npz"), {}
for case in json.loads(sys.argv[1]):
  x, lengths = given["x" + case], given["lengths" + case]
  units = max(-(-x.shape[1] // unit), least)
  padded = np.full((len(x), units * unit, x.shape[2]), 0.3, np.float32)
  padded[:, : x.shape[1]] = x
  coded = encode(weights, padded, lengths)
  books = given["books" + case]
  scale = [coded["scale"]] if "scale" in coded else []
  y = decode(weights, coded["codes"][..., :books], lengths, *scale)
  for key, value in {**coded, "y": y}.items():
    out[key + case] = np.asarray(value)
np.savez("out.npz", **out)
assert not {"mmdcodec", "flax", "safetensors"} & {*sys.modules}
"""


def programs_on_a_tpu(*arguments, programs=stablehlo.programs):
  """Programs as a machine with a TPU exports them, where layers would fold."""
  folded, original = [], folding.fold

  def spy(*given):
    folded.append(given)
    return original(*given)

  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(jax, "default_backend", lambda: "tpu")
    patch.setattr(folding, "fold", spy)
    out = programs(*arguments)
    assert not folded and folding.wanted()
  return out


@pytest.mark.parametrize(
  "preset,changes,cases",
  [
    # (lengths of the clips, codebooks that are decoded)
    ("encodec_tiny", {"lstm_layers": 1}, [([700, 655], 4)]),
    (
      "encodec_stereo_tiny",
      {"lstm_layers": 1, "ratios": (20,)},
      [([1590, 1570], 3)],
    ),
    (
      "soundstream_tiny",
      {"dilations": (1, 3), "ratios": (4,)},
      [([1], 2), ([151], 4)],
    ),
    ("spectral_tiny", {"channels": 2}, [([1], 2), ([151, 90], 4)]),
    pytest.param(
      *("spectral_tiny", {"phase_iterations": 2}, [([151, 90], 4)]),
      marks=pytest.mark.slow,
    ),
  ],
)
def test_programs_give_what_the_package_gives(
  tmp_path, preset, changes, cases, monkeypatch, compile_fast
):
  """Catches programs of one shape, that need us, or that differ from us.

  And programs for fewer platforms than it says, or made for the platform of the
  machine that exports.
  """
  source = write_random_codec(tmp_path / "bundle", 0, preset, **changes)
  folder = tmp_path / "programs"
  argv = ["export", source, str(folder), "--format", "stablehlo"]
  monkeypatch.setattr(stablehlo, "programs", programs_on_a_tpu)
  assert main(argv) == 0
  for name in ("encode", "decode"):
    program = jax.export.deserialize(
      bytearray((folder / f"{name}.stablehlo").read_bytes())
    )
    assert program.platforms == ("cpu", "cuda", "tpu")
  assert {p.name for p in folder.iterdir()} == {*stablehlo.FILES}

  codec = mmdcodec.load(source)
  rng, given = np.random.default_rng(0), {}
  for i, (lengths, books) in enumerate(cases):
    shape = (len(lengths), max(lengths), codec.channels)
    given[f"x{i}"] = rng.standard_normal(shape).astype(np.float32)
    given[f"lengths{i}"] = np.array(lengths, np.int32)
    given[f"books{i}"] = books
  np.savez(folder / "in.npz", **given)
  names = json.dumps([str(i) for i in range(len(cases))])
  subprocess.run([sys.executable, "-c", RUN, names], cwd=folder, check=True)
  found = np.load(folder / "out.npz")

  for i, (lengths, books) in enumerate(cases):
    x = given[f"x{i}"]
    codes, scale = codec.encode(x, lengths=lengths, return_scale=True)
    got = found[f"codes{i}"][:, : codes.shape[1]]
    np.testing.assert_array_equal(got, codes)
    assert found[f"frames{i}"].max() == codes.shape[1]
    if scale is not None:
      mine = found[f"scale{i}"][:, : scale.shape[1]]
      np.testing.assert_allclose(mine, scale, rtol=1e-5)
    for j, length in enumerate(lengths):
      used = found[f"frames{i}"][j]
      y = codec.decode(
        codes[j : j + 1, :used, :books],
        scale=None if scale is None else scale[j : j + 1],
        length=length,
      )
      y = y[0]
      error = np.abs(found[f"y{i}"][j, :length] - y).max()
      assert error < 1e-5 * np.abs(y).max()
      assert not found[f"y{i}"][j, length:].any()


def test_what_export_refuses(tmp_path, model, fails):
  """Catches files of somebody else that are lost, and a step ignored."""
  folder = tmp_path / "used"
  folder.mkdir()
  (folder / "README.txt").write_text("mine")
  argv = ["export", model, folder, "--format", "stablehlo"]
  assert "another name" in fails(*argv, "--force")
  assert (folder / "README.txt").read_text() == "mine"
  assert "--step" in fails(*argv, "--step", "3")
  assert "--dtype" in fails(*argv, "--dtype", "bfloat16")
  argv = ["export", tmp_path / "nothing", folder, "--format", "stablehlo"]
  assert "no model" in fails(*argv)
