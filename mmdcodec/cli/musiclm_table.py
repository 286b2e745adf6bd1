"""Describes the parts of a MusicLM, for `assemble` and `info`."""

from typing import Any


def table(parts: Any) -> tuple[list[str], list[list[str]]]:
  """Returns columns and rows, one row for each part.

  Args:
    parts: `mmdcodec.generation.musiclm_parts.Parts`.
  """
  rows = []
  for name in ("codec", "semantic", "joint", "melody"):
    if (part := getattr(parts, name)) is not None:
      codes = f"{part.codebooks} x {part.codebook_size}"
      rows.append([name, part.hash, codes, f"{part.frame_rate:.4g} Hz", ""])
  for name, stage in parts.stages.items():
    model, first = stage.model, stage.model.first_codebook
    last = first + model.codebooks
    books = f"{last}" if last == first + 1 else f"{first + 1}-{last}"
    takes = ", ".join(each.name for each in stage.conditions) or "nothing"
    rows.append(
      [
        f"{name} stage",
        f"{model.layers} x {model.width}",
        f"{books} x {model.codebook_size}",
        f"{stage.seconds:.4g} s",
        f"takes {takes}",
      ]
    )
  return ["part", "model", "codebooks", "frames", ""], rows
