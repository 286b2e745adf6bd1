"""A MusicLM from its parts on disk: assembled, loaded, made music with.

Must catch: real stages that are sampled otherwise than the fakes of
`test_musiclm.py`, conditions without effect, parts that do not fit and go
unnoticed, a bundle that is another model after loading, and mistakes on the
command line that end in a traceback.
"""

import chex
import jax
import numpy as np
import pytest
import random_musiclm as parts_of
import soundfile
from fake_stages import FakeTokenizer, fake_musiclm

import mmdcodec
from mmdcodec import bundle, packaged
from mmdcodec.cli import common
from mmdcodec.cli.main import main
from mmdcodec.errors import UserError
from mmdcodec.generation.musiclm import LoadedMusicLM
from mmdcodec.generation.musiclm_parts import check_parts, open_parts
from mmdcodec.models import weights
from mmdcodec.parallel import mesh as mesh_lib
from mmdcodec.tokenizers.loaded_codec import fingerprint
from mmdcodec.workflows import assemble

# One window of the semantic stage and three of the coarse one.
SECONDS = 1.6


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  """A folder with a bundle of each part."""
  folder = tmp_path_factory.mktemp("parts")
  config, variables = parts_of.musiclm()
  for key, part in config["parts"].items():
    bundle.save(folder / key, part, variables[key])
  return folder


@pytest.fixture(scope="module")
def argv(folder):
  """What assembles them, without the folder to make."""
  found = [f"--{key}={folder / key}" for key in parts_of.TOKENIZERS]
  stages = [str(folder / f"{name}_lm") for name in parts_of.STAGES]
  return [*found, "--stages", *stages[::-1]]


@pytest.fixture(scope="module")
def path(folder, argv):
  """The assembled bundle."""
  assert main(["assemble", str(folder / "musiclm"), *argv]) == 0
  return folder / "musiclm"


@pytest.fixture(scope="module")
def contents(path):
  """What it holds, read once: to check it takes more than a second."""
  return bundle.read(path)


@pytest.fixture(scope="module")
def music(path, contents):
  """The model, loaded."""
  return bundle.opened(path, contents)


def test_parts_may_be_packaged_models(contents, tmp_path, monkeypatch):
  """Catches parts that are missing, of another kind, or another's."""
  shelf = tmp_path / "shelf"
  monkeypatch.setattr(packaged, "FOLDER", shelf)
  names = {"codec": "sound", "joint": "words"}
  parts, variables = dict(contents.config["parts"]), dict(contents.variables)
  for key, name in names.items():
    bundle.save(shelf / name, parts[key], variables.pop(key))
    parts[key] = {"packaged": name}

  def read(**other):
    config = {"kind": "musiclm", "parts": parts | other}
    bundle.save(tmp_path / "named", config, variables, force=True)
    return bundle.read(tmp_path / "named")

  found = read()
  chex.assert_trees_all_equal(found.variables, contents.variables)
  strip = lambda config: {k: v for k, v in config.items() if k != "mmdcodec"}
  for key, part in contents.config["parts"].items():
    assert strip(found.config["parts"][key]) == strip(part)
  with pytest.raises(UserError, match="packaged joint 'wrds', which this"):
    read(joint={"packaged": "wrds"})
  with pytest.raises(UserError, match="'words' as its codec.* kind 'mulan'"):
    read(codec={"packaged": "words"})
  bundle.save(shelf / "whole", contents.config, contents.variables)
  with pytest.raises(UserError, match="'whole' as its codec"):
    read(codec={"packaged": "whole"})


def test_a_tokenizer_in_8_bits_keeps_its_hash(contents, tmp_path):
  """Catches codes that change when a model is taken apart or stored again."""
  config = {key: dict(part) for key, part in contents.config["parts"].items()}
  packed = bundle.stored_as("int8", contents.variables)
  bundle.save(
    tmp_path / "whole", {"kind": "musiclm", "parts": config}, packed
  )
  keys = ("codec", "semantic", "melody")
  folders = {key: tmp_path / key for key in keys}
  assemble.take_apart(tmp_path / "whole", folders)
  parts = bundle.read(tmp_path / "whole")
  for key, folder in folders.items():
    hashed = fingerprint(config[key], parts.variables[key])
    taken = bundle.read(folder)
    assert fingerprint(config[key], taken.variables) == hashed
    again = bundle.stored_as("int8", taken.variables)
    bundle.save(folder, config[key], again, force=True)
    assert fingerprint(config[key], bundle.read(folder).variables) == hashed
  with pytest.raises(UserError, match="has no depth; it has codec"):
    assemble.take_apart(tmp_path / "whole", {"depth": tmp_path / "x"})


def test_assembled_and_loaded(path, contents, music, monkeypatch, capsys):
  """Catches parts that change on the way, or that nobody hears of."""
  monkeypatch.setattr(bundle, "read", lambda path: contents)
  assert isinstance(music, LoadedMusicLM)
  for key in parts_of.TOKENIZERS:
    assert getattr(music, key).hash == parts_of.tokenizer(key).hash
  assert music.takes("text") and music.takes("melody")
  assert (music.rate, music.frame_rate, music.seconds) == (8000, 40.0, 1.6)
  assert main(["info", str(path)]) == 0
  shown = capsys.readouterr().out
  for words in ("text, melody, audio to continue", "fine stage", "3-4 x 32"):
    assert words in shown
  assert bundle.load_codec(path).hash == music.codec.hash
  config, _ = bundle.read_codec(path)
  assert config["kind"] == "codec"


def test_real_stages(music, compile_fast):
  """Catches music that depends on batch mates, streaming, or nothing at all."""
  options = dict(seconds=SECONDS, seed=3)
  tokens = music.generate_tokens(["calm", "loud"], **options)
  chunks = list(music.stream(["calm", "loud"], block=0.3, **options))
  streamed = np.concatenate([chunk.codes for chunk in chunks], 1)
  codes = music.join(tokens["coarse"], tokens["fine"])
  np.testing.assert_array_equal(streamed, codes)
  audio = music.decode(tokens["coarse"], tokens["fine"])
  np.testing.assert_allclose(
    np.concatenate([chunk.audio for chunk in chunks], 1), audio,
    atol=1e-5 * np.abs(audio).max(), rtol=0,
  )  # fmt: skip
  # The second item in another place, and another prompt with its seed.
  options["seed"] = [4, 4]
  turned = music.generate_tokens(["loud", "calm"], **options)
  for name in ("semantic", "coarse", "fine"):
    np.testing.assert_array_equal(turned[name][0], tokens[name][1])
    assert (turned[name][0] != turned[name][1]).any()
  # Each stage depends on what it is given, and on that alone.
  joint, semantic = tokens["joint"], tokens["semantic"]
  coarse = music.make_coarse(joint, semantic, seed=3)
  np.testing.assert_array_equal(coarse, tokens["coarse"])
  changed = music.make_coarse(joint, (semantic + 5) % 16, seed=3)
  assert (changed != coarse).any(axis=(1, 2)).all()
  fine = music.make_fine(joint, (coarse + 9) % 32, seed=3)
  assert (fine != tokens["fine"]).any(axis=(1, 2)).all()


def test_windows_and_chunks_of_a_real_stage(music, compile_fast):
  """Catches windows that go on from other codes, and chunks that know others.

  Greedy, so that each can be made as music of its own.
  """
  coarse = np.random.default_rng(0).integers(0, 32, (2, 30, 2))
  make = lambda start, end, **options: music.make_fine(
    None, coarse[:, start:end], temperature=0, **options
  )
  # Windows of 12 frames, of which 3 come from the one before.
  windows = make(0, 30)
  for start in (9, 18):
    known = windows[:, start : start + 3]
    alone = make(start, start + 12, known=known)
    np.testing.assert_array_equal(windows[:, start : start + 12], alone)
  chunks = make(0, 30, overlap=0)
  for start in (0, 12, 24):
    alone = make(start, start + 12, overlap=0)
    np.testing.assert_array_equal(chunks[:, start : start + 12], alone)
  assert (windows[:, :12] == chunks[:, :12]).all()
  assert (windows != chunks).any()


def test_the_command(tmp_path, monkeypatch, path, music, fails, compile_fast):
  """Catches a story, a length or a choice that gets lost on the way."""
  # Each command would read it again.
  monkeypatch.setattr(mmdcodec, "load", lambda path: music)
  story, out = tmp_path / "story.txt", tmp_path / "out.wav"
  story.write_text("0 calm\n\n0:00.8   loud drums \n")
  argv = ["generate", "", str(out), "--model", str(path), "--seed", "2"]
  argv += ["--seconds", "1.6"]
  more = ["--story", str(story), "--temperature=fine=0", "--count=2"]
  assert main([*argv, *more]) == 0
  want = music.generate(
    story=[(0, "calm"), (0.8, "loud drums")], seconds=1.6, seed=[2, 3],
    temperature={"fine": 0},
  )  # fmt: skip
  for i in range(2):
    x, rate = soundfile.read(tmp_path / f"out-{i + 1}.wav", dtype="float32")
    assert (rate, len(x)) == (8000, 12800)
    np.testing.assert_allclose(x, np.clip(want[i, :, 0], -1, 1), atol=1e-4)
  for lines, words in (
    ("1 calm", "begins at 1 s"),
    ("0 calm\n1:00 loud", "over after 1.6 s"),
    ("0 calm\n0.9 loud\n0.5 soft", "from 0.9 s to 0.5 s"),
    ("0 calm\nloud", "line 2: 'loud' is not a time"),
    ("\n", "is empty"),
  ):
    story.write_text(lines)
    assert words in fails(*argv, "--story", story)
  story.write_text("0 calm")
  argv[1], argv[2] = "calm " * 2000, str(tmp_path / "none.wav")
  assert "10001 tokens; this model takes at most 24" in fails(*argv)
  argv[1] = "calm"
  assert "--text-guidance is for" in fails(*argv, "--text-guidance", "2")
  assert "'middle'" in fails(*argv, "--temperature", "middle=1")
  assert "place of the prompt" in fails(*argv, "--story", story)
  with pytest.raises(UserError, match="takes a music model of one"):
    common.load_music(path)
  assert not (tmp_path / "none.wav").exists()


def test_what_is_given_to_assemble(tmp_path, folder, argv, path, fails):
  """Catches parts that are there twice, of another kind, or in the way."""
  out, stage = tmp_path / "out", folder / "fine_lm"
  only = ["assemble", out, "--codec", folder / "codec", "--stages", stage]
  assert "no coarse stage" in fails(*only)
  assert "both the fine stage" in fails(*only, stage)
  error = fails(*only, folder / "codec")
  assert "is no stage but a model of kind 'codec'" in error
  error = fails(*only, "--joint", folder / "melody")
  assert "given as --joint, is a model of kind 'melody_embedding'" in error
  assert "exists already" in fails("assemble", path, *argv)
  assert not out.exists()


def test_weights_of_other_parts():
  """Catches a bundle whose config and weights are not of the same parts."""
  config, variables = parts_of.musiclm()
  del variables["fine_lm"]
  with pytest.raises(UserError, match="describes the parts"):
    weights.check_parts("bundle", config, variables)
  config["parts"] = {"codec": config["parts"]["codec"]}
  wrong = jax.tree.map(lambda x: x[..., None], variables["codec"])
  with pytest.raises(UserError, match=r"bundle \(codec\) do not fit"):
    weights.check_parts("bundle", config, {"codec": wrong})


def test_parts_of_other_kinds():
  """Catches configs that open as something else, or not at all."""
  config, variables = parts_of.musiclm()
  parts = config["parts"]
  for wrong, words in (
    ({**parts, "drums": {}}, "unknown part 'drums'"),
    ({**parts, "codec": parts["semantic"]}, "part codec is a model of kind"),
    ({k: v for k, v in parts.items() if k != "codec"}, "has no codec"),
    ({k: v for k, v in parts.items() if k != "coarse_lm"}, "no coarse stage"),
  ):
    with pytest.raises(UserError, match=words):
      open_parts(wrong, variables)


@pytest.mark.parametrize(
  "change, words",
  (
    (lambda p: p["fine"].target.update(hash="x"), "fine stage makes codes of"),
    (
      lambda p: p["coarse"].streams.update(joint=dict(hash="x", tokenizer="y")),
      "coarse stage takes joint tokens of the y model x, but the joint"
      " embedding is mulan-hash",
    ),
    (
      lambda p: p["fine"].streams["coarse"].update(hash=None),
      "fine stage takes coarse tokens, but its config has no hash of the codec",
    ),
    (
      lambda p: p["semantic"].target.pop("hash"),
      "makes codes, but its config has no hash of the semantic tokenizer",
    ),
    (
      lambda p: p["semantic"].target.update(frame_rate=50.0),
      "makes codes at 50 Hz, but the semantic tokenizer has 25 frames",
    ),
  ),
)
def test_parts_that_do_not_fit(change, words):
  """Catches a stage that was trained with other neighbours."""
  music = fake_musiclm()
  change(music.parts.stages)
  with pytest.raises(UserError, match=words):
    check_parts(music.parts)


@pytest.mark.parametrize(
  "without, stages, words",
  (
    ((), dict(coarse=dict(codebook_size=64)), "codebooks of 64, but those of"),
    ((), dict(fine=dict(first_codebook=1)), "goes on with codebook 2; it must"),
    ((), dict(fine=dict(codebooks=3)), "up to 5, but the codec has 4"),
    ((), dict(coarse=dict(first_codebook=1)), "begin with the first"),
    ((), dict(coarse=dict(codebooks=1)), "takes 2 coarse tokens a frame, but"),
    ((), dict(semantic=dict(takes=("joint",))), "no stage takes melody"),
    ((), dict(fine=dict(takes=("semantic",))), "has a condition 'semantic'"),
    (("semantic_lm", "melody"), {}, "add the semantic stage"),
    (
      ("semantic_lm", "melody"), dict(coarse=dict(takes=("joint",))),
      "give both",
    ),
  ),
)  # fmt: skip
def test_stages_that_do_not_fit(without, stages, words):
  """Catches stages with other codes, or that are not needed."""
  with pytest.raises(UserError, match=words):
    fake_musiclm(without, **stages)


def test_conditions_that_do_not_fit():
  """Catches conditions of other tokens than those that are made."""
  for key, other, words in (
    ("joint", FakeTokenizer("mulan", 1.0, (17,) * 3), "codebooks of 16, but"),
    ("joint", FakeTokenizer("mulan", 1.0, (16,)), "takes 3 joint tokens a"),
    (
      "melody",
      FakeTokenizer("melody_embedding", 1.0, (8, 8)),
      "at 1.33333 Hz, but the",
    ),
    ("joint", None, "add the joint embedding"),
    ("semantic", None, "no semantic tokenizer"),
  ):
    parts = fake_musiclm().parts
    object.__setattr__(parts, key, other)
    with pytest.raises(UserError, match=words):
      check_parts(parts)


def test_condition_with_room_for_more_codes():
  """Catches a model of stages that training accepted and assembly refuses."""
  parts = fake_musiclm().parts
  object.__setattr__(parts, "joint", FakeTokenizer("mulan", 1.0, (9,) * 3))
  check_parts(parts)


@pytest.mark.slow
def test_eight_devices(music, compile_fast):
  """Catches draws that follow the device."""
  texts = [f"song {i}" for i in range(8)]
  options = dict(seconds=0.8, seed=3)
  config, variables = parts_of.musiclm()
  other = LoadedMusicLM(config, variables)
  want = music.generate_tokens(texts, **options)
  sizes = dict(zip(mesh_lib.AXES, (4, 2, 1), strict=True))
  other.place(mesh_lib.make_mesh(sizes))
  found = other.generate_tokens(texts, **options)
  jax.tree.map(np.testing.assert_array_equal, found, want)
