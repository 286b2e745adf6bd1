"""The notebooks of `colab/`: made from their Python sources, and run.

    python tests/notebooks.py            writes colab/*.ipynb from colab/*.py
    python tests/notebooks.py --html DIR runs them, and writes pages to look at

The sources are in jupytext's percent format. Nothing else is in a notebook: no
outputs, and ids that are the same each time.
"""

import argparse
import os
import pathlib
import re

import jupytext
import nbformat

FOLDER = pathlib.Path(__file__).resolve().parent.parent / "colab"
SOURCES = sorted(FOLDER.glob("*.py"))
KERNEL = {"display_name": "Python 3", "language": "python", "name": "python3"}


def make(source: pathlib.Path) -> nbformat.NotebookNode:
  """Makes the notebook of a source."""
  read = jupytext.read(source, fmt="py:percent")
  for number, cell in enumerate(read.cells):
    cell.id, cell.metadata = f"cell-{number}", {}
  metadata = {
    "kernelspec": KERNEL,
    "language_info": {"name": "python"},
    "colab": {"provenance": []},
  }
  return nbformat.v4.new_notebook(cells=read.cells, metadata=metadata)


def text(notebook: nbformat.NotebookNode) -> str:
  """The content of a notebook's file."""
  return nbformat.writes(notebook, indent=1) + "\n"


def run(source: pathlib.Path, workdir: pathlib.Path, **environment: str):
  """Runs a notebook at tiny size.

  Args:
    source: its source.
    workdir: folder in which the kernel runs.
    **environment: variables for the kernel.

  Returns:
    The notebook with its outputs, and the longest time of a cell, in seconds:
    on two quiet cores below 60.

  Raises:
    CellExecutionError: a cell raised an error.
    CellTimeoutError: a cell takes four times that, as it may on slow cores
      beside other work.
  """
  import time

  from nbclient import NotebookClient

  started, times = {}, {}
  client = NotebookClient(
    make(source),
    timeout=240,
    kernel_name="python3",
    resources={"metadata": {"path": str(workdir)}},
    on_cell_execute=lambda cell, cell_index: started.update(
      {cell_index: time.monotonic()}
    ),
    on_cell_executed=lambda cell, cell_index, execute_reply: times.update(
      {cell_index: time.monotonic() - started[cell_index]}
    ),
  )
  before = dict(os.environ)
  os.environ.update(MMDCODEC_SIZE="tiny", **environment)
  try:
    notebook = client.execute()
  finally:
    os.environ.clear()
    os.environ.update(before)
  return notebook, max(times.values())


def printed(notebook: nbformat.NotebookNode) -> str:
  """All that the cells printed."""
  return "".join(
    output.text
    for cell in notebook.cells
    for output in cell.get("outputs", [])
    if output.output_type == "stream"
  )


def code(source: pathlib.Path) -> str:
  """The Python of a source, without its texts."""
  cells = [c.source for c in make(source).cells if c.cell_type == "code"]
  return "\n".join(re.sub(r"(?m)^[%!].*$", "", cell) for cell in cells)


def main() -> None:
  """See the top of the file."""
  parser = argparse.ArgumentParser()
  parser.add_argument("--html", type=pathlib.Path)
  parser.add_argument("--only", nargs="+", default=[s.stem for s in SOURCES])
  args = parser.parse_args()
  for source in [s for s in SOURCES if s.stem in args.only]:
    if args.html is None:
      source.with_suffix(".ipynb").write_text(text(make(source)))
      continue
    from nbconvert import HTMLExporter

    args.html.mkdir(parents=True, exist_ok=True)
    notebook, longest = run(source, args.html)
    page, _ = HTMLExporter().from_notebook_node(notebook)
    (args.html / f"{source.stem}.html").write_text(page)
    print(f"{source.stem}: longest cell {longest:.1f} s", flush=True)


if __name__ == "__main__":
  main()
