"""The layers of the package: who may import whom.

Imports are read from the source, those inside of functions too: a lazy import
is a dependency like any other.
"""

import ast
import pathlib

import mmdcodec.configs

import mmdcodec

PACKAGE = pathlib.Path(mmdcodec.__file__).parent
CONFIGS = pathlib.Path(mmdcodec.configs.__file__).parent

# Lowest first. A module imports from its own layer and from those below. The
# entry with the longest matching name says where a module belongs.
LAYERS = (
  (
    "errors", "bounds", "formatting", "memory", "packaged", "platform",
    "precision", "progress", "",
  ),  # fmt: skip
  ("store",),
  ("parallel",),
  ("audio", "nn", "patterns"),
  ("quantize", "losses"),
  ("models",),
  ("tokenizers",),
  ("data", "bitstream"),
  ("generation",),
  ("convert",),
  ("folders", "bundle", "stablehlo"),
  ("evaluate",),
  ("train", "configs"),
  ("experiments", "bench", "selftest", "workflows", "demo"),
  ("cli", "__main__"),
)
LAYER_OF = {name: i for i, names in enumerate(LAYERS) for name in names}


def read_imports() -> dict[str, set[str]]:
  """The modules of the package that each of its modules imports.

  Names are relative to the package: "train.loop", and "" for itself. Configs
  belong to the package as "configs.NAME".
  """
  modules = {}
  for root, above in ((PACKAGE, PACKAGE), (CONFIGS, CONFIGS.parent)):
    for path in sorted(root.rglob("*.py")):
      parts = path.relative_to(above).with_suffix("").parts
      parts = parts[:-1] if parts[-1] == "__init__" else parts
      modules[".".join(parts)] = ast.parse(path.read_text())
  found = {}
  for name, tree in modules.items():
    targets = set()
    for node in ast.walk(tree):
      if isinstance(node, ast.Import):
        targets |= {alias.name for alias in node.names}
      elif isinstance(node, ast.ImportFrom):
        assert node.module and not node.level, f"relative import in {name}"
        for alias in node.names:
          inside = f"{node.module}.{alias.name}"
          is_module = inside.removeprefix("mmdcodec.") in modules
          targets.add(inside if is_module else node.module)
    ours = {t for t in targets if t.split(".")[0] == "mmdcodec"}
    found[name] = {t.removeprefix("mmdcodec").lstrip(".") for t in ours}
  return found


def layer_of(module: str) -> int:
  """Index of the layer that a module belongs to.

  Raises:
    KeyError: the table does not know its folder.
  """
  if module in LAYER_OF:
    return LAYER_OF[module]
  return LAYER_OF[module.split(".")[0]]


def find_upward(imports: dict[str, set[str]]) -> list[str]:
  """Imports from a higher layer, "importer -> imported"."""
  return sorted(
    f"{name} -> {target}"
    for name, targets in imports.items()
    for target in targets
    if layer_of(target) > layer_of(name)
  )


def find_circles(imports: dict[str, set[str]]) -> list[list[str]]:
  """Sets of modules that import one another, directly or by way of others."""
  reached: dict[str, set[str]] = {}
  for name in imports:
    seen: set[str] = set()
    waiting = list(imports[name])
    while waiting:
      module = waiting.pop()
      if module not in seen:
        seen.add(module)
        waiting.extend(imports.get(module, ()))
    reached[name] = seen
  circles = {
    tuple(sorted(o for o in reached[name] if name in reached.get(o, ())))
    for name in imports
    if name in reached[name]
  }
  return sorted(map(list, circles))


def test_nothing_imports_upward():
  """Catches a module that depends on a layer above its own."""
  upward = find_upward(read_imports())
  assert not upward, "\n".join(["imports from a higher layer:", *upward])


def test_no_circles():
  """Catches modules that import one another, lazily too."""
  circles = find_circles(read_imports())
  assert not circles, "\n".join(["import circles:", *map(str, circles)])


def test_checks_see_faults():
  """The two checks above report an upward import and a circle."""
  imports = {"nn.conv": {"train.loop"}, "train.loop": {"nn.conv"}}
  assert find_upward(imports) == ["nn.conv -> train.loop"]
  assert find_circles(imports) == [["nn.conv", "train.loop"]]
