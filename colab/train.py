# %% [markdown]
# # Train a codec on your own music
#
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/mmdcodec/mmdcodec/blob/main/colab/train.ipynb)
#
# In about five minutes, on a CPU too: a small codec learns from a folder of
# audio, its curves grow while it trains, and you hear what it makes of music
# that it has not seen.

# %%
# Installs the library if it is missing: from the checkout that this notebook is
# in, or from its repository, with JAX for the GPU or TPU of the runtime.
# MMDCODEC_SIZE=tiny makes everything below as small as the tests need it, and
# MMDCODEC_CODEC, MMDCODEC_MUSIC and MMDCODEC_MUSICLM name other models.
import glob
import importlib.util
import os
import re
import shutil
import subprocess
import sys

REPOSITORY = "https://github.com/mmdcodec/mmdcodec"

if importlib.util.find_spec("mmdcodec") is None:
  jax = "jax"
  if shutil.which("nvidia-smi"):
    told = subprocess.run(["nvidia-smi"], capture_output=True, text=True).stdout
    cuda = re.search(r"CUDA Version: (\d+)", told)
    jax = f"jax[cuda{13 if cuda and int(cuda[1]) >= 13 else 12}]"
  elif glob.glob("/dev/accel*") or glob.glob("/dev/vfio/[0-9]*"):
    jax = "jax[tpu]"
  checkout = os.path.abspath("..")
  if os.path.exists(f"{checkout}/mmdcodec/bundle.py"):
    package = f"{checkout}[colab]"
  else:
    package = f"mmdcodec[colab] @ git+{REPOSITORY}"
  subprocess.check_call(
    [sys.executable, "-m", "pip", "install", "--quiet", package, jax]
  )

TINY = os.environ.get("MMDCODEC_SIZE") == "tiny"
CODEC = os.environ.get("MMDCODEC_CODEC", "small")
MUSIC = os.environ.get("MMDCODEC_MUSIC", "small_music")
MUSICLM = os.environ.get("MMDCODEC_MUSICLM", "small_musiclm")

# %%
import pathlib
import tempfile

import jax
from IPython.display import Audio, Image, display

import mmdcodec
from mmdcodec import bundle
from mmdcodec.audio import files, song_files
from mmdcodec.data import audio_folder, records
from mmdcodec.evaluate import audio_plots, reconstruction, training_plots
from mmdcodec.store import metrics
from mmdcodec.train import config_files, loop

ACCELERATOR = jax.default_backend() != "cpu"
print(f"JAX {jax.__version__} on {jax.devices()[0].device_kind}")

# %% [markdown]
# ## The music
#
# `FOLDER` is any folder of wav, flac, ogg, opus, mp3 or aiff files; on Colab,
# drag files into the panel on the left, or mount your Drive. With `None`, the
# built-in synthesizer plays some. `WORK` receives everything that is made
# here; give a folder that stays, and the same cells go on where they were.

# %%
FOLDER = None
WORK = pathlib.Path(tempfile.mkdtemp(prefix="train-codec-"))
MINUTES = 5

if FOLDER is None:
  FOLDER = WORK / "music"
  songs, seconds = (5, 3.0) if TINY else (64, 20.0)
  song_files.write_songs(FOLDER, songs=songs, seconds=seconds, workers=1)

FOLDER = pathlib.Path(FOLDER)
found, broken = audio_folder.readable_files(audio_folder.find(FOLDER, WORK))
split = audio_folder.split_files(found, FOLDER)
print({name: len(paths) for name, paths in split.items()}, broken, "unreadable")

# %% [markdown]
# `prepare` cuts them into a data set of records. The split is by file, so that
# no piece of music is both learned from and judged by.

# %%
size = ":tiny" if TINY else ""
config = config_files.parse([f"--config=quickstart{size}"])
for name in ("train", "valid"):
  report = records.prepare(
    FOLDER,
    WORK / "data" / name,
    rate=config.model.rate,
    paths=split[name],
    progress=False,
    force=True,
  )
  print(f"{name}: {report.records} records, {report.seconds:.0f} s")
  config.data[name] = str(WORK / "data" / name)

# %% [markdown]
# ## The settings
#
# `config` is a recipe of `configs/`; every key can be changed. The
# independence loss is one block of it. A few steps tell how many fit into
# `MINUTES` on this machine: a schedule has to know its end.

# %%
config.batch = 16 if TINY else 64 if ACCELERATOR else 16


def fit(config, steps):
  """The same settings for a run of so many steps."""
  config = config.copy_and_resolve_references()
  share = steps / config.steps
  for block, name in (
    (config, "quantizer_start"),
    (config.losses.independence, "start"),
    (config.losses.independence, "ramp"),
    (config.optimizer, "warmup"),
  ):
    block[name] = round(block[name] * share)
  config.steps = steps
  config.log_every = max(4, steps // 20)
  config.eval_every = config.save_every = max(1, steps // 4)
  return config


if TINY:
  steps = 12
else:
  trial = fit(config, 12)
  trial.eval_every = 1000
  with tempfile.TemporaryDirectory() as folder:
    loop.train(trial, folder, log=lambda line: None)
    speed = metrics.read(folder)[-1]["train/steps_per_second"]
  steps = min(20_000, max(100, round(speed * 60 * MINUTES)))
config = fit(config, steps)
print(f"{config.steps} steps of {config.batch} x {config.data.seconds:g} s")

# %% [markdown]
# ## Train
#
# The picture is drawn anew whenever numbers are logged. If you interrupt the
# cell, the state is saved, and the cell goes on from it when you run it again.

# %%
RUN = WORK / "run"
picture = display("The curves will be here.", display_id=True)


def watch(line):
  """Shows a line of the log, and the curves so far."""
  print(line)
  if metrics.read(RUN):
    picture.update(Image(data=training_plots.curves(RUN)))


last = loop.train(config, RUN, log=watch)
print({name: round(value, 2) for name, value in last.items() if "/" in name})

# %% [markdown]
# ## Listen
#
# `mmdcodec.load` opens the best checkpoint of the run, with averaged weights.

# %%
codec = mmdcodec.load(RUN)
held_out = (split["test"] or split["valid"])[0]
x, rate = files.read(held_out)
x = x[: round((1 if TINY else 8) * rate)]
codes = codec.encode(x, rate=rate)
original = codec.prepare(x, rate)[0]
y = codec.decode(codes, length=original.shape[1])
print(held_out.name, "codes", codes.shape)
measured = reconstruction.compare(original, y, codec.rate)
print({name: round(float(value[0]), 2) for name, value in measured.items()})
display(Audio(original[0].T, rate=codec.rate))
display(Audio(y[0].T, rate=codec.rate))

# %%
pictures = audio_plots.spectrograms(
  {"original": original[0], "reconstruction": y[0]}, rate=codec.rate
)
for png in pictures.values():
  display(Image(data=png))

# %% [markdown]
# ## Keep it
#
# A bundle is a folder with `config.json` and `model.safetensors`, which
# `mmdcodec.load` and all commands take. To train longer, give more `MINUTES`,
# or use the command, which does the same:
#
# ```
# mmdcodec prepare MUSIC data/music
# mmdcodec train --config=spectral_small --workdir=runs/mine \
#     --config.data.train=data/music
# ```

# %%
step = bundle.export(RUN, WORK / "bundle", dtype="bfloat16", force=True)
size = sum(file.stat().st_size for file in (WORK / "bundle").iterdir())
print(f"step {step} in {WORK / 'bundle'}, {size / 1e6:.1f} MB")
