"""A data set of simple music."""

import json

import numpy as np
import soundfile

from mmdcodec.data import records


def prepare_tunes(folder, out):
  """Three captioned files of 12 s at 24 kHz, and the data set made of them."""
  folder.mkdir(parents=True, exist_ok=True)
  rate, time = 24_000, np.arange(12 * 24_000) / 24_000
  for i in range(3):
    random = np.random.default_rng(i)
    x = 0.01 * random.standard_normal(time.size)
    for start in np.arange(0, 12, 0.25):
      pitch = 110 * 2 ** (random.integers(0, 36) / 12)
      t = np.clip(time - start, 0, None)
      x += 0.2 * (t > 0) * np.exp(-5 * t) * np.sin(2 * np.pi * pitch * t)
    soundfile.write(folder / f"tune{i}.wav", np.clip(x, -1, 1), rate)
    (folder / f"tune{i}.json").write_text(
      json.dumps({"caption": f"tune number {i}"})
    )
  records.prepare(folder, out, rate=rate, seconds=10.0, progress=False)
  return out
