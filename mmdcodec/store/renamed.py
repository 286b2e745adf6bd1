"""Names that changed, so that files of earlier versions can still be read.

One table for the keys of configs: in a workdir, in a bundle, in a config file
of a user's own, or on a command line. `update` is called wherever such a config
comes in; everything behind it knows the new names only.
"""

from collections.abc import Mapping
from typing import Any

# Old and new keys. Before the dot stands the key of the dict that holds them,
# wherever that is: `adversarial.optimizer.rate` is renamed as well.
KEYS = {
  "optimizer.rate": "learning_rate",
}
# Fields of `TrainState` in checkpoints.
STATE = {"carried": "extra"}


def update(config: Mapping[str, Any]) -> dict[str, Any]:
  """A config with today's keys.

  Args:
    config: nested mappings; may be one of any earlier version.

  Returns:
    Nested dicts. An old key takes the place of the new one: a config file that
    changes a default by its old name still changes it.
  """
  return _update(config, "")


def _update(config: Mapping[str, Any], inside: str) -> dict[str, Any]:
  found: dict[str, Any] = {}
  old: dict[str, Any] = {}
  for key, value in config.items():
    if isinstance(value, Mapping):
      value = _update(value, key)
    new = KEYS.get(f"{inside}.{key}")
    (old if new else found)[new or key] = value
  return {**found, **old}


def update_key(key: str) -> str:
  """A dotted key, such as "optimizer.rate", by today's name."""
  path, _, _ = key.rpartition(".")
  parent = path.rpartition(".")[2]
  last = KEYS.get(f"{parent}.{key[len(path) + 1 :]}")
  return f"{path}.{last}" if last else key
