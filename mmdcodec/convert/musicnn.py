"""Converts musicnn, a tagger of music, from its TensorFlow checkpoint.

The folders MTT_musicnn and MSD_musicnn of the package `musicnn` hold one each,
beside a config.json of the training. TensorFlow numbers layers in the order in
which they were made.
"""

import pathlib
from typing import Any

import numpy as np

from mmdcodec.convert import layouts, weights
from mmdcodec.convert.weights import Rule
from mmdcodec.errors import UserError
from mmdcodec.models import musicnn

BATCH_NORM_EPSILON = 1e-3
# Ends of the names of what only training needs: Adam's moments and powers.
OPTIMIZER = ("/Adam", "/Adam_1", "_power")
# The 50 most frequent tags of each data set, in the order of the outputs.
TAGS = {
  "mtt": (
    "guitar,classical,slow,techno,strings,drums,electronic,rock,fast,piano,"
    "ambient,beat,violin,vocal,synth,female,indian,opera,male,singing,vocals,"
    "no vocals,harpsichord,loud,quiet,flute,woman,male vocal,no vocal,pop,soft,"
    "sitar,solo,man,classic,choir,voice,new age,dance,male voice,female vocal,"
    "beats,harp,cello,no voice,weird,country,metal,female voice,choral"
  ).split(","),
  "msd": (
    "rock,pop,alternative,indie,electronic,female vocalists,dance,00s,"
    "alternative rock,jazz,beautiful,metal,chillout,male vocalists,classic "
    "rock,soul,indie rock,Mellow,electronica,80s,folk,90s,chill,instrumental,"
    "punk,oldies,blues,hard rock,ambient,acoustic,experimental,female vocalist,"
    "guitar,Hip-Hop,70s,party,country,easy listening,sexy,catchy,funk,electro,"
    "heavy metal,Progressive rock,60s,rnb,indie pop,sad,House,happy"
  ).split(","),
}


def bundled(
  arrays: dict[str, np.ndarray],
  config: dict[str, Any] | None,
  preset: str | None,
  folder: pathlib.Path,
) -> tuple[dict[str, Any], dict[str, Any], dict[str, bytes]]:
  """Makes the contents of a bundle with these weights.

  Args:
    arrays: tensors by name, as in the checkpoint, without `OPTIMIZER`.
    config: config.json of the training.
    preset: not used.
    folder: folder of the weights; not used.

  Returns:
    (config, variables, no other files).

  Raises:
    UserError: the data set is unknown, or a tensor is missing or left over.
  """
  del preset, folder
  about = (config or {}).get("audio_rep", {})
  name = str(about.get("identifier", ""))
  tags = TAGS.get(name[:3])
  if tags is None:
    raise UserError(
      f"config.json has the data set {name!r}, whose tags are not known:"
      f" expected {' or '.join(TAGS)}."
    )
  fields, variables = convert(arrays)
  if fields["tags"] != len(tags):
    raise UserError(
      f"the weights have {fields['tags']} tags; expected the {len(tags)} of"
      f" {name}."
    )
  return {"kind": "tagger", "model": fields, "tags": tags}, variables, {}


def convert(
  arrays: dict[str, np.ndarray],
) -> tuple[dict[str, Any], dict[str, Any]]:
  """Converts the tensors of a musicnn.

  Args:
    arrays: tensors by name, as in the checkpoint, without `OPTIMIZER`.

  Returns:
    (fields of the Musicnn, variables).

  Raises:
    UserError: a tensor is missing or left over.
  """
  sizes = {
    "timbre": "conv2d/bias",
    "rhythm": "conv2d_2/bias",
    "middle": "conv2d_5/bias",
    "units": "dense/bias",
    "tags": "dense_1/bias",
  }
  found = {
    field: int(arrays[name].size)
    for field, name in sizes.items()
    if name in arrays
  }
  like = musicnn.shapes({"model": found})
  return found, weights.fill(rules(), arrays, like)


def rules() -> list[Rule]:
  """Returns the rules for the tensors of a musicnn."""
  fronts = [f"timbre_{i}" for i in range(len(musicnn.TIMBRE))]
  fronts += [f"rhythm_{i}" for i in range(len(musicnn.RHYTHM))]
  middles = [f"middle_{i}" for i in range(3)]
  out = []
  for i, name in enumerate([*fronts, *middles]):
    # A layer over time has filters as high as there are channels.
    flat = (lambda a: (a[:, :, 0],)) if name in middles else (lambda a: (a,))
    key = _numbered("conv2d", i)
    out.append(Rule((f"params/{name}/kernel",), (f"{key}/kernel",), flat))
    out.append(Rule((f"params/{name}/bias",), (f"{key}/bias",)))
  norms = ["input", *fronts, *middles, "pool", "hidden"]
  out += [_norm(f"params/{name}_norm", i) for i, name in enumerate(norms)]
  for i, name in enumerate(("hidden", "tags_out")):
    for end in ("kernel", "bias"):
      key = f"{_numbered('dense', i)}/{end}"
      out.append(Rule((f"params/{name}/{end}",), (key,)))
  return out


def _numbered(name: str, number: int) -> str:
  return f"{name}_{number}" if number else name


def _norm(to: str, number: int) -> Rule:
  """Returns the rule for a batch norm, as one factor and one sum."""
  key = _numbered("batch_normalization", number)
  ends = ("gamma", "beta", "moving_mean", "moving_variance")
  names = tuple(f"{key}/{end}" for end in ends)
  targets = f"{to}/scale", f"{to}/bias"
  return layouts.batch_norm(targets, names, epsilon=BATCH_NORM_EPSILON)
