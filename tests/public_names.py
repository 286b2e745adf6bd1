"""Which names of the package code uses, and which are documented."""

import ast
import importlib
import pathlib
import re
import types

import mmdcodec

DOCS = pathlib.Path(__file__).resolve().parent.parent / "docs"


def find(path: str):
  """The module or object at a dotted path."""
  try:
    return importlib.import_module(path)
  except ModuleNotFoundError:
    place, _, name = path.rpartition(".")
    return getattr(find(place), name)


def used(code: str) -> set[str]:
  """Dotted paths of the functions, classes and constants that code uses.

  Args:
    code: Python that imports from `mmdcodec`.

  Raises:
    AttributeError, ModuleNotFoundError: the package has no such name.
  """
  tree, known, found = ast.parse(code), {}, set()
  for node in ast.walk(tree):
    if isinstance(node, ast.Import):
      for each in node.names:
        if each.name.split(".")[0] == "mmdcodec":
          known[each.asname or "mmdcodec"] = (
            each.name if each.asname else "mmdcodec"
          )
    elif isinstance(node, ast.ImportFrom):
      if (node.module or "").split(".")[0] == "mmdcodec":
        for each in node.names:
          known[each.asname or each.name] = f"{node.module}.{each.name}"
  modules = {
    name
    for name, path in known.items()
    if isinstance(find(path), types.ModuleType)
  }
  found |= {path for name, path in known.items() if name not in modules}
  for node in ast.walk(tree):
    if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load):
      words, value = [node.attr], node.value
      while isinstance(value, ast.Attribute):
        words, value = [value.attr, *words], value.value
      if not (isinstance(value, ast.Name) and value.id in modules):
        continue
      path = known[value.id]
      for word in words:
        path = f"{path}.{word}"
        if not isinstance(find(path), types.ModuleType):
          found.add(path)
          break
  return found


def documented() -> set[str]:
  """Dotted paths of all that the API reference lists.

  A block of mkdocstrings names a module with its members, or one object.
  """
  found = set()
  block = re.compile(
    r"^::: ([\w.]+)\n(?:    options:\n      members:\n((?:        - \w+\n)+))?",
    re.M,
  )
  for page in (DOCS / "api").glob("*.md"):
    for path, members in block.findall(page.read_text()):
      # Read from the checkout, where the folder has its own name.
      path = re.sub(r"^configs\b", "mmdcodec.configs", path)
      names = re.findall(r"- (\w+)", members)
      module = isinstance(find(path), types.ModuleType)
      found |= {f"{path}.{name}" for name in names} if module else {path}
  # The package has some by themselves, too.
  return found | {
    f"mmdcodec.{name}"
    for name, place in mmdcodec._PUBLIC.items()
    if f"{place}.{name}" in found
  }
