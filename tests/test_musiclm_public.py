"""A MusicLM over public models: EnCodec, w2v-BERT 2.0 and CLAP, all tiny.

Must catch: a command that takes only the library's own tokenizers.
"""

import numpy as np
import pytest
import soundfile
from test_clap import folder as clap_folder  # noqa: F401
from test_public_semantic import write_folder

import mmdcodec
from mmdcodec.audio import synth
from mmdcodec.cli.main import main
from mmdcodec.tokenizers.clap import Clap


@pytest.fixture
def songs(tmp_path):
  folder = tmp_path / "songs"
  folder.mkdir()
  for seed in range(4):
    song = synth.render(seed, seconds=3, rate=24_000)
    soundfile.write(folder / f"{seed}.wav", song.audio, song.rate)
    (folder / f"{seed}.txt").write_text("abc")
  return folder


def run(*words):
  assert main([*map(str, words)]) == 0


@pytest.mark.slow
def test_the_same_commands(tmp_path, songs, clap_folder, compile_fast):  # noqa: F811
  at = tmp_path
  run("prepare", songs, at / "data", "--seconds", 3)
  write_folder(at / "encodec_public", "encodec24_tiny")
  write_folder(at / "w2vbert_public", "w2vbert_tiny")
  run("convert", at / "encodec_public", at / "encodec")
  run("convert", at / "w2vbert_public", at / "w2vbert")
  run("convert", clap_folder, at / "clap")
  fit = ("--levels", 1, "--codes", 16)
  run("cluster", at / "w2vbert", at / "data", at / "semantic", *fit)
  fit = ("--levels", 2, "--codes", 2)
  run("cluster", at / "clap", at / "data", at / "joint", *fit)
  run(
    "tokenize", at / "data", at / "tokens", "--model", at / "encodec",
    "--model", at / "semantic", "--model", at / "joint",
  )  # fmt: skip
  codec = mmdcodec.load(at / "encodec")
  made = {each.name for each in (at / "tokens").iterdir()}
  assert made == {"codec", "semantic", "clap"}
  coarse = 2
  settings = {
    "semantic": ("semantic", 50.0, 16, 0, 1, {"joint": "clap"}),
    "coarse": (
      "codec", codec.frame_rate, codec.codebook_size, 0, coarse,
      {"joint": "clap", "semantic": "semantic"},
    ),
    "fine": (
      "codec", codec.frame_rate, codec.codebook_size, coarse,
      2, {"joint": "clap", "coarse": "codec"},
    ),
  }  # fmt: skip
  for name, (target, rate, size, first, books, streams) in settings.items():
    told = ",".join(f"{k}={at / 'tokens' / v}" for k, v in streams.items())
    changes = {
      "data.train": at / "tokens" / target, "data.streams": told,
      "data.frame_rate": rate, "steps": 3, "batch": 8, "model.frames": 20,
      "model.codebooks": books, "model.codebook_size": size,
      "model.pattern.name": "delay", "model.conditions.joint.codebooks": 2,
    }  # fmt: skip
    if first:
      changes["model.first_codebook"] = first
      changes["model.conditions.coarse.codebooks"] = coarse
      changes["model.conditions.coarse.size"] = size
      changes["model.conditions.coarse.frame_rate"] = rate
    if name == "coarse":
      changes["model.conditions.semantic.frame_rate"] = 50.0
    run(
      "train", f"--config=musiclm_{name}:tiny", f"--workdir={at / name}_lm",
      *(f"--config.{key}={value}" for key, value in changes.items()),
    )  # fmt: skip
  run(
    "assemble", at / "musiclm", "--codec", at / "encodec", "--semantic",
    at / "semantic", "--joint", at / "joint", "--stages",
    *(at / f"{name}_lm" for name in settings),
  )  # fmt: skip
  music = mmdcodec.load(at / "musiclm")
  assert isinstance(music.joint, Clap)
  y = music.generate(["abc", "b"], seconds=0.6, guidance=2.0)
  assert y.shape == (2, 14_400, 1) and np.isfinite(y).all()
  # Its tokens are those of CLAP's texts.
  joint = music.joint_tokens(["abc", "b"])
  np.testing.assert_array_equal(joint, music.joint.encode_clip(["abc", "b"]))
