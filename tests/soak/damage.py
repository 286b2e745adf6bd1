"""Damages bytes, JSON, tables and files, each time in words that are kept."""

import json
import math
import os
import shutil

# Values that no key expects, or that are out of every bound.
VALUES = (
  *(None, True, False, 0, 1, -1, 2, 3, 7, 0.5, -0.5, 1e-9, 1e9, 1e30, -1e30),
  *(1e308, math.nan, math.inf, -math.inf, 2**31, 2**63, 10**30, -(10**18)),
  *("", "x", "nan", "-1", "1e400", "é\ud800", "a" * 5000, "../../x", "\0"),
  *([], {}, [[]], [None], [0], [-1], [1, 2, 3], [10**8], [40000, 50000]),
  *(["a"], {"a": 1}, [[1]] * 3),
)

# What a download or a careless copy leaves in a file's place.
TEXTS = (
  b"",
  b"\n",
  b"\0" * 4096,
  b"<!DOCTYPE html><html><body>404 Not Found</body></html>\n",
  b"version https://git-lfs.github.com/spec/v1\noid sha256:"
  + b"0" * 64
  + b"\nsize 123456\n",
  b"[" * 100_000,
  b'{"a":' * 100_000,
  b"null",
  b"[]",
  b"{}",
  b"\xff\xfe\x00\xd8" * 50,
  b"PK\x03\x04" + bytes(200),
  b"\x1f\x8b\x08\x00" + bytes(200),
)


def some_bytes(data: bytes, rng, wounds: int = 0) -> tuple[bytes, list[str]]:
  """Damages bytes at one to three places, the beginning more often."""
  data, words = bytearray(data), []
  for _ in range(wounds or rng.integers(1, 4)):
    size = max(1, len(data))
    near = int(rng.choice([64, 512, size]))
    at = int(rng.integers(min(near, size)))
    count = int(rng.choice([1, 4, 40, 1000]))
    kind = rng.choice(
      ["flip", "random", "zero", "ones", "cut", "delete", "insert", "copy"]
    )
    if kind == "flip":
      data[at : at + 1] = bytes(b ^ 1 << rng.integers(8) for b in data[at:][:1])
    elif kind in ("random", "zero", "ones"):
      count = min(count, len(data) - at)
      data[at : at + count] = {
        "random": rng.bytes,
        "zero": bytes,
        "ones": lambda n: b"\xff" * n,
      }[kind](count)
    elif kind == "cut":
      del data[at:]
    elif kind == "delete":
      del data[at : at + count]
    elif kind == "insert":
      data[at:at] = rng.bytes(count)
    else:
      to = int(rng.integers(size))
      data[to:to] = data[at : at + count]
    words.append(f"{kind} {count} at {at}")
  return bytes(data), words


def cut(data: bytes, rng) -> tuple[bytes, list[str]]:
  """Cuts bytes at a random place."""
  at = int(rng.integers(1, max(2, len(data))))
  return data[:at], [f"cut at {at} of {len(data)}"]


def some_json(value, rng) -> tuple[object, list[str]]:
  """Changes one or two values or keys anywhere in a JSON value."""
  value, words = json.loads(json.dumps(value)), []
  for _ in range(rng.integers(1, 3)):
    places = list(_places(value, ()))
    if not places:
      break
    path = places[rng.integers(len(places))]
    holder = value
    for key in path[:-1]:
      holder = holder[key]
    key, old = path[-1], holder[path[-1]]
    name = "/".join(map(str, path))
    kind = rng.choice(["value", "value", "near", "delete", "key", "swap"])
    if kind == "near" and isinstance(old, int | float) and old == old:
      by = rng.choice([0.5, 2, 10, 1000, -1])
      holder[key] = type(old)(old * by) if abs(old) < 1e15 else 0
      words.append(f"{name} = {holder[key]!r}")
    elif kind == "delete" and isinstance(holder, dict | list):
      del holder[key]
      words.append(f"no {name}")
    elif kind == "key" and isinstance(holder, dict):
      holder[f"{key}x"] = holder.pop(key)
      words.append(f"{name}x for {name}")
    elif kind == "swap":
      other = places[rng.integers(len(places))]
      found = value
      for step in other:
        try:
          found = found[step]
        except (LookupError, TypeError):
          break
      holder[key] = json.loads(json.dumps(found))
      words.append(f"{name} = that of {'/'.join(map(str, other))}")
    else:
      holder[key] = VALUES[rng.integers(len(VALUES))]
      words.append(f"{name} = {holder[key]!r:.40}")
  return value, words


def _places(value, path):
  """Paths of everything inside a JSON value."""
  inside = ()
  if isinstance(value, dict):
    inside = value.items()
  elif isinstance(value, list):
    inside = enumerate(value[:8])
  for key, part in inside:
    yield (*path, key)
    yield from _places(part, (*path, key))


def json_file(path, rng) -> list[str]:
  """Damages a JSON file by its values, or else by its bytes."""
  text = path.read_text()
  if rng.random() < 0.75:
    value, words = some_json(json.loads(text), rng)
    path.write_bytes(json.dumps(value).encode("utf-8", "surrogatepass"))
    return words
  return bytes_of(path, rng)


def bytes_of(path, rng) -> list[str]:
  """Damages a file by its bytes."""
  data, words = some_bytes(path.read_bytes(), rng)
  path.write_bytes(data)
  return words


def replace(path, rng, others=()) -> list[str]:
  """Puts something else in the place of a file.

  Args:
    path: the file.
    rng: of the choice.
    others: files that may take its place.
  """
  kind = rng.choice(
    ["text", "text", "gone", "pipe", "folder", "loop", "device", "other"]
  )
  path.unlink()
  if kind == "text":
    data = TEXTS[rng.integers(len(TEXTS))]
    path.write_bytes(data)
    return [f"{path.name}: {data[:20]!r}"]
  if kind == "pipe":
    os.mkfifo(path)
  elif kind == "folder":
    path.mkdir()
  elif kind == "loop":
    path.symlink_to(path.name)
  elif kind == "device":
    path.symlink_to("/dev/zero")
  elif kind == "other" and len(others):
    other = others[rng.integers(len(others))]
    shutil.copyfile(other, path)
    return [f"{path.name}: {other.name} in its place"]
  return [f"{path.name}: {kind}"]


def safetensors(data: bytes, rng) -> tuple[bytes, list[str]]:
  """Damages a safetensors file, most often inside of its header."""
  if rng.random() < 0.4:
    return some_bytes(data, rng)
  size = int.from_bytes(data[:8], "little")
  header = json.loads(data[8 : 8 + size])
  if rng.random() < 0.4:
    # A dtype or shape that exists, where it isn't expected.
    names = sorted(set(header) - {"__metadata__"})
    entry = header[names[rng.integers(len(names))]]
    change = {
      "dtype": ["F64", "F16", "BF16", "I8", "U8", "I64", "F8_E4M3", "BOOL"],
      "shape": [[], [0], [1], [2**40], [-1], entry["shape"][::-1]],
      "data_offsets": [[0, 0], [0, 2**60], [8, 4], [0, 4]],
    }
    key = str(rng.choice(list(change)))
    entry[key] = change[key][rng.integers(len(change[key]))]
    words = [f"{key} {entry[key]}"]
  else:
    header, words = some_json(header, rng)
  text = json.dumps(header).encode("utf-8", "surrogatepass")
  return len(text).to_bytes(8, "little") + text + data[8 + size :], words
