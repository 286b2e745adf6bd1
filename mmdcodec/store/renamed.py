"""Names that changed, so that files of earlier versions can still be read.

One table for the keys of configs: in a workdir, in a bundle, in a config file
of a user's own, or on a command line. Configs are updated where they come in;
the code behind that knows the new names only.
"""

from collections.abc import Mapping
from typing import Any

# Old and new keys. Before the dot stands the key of the dict that holds them,
# wherever that is: `adversarial.optimizer.rate` is renamed as well.
KEYS = {
  "optimizer.rate": "learning_rate",
}
# Fields of a language model: of what its config has as `model`.
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

  An old key takes the place of the new one: a config file that changes a
  default by its old name still changes it.

  Args:
    config: nested dicts or a ConfigDict, of any earlier version.
    inside: key of the dict in the one around it.
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
  """Fields of a language model, by today's names.

  Earlier versions had a field for each condition: `text` and `melody`, which
  are conditions of these names now, and `joint`, (codebooks, size).

  Args:
    fields: of a `TokenLM` of any version, or some of them.
    conditions: of the model, where `fields` has none.
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
    # They have always been after the other conditions.
    old["joint"] = dict(kind="tokens", codebooks=codebooks, size=size, order=1)
  changed = {**(conditions or {}), **found.get("conditions", {}), **old}
  found["conditions"] = {k: value for k, value in changed.items() if value}
  return found


def update_key(key: str, config: Mapping[str, Any]) -> str:
  """Today's name of a dotted key, such as "optimizer.rate".

  Args:
    key: of any version.
    config: with today's keys.
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
  """Whether a config's model is a `TokenLM`, not one of a user's own task."""
  model = config.get("model") or {}
  known = "codebook_size" in model and "heads" in model
  return known and config.get("task", "lm") == "lm"
