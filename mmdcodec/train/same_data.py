"""Every host of a run must have the same config and see the same data sets.

A host with an older copy would read other records for its rows of a batch, in
an order that is right for its own copy alone, and nobody would notice.
"""

import hashlib
import json
import pathlib
from collections.abc import Mapping
from typing import Any

import jax

from mmdcodec.data import record_source, shard_files
from mmdcodec.errors import Unreachable, UserError
from mmdcodec.parallel import agreement
from mmdcodec.store import paths
from mmdcodec.train import settings

# Keys that may differ from host to host.
_OWN = ("compilation_cache", "profile")


def check(config: Mapping[str, Any]) -> None:
  """Checks that all processes have the same config and see its data sets.

  Args:
    config: config of the run.

  Raises:
    Unreachable: the store of a data set does not answer.
    UserError: the configs differ; or one process does not see a data set, or
      another one in its place.
  """
  if jax.process_count() == 1:
    return
  shared = {key: x for key, x in config.items() if key not in _OWN}
  found = {path: fingerprint(path) for path in _paths(config)}
  agreement.check_same({"the config": _hash(shared), **found})


def fingerprint(path: str) -> str:
  """Returns 16 hex digits that tell a data set, or why there is none."""
  try:
    summary = record_source.describe(path)
    # Those of earlier versions have no marks.
    if "shards" not in summary:
      summary["shards"] = shard_files.marks(path)
  except Unreachable:
    raise
  except (UserError, OSError) as error:
    return str(error).removesuffix(".")
  return _hash(summary)


def _hash(value: Any) -> str:
  text = json.dumps(value, sort_keys=True)
  return hashlib.sha256(text.encode()).hexdigest()[:16]


def stored(config: Mapping[str, Any]) -> list[pathlib.Path]:
  """Returns the data sets of a config that are in object stores."""
  return [paths.of(path) for path in _paths(config) if paths.is_url(path)]


def _paths(config: Mapping[str, Any]) -> list[str]:
  """Returns the data sets of a config; tasks of users may have others."""
  data = config.get("data", {})
  found = [
    *settings.parse_datasets(data.get("train", "")),
    *settings.parse_datasets(data.get("valid", "")),
  ]
  for sets in settings.parse_streams(data.get("streams", "")).values():
    found += sets
  return sorted({str(path) for path in found})
