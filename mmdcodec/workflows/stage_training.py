"""Tokenizes music for the stages of a MusicLM, and trains a stage on it.

TOKENS/{train,valid}/{codec,semantic,mulan,...}   token data sets by kind
"""

import copy
import math
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from mmdcodec import formatting, progress
from mmdcodec.data import record_source, report, tokenization
from mmdcodec.store import jobs
from mmdcodec.tokenizers.interface import Tokenizer
from mmdcodec.train import loop

SPLITS = ("train", "valid")
# Records encoded at a time.
BATCH = 4
# Kind of the tokenizer that makes the tokens of each condition.
_KINDS = {
  "semantic": "semantic",
  "joint": "mulan",
  "melody": "melody_embedding",
  "coarse": "codec",
}


def tokenize(
  data: pathlib.Path, tokens: pathlib.Path, tokenizers: Sequence[Tokenizer]
) -> str:
  """Encodes the music with all tokenizers, each record read once.

  Goes on where an earlier call was interrupted.

  Args:
    data: folder of the audio data sets; "valid" may be missing.
    tokens: folder to write.
    tokenizers: tokenizers of different kinds.

  Returns:
    A description of the tokens.
  """
  tokens.mkdir(exist_ok=True)
  for split in SPLITS:
    # It appears when it is complete.
    if (data / split).exists() and not (tokens / split).exists():
      tokenization.tokenize_all(
        data / split,
        tokens / split,
        tokenizers,
        batch=BATCH,
        show=progress.counter(f"records ({split})"),
      )
      for each in tokenizers:
        for line in report.folder_lines(tokens / split / each.kind):
          jobs.note(f"{each.kind}: {line}")
  found = {
    each.kind: record_source.describe(tokens / "train" / each.kind)
    for each in tokenizers
  }
  return ", ".join(
    f"{each['codebooks']} x {max(each['codebook_sizes'])} at"
    f" {each['frame_rate']:.3g} Hz ({kind})"
    for kind, each in found.items()
  )


def set_data(
  config: dict[str, Any],
  tokens: pathlib.Path,
  target: str,
  streams: Mapping[str, str],
  splits: Sequence[str] = SPLITS,
) -> None:
  """Puts the token data sets of a stage into its config.

  Args:
    config: config of the stage's training; changed.
    tokens: folder of the data sets.
    target: kind of the tokenizer whose codes the stage makes.
    streams: kind of the tokenizer of each condition's tokens.
    splits: splits that there are.
  """
  data = config["data"]
  data["train"], data["valid"] = (
    [str(tokens / split / target)] if split in splits else []
    for split in SPLITS
  )
  data["streams"] = {
    name: [str(tokens / split / kind) for split in splits]
    for name, kind in streams.items()
  }


def fit(
  config: dict[str, Any], name: str, tokens: pathlib.Path
) -> dict[str, Any]:
  """Adapts the config of a stage's training to the tokens that there are.

  The coarse stage makes the first half of the codec's codebooks, the fine stage
  the rest. Clips keep their length in seconds.

  Args:
    config: of the training, without its data.
    name: the stage: "semantic", "coarse" or "fine".
    tokens: folder of the data sets.
  """
  config = copy.deepcopy(config)
  model, data = config["model"], config["data"]
  target = "semantic" if name == "semantic" else "codec"
  streams = {key: _KINDS[key] for key in model["conditions"] if key in _KINDS}
  about = {
    kind: record_source.describe(tokens / "train" / kind)
    for kind in {target, *streams.values()}
  }
  half = max(1, about["codec"]["codebooks"] // 2) if "codec" in about else 1
  seconds = model["frames"] / data["frame_rate"]
  rate = about[target]["frame_rate"]
  model["frames"] = max(1, round(seconds * rate))
  model["codebook_size"] = max(about[target]["codebook_sizes"])
  model["codebooks"] = about[target]["codebooks"]
  if name == "coarse":
    model["codebooks"] = half
  elif name == "fine":
    model["codebooks"] -= half
    model["first_codebook"] = half
  for key, condition in model["conditions"].items():
    if key not in streams:  # Pitch classes have the rate that they are given.
      condition["frames"], condition["frame_rate"] = model["frames"], rate
      continue
    given = about[_KINDS[key]]
    condition["codebooks"] = half if key == "coarse" else given["codebooks"]
    condition["size"] = max(given["codebook_sizes"])
    if key != "joint":
      condition["frame_rate"] = given["frame_rate"]
    if key in ("semantic", "coarse"):
      condition["frames"] = max(1, round(seconds * given["frame_rate"]))
    if condition.get("added_to"):
      ratio = rate / given["frame_rate"]
      whole = math.isclose(ratio, round(ratio))
      condition["added_to"] = round(ratio) if whole else 0
  set_data(config, tokens, target, streams)
  data["frame_rate"] = rate
  return config


def train(config: Mapping[str, Any], workdir: pathlib.Path) -> str:
  """Trains a stage, resuming an interrupted run.

  Args:
    config: config of the training, with its data.
    workdir: folder of the run.

  Returns:
    A description of the result.
  """
  last = loop.train(config, workdir, log=jobs.note)
  seconds = config["model"]["frames"] / config["data"]["frame_rate"]
  words = f"{config['steps']} steps on clips of {formatting.duration(seconds)}"
  if (bits := last.get("valid/bits_per_frame")) is not None:
    words += f"; {bits:.2f} bits per frame on music for validation"
  return words
