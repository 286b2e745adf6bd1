"""The parts of a MusicLM, and whether they fit together.

Codec and coarse stage are all that a hierarchy needs. Without the joint
embedding it takes no text (AudioLM, Borsos et al. 2022, arXiv 2209.03143);
without the semantic stage, acoustic codes come from the joint tokens alone (the
ablation of MusicLM, arXiv 2301.11325, 5.3); without the fine stage the audio is
that of the coarse codes.
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, NamedTuple

from mmdcodec import bounds
from mmdcodec.errors import UserError
from mmdcodec.generation.stage import Stage
from mmdcodec.models import melody_condition
from mmdcodec.models.token_conditions import Tokens
from mmdcodec.tokenizers.clap import Clap
from mmdcodec.tokenizers.interface import AudioCodec, Tokenizer
from mmdcodec.tokenizers.melody_embedding import Melody
from mmdcodec.tokenizers.mulan import Mulan
from mmdcodec.tokenizers.semantic import SemanticTokenizer
from mmdcodec.tokenizers.stereo_codec import open_codec

# Stages from the top, and the key of each in a bundle.
STAGES = ("semantic", "coarse", "fine")
STAGE_KEYS = tuple(f"{stage}_lm" for stage in STAGES)
# Loaders of the other parts by their kind, and the part that each can be.
_LOADERS: dict[str, Any] = {
  "codec": open_codec,
  "semantic": SemanticTokenizer,
  "mulan": Mulan,
  "clap": Clap,
  "melody_embedding": Melody,
}
KINDS = {
  "codec": ("codec",),
  "semantic": ("semantic",),
  "joint": ("mulan", "clap"),
  "melody": ("melody_embedding",),
}
# Conditions that each stage may have. All are tokens, but for the pitch classes
# of a melody.
CHROMA = "chroma"
_TAKES = {
  "semantic": ("joint", "melody", CHROMA),
  "coarse": ("joint", "semantic", CHROMA),
  "fine": ("joint", "coarse"),
}
_KINDS = {CHROMA: melody_condition.Melody}
_TOLERANCE = 1e-6


@dataclasses.dataclass(frozen=True)
class Parts:
  """The parts of a hierarchy; None where it has no such part.

  Attributes:
    codec: turns audio into codes and back.
    stages: the stages by name, from the top.
    semantic: the semantic tokenizer.
    joint: the joint embedding of music and text.
    melody: the melody embedding.
  """

  codec: AudioCodec
  stages: Mapping[str, Stage]
  semantic: Tokenizer | None = None
  joint: Mulan | None = None
  melody: Tokenizer | None = None

  def hears(self, stage: str, condition: str) -> bool:
    """Returns whether there is a stage that was trained with a condition."""
    if stage not in self.stages:
      return False
    found = self.stages[stage]
    # All token data sets have pitch classes; other conditions are streams.
    seen = condition == CHROMA or condition in found.streams
    return found.takes(condition) and seen

  def takes(self, condition: str) -> bool:
    """Returns whether any stage was trained with a condition."""
    return any(self.hears(stage, condition) for stage in self.stages)


def open_parts(
  configs: Mapping[str, Mapping[str, Any]],
  variables: Mapping[str, Any],
  assets: Mapping[str, bytes] | None = None,
) -> Parts:
  """Opens the parts of a hierarchy and checks them.

  Args:
    configs: config of each part by its key: those of KINDS, and STAGE_KEYS.
    variables: variables of each part.
    assets: files of the joint embedding, by name.

  Raises:
    UserError: a part is missing, unknown, damaged, of another kind, or does not
      fit the others.
  """
  bounds.check("the parts of the model", configs, bounds.mapping())
  known = (*KINDS, *STAGE_KEYS)
  for key, config in configs.items():
    if key not in known:
      raise UserError(
        f"the model has an unknown part {key!r}; its parts are"
        f" {', '.join(known)}."
      )
    kinds = KINDS.get(key, ("stage",))
    if config.get("kind") not in kinds:
      raise UserError(
        f"the part {key} is a model of kind {config.get('kind')!r}; it must be"
        f" {' or '.join(map(repr, kinds))}."
      )
  for key in ("codec", "coarse_lm"):
    if key not in configs:
      raise UserError(
        f"the model has no {_called(key)}; it needs a codec and a coarse stage,"
        " which makes the codec's first codebooks."
      )
  found: dict[str, Any] = {
    key: _LOADERS[configs[key]["kind"]](
      dict(configs[key]), variables[key], assets
    )
    for key in KINDS
    if key in configs
  }
  found["stages"] = {
    stage: Stage(dict(configs[key]), variables[key])
    for stage, key in zip(STAGES, STAGE_KEYS, strict=True)
    if key in configs
  }
  parts = Parts(**found)
  check_parts(parts)
  return parts


def _called(key: str) -> str:
  """What a part is called in errors."""
  if key in STAGE_KEYS:
    return f"{key.removesuffix('_lm')} stage"
  names = {"semantic": "semantic tokenizer", "codec": "codec"}
  return names.get(key, f"{key} embedding")


def place_of(config: Mapping[str, Any]) -> str:
  """Returns which stage a language model is, by its target.

  Args:
    config: config of a bundle of kind "stage".

  Raises:
    UserError: it makes codes of a tokenizer that no stage makes codes of.
  """
  made = config["target"]["tokenizer"]
  if made == "semantic":
    return "semantic"
  if made == "codec":
    return "fine" if config["model"].get("first_codebook") else "coarse"
  raise UserError(
    f"it makes {made} tokens; a stage makes semantic tokens or codes of a"
    " codec."
  )


class _Language(NamedTuple):
  """Tokens that one part makes and another one takes.

  Attributes:
    key: key of the part that defines them.
    tokenizer: that part.
    codebooks: how many of its codebooks are made.
  """

  key: str
  tokenizer: Tokenizer
  codebooks: int


def check_parts(parts: Parts) -> None:
  """Checks that every part speaks its neighbours' language.

  Raises:
    UserError: one does not; the sentence names both.
  """
  parts.codec.check_codes_suffice()
  spoken = _languages(parts)
  for name, stage in parts.stages.items():
    called, model = _called(f"{name}_lm"), stage.model
    if name == "semantic" and parts.semantic is None:
      raise UserError(
        "there is a semantic stage, but no semantic tokenizer: add the one that"
        " the stage was trained with."
      )
    key = "semantic" if name == "semantic" else "codec"
    language = _Language(
      key, getattr(parts, key), getattr(parts, key).codebooks
    )
    _check_hash(called, "makes codes", stage.target, language)
    last = model.first_codebook + model.codebooks
    if last > language.codebooks:
      raise UserError(
        f"the {called} makes codebooks up to {last}, but the {_called(key)} has"
        f" {language.codebooks}."
      )
    _check_size(called, "makes codes", model.codebook_size, language)
    _check_rate(called, "makes codes", stage.target["frame_rate"], language)
    for condition in stage.conditions:
      # One that training never saw is never given.
      if parts.hears(name, condition.name):
        _check_condition(name, stage, condition, spoken)
  _check_cut(parts)
  _check_used(parts)


def _languages(parts: Parts) -> dict[str, _Language]:
  """The tokens that stages can take, by the name of the condition."""
  found = {}
  for name in ("joint", "melody"):
    if (tokenizer := getattr(parts, name)) is not None:
      tokenizer.check_codes_suffice()
      found[name] = _Language(name, tokenizer, tokenizer.codebooks)
  for name, key in (("semantic", "semantic"), ("coarse", "codec")):
    tokenizer = getattr(parts, key)
    if tokenizer is not None and name in parts.stages:
      made = parts.stages[name].model.codebooks
      found[name] = _Language(key, tokenizer, made)
  return found


def _check_condition(
  name: str, stage: Stage, condition: Any, spoken: Mapping[str, _Language]
) -> None:
  """Checks a condition of a stage against the part that makes its tokens."""
  called, what = _called(f"{name}_lm"), condition.name
  kind = _KINDS.get(what, Tokens)
  if what not in _TAKES[name] or not isinstance(condition, kind):
    raise UserError(
      f"the {called} has a condition {what!r} of kind {condition.kind!r}; it"
      f" may have {', '.join(_TAKES[name])}, of kind 'tokens', and {CHROMA!r}"
      f" of kind {_KINDS[CHROMA].kind!r}."
    )
  if not isinstance(condition, Tokens):
    return  # Pitch classes need no tokenizer.
  # Half of the clips of training have no melody.
  if what == "melody" and what not in spoken:
    return
  if what not in spoken:
    needed = _called(what if what in ("joint", "melody") else f"{what}_lm")
    raise UserError(
      f"the {called} takes {what} tokens, but nothing makes them: add the"
      f" {needed} that it was trained with."
    )
  language = spoken[what]
  takes = f"takes {what} tokens"
  _check_hash(called, takes, stage.streams[what], language)
  if condition.codebooks > language.codebooks:
    raise UserError(
      f"the {called} takes {condition.codebooks} {what} tokens a frame, but"
      f" there are {language.codebooks}: it belongs to other parts."
    )
  # Training takes codebooks with fewer codes than the condition has room for.
  if condition.size < language.tokenizer.codebook_size:
    _check_size(called, takes, condition.size, language)
  if condition.frame_rate:
    _check_rate(called, takes, condition.frame_rate, language)


def _check_hash(
  called: str, does: str, told: Mapping[str, Any], language: _Language
) -> None:
  """Checks that a stage was trained with the tokenizer that is there."""
  trained = told.get("hash")
  if trained is None:
    raise UserError(
      f"the {called} {does}, but its config has no hash of the"
      f" {_called(language.key)} that it was trained with: export it again"
      " from its workdir."
    )
  if trained != language.tokenizer.hash:
    raise UserError(
      f"the {called} {does} of the {told.get('tokenizer')} model {trained}, but"
      f" the {_called(language.key)} is {language.tokenizer.hash}: give the one"
      " that the stage was trained with."
    )


def _check_size(called: str, does: str, size: int, language: _Language) -> None:
  if size != language.tokenizer.codebook_size:
    raise UserError(
      f"the {called} {does} from codebooks of {size}, but those of the"
      f" {_called(language.key)} have {language.tokenizer.codebook_size}."
    )


def _check_rate(
  called: str, does: str, rate: float, language: _Language
) -> None:
  if not math.isclose(rate, language.tokenizer.frame_rate, rel_tol=_TOLERANCE):
    raise UserError(
      f"the {called} {does} at {rate:g} Hz, but the {_called(language.key)} has"
      f" {language.tokenizer.frame_rate:g} frames a second."
    )


def _check_cut(parts: Parts) -> None:
  """Checks that coarse and fine stage share the codebooks without a gap."""
  coarse, fine = parts.stages["coarse"], parts.stages.get("fine")
  if coarse.model.first_codebook:
    raise UserError(
      "the coarse stage makes codebooks from"
      f" {coarse.model.first_codebook + 1} on; it must begin with the first."
    )
  if fine is None:
    return
  first, made = fine.model.first_codebook, coarse.model.codebooks
  if first != made:
    raise UserError(
      f"the coarse stage makes {made} codebooks, and the fine stage goes on"
      f" with codebook {first + 1}; it must be {made + 1}."
    )


def _check_used(parts: Parts) -> None:
  """Checks that there is no part that no stage can use."""
  for name in ("joint", "melody"):
    if getattr(parts, name) is not None and not parts.takes(name):
      raise UserError(
        f"no stage takes {name} tokens; leave out the {_called(name)}, or give"
        " stages that were trained with it."
      )
  semantic = "semantic" in parts.stages
  if semantic != parts.hears("coarse", "semantic") or (
    parts.semantic is not None and not semantic
  ):
    raise UserError(
      "semantic tokens are made by the semantic stage and taken by the coarse"
      " stage; give both, and the semantic tokenizer, or none of them."
    )
