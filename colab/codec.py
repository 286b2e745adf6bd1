# %% [markdown]
# # A neural audio codec
#
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/mmdcodec/mmdcodec/blob/main/colab/codec.ipynb)
#
# A neural codec turns audio into a few streams of small integers, and back.
# Here you load one, look at its codes, and hear what each codebook adds.

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
import io

import jax
import matplotlib.pyplot as plt
import numpy as np
from IPython.display import Audio, Image, display

import mmdcodec
from mmdcodec import bitstream, bundle
from mmdcodec.audio import files, synth
from mmdcodec.evaluate import audio_plots, codebooks, reconstruction

print(f"JAX {jax.__version__} on {jax.devices()[0].device_kind}")

# %% [markdown]
# ## Load
#
# `CODEC` is the path of a bundle or of a training run, the name of a model in
# the package, or the id of public weights such as `facebook/encodec_24khz`. A
# music model brings its codec with it.

# %%
codec = bundle.load_codec(CODEC)
print(f"{codec.rate} Hz, {codec.channels} channel(s)")
print(f"{codec.frame_rate:g} frames a second of {codec.codebooks} codes")
bits = np.log2(codec.codebook_sizes)
print(f"{codec.frame_rate * bits.sum() / 1000:.2f} kbit/s")

# %% [markdown]
# ## Something to encode
#
# A song from the built-in synthesizer. For one of your own, set `FILE` to a
# wav, flac, ogg, opus or mp3 file.

# %%
FILE = None
SECONDS = 1.0 if TINY else 8.0

if FILE is None:
  song = synth.render(7, seconds=SECONDS, rate=codec.rate)
  x, rate = song.audio, song.rate
  print(song.caption)
else:
  x, rate = files.read(FILE)
  x = x[: round(SECONDS * rate)]
Audio(x.T, rate=rate)

# %% [markdown]
# ## Encode and decode
#
# Audio of another sample rate is resampled. Codes are `[batch, frames,
# codebooks]`, audio is `[batch, samples, channels]`.

# %%
codes = codec.encode(x, rate=rate)
y = codec.decode(codes)
print("audio", x.shape, "-> codes", codes.shape, "-> audio", y.shape)
print("the first three frames:", *codes[0, :3].tolist(), sep="\n  ")
# The original at the codec's rate and with its channels.
original = codec.prepare(x, rate)[0][:, : y.shape[1]]
y = y[:, : original.shape[1]]
Audio(y[0].T, rate=codec.rate)

# %% [markdown]
# ## The codes as a picture
#
# A column is a frame and a row is a codebook. Equal colours in a row are equal
# codes.

# %%
figure, axis = plt.subplots(figsize=(9, 2.4))
axis.imshow(codes[0].T, aspect="auto", interpolation="nearest", cmap="turbo")
axis.set_xlabel("frame")
axis.set_ylabel("codebook")
axis.set_yticks(range(codec.codebooks))
plt.show()

# %% [markdown]
# How often each code is used: `perplexity` is the number of codes that would
# be used as much if all were used equally.

# %%
counts = codebooks.histogram(codes, codec.codebook_size)
used = codebooks.statistics(counts)
for k in range(codec.codebooks):
  print(
    f"codebook {k}: {used['usage'][k]:4.0%} of {codec.codebook_sizes[k]} codes"
    f" in this clip, perplexity {used['perplexity'][k]:.0f}"
  )

# %% [markdown]
# ## What each codebook adds
#
# A residual quantizer codes what the codebooks before have left over, so the
# first few codebooks alone are a coarser version of the same music.

# %%
counts = [1, max(1, codec.codebooks // 2), codec.codebooks]
heard = {"original": original[0]}
for k in sorted(set(counts)):
  some = codec.decode(codes[..., :k], length=y.shape[1])
  rate = codec.frame_rate * bits[:k].sum()
  title = f"{k} codebook{'s' * (k > 1)}, {rate:.0f} bit/s"
  measures = reconstruction.compare(original, some, codec.rate)
  heard[title] = some[0]
  print(title, {name: round(float(v[0]), 2) for name, v in measures.items()})
  display(Audio(some[0].T, rate=codec.rate))

# %%
for png in audio_plots.spectrograms(heard, rate=codec.rate).values():
  display(Image(data=png))

# %% [markdown]
# ## Streams
#
# A causal codec encodes audio while it arrives, with exactly the codes of the
# whole clip. A codec that looks ahead encodes blocks in constant memory
# instead.

# %%
blocks = np.array_split(original[0], 7)
try:
  streamer = codec.streamer()
  parts = [streamer.encode(block) for block in blocks]
  parts.append(streamer.encode(last=True))
  print(f"latency {streamer.latency['encoder'].steady_ms:.1f} ms")
except mmdcodec.UserError as error:
  print(f"no stream: {error}")
  parts = [part for part, _ in codec.encode_blocks(blocks)]
streamed = np.concatenate(parts)
whole = codec.encode(original)[0]
same = np.array_equal(streamed, whole)
print(f"{len(streamed)} frames, as all at once: {same}")

# %% [markdown]
# ## Files
#
# A `.mmdc` file holds the codes, entropy coded. Each of its chunks has a
# checksum and decodes by itself.

# %%
stream = bitstream.Stream(
  codes=codes[0],
  codebook_size=codec.codebook_size,
  samples=original.shape[1],
  rate=codec.rate,
  channels=codec.channels,
  stride=codec.stride,
  model=codec.hash,
)
held = io.BytesIO()
bitstream.write(held, stream)
held.seek(0)
again = bitstream.read(held)
size = len(held.getvalue())
print(f"{size} bytes, {original.nbytes // 2} as 16-bit samples")
print("the same codes:", np.array_equal(again.codes, codes[0]))

# %% [markdown]
# ## Inside
#
# The model is a Flax Linen module, and its variables are nested dicts of
# arrays: use it in your own `jit` and `grad`.

# %%
print(type(codec.model).__name__, "with", sorted(codec.variables))
total = sum(leaf.size for leaf in jax.tree.leaves(codec.variables["params"]))
print(f"{total:,} parameters")
encoded = codec.model.apply(codec.variables, original, method="encode")
print("codes of the module:", encoded.codes.shape, encoded.codes.dtype)
