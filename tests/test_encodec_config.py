"""What the config.json of a public EnCodec says, as fields of our codec."""

import json
import pathlib

import pytest

from mmdcodec.convert import encodec_config
from mmdcodec.errors import UserError

DATA = pathlib.Path(__file__).parent / "data"


def public_config():
  return json.loads((DATA / "encodec24_tiny.json").read_text())


def test_every_field_of_the_config_counts():
  """Catches a field that is ignored, though it changes the network."""
  config = public_config()
  plain = encodec_config.fields_of(config)
  ours = {
    "audio_channels": ("channels", 2),
    "chunk_length_s": ("chunk_seconds", 0.5),
    "codebook_size": ("codebook_size", 64),
    "compress": ("compress", 4),
    "hidden_size": ("dim", 8),
    "kernel_size": ("kernel", 5),
    "last_kernel_size": ("last_kernel", 3),
    "norm_type": ("norm", "time_group"),
    "normalize": ("normalize", True),
    "num_filters": ("filters", 8),
    "num_lstm_layers": ("lstm_layers", 1),
    "num_residual_layers": ("dilations", (1, 2, 4)),
    "pad_mode": ("pad_mode", "constant"),
    "residual_kernel_size": ("residual_kernel", 5),
    "sampling_rate": ("rate", 16000),
    "target_bandwidths": ("codebooks", 16),
    "trim_right_ratio": ("trim_right_ratio", 0.5),
    "upsampling_ratios": ("ratios", (4, 2)),
    "use_causal_conv": ("causal", False),
    "use_conv_shortcut": ("shortcut", "identity"),
  }
  theirs = {
    "norm_type": "time_group_norm",
    "num_residual_layers": 3,
    "target_bandwidths": [6.0],
    "use_conv_shortcut": False,
  }
  for key, (field, value) in ours.items():
    new = config | {key: theirs.get(key, value), "codebook_dim": None}
    new |= {"overlap": 0.02} if key == "chunk_length_s" else {}
    fields = encodec_config.fields_of(json.loads(json.dumps(new)))
    found = fields[field]
    assert (tuple(found) if isinstance(found, list) else found) == value
    assert plain[field] != found
  assert fields.keys() == plain.keys()
  told = {*ours, "overlap", "codebook_dim", "dilation_growth_rate"}
  assert told | {*encodec_config.BOOKKEEPING} >= {*config}
  # Four codebooks of 2^11 codes at 50 Hz are 2.2 kbps; 32 of 2^10 at 75 are 24.
  for kbps, size, ratios, books in [
    ([2.2], 2048, [8, 5, 4, 4], 4),
    ([1.5, 3.0, 6.0, 12.0, 24.0], 1024, [8, 5, 4, 2], 32),
  ]:
    new = dict(
      target_bandwidths=kbps,
      codebook_size=size,
      upsampling_ratios=ratios,
      sampling_rate=32000 if size == 2048 else 24000,
    )
    assert encodec_config.fields_of(new)["codebooks"] == books
  for key, value in [
    ("norm_type", "layer_norm"),
    ("pad_mode", "replicate"),
    ("codebook_dim", 8),
    ("num_lstm_layers", 0),
    ("num_residual_layers", 0),
    ("target_bandwidths", []),
    ("chunk_length_s", 1.0),
    ("use_snake", True),
    ("num_filters", None),
    ("upsampling_ratios", 4),
  ]:
    word = "overlap" if key == "chunk_length_s" else key
    with pytest.raises(UserError, match=word):
      encodec_config.fields_of(config | {key: value})


@pytest.mark.parametrize(
  "key,values",
  [
    ("num_residual_layers", ["1", 10**7, 0, True]),
    ("dilation_growth_rate", ["2", 2.5, 0, 10**9]),
    ("pad_mode", [["reflect"], None, {}]),
    ("norm_type", [["weight_norm"], 1]),
    ("use_conv_shortcut", [1, "true", [True]]),
    ("use_causal_conv", [1, None]),
    ("normalize", ["false"]),
    ("upsampling_ratios", [["8", 5], [0, 5], [], "85", [2] * 99, [200] * 4]),
    ("kernel_size", [7.0, -1, 10**9]),
    ("last_kernel_size", ["7"]),
    ("residual_kernel_size", [[3]]),
    ("target_bandwidths", [6, ["a"], [0.01], [6.0, None], [1e4], [1e308]]),
    ("codebook_size", [0, 1, 1024.5, 10**400]),
    ("codebook_dim", ["16", [16], 8]),
    ("sampling_rate", [0, -24000, float("nan"), float("inf"), 24000.0]),
    ("num_filters", [0, True]),
    ("hidden_size", [0, 10**9]),
    ("compress", [0, 5]),
    ("audio_channels", [0, "1", 10**6]),
    ("num_lstm_layers", [0, 10**6]),
    ("chunk_length_s", [-1, "1", 0.0, 1e-9, float("nan"), float("inf")]),
    ("overlap", [1.0, -0.1, "0.01", [0.01]]),
    ("trim_right_ratio", [7, -1, "1", float("nan")]),
  ],
)
def test_nonsense_in_a_config_is_named(key, values):
  """Catches a traceback, or a model of a size that no one meant."""
  config = public_config()
  config |= {"chunk_length_s": 1.0, "overlap": 0.01}
  encodec_config.fields_of(config)
  for value in values:
    with pytest.raises(UserError) as error:
      encodec_config.fields_of(config | {key: value})
    text = str(error.value)
    assert text.startswith(f"config.json has {key} = ") and len(text) < 300


def test_what_every_model_says_is_no_matter():
  """Catches a model refused for what transformers writes beside its fields."""
  config = public_config()
  more = {"_attn_implementation_autoset": True, "use_cache": True}
  told = encodec_config.fields_of(config | more)
  assert told == encodec_config.fields_of(config)
