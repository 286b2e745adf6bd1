"""Makes the files beside it. Runs with version 0.1 (commit 5fbe4e9) only.

    JAX_PLATFORMS=cpu python make.py FOLDER

Models are so small that their checkpoints can be kept: two filters in the
codecs, width 8 in the language models. Each comes by the command line that a
user would have typed (`commands.json`), with what the old version computed
from it (`expected.npz`).
"""

import json
import os
import pathlib
import shutil
import sys
import tarfile

import numpy as np
import safetensors.numpy
import soundfile

import mmdcodec
from mmdcodec.cli.main import main
from mmdcodec.generation import prompts
from mmdcodec.models import token_lm
from mmdcodec.train import metrics

HERE = pathlib.Path(__file__).parent.resolve()
RATE = 8000

CODEC = """
--config.model.filters=2 --config.model.dim=8 --config.model.dilations=(1,)
--config.model.lstm_layers=1 --config.model.codebook_size=16
--config.data.train=audio --config.data.valid=audio --config.batch=8
--config.keep=1 --config.compilation_cache=off
"""
LM = """
--config.model.width=8 --config.model.frames=24 --config.model.layers=2
--config.model.codebook_size=16
--config.data.frame_rate=400 --config.data.text_tokens=16 --config.batch=8
--config.data.train=tokens --config.data.valid=tokens --config.keep=1
--config.compilation_cache=off --config.codec=codec_bundle
"""
COMMANDS = {
  "codec": f"""
--config=codec_small:tiny {CODEC} --config.optimizer.rate=2e-3
--config.optimizer.schedule=cosine --config.losses.independence.weight=3
--config.losses.independence.estimator=dhsic
--config.losses.independence.pattern.name=parallel
""",
  "adversarial": f"""
--config=encodec_24khz:tiny {CODEC} --config.optimizer.rate=1e-3
--config.adversarial.optimizer.rate=1e-4 --config.losses.stft.weight=1
""",
  "text": f"--config=lm_small:tiny {LM} --config.optimizer.rate=3e-2",
  "lora": f"""
--config=lm_small:tiny {LM} --config.optimizer.rate=1e-2 --config.ema=0
--config.lora.rank=2 --config.init_from=text_bundle
--config.model.text.longest=64
""",
  "melody": f"""
--config=musicgen:melody {LM} --config.optimizer.rate=3e-2 --config.freeze=
--config.optimizer.warmup=2 --config.data.valid_batches=1
--config.mesh.data=-1 --config.mesh.fsdp=1 --config.melody_dropout=0.3
--config.model.dtype=float32 --config.model.heads=2 --config.model.hidden=16
--config.model.melody.frames=3 --config.model.text.tokenizer=bytes
--config.model.text.longest=64 --config.model.text.encoder.vocabulary=257
--config.model.text.encoder.width=8 --config.model.text.encoder.layers=1
--config.model.text.encoder.heads=2 --config.model.text.encoder.head_dim=4
--config.model.text.encoder.hidden=8
""",
  "joint": f"--config=mine.py:joint {LM} --config.optimizer.rate=3e-2",
  "bare": f"--config=mine.py:bare {LM} --config.freeze=embedding",
}
STEPS = " --config.steps=4 --config.eval_every=4 --config.save_every=4"
STEPS += " --config.log_every=1"
# A user's own, in the words of this version.
MINE = '''\
"""Experiments of a user."""

from mmdcodec.configs import common


def get_config(arg=""):
  """`joint` or `bare`."""
  fields = dict(cross=False, positions="rotary")
  if arg == "joint":
    fields |= dict(joint=(3, 7), key_heads=1, normalize=True)
  else:
    fields |= dict(text=None)
  config = common.shrink_lm(common.lm_config("tiny", **fields))
  config.model.pattern.delays = (0, 1, 1, 2)
  config.optimizer.rate = 2e-2
  config.optimizer.schedule = "constant"
  return config
'''


def song(seed: int, seconds: float) -> np.ndarray:
  """Notes that begin and die away, int16 [samples]."""
  random = np.random.default_rng(seed)
  time = np.arange(round(seconds * RATE)) / RATE
  x = 0.01 * random.standard_normal(time.size)
  for start in np.arange(0, seconds, 0.125):
    pitch = 110 * 2 ** (random.integers(0, 36) / 12)
    t = np.clip(time - start, 0, None)
    x += 0.2 * (t > 0) * np.exp(-6 * t) * np.sin(2 * np.pi * pitch * t)
  return np.round(8192 * np.clip(x, -1, 1)).astype(np.int16)


def run(*argv: str) -> None:
  """One command, which must succeed."""
  assert not main(list(argv)), argv


def train(name: str, command: str) -> None:
  """A workdir, its bundle, and what one more step of it measures."""
  command = " ".join((command + STEPS).split())
  COMMANDS[name] = command
  run("train", *command.split(), f"--workdir={name}")
  run("export", name, f"{name}_bundle")


def more(name: str) -> dict[str, np.ndarray]:
  """What one more step of a workdir measures."""
  shutil.copytree(name, f"more/{name}")
  command = COMMANDS[name].replace("steps=4", "steps=5")
  run("train", *command.split(), f"--workdir=more/{name}")
  rows = [
    row for row in metrics.read(pathlib.Path("more", name)) if row["step"] == 5
  ]
  found = {k: v for row in rows for k, v in row.items()}
  kept = ("train/loss", "train/gradient_norm", "valid/")
  return {
    f"{name}/step/{key}": np.array(value)
    for key, value in found.items()
    if key.startswith(kept) and np.isscalar(value)
  }


def of_codec(path: str) -> dict[str, np.ndarray]:
  """Codes of a song, and how they sound."""
  codec = mmdcodec.load(path)
  x = (song(7, 0.5) / 32768).astype(np.float32)
  codes = codec.encode(x, rate=RATE)
  return {"audio": x, "codes": codes, "decoded": codec.decode(codes),
          "hash": np.array(codec.hash)}  # fmt: skip


REQUESTS = {
  # Guidance, no chance; 0.05 s fit into a window.
  "greedy": dict(
    texts=["calm piano", "fast drums"], seconds=0.05, temperature=0.0
  ),
  # Longer than the model, whose window is 0.06 s.
  "windows": dict(
    texts=["calm piano", ""], seconds=0.13, seed=3, top_k=5, guidance=2.0,
    temperature=0.9,
  ),
  # Goes on from audio; one prompt, two seeds.
  "prompt": dict(
    texts="calm piano", seconds=0.06, seed=[5, 1 << 40], top_p=0.8,
    guidance=1.0, audio=True,
  ),
}  # fmt: skip
MORE = {
  "melody": {
    "melody": dict(texts=["calm piano"], seconds=0.13, seed=2, melody=True,
                   stride=0.03),
    "double": dict(texts=["calm piano"], seconds=0.05, seed=2, melody=True,
                   text_guidance=2.0, guidance=1.5),
  },
  "joint": {
    "joint": dict(texts=["calm piano"], seconds=0.05, seed=2,
                  joint=[[1, 6, 0]]),
    "double": dict(texts=["calm piano"], seconds=0.05, seed=2,
                   joint=[[1, 6, 0]], text_guidance=2.0),
  },
}  # fmt: skip


def of_music(path: str, requests: dict, audio: np.ndarray) -> dict:
  """Codes for requests, and logits of fixed tokens."""
  music, found = mmdcodec.load(path), {}
  for name, request in requests.items():
    request = dict(request)
    if not music.model.text:
      request.pop("texts")
    for key in ("audio", "melody"):
      if request.get(key):
        request[key] = (
          audio[: round(0.03 * len(audio))] if key == "audio" else audio
        )
        request["rate"] = RATE
    found[f"made/{name}"] = music.generate_codes(**request)
  random = np.random.default_rng(1)
  model = music.model
  tokens = random.integers(0, model.codebook_size, (2, 9, model.codebooks))
  inputs = token_lm.nothing(model, 2)
  if model.text:
    text, mask, has_text = prompts.tokenize(
      music.tokenizer, ["calm piano", ""], model.text["longest"]
    )
    inputs = inputs.replace(text=text, text_mask=mask, has_text=has_text)
  if model.melody:
    inputs = inputs.replace(
      melody=random.integers(0, 12, (2, model.melody["frames"]))
    )
    found["melody"] = inputs.melody
  if model.joint:
    found["joint"] = random.integers(0, model.joint[1], (2, model.joint[0]))
    inputs = inputs.replace(
      joint=found["joint"], has_joint=np.array([True, False])
    )
  variables = {"params": music.variables["params"]}
  found["tokens"] = tokens
  found["logits"] = np.asarray(model.apply(variables, tokens, inputs))
  return found


def stereo() -> None:
  """A converted MusicGen in stereo, out of the tests' tiny public one."""
  name = "musicgen_stereo_tiny"
  arrays = np.load(HERE.parent / f"{name}.npz")
  folder = pathlib.Path("public")
  folder.mkdir()
  shutil.copy(HERE.parent / f"{name}.json", folder / "config.json")
  (folder / "tokenizer.json").write_text(TOKENIZER)
  weights = {key[2:]: arrays[key] for key in arrays.files if key[:2] == "w/"}
  safetensors.numpy.save_file(weights, folder / "model.safetensors")
  run("convert", "public", "stereo_bundle")


# Made by `tokenizers`: a few words.
TOKENIZER = json.dumps(
  {
    "version": "1.0", "truncation": None, "padding": None, "added_tokens": [],
    "normalizer": None, "pre_tokenizer": {"type": "Whitespace"},
    "post_processor": None, "decoder": None,
    "model": {
      "type": "WordLevel",
      "vocab": {"<unk>": 0, "</s>": 1, "calm": 2, "piano": 3},
      "unk_token": "<unk>",
    },
  }
)  # fmt: skip


def pack(name: str, *members: str) -> None:
  """An archive of folders, which does not say where they were made."""

  def plain(info):
    info.uid = info.gid = info.mtime = 0
    info.uname = info.gname = ""
    return None if info.name.endswith("/tensorboard") else info

  for member in members:
    for note in pathlib.Path(member).rglob("commit_success.txt"):
      note.write_text("Checkpoint commit was successful.")
  with tarfile.open(HERE / f"{name}.tar.xz", "w:xz", preset=9) as archive:
    for member in members:
      archive.add(member, filter=plain)


def make(folder: str) -> None:
  """All files, in a folder that is made."""
  pathlib.Path(folder).mkdir()
  os.chdir(folder)
  pathlib.Path("songs").mkdir()
  pathlib.Path("mine.py").write_text(MINE)
  for i, caption in enumerate(("calm piano", "fast drums")):
    soundfile.write(f"songs/{i}.wav", song(i, 3.0), RATE)
    pathlib.Path(f"songs/{i}.txt").write_text(caption)
  run("prepare", "songs", "audio", f"--rate={RATE}", "--seconds=1.5", "--quiet")
  soundfile.write("song.wav", song(7, 0.5), RATE)
  found = {}
  for name in ("codec", "adversarial"):
    train(name, COMMANDS[name])
    codec = of_codec(name)
    found |= {f"{name}/{key}": value for key, value in codec.items()}
    for key, value in of_codec(f"{name}_bundle").items():
      np.testing.assert_array_equal(value, codec[key])
  run("encode", "song.wav", str(HERE / "song.mmdc"), "--model=codec_bundle")
  run("tokenize", "audio", "tokens", "--model=codec_bundle", "--quiet")
  for name in ("text", "lora", "melody", "joint", "bare"):
    train(name, COMMANDS[name])
  stereo()
  audio = found["codec/audio"]
  for name in ("text", "lora", "melody", "joint", "bare", "stereo"):
    requests = REQUESTS | MORE.get(name, {})
    music = of_music(f"{name}_bundle", requests, audio)
    found |= {f"{name}/{key}": value for key, value in music.items()}
  for name in COMMANDS:
    found |= more(name)
  np.savez_compressed(HERE / "expected.npz", **found)
  (HERE / "commands.json").write_text(json.dumps(COMMANDS, indent=2) + "\n")
  requests = {
    name: REQUESTS | MORE.get(name, {})
    for name in ("text", "lora", "melody", "joint", "bare", "stereo")
  }
  (HERE / "requests.json").write_text(json.dumps(requests, indent=2) + "\n")
  pack("data", "audio", "tokens", "mine.py")
  for name in COMMANDS:
    pack(name, name, f"{name}_bundle")
  pack("stereo", "stereo_bundle")


if __name__ == "__main__":
  make(sys.argv[1])
