# %% [markdown]
# # MusicLM, one stage after another
#
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/mmdcodec/mmdcodec/blob/main/colab/musiclm.ipynb)
#
# MusicLM ([arXiv 2301.11325](https://arxiv.org/abs/2301.11325)) goes from a
# prompt to music in steps, each a language model over the tokens of one
# tokenizer:
#
# | stage | makes | which say |
# |---|---|---|
# | joint embedding | joint tokens | what the music is like, from a text or from audio |
# | semantic | 25 tokens a second | what is played |
# | coarse | the first codebooks of a codec | how it sounds, roughly |
# | fine | the other codebooks | the details of the sound |
#
# Here you run them one at a time, and hear what each fixes and what it adds.

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
import matplotlib.pyplot as plt
import numpy as np
from IPython.display import Audio, Image, display

import mmdcodec
from mmdcodec.audio import synth
from mmdcodec.evaluate import audio_plots, oracle

music = mmdcodec.load(MUSICLM)
SECONDS = 0.8 if TINY else 10.0
print(f"JAX {jax.__version__} on {jax.devices()[0].device_kind}")
print("stages:", *music.parts.stages)
for name, stage in music.parts.stages.items():
  size = sum(x.size for x in jax.tree.leaves(stage.variables["params"]))
  windows = f"windows of {stage.seconds:g} s"
  print(f"  {name}: {size / 1e6:.1f} M parameters, {windows}")


def play(audio):
  """A player for [samples, channels]."""
  display(Audio(np.clip(audio, -1, 1).T, rate=music.rate))


def show(title, tokens):
  """Tokens [frames, codebooks] as a picture."""
  figure, axis = plt.subplots(figsize=(9, 0.6 + 0.25 * tokens.shape[1]))
  axis.imshow(tokens.T, aspect="auto", interpolation="nearest", cmap="turbo")
  axis.set_title(f"{title}: {tokens.shape[0]} x {tokens.shape[1]}")
  axis.set_yticks([])
  plt.show()


# %% [markdown]
# ## Joint tokens
#
# The joint embedding puts texts and audio in one space. Its tokens of a text
# say what music of these tokens would be like, so the stages learn from audio
# alone, and are prompted with text.

# %%
PROMPT = "Calm piano, slow."
if music.joint is None:
  joint = None
  print("this model has no joint embedding")
else:
  joint = music.joint_tokens([PROMPT])
  song = synth.render(5, seconds=10.0, rate=music.rate)
  heard = music.joint.embed_audio(song.audio, song.rate)[0]
  for text in (song.caption, PROMPT, "Fast drums."):
    near = float(heard @ music.joint.embed_text([text])[0])
    print(f"cosine {near:5.2f} of the song and {text!r}")
  print("joint tokens of the prompt:", joint[0].tolist())

# %% [markdown]
# ## Semantic tokens
#
# What is played: melody, rhythm, harmony. They cannot be decoded; music is
# what the later stages make of them.

# %%
semantic = None
if "semantic" in music.parts.stages:
  semantic = music.make_semantic(joint, SECONDS, seed=0)
  show("semantic", semantic[0])

# %% [markdown]
# ## Coarse codes
#
# The first codebooks of the codec, given what is to be played. They can be
# decoded already.

# %%
coarse = music.make_coarse(joint, semantic, seconds=SECONDS, seed=0)
show("coarse", coarse[0])
rough = music.decode(coarse)[0]
play(rough)

# %% [markdown]
# ## Fine codes
#
# The other codebooks, if the model has a stage for them. The packaged one has
# none; that of `mmdcodec quickstart --system musiclm` does.

# %%
heard = {"coarse codes": rough}
if "fine" in music.parts.stages:
  fine = music.make_fine(joint, coarse, seed=0)
  show("fine", fine[0])
  heard["with fine codes"] = music.decode(coarse, fine)[0]
  play(heard["with fine codes"])
pictures = audio_plots.spectrograms(heard, rate=music.rate)
for png in pictures.values():
  display(Image(data=png))

# %% [markdown]
# ## The same in one call
#
# `generate` runs all stages, and `generate_tokens` returns what each has made.

# %%
prompts = None if joint is None else [PROMPT]
tokens = music.generate_tokens(prompts, seconds=SECONDS)
print({k: None if v is None else np.shape(v) for k, v in tokens.items()})
if semantic is not None:
  print("as above:", np.array_equal(tokens["semantic"], semantic))

# %% [markdown]
# ## What a stage fixes
#
# Three pieces with the same semantic tokens, and later stages drawn anew: what
# they have in common is what the semantic tokens hold. Then three with new
# semantic tokens from the same prompt.

# %%
seeds = [1, 2, 3]
same = {}
for title, given in (("same semantic tokens", semantic), ("new ones", None)):
  for seed in seeds:
    if given is None and semantic is not None:
      above = music.make_semantic(joint, SECONDS, seed=seed)
    else:
      above = given
    codes = music.make_coarse(joint, above, seconds=SECONDS, seed=seed)
    same[f"{title}, {seed}"] = music.decode(codes)[0]
for title, audio in same.items():
  print(title)
  play(audio)

# %%
figure, axes = plt.subplots(2, 3, figsize=(10, 4), sharex=True)
for axis, (title, audio) in zip(axes.flat, same.items()):
  signal = audio[:, 0] + 1e-6  # the logarithm of silence is not finite
  axis.specgram(signal, NFFT=512, noverlap=256, Fs=music.rate, vmin=-120)
  axis.set_title(title, fontsize=9)
plt.show()

# %% [markdown]
# ## What a stage loses
#
# True tokens of a song into every stage: where the result moves away from the
# song is what that stage does not know. The last line is another song, chance.

# %%
SONGS = 2 if TINY else 4
songs = np.stack(
  [
    synth.render(seed, seconds=SECONDS, rate=music.rate).audio
    for seed in range(SONGS)
  ]
)
if music.channels > 1:
  songs = np.repeat(songs, music.channels, axis=2)
for way in oracle.measure(music, songs):
  values = {name: round(each.value, 2) for name, each in way.values.items()}
  print(f"{way.name}: {values}")
  if not TINY:
    play(way.audio[0])
