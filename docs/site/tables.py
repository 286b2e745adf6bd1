"""Keeps the tables of docstrings as they are set, in lines indented by two."""

import re

import griffe

_SECTION = re.compile(r"(Args|Attributes|Returns|Raises|Yields|Examples?):\n")


def as_code(text: str) -> str:
  """Indents tables further, which makes code blocks of them in Markdown."""
  parts, section = text.split("\n\n"), False
  for i, part in enumerate(parts):
    section = bool(_SECTION.match(part)) or (section and part[:1] == " ")
    lines = part.split("\n")
    if not section and all(re.match(r" {2,3}\S| {4}", line) for line in lines):
      parts[i] = "\n".join("  " + line for line in lines)
  return "\n\n".join(parts)


class Tables(griffe.Extension):
  """Does it for every docstring that is read."""

  def on_object(self, *, obj: griffe.Object, **_: object) -> None:
    """Changes a docstring, if the object has one."""
    if obj.docstring is not None:
      obj.docstring.value = as_code(obj.docstring.value)
