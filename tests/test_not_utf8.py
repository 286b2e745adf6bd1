"""Names, prompts and terminals that are not UTF-8.

Catches: a name of an old music collection, or a terminal without dashes, that
ends a command with a traceback after all of its work.
"""

import csv
import importlib
import io
import sys

import numpy as np
import pytest

from mmdcodec import bitstream
from mmdcodec.cli.main import main
from mmdcodec.data import audio_folder, record_source
from mmdcodec.errors import UserError
from mmdcodec.evaluate import clips, report
from mmdcodec.models import text_condition
from mmdcodec.store import atomic, inputs
from mmdcodec.store.checkpoints import Checkpoints

# As Python reads the byte 0xE9 of a name.
NAME = "caf\udce9"


@pytest.mark.parametrize(
  ("encoding", "errors", "shown"),
  [
    ("ascii", "strict", rb"caf\udce9 \u2013"),
    ("ascii", "surrogateescape", rb"caf\udce9 \u2013"),
    ("iso8859-1", "strict", rb"caf\udce9 \u2013"),
    ("utf-8", "strict", rb"caf\udce9 " + "–".encode()),
    ("utf-8", "surrogateescape", b"caf\xe9 " + "–".encode()),
  ],
)
def test_what_a_terminal_lacks_is_escaped(monkeypatch, encoding, errors, shown):
  info = importlib.import_module("mmdcodec.cli.info")
  monkeypatch.setattr(info, "run", lambda args: print(f"{NAME} –"))
  out = io.TextIOWrapper(io.BytesIO(), encoding=encoding, errors=errors)
  monkeypatch.setattr(sys, "stdout", out)
  assert main(["info", "x"]) == 0
  assert out.buffer.getvalue().rstrip() == shown


def test_files_of_any_name(tmp_path):
  coded = tmp_path / f"{NAME}.mmdc"
  codes = np.zeros((5, 1), np.int32)
  fields = dict(rate=24000, channels=1, codebook_size=4, stride=320)
  bitstream.write(coded, bitstream.Stream(codes, samples=1500, **fields))
  assert main(["info", str(coded)]) == 0
  assert len(audio_folder.fingerprint([coded], tmp_path)) == 16
  atomic.write_json(tmp_path / "a.json", {"clip": NAME})
  assert inputs.read_json(tmp_path / "a.json") == {"clip": NAME}


def test_results_with_such_names_are_written(tmp_path):
  row = dict.fromkeys(clips.COLUMNS, 1.0)
  result = clips.Reconstruction(
    rate=8000,
    clips=[clips.Clip(NAME, np.zeros((80, 1), np.float32))],
    audio=[np.zeros((80, 1), np.float32)],
    rows=[{"clip": NAME, **row}],
    summary={name: (1.0, 0.0) for name in clips.COLUMNS},
    counts=np.ones((1, 4)),
    usage=np.ones(1),
    perplexity=np.ones(1),
    bits_per_second=1.0,
    entropy_bits_per_second=1.0,
    about={"audio": NAME},
  )
  clips.save(result, tmp_path)
  with open(tmp_path / "clips.csv", encoding="utf-8", newline="") as file:
    assert [r["clip"] for r in csv.DictReader(file)] == [r"caf\udce9"]
  page = report.write_report(
    tmp_path / "report.html", [report.Text(NAME, [NAME])], title=NAME
  )
  assert r"caf\udce9" in page.read_text("utf-8")


def test_prompts_and_folders_are_refused(monkeypatch, fails):
  for value in (NAME, ["piano", NAME]):
    with pytest.raises(UserError, match="not in UTF-8"):
      text_condition.text_list(value)
  assert text_condition.text_list(["Klavier, fröhlich", None])
  with pytest.raises(UserError, match="not in UTF-8"):
    Checkpoints(NAME)
  with pytest.raises(UserError, match="not in UTF-8"):
    record_source.Source(NAME)
  assert "not in UTF-8" in fails("prepare", ".", NAME)
  # As other libraries in C++ do.
  export = importlib.import_module("mmdcodec.cli.export")
  monkeypatch.setattr(export, "run", lambda args: args.bundle.encode())
  assert "not in UTF-8" in fails("export", "run", NAME)
