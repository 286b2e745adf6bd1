"""Writes docs/SCALING.md from the rows in docs/results/scaling.

    mmdcodec compile ... --json > docs/results/scaling/NAME.json
    python docs/scaling.py

Each row is the output of the command that it names. Those with a `source` were
made by an earlier form of the command, and copied from there. wanted.txt,
beside the rows, has names and arguments of rows that the table should have,
those that tell most first; this makes the first 3 that are missing, or all:

    python docs/scaling.py --make 3
    python docs/scaling.py --make
"""

import argparse
import json
import pathlib
import subprocess
import sys
from typing import Any

DOCS = pathlib.Path(__file__).parent
ROWS = DOCS / "results" / "scaling"
WANTED = ROWS / "wanted.txt"
PROGRAMS = ("train", "generate", "encode", "decode")

HEAD = """\
# What fits which slice

Written by `docs/scaling.py` from `docs/results/scaling/*.json`, the output of
`mmdcodec compile ... --json`. All figures are from the TPU compiler's own
analysis (libtpu 0.0.52, JAX 0.10.2), per chip; no TPU ran. A v5e chip has 15.75
GiB for programs, a v5p chip 95.73.

**Mesh** is data x fsdp x model. **Parts** are those of the batch that are
computed one after the other (`accumulate`). **State** is parameters, optimizer,
averages and other state as the chip holds them, with the batch and the padding
to its tiles. **Temporaries** are activations and what the compiler needs.
**GFLOP** are those of matrix products and convolutions of a step, of all turns
of its loops, divided among the chips. **Sent** is the size of the arrays that
are gathered, summed or exchanged in a step, also of all turns. Where 64 chips share
the parameters, the compiler gathers them by all-reduces of arrays of which each
chip fills its part.

Training steps of codecs take a quarter of an hour or more to compile; those of
`soundstream_24khz` and `encodec_32khz` on v5e:2x2 are in `docs/RESULTS.md`.
"""

EARLIER = """
## Compiled earlier

With the same commands, before they told operations and traffic between chips.
The figures are those of `docs/RESULTS.md`.
"""


def read() -> list[dict[str, Any]]:
  """The rows, training first and then by model and number of devices."""
  rows = [
    json.loads(path.read_text()) | {"name": path.stem}
    for path in sorted(ROWS.glob("*.json"))
  ]
  return sorted(
    rows,
    key=lambda row: (
      PROGRAMS.index(row["program"]), model(row), row["devices"], row["name"]
    ),
  )  # fmt: skip


def missing() -> dict[str, list[str]]:
  """Arguments of `mmdcodec compile` of the rows that are missing, by name."""
  rows = dict(line.split(" ", 1) for line in WANTED.read_text().splitlines())
  return {
    name: words.split()
    for name, words in rows.items()
    if not (ROWS / f"{name}.json").exists()
  }


def make(name: str, words: list[str]) -> None:
  """Makes a row, whether or not the program fits the slice."""
  compile_it = [sys.executable, "-m", "mmdcodec", "compile", *words, "--json"]
  done = subprocess.run(compile_it, stdout=subprocess.PIPE, text=True)
  if not done.stdout:
    raise SystemExit(f"{name}: {' '.join(words)} ended with {done.returncode}")
  (ROWS / f"{name}.json").write_text(done.stdout)


def model(row: dict[str, Any]) -> str:
  """The config of a row."""
  words = row["command"].split()
  return next(w for w in words if w.startswith("--config="))[9:]


def gib(size: float | None) -> str:
  """Formats bytes."""
  return "-" if size is None else f"{size / 2**30:.2f}"


def sent(row: dict[str, Any]) -> str:
  """Formats the collectives of a row."""
  found = row.get("collectives")
  if found is None:
    return "-"
  return "; ".join(
    f"{kind} {one['bytes'] / 2**20:,.2f} MiB in {one['number']}"
    for kind, one in found.items()
  )


def line(row: dict[str, Any]) -> str:
  """One row of the table."""
  memory = row["memory"]
  total, most = memory["total"], memory["available"]
  rest = {"temporaries", "code", "results", "total", "available"}
  state = sum(v for k, v in memory.items() if k not in rest) or None
  verdict = "fits" if row["fits"] else f"{gib(total - most)} too much"
  operations = row.get("operations")
  cells = [
    f"`{model(row)}`",
    row["topology"],
    " x ".join(str(row["mesh"][axis]) for axis in ("data", "fsdp", "model")),
    str(row["batch"]),
    str(row["accumulate"]),
    gib(state),
    gib(memory.get("temporaries")),
    gib(total),
    f"{verdict}, {total / most:.0%}",
    f"{operations / 1e9:,.0f}" if operations else "-",
    sent(row),
  ]
  return f"| {' | '.join(cells)} |"


def table(rows: list[dict[str, Any]]) -> str:
  """The rows as a table of Markdown."""
  names = (
    "config", "slice", "mesh", "batch", "parts", "state, GiB",
    "temporaries, GiB", "memory, GiB", "verdict", "GFLOP", "sent",
  )  # fmt: skip
  marks = ["---"] * 3 + ["---:"] * 5 + ["---", "---:", "---"]
  lines = [f"| {' | '.join(names)} |", f"|{'|'.join(marks)}|"]
  return "\n".join([*lines, *map(line, rows)])


def parallel(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
  """Data-parallel rows that differ in the number of chips alone."""
  groups: dict[Any, list[dict[str, Any]]] = {}
  for row in rows:
    if row["mesh"]["data"] == row["devices"] and "compiler" in row:
      share = row["batch"] / row["devices"]
      key = row["program"], model(row), row["chip"]["name"], share
      groups.setdefault(key, []).append(row)
  return [row for group in groups.values() if len(group) > 1 for row in group]


def constant(rows: list[dict[str, Any]]) -> str:
  """Operations per chip of data parallelism, as the compiler counts them."""
  lines = [
    f"| `{model(row)}`, {row['program']} | {row['topology']} |"
    f" {row['devices']} | {row['batch']} |"
    f" {row['compiler']['flops'] / 1e9:,.3f} | {gib(row['memory']['total'])} |"
    for row in rows
  ]
  return "\n".join(
    [
      "| program | slice | chips | batch | GFLOP a chip | memory, GiB |",
      "|---|---|---:|---:|---:|---:|",
      *lines,
    ]
  )


def render() -> str:
  """The content of docs/SCALING.md."""
  every = read()
  rows = [row for row in every if "source" not in row]
  earlier = [row for row in every if "source" in row]
  parts = [HEAD]
  for program, title in (
    ("train", "Training steps"),
    ("generate", "Sampling: one step of all pieces, with guidance"),
    ("encode", "Encoding"),
    ("decode", "Decoding"),
  ):
    some = [row for row in rows if row["program"] == program]
    if some:
      parts.append(f"\n## {title}\n\n{table(some)}\n")
  if earlier:
    parts.append(f"{EARLIER}\n{table(earlier)}\n")
  advised = [row for row in rows if row.get("advice")]
  if advised:
    parts.append("\n## What did not fit, and what the command says of it\n\n")
    for row in advised:
      tried = "; ".join(each for each in row["advice"])
      parts.append(f"- `{model(row)}` on {row['topology']}: {tried}.\n")
  if same := parallel(rows):
    parts.append(
      "\n## Data parallelism\n\nThe same rows of the batch on each chip, and"
      " the whole model. Operations are as\nthe compiler counts them after it"
      " has divided the program (the content of a\nloop once), so that work"
      f" that every chip repeats would show.\n\n{constant(same)}\n"
    )
  parts.append("\n## Commands\n\n```\n")
  parts += [f"{row['command']}\n" for row in every]
  parts.append("```\n")
  if left := missing():
    parts.append(
      "\n## Not compiled yet\n\n`python docs/scaling.py --make` makes these,"
      " one after the other.\n\n```\n"
    )
    parts += [f"mmdcodec compile {' '.join(x)}\n" for x in left.values()]
    parts.append("```\n")
  return "".join(parts)


def main() -> None:
  """Makes rows, if that is asked for, and writes the file."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument(
    "--make", nargs="?", type=int, const=1 << 30, default=0, metavar="N",
    help="make the first N rows that are missing, all by default",
  )  # fmt: skip
  options = parser.parse_args()
  for name, words in [*missing().items()][: options.make]:
    print(name, flush=True)
    make(name, words)
    (DOCS / "SCALING.md").write_text(render())
  (DOCS / "SCALING.md").write_text(render())


if __name__ == "__main__":
  main()
