"""Small networks of every kind, with random weights and inputs.

`stored` compares their outputs with stored ones.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from mmdcodec.models import (
  clap,
  codec,
  discriminators,
  hubert,
  melody_embedding,
  mulan,
  musicfm,
  musicnn,
  semantic,
  token_lm,
  w2v_bert,
)
from mmdcodec.models.text_encoder import T5Encoder
from mmdcodec.nn import folding
from mmdcodec.selftest.check import normal
from mmdcodec.selftest.families import filled

_TEXTS = ["calm piano", "loud drums and a bass"]


def _apply(
  model: Any, *args: Any, method: str = "__call__", init: Any = None,
  size: float = 0.3, **options: Any,
) -> Any:  # fmt: skip
  """Applies a network with random weights, as one program.

  Args:
    model: the network.
    *args: arguments of the method.
    method: what to apply.
    init: makes all of its variables from a key; None means those that the
      method uses.
    size: that of the weights.
    **options: more arguments of the method.
  """
  if init is None:
    init = lambda key: model.init(key, *args, method=method, **options)
  shapes = jax.eval_shape(init, jax.random.key(0))
  run = jax.jit(functools.partial(model.apply, method=method, **options))
  return run(filled(dict(shapes), size), *args)


def _heard(
  model: Any, samples: int, shorter: int, method: str, init: Any = None
) -> Any:
  """Of two clips, the second of which is shorter."""
  x, lengths = 0.3 * normal(2, samples, 1), np.array([samples, shorter])
  x[1, shorter:] = 0
  return _apply(model, x, lengths, method=method, init=init)


def _semantic() -> Any:
  model = semantic.from_config(semantic.preset("tiny"))
  return _heard(
    model, 4800, 3200, "features", functools.partial(semantic.init, model)
  )


def _w2v_bert() -> Any:
  model = w2v_bert.from_config(
    dict(mels=16, layers=2, width=16, heads=2, hidden=32, kernel=5, left=6,
         right=3, feature_layer=1)
  )  # fmt: skip
  return _heard(model, 4800, 3200, "features")


def _hubert(**changes: Any) -> Any:
  model = hubert.from_config(
    dict(sizes=(8, 8), kernels=(10, 3), strides=(5, 2), layers=2, width=16,
         heads=2, hidden=32, position_kernel=8, position_groups=4,
         feature_layer=2) | changes
  )  # fmt: skip
  return _heard(model, 400, 300, "features")


def _musicfm() -> Any:
  model = musicfm.from_config(
    dict(mels=16, mean=30.0, deviation=10.0, filters=4, layers=2, width=16,
         heads=2, hidden=32, kernel=5, feature_layer=1)
  )  # fmt: skip
  return _heard(model, 9600, 6720, "features")


def _mulan(**changes: Any) -> Any:
  model = mulan.from_config(mulan.preset("tiny", **changes))
  init = functools.partial(mulan.initial, model)
  tokens = np.random.default_rng(0).integers(1, 200, (2, 9))
  return {
    "audio": _heard(model, model.samples, 9000, "embed_audio", init),
    "text": _apply(
      model, tokens, np.array([9, 5]), method="embed_text", init=init
    ),
  }


def _melody(**changes: Any) -> Any:
  model = melody_embedding.from_config(
    melody_embedding.preset("tiny", **changes)
  )
  init = functools.partial(melody_embedding.initial, model)
  return _heard(model, model.samples, 5000, "__call__", init)


def _clap() -> Any:
  model = clap.from_config(
    dict(
      audio=dict(mels=16, side=128, patch=4, width=8, depths=(2, 1),
                 heads=(1, 2), window=4),
      text=dict(vocabulary=40, width=16, layers=2, heads=2, hidden=32,
                positions=20, first_position=2, types=1),
      dim=8,
    )
  )  # fmt: skip
  tokens = np.random.default_rng(0).integers(2, 40, (2, 9))
  mask = np.arange(9) < np.array([[9], [5]])
  return _apply(model, 10 * normal(1, 1001, 16) - 30, tokens, mask)


def _t5(gated: bool) -> Any:
  model = T5Encoder(
    vocabulary=40, width=16, layers=2, heads=2, head_dim=8, hidden=32,
    gated=gated, buckets=8, longest=12,
  )  # fmt: skip
  tokens = np.random.default_rng(0).integers(0, 40, (2, 20))
  return _apply(model, tokens, np.arange(20) < np.array([[20], [13]]))


def _musicnn() -> Any:
  model = musicnn.Musicnn(timbre=3, rhythm=2, middle=4, units=8, tags=5)
  return _apply(model, np.abs(normal(1, musicnn.FRAMES, musicnn.MELS)))


def _discriminators() -> Any:
  model = discriminators.from_config(
    [
      dict(name="multi_scale_stft", filters=4, windows=(64, 128)),
      dict(name="multi_scale_wave", filters=4, max_filters=16, scales=2),
      dict(name="stft", filters=2, window=128, hop=32),
      dict(name="multi_period", filters=4, max_filters=16, periods=(2, 3)),
    ]
  )
  found = _apply(model, normal(1, 1200, 1))
  joined = lambda layers: np.concatenate(
    [np.asarray(folding.unfold(y)).reshape(-1) for y in layers]
  )
  return {
    name: (logits, joined(layers))
    for name, (logits, layers) in zip(model.names, found, strict=True)
  }


def _codec(preset: str, **changes: Any) -> Any:
  model = codec.from_config(codec.preset(preset, **changes))
  x = 0.3 * normal(2, 12 * model.stride, model.channels)
  codes = np.random.default_rng(0).integers(
    0, model.codebook_size, (2, 12, model.codebooks)
  )
  scale: dict[str, Any] = {}
  if model.normalize:
    scale["scale"] = np.array([[0.5], [2.0]], np.float32)
  whole = lambda key: model.init(key, x)
  return {
    "latents": _apply(model, x, method="latents", init=whole),
    "audio": _apply(
      model, codes, method="decode", init=whole, **scale
    ),
  }


def _conditioned(conditions: dict[str, Any], given: dict[str, Any]) -> Any:
  """Logits of a language model with conditions of all kinds."""
  model = token_lm.from_config(
    token_lm.preset("tiny", frames=8)
    | {"conditions": conditions, "codebook_size": 16}
  )
  inputs = {}
  for each in model.make_conditions():
    items = each.check(given[each.name], 8000)
    inputs[each.name] = each.arrays(items, 0.0)
  pattern = model.pattern_of(8)
  codes: Any = np.random.default_rng(0).integers(0, 16, (2, 8, 4))
  tokens = np.asarray(pattern.build(codes, model.special))
  return _apply(
    model, tokens[:, :-1], inputs, frames=pattern.frame_of_step, size=0.2
  )


def _with_text() -> Any:
  fields = token_lm.preset("tiny")["conditions"]["text"]
  embedding = dict(kind="embedding", size=6, cross=False)
  return _conditioned(
    {"text": fields, "joint": embedding},
    {"text": _TEXTS, "joint": normal(2, 6)},
  )


def _with_added() -> Any:
  tokens = dict(
    kind="tokens", codebooks=2, size=8, frames=4, frame_rate=1.0, added_to=2
  )
  codes = np.random.default_rng(1).integers(0, 8, (2, 4, 2))
  return _conditioned({"semantic": tokens}, {"semantic": codes})


NETWORKS: dict[str, Callable[[], Any]] = {
  "semantic network": _semantic,
  "w2v-BERT": _w2v_bert,
  "HuBERT": _hubert,
  "HuBERT, norms first": functools.partial(
    _hubert, conv_norm="layer", conv_bias=True, norm_first=True
  ),
  "MusicFM": _musicfm,
  "joint embedding": _mulan,
  "joint embedding, ResNet": functools.partial(
    _mulan, tower="resnet", audio=dict(blocks=(1, 1), channels=4)
  ),
  "melody embedding": _melody,
  "melody embedding, intervals": functools.partial(
    _melody, lags=(1, 2), patch=(4, 50), octave=12, fmin=110.0
  ),
  "CLAP": _clap,
  "T5": functools.partial(_t5, False),
  "T5, gated": functools.partial(_t5, True),
  "musicnn": _musicnn,
  "discriminators": _discriminators,
  "stereo codec": functools.partial(_codec, "encodec_stereo_tiny"),
  "spectral codec of magnitudes": functools.partial(
    _codec, "spectral_tiny", phase_iterations=2
  ),
  "conditions, text": _with_text,
  "conditions, added": _with_added,
}
