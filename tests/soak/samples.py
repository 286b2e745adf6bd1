"""Makes the undamaged files that the fuzz harness damages."""

import csv as csv_lib
import json
import pathlib
import struct
import sys

import numpy as np
import soundfile

TESTS = pathlib.Path(__file__).parents[1]
DATA = TESTS / "data"

CONTAINERS = {
  "wav": ("WAV", "PCM_16"),
  "float.wav": ("WAV", "FLOAT"),
  "24.wav": ("WAVEX", "PCM_24"),
  "adpcm.wav": ("WAV", "IMA_ADPCM"),
  "gsm.wav": ("WAV", "GSM610"),
  "w64": ("W64", "PCM_16"),
  "rf64": ("RF64", "PCM_16"),
  "aiff": ("AIFF", "PCM_16"),
  "caf": ("CAF", "PCM_16"),
  "alac.caf": ("CAF", "ALAC_16"),
  "au": ("AU", "PCM_16"),
  "flac": ("FLAC", "PCM_16"),
  "ogg": ("OGG", "VORBIS"),
  "opus": ("OGG", "OPUS"),
  "mp3": ("MP3", "MPEG_LAYER_III"),
}
# The training of the sample workdir; each test of the config begins here.
TRAIN = (
  "--config=codec_small:tiny",
  "--config.model.filters=2",
  "--config.model.ratios=(8,)",
  "--config.model.lstm_layers=0",
  "--config.model.codebooks=2",
  "--config.model.codebook_size=8",
  "--config.losses.mel.windows=(64,)",
  "--config.batch=2",
  "--config.data.seconds=0.1",
)


def tone(seconds, rate, channels=1, seed=0):
  """Audio [samples, channels] that is neither silent nor periodic."""
  rng = np.random.default_rng(seed)
  t = np.arange(round(seconds * rate)) / rate
  x = 0.3 * np.sin(2 * np.pi * (220 + 40 * seed) * t * (1 + 0.1 * t))
  noise = 0.05 * rng.standard_normal((len(t), channels))
  return (x[:, None] + noise).astype(np.float32)


def make(folder: pathlib.Path) -> None:
  """Makes all samples in a folder."""
  sys.path.insert(0, str(TESTS))
  folder.mkdir(parents=True, exist_ok=True)
  _audio(folder / "audio")
  _models(folder)
  _coded(folder)
  _sets(folder)
  _training(folder)


def _audio(folder):
  folder.mkdir()
  for i, (suffix, (container, coding)) in enumerate(CONTAINERS.items()):
    rate = 48000 if suffix == "opus" else 22050 if i % 2 else 8000
    path = folder / f"song.{suffix}"
    channels = 2 if i % 3 == 0 else 1
    x = tone(1.2, rate, channels, i)
    soundfile.write(path, x, rate, format=container, subtype=coding)
  for suffix in ("ogg", "opus"):
    data = (folder / f"song.{suffix}").read_bytes()
    (folder / f"chained.{suffix}").write_bytes(data + data)
  mp3 = (folder / "song.mp3").read_bytes()
  # MP3 inside of RIFF, as some recorders write it.
  form = struct.pack(
    "<HHIIHHHHIHHH", 0x55, 1, 8000, 2000, 1, 0, 12, 1, 2, 1, 1, 0
  )
  body = b"WAVEfmt " + struct.pack("<I", len(form)) + form
  body += b"data" + struct.pack("<I", len(mp3)) + mp3 + b"\0" * (len(mp3) % 2)
  riff = b"RIFF" + struct.pack("<I", len(body)) + body
  (folder / "mp3.wav").write_bytes(riff)


def _models(folder):
  import safetensors.numpy
  from musicgen_weights import NAMES, source, write_folder
  from random_codec import write_random_codec
  from random_music import random_music, word_tokenizer

  from mmdcodec import bundle

  write_random_codec(folder / "codec", 0, dilations=(1,))
  write_random_codec(folder / "other_codec", 1, dilations=(1,))
  # Of the rate and codes that `.ecdc` files name.
  small = dict(dilations=(1,), filters=2, dim=4, lstm_layers=0)
  write_random_codec(folder / "codec_24khz", 0, "encodec_24khz", **small)
  config, variables = random_music(
    folder / "music_codec", codec=dict(dilations=(1,)), frames=10, layers=1
  )
  bundle.save(folder / "music", config, variables)
  _ears(folder / "ears")
  for name in ("encodec24_tiny", "encodec32_tiny", "encodec48_tiny"):
    out = folder / "public" / name
    out.mkdir(parents=True)
    arrays = dict(np.load(DATA / f"{name}.npz"))
    weights = {k[2:]: a for k, a in arrays.items() if k.startswith("w/")}
    config = json.loads((DATA / f"{name}.json").read_text())
    (out / "config.json").write_text(json.dumps(config))
    safetensors.numpy.save_file(weights, out / "model.safetensors")
  for name in NAMES:
    config, weights, _ = source(name)
    out = folder / "public" / name
    write_folder(out, config, weights, tokenizer=word_tokenizer())


def _ears(folder):
  """Bundles of tokenizers of random numbers, of a text encoder and a tagger."""
  import jax
  import test_bert

  from mmdcodec import bundle
  from mmdcodec.bench.tokenizers import random_tokenizer
  from mmdcodec.models import weights

  for name in ("semantic", "mulan", "melody_embedding"):
    made = random_tokenizer(f"{name}:tiny")
    # One of them in 8 bits, whose scales can be damaged too.
    dtype = "int8" if name == "semantic" else None
    variables = bundle.stored_as(dtype, made.variables)
    bundle.save(folder / name, made.config, variables)
  config, arrays, _ = test_bert.source()
  fields, variables = test_bert.converter.convert(arrays, config)
  about = {"kind": "text", "model": fields, "tokenizer": "word_pieces"}
  assets = {"tokenizer.json": test_bert.TOKENIZER.encode()}
  bundle.save(folder / "text", about, variables, assets=assets)
  fields = dict(timbre=2, rhythm=1, middle=2, units=3, tags=2)
  about = {"kind": "tagger", "model": fields, "tags": ["calm", "loud"]}
  rng = np.random.default_rng(0)
  draw = lambda leaf: rng.normal(size=leaf.shape, scale=0.1).astype(leaf.dtype)
  bundle.save(
    folder / "tagger", about, jax.tree.map(draw, weights.shapes(about))
  )


def _coded(folder):
  from test_ecdc import make as make_ecdc

  from mmdcodec.cli.main import main

  (folder / "coded").mkdir()
  rng = np.random.default_rng(0)
  for books, frames in ((4, 75), (2, 20)):
    codes = [rng.integers(0, 1024, (frames, books))]
    data = make_ecdc("encodec_24khz", frames * 320, books, codes)
    (folder / "coded" / f"{books}.ecdc").write_bytes(data)
  for coding in ("raw", "adaptive", "conditional"):
    out = folder / "coded" / f"{coding}.mmdc"
    source = folder / "audio" / "song.flac"
    argv = ["encode", source, out, "--model", folder / "codec"]
    argv += ["--coding", coding, "--chunk", "0.4"]
    assert main([str(a) for a in argv]) == 0


def _sets(folder):
  from mmdcodec.cli.main import main

  songs = folder / "songs"
  (songs / "sub").mkdir(parents=True)
  for i in range(4):
    path = songs / (f"sub/song{i}.wav" if i == 3 else f"song{i}.wav")
    soundfile.write(path, tone(0.6, 8000, seed=i), 8000)
    (path.with_suffix(".txt")).write_text(f"tune number {i}")
  small = ["--rate", "8000", "--seconds", "0.5"]
  for argv in (
    ["prepare", songs, folder / "set", *small],
    ["prepare", songs / "sub", folder / "held_out", *small],
    [
      "tokenize",
      folder / "set",
      folder / "tokens",
      "--model",
      folder / "codec",
    ],
  ):
    assert main([str(a) for a in argv]) == 0
  rows = [
    {"path": f"song{i}.wav", "caption": f"a tune, number {i}", "genre": "folk"}
    for i in range(3)
  ]
  rows.append(
    {"path": "sub/song3.wav", "caption": 'the "last" one', "genre": ""}
  )
  tables = folder / "tables"
  tables.mkdir()
  quoted = lambda v: '"' + v.replace('"', '""') + '"'
  csv = "".join(
    ",".join(map(quoted, line)) + "\n"
    for line in (list(rows[0]), *(list(row.values()) for row in rows))
  )
  (tables / "captions.csv").write_text(csv)
  (tables / "captions.tsv").write_text(
    "".join(
      "\t".join(line).replace('"', "'") + "\n"
      for line in (list(rows[0]), *(list(row.values()) for row in rows))
    )
  )
  _published(folder)
  (tables / "captions.json").write_text(json.dumps(rows))
  (tables / "captions.jsonl").write_text(
    "".join(json.dumps(row) + "\n" for row in rows)
  )


def _published(folder):
  """Clips with the tables of FMA and MusicCaps."""
  fma, caps = folder / "fma", folder / "musiccaps"
  (fma / "000").mkdir(parents=True)
  caps.mkdir()
  lines = (
    ["set", "track", "track", "artist"],
    ["split", "title", "genre_top", "name"],
  )
  rows = [[""] + line for line in lines] + [["track_id"] + [""] * 4]
  clips = [["ytid", "start_s", "end_s", "aspect_list", "caption"]]
  for i in range(3):
    audio = tone(0.6, 8000, seed=i)
    soundfile.write(fma / "000" / f"{i + 2:06d}.wav", audio, 8000)
    rows.append([str(i + 2), "training", f"Tune {i}", "Folk", "Somebody"])
    soundfile.write(caps / f"-abc_{i}.wav", audio, 8000)
    clips.append([f"-abc_{i}", "30", "40", "['a', 'b']", f"A tune, number {i}"])
  for path, table in ((fma / "tracks.csv", rows), (caps / "caps.csv", clips)):
    with path.open("w", newline="") as file:
      csv_lib.writer(file).writerows(table)


def _training(folder):
  command = train_command(folder, folder / "run")
  command += ["--config.steps=6", "--config.save_every=2"]
  command += ["--config.eval_every=2", "--config.log_every=1"]
  from mmdcodec.cli.main import main

  assert main(command) == 0
  assert main(["export", str(folder / "run"), str(folder / "exported")]) == 0


def train_command(folder, workdir):
  """The smallest training on the sample data set."""
  return [
    "train", *TRAIN,
    f"--workdir={workdir}", f"--config.data.train={folder / 'set'}",
    f"--config.data.valid={folder / 'set'}", "--config.model.rate=8000",
  ]  # fmt: skip


if __name__ == "__main__":
  make(pathlib.Path(sys.argv[1]))
