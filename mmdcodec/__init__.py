"""Neural audio codecs with independent codebooks, and music models over them.

The public names:

  load              opens a trained model from a bundle or a training folder
  UserError         the error for mistakes that the user can fix

Import everything else from its own module (`mmdcodec.models.codec`,
`mmdcodec.quantize.residual`, ...); the package alone loads no other library.
"""

import importlib
from typing import Any

__version__ = "0.1.0"

# name -> module; resolved at first use (PEP 562), so that `import mmdcodec` is
# fast and a module needs only its own dependencies.
_PUBLIC = {
  "load": "mmdcodec.bundle",
  "UserError": "mmdcodec.errors",
}

__all__ = sorted(_PUBLIC)


def __getattr__(name: str) -> Any:
  if name in _PUBLIC:
    return getattr(importlib.import_module(_PUBLIC[name]), name)
  raise AttributeError(f"module 'mmdcodec' has no attribute {name!r}")


def __dir__() -> list[str]:
  return sorted([*globals(), *_PUBLIC])
