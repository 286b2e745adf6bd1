"""Renamed keys, so that files of earlier versions can still be read.

One table covers config keys in a workdir, in a bundle, in a user's config file
and on the command line. Configs are updated when they are read; all other code
uses only the new names.
"""

from collections.abc import Mapping
from typing import Any

# Old and new keys. The word before the dot is the key of the enclosing dict, at
# any depth: `adversarial.optimizer.rate` is renamed as well.
KEYS = {
  "optimizer.rate": "learning_rate",
}
# Fields of a language model, under `model` in its config.
LM_KEYS = {
  "key_heads": "kv_heads",
  "normalize": "qk_norm",
  "text": "conditions.text",
  "melody": "conditions.melody",
}
# Configs that ship with the package.
CONFIGS = {"joint": "factorization"}
# Fields of `TrainState` in checkpoints.
STATE = {"carried": "extra"}


def update(config: Any, inside: str = "") -> None:
  """Renames old keys of a config in place.

  An old key overrides the new one, so a config file that changes a default by
  its old name still works.

  Args:
    config: nested dicts or a ConfigDict, of any earlier version.
    inside: key of `config` in the enclosing dict.
  """
  for key, value in list(config.items()):
    if hasattr(value, "items"):
      update(value, key)
      if key == "model" and _is_language_model(config):
        fields = update_lm(value)
        for name in value.keys() - fields.keys():
          del value[name]
        for name, field in fields.items():
          if name == "conditions" or name not in value:
            value[name] = field
    new = KEYS.get(f"{inside}.{key}")
    if new:
      config[new] = value
      del config[key]


def update_lm(
  fields: Mapping[str, Any], conditions: Mapping[str, Any] | None = None
) -> dict[str, Any]:
  """Renames fields of a language model to today's names.

  Earlier versions had a field for each condition: `text` and `melody`, which
  are now conditions with these names, and `joint`, (codebooks, size).

  Args:
    fields: all or some fields of a `TokenLM` of any version.
    conditions: conditions of the model that `fields` lacks.
  """
  found = {LM_KEYS.get(key, key): value for key, value in fields.items()}
  old = {
    name: found.pop(key)
    for key, name in (
      ("conditions.text", "text"),
      ("conditions.melody", "melody"),
      ("joint", "joint"),
    )
    if key in found
  }
  if not old:
    return found
  if old.get("joint"):
    codebooks, size = old["joint"]
    # Joint tokens have always come after the other conditions.
    old["joint"] = dict(kind="tokens", codebooks=codebooks, size=size, order=1)
  changed = {**(conditions or {}), **found.get("conditions", {}), **old}
  found["conditions"] = {k: value for k, value in changed.items() if value}
  return found


def update_key(key: str, config: Mapping[str, Any]) -> str:
  """Returns today's name of a dotted key, such as "optimizer.rate".

  Args:
    key: dotted key of any version.
    config: a config with today's keys.
  """
  path, _, last = key.rpartition(".")
  new = KEYS.get(f"{path.rpartition('.')[2]}.{last}")
  if new:
    return f"{path}.{new}"
  first, _, rest = key.partition(".")
  if rest and first == "model" and _is_language_model(config):
    name, dot, inside = rest.partition(".")
    return f"{first}.{LM_KEYS.get(name, name)}{dot}{inside}"
  return key


def _is_language_model(config: Mapping[str, Any]) -> bool:
  """Returns whether a config's model is a `TokenLM`, not a user's own."""
  model = config.get("model") or {}
  known = "codebook_size" in model and "heads" in model
  return known and config.get("task", "lm") == "lm"
