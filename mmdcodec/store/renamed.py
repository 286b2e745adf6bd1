"""Names that changed, so that files of earlier versions can still be read.

One table for the keys of configs: in a workdir, in a bundle, in a config file
of a user's own, or on a command line. Configs are updated where they come in;
the code behind that knows the new names only.
"""

from typing import Any

# Old and new keys. Before the dot stands the key of the dict that holds them,
# wherever that is: `adversarial.optimizer.rate` is renamed as well.
KEYS = {
  "optimizer.rate": "learning_rate",
}
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
    new = KEYS.get(f"{inside}.{key}")
    if new:
      config[new] = value
      del config[key]


def update_key(key: str) -> str:
  """Today's name of a dotted key, such as "optimizer.rate"."""
  path, _, last = key.rpartition(".")
  new = KEYS.get(f"{path.rpartition('.')[2]}.{last}")
  return f"{path}.{new}" if new else key
