# %% [markdown]
# # Make music
#
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/mmdcodec/mmdcodec/blob/main/colab/generate.ipynb)
#
# From text, along a melody, as the continuation of audio, and as a story of
# several prompts.

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
import jax
import numpy as np
from IPython.display import Audio, Image, display

import mmdcodec
from mmdcodec.audio import files, synth
from mmdcodec.evaluate import audio_plots

print(f"JAX {jax.__version__} on {jax.devices()[0].device_kind}")

# %% [markdown]
# `MUSIC` is a language model over the codes of a codec, as in MusicGen. The one
# that ships with the package, `small_music`, knows built-in music alone. It may
# also be your own bundle or training run, or public weights such as
# `facebook/musicgen-small` (with the extra `[hub]`).

# %%
music = mmdcodec.load(MUSIC)
SECONDS = 0.5 if TINY else 8.0
print(f"{music.rate} Hz, trained on clips of {music.seconds:g} s")
print({name: music.takes(name) for name in ("text", "melody", "joint")})

# %% [markdown]
# ## Text
#
# `temperature` and `top_k` say how daring the choice of each code is,
# `guidance` how strictly the prompt is followed. The same seed gives the same
# music, whatever else is in the batch.

# %%
PROMPTS = [
  "A slow, quiet piano melody in C major.",
  "Fast electronic music with drums and a synth bass.",
]
y = music.generate(
  PROMPTS, seconds=SECONDS, seed=1, temperature=1.0, top_k=50, guidance=3.0
)
for prompt, each in zip(PROMPTS, y):
  print(prompt)
  display(Audio(np.clip(each, -1, 1).T, rate=music.rate))

# %%
pictures = audio_plots.spectrograms(dict(zip(PROMPTS, y)), rate=music.rate)
for png in pictures.values():
  display(Image(data=png))

# %% [markdown]
# ## While it is made
#
# `stream` yields chunks as soon as they are made; together they are the music
# of `generate`.

# %%
parts = []
block = SECONDS / 4
for chunk in music.stream(PROMPTS[:1], seconds=SECONDS, seed=1, block=block):
  parts.append(chunk.audio)
  print(f"{chunk.codes.shape[1]} frames, {chunk.audio.shape[1]} samples")
print("in all", np.concatenate(parts, axis=1).shape)

# %% [markdown]
# ## Continuation
#
# `audio` is what comes before. `seconds` counts it in.

# %%
song = synth.render(3, seconds=SECONDS / 2, rate=music.rate)
print("begins as:", song.caption)
y = music.generate(
  [song.caption], audio=song.audio, rate=song.rate, seconds=SECONDS, seed=0
)
Audio(np.clip(y[0], -1, 1).T, rate=music.rate)

# %% [markdown]
# ## A melody
#
# Hum one into a file and give its path, or let the synthesizer play one. A
# model follows it if it was trained to.

# %%
TUNE = None
if TUNE is None:
  alone = dict(drums=False, bass=False, chords=False)
  song = synth.render(11, seconds=SECONDS, **alone)
  melody, melody_rate = song.audio, song.rate
else:
  melody, melody_rate = files.read(TUNE)
display(Audio(melody.T, rate=melody_rate))

if music.takes("melody"):
  y = music.generate(
    ["Bright synth lead"], melody=melody, rate=melody_rate, seconds=SECONDS
  )
  display(Audio(np.clip(y[0], -1, 1).T, rate=music.rate))
else:
  print("This model takes no melody; the MusicLM below may.")

# %% [markdown]
# ## A story
#
# `MUSICLM` is a hierarchy of models, as in MusicLM: its prompts may change
# while the music goes on.

# %%
musiclm = mmdcodec.load(MUSICLM)
LENGTH = 1.5 if TINY else 15.0
story = [
  (0, "calm piano"),
  (LENGTH / 3, "with drums"),
  (LENGTH * 2 / 3, "loud and fast"),
]
y = musiclm.generate(story=story, seconds=LENGTH, seed=0)
Audio(np.clip(y[0], -1, 1).T, rate=musiclm.rate)

# %%
if musiclm.takes("melody"):
  y = musiclm.generate(
    ["a flute"],
    melody=melody,
    melody_rate=melody_rate,
    seconds=min(LENGTH, 10.0),
  )
  display(Audio(np.clip(y[0], -1, 1).T, rate=musiclm.rate))

# %% [markdown]
# ## Try it
#
# With ipywidgets, a form; without, change the arguments of `make` and run the
# cell again.

# %%
def make(
  prompt="A slow, quiet piano melody in C major.",
  seconds=SECONDS,
  seed=0,
  temperature=1.0,
  guidance=3.0,
):
  """Makes a piece and shows a player."""
  y = music.generate(
    [prompt],
    seconds=seconds,
    seed=seed,
    temperature=temperature,
    guidance=guidance,
  )
  display(Audio(np.clip(y[0], -1, 1).T, rate=music.rate))


try:
  import ipywidgets
except ImportError:
  make()
else:
  form = ipywidgets.interactive(
    make,
    {"manual": True, "manual_name": "Make music"},
    prompt=ipywidgets.Text(PROMPTS[0], layout={"width": "36em"}),
    seconds=ipywidgets.FloatSlider(SECONDS, min=0.5, max=30.0, step=0.5),
    seed=ipywidgets.IntText(0),
    temperature=ipywidgets.FloatSlider(1.0, min=0.0, max=2.0, step=0.05),
    guidance=ipywidgets.FloatSlider(3.0, min=1.0, max=8.0, step=0.5),
  )
  display(form)
