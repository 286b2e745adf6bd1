"""Runs the Python blocks of a Markdown page, in order, in one namespace."""

import pathlib
import re

# A fence may be indented no further than its page, so that none is missed.
_FENCE = re.compile(r"^```(\w*)[^\n]*\n(.*?)^```\s*$", re.M | re.S)


def blocks(page: pathlib.Path) -> list[tuple[int, str]]:
  """Python blocks of a page, each with the line on which its code begins."""
  text = page.read_text()
  return [
    (text.count("\n", 0, found.start(2)), found[2])
    for found in _FENCE.finditer(text)
    if found[1] in ("python", "py", "python3")
  ]


def run(page: pathlib.Path, scope: dict) -> int:
  """Runs a page.

  Args:
    page: the Markdown file.
    scope: what its blocks find, and where they leave what they make.

  Returns:
    The number of blocks that ran.

  Raises:
    Exception: whatever a block raises; the traceback has the page's lines.
  """
  found = blocks(page)
  for line, code in found:
    # Lines before it are empty, so that numbers are those of the page.
    exec(compile("\n" * line + code, str(page), "exec"), scope)
  return len(found)
