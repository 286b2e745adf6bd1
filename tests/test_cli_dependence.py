"""`mmdcodec evaluate dependence`: all measures together, page and plots.

Defects that these tests must catch: figures that are lost on the way or are no
JSON, warnings that do not come, minutes of work before a mistake is named.
"""

import io
import json

import numpy as np
import pytest
from known_codes import SIZE, copies, draw, uniform

import mmdcodec
from mmdcodec import patterns
from mmdcodec.cli import evaluate_dependence
from mmdcodec.cli.main import main
from mmdcodec.errors import UserError
from mmdcodec.evaluate import dependence, dependence_plots
from mmdcodec.evaluate.mutual_information import mutual_information
from mmdcodec.tokenizers.loaded_codec import LoadedCodec

# Few programs that run long.
pytestmark = pytest.mark.usefixtures("optimized")


@pytest.mark.slow
def test_measure_and_heat_map(tmp_path):
  """Figures that are lost, or no JSON; warnings and progress that lie."""
  codes = draw(copies(0.5), 17)[:12, :70]
  told = []
  found = dependence.measure(
    codes, SIZE, progress=lambda *numbers: told.append(numbers)
  )
  assert told == [(i, 6) for i in range(7)]
  assert found.frames == 840 and found.clips == 12
  assert not any("are few" in each for each in found.warnings)
  row = found.summary()
  assert row["aligned/total_correlation"] > 0.8
  assert abs(row["together/total_correlation"]) < 0.1
  assert row["aligned/significant_pairs"] == 3
  assert row["usage"] == 1 and row["perplexity"] > 7.8
  parsed = json.loads(json.dumps(found.to_dict(), allow_nan=False))
  assert parsed["aligned"]["pairs"]["bits"][0][0] is None
  only = dependence.measure(
    codes[:3], SIZE, pattern="parallel", pieces=["a", "b", "a"]
  )
  assert only.aligned.total.clips == 20  # 2 pieces in 10 stretches each
  assert only.together is only.aligned
  assert "210 frames are few" in only.warnings[0]
  assert "2 pieces of music are few" in only.warnings[1]

  from matplotlib import image

  path = tmp_path / "map.png"
  pairs = found.aligned.pairs
  drawn = dependence_plots.heat_map({"a": pairs, "b": pairs}, path=path)
  assert path.read_bytes() == drawn
  show = lambda *each: image.imread(
    io.BytesIO(dependence_plots.heat_map(dict(zip("ab", each, strict=False))))
  )
  marked = show(pairs, pairs)
  bare = show(
    pairs,
    type(pairs)(pairs.bits, pairs.error, pairs.null, pairs.significant & False),
  )
  changed = np.abs(marked - bare).max(-1) > 0.1
  middle = marked.shape[1] // 2
  # Dots are gone at the right only.
  assert changed[:, middle:].sum() > 50 and not changed[:, : middle - 60].any()
  empty = mutual_information(
    uniform(0, 12, 2, (4, 9)), 2, pattern=patterns.coarse_first(12)
  )
  assert show(empty).size


def test_a_pattern_is_refused_before_the_work(monkeypatch):
  """Minutes of measures whose results are then thrown away."""
  monkeypatch.setattr(dependence, "_measure", None)  # must not be called
  with pytest.raises(UserError, match="one code"):
    dependence.measure(uniform(0), SIZE, pattern="flatten")
  with pytest.raises(UserError, match="longer clips"):
    dependence.measure(uniform(0)[:, :2], SIZE)


def test_delays_on_the_command_line():
  """Zeros of the wrong number, taken for no pattern at all."""
  assert evaluate_dependence.parse_pattern("0,0,0", 3) is None
  assert evaluate_dependence.parse_pattern("0,1,1", 3)(4).codebooks == 3
  for wrong in ("0", "0,0", "0,0,0,0", "0,1"):
    with pytest.raises(UserError, match="delays"):
      evaluate_dependence.parse_pattern(wrong, 3)


@pytest.mark.slow
def test_command(tmp_path, model, capsys, monkeypatch):
  """Codes or vectors of the wrong clips; a page or results that lack parts."""
  import soundfile

  stride = mmdcodec.load(model).model.stride
  folder = tmp_path / "music"
  folder.mkdir()
  random = np.random.default_rng(0)
  frames = 0
  for i, seconds in enumerate((0.5, 0.7, 0.2)):
    x = 0.1 * random.normal(size=round(8000 * seconds))
    soundfile.write(folder / f"{i}.wav", x, 8000, subtype="FLOAT")
    frames += -(-len(x) // stride)
  argv = ["evaluate", "dependence", "--model", model, "--audio", str(folder)]
  out = tmp_path / "out"
  assert main([*argv, "--out", str(out)]) == 0
  shown = capsys.readouterr().out
  assert "total correlation" in shown and "warning: " in shown
  assert f"{frames:,} frames" in shown
  results = json.loads((out / "results.json").read_text())
  assert results["frames"] == frames and results["about"]["pattern"] == "delay"
  assert results["aligned"]["kernel"]["normalised"] is not None
  assert (out / "dependence.png").read_bytes().startswith(b"\x89PNG")
  page = (out / "report.html").read_text()
  assert page.count("<img") == 2 and "Beware" in page and "dHSIC" in page

  def fails(*more):
    assert main([*argv, *more]) == 2
    return capsys.readouterr().err

  assert "--force" in fails("--out", str(out))
  assert "pattern" in fails("--pattern", "spiral")
  assert "delays" in fails("--pattern", "0,1,2,3,4,5,6,7,8,9")
  assert "two or more" in fails("--codebooks", "1")
  encoded = []
  encode = LoadedCodec.encode
  monkeypatch.setattr(
    LoadedCodec,
    "encode",
    lambda *args, **kwargs: encoded.append(1) or encode(*args, **kwargs),
  )
  assert "one code" in fails("--pattern", "flatten")
  assert len(encoded) == 1  # not all three clips
  argv[1] = "reconstruction"
  assert "evaluate dependence" in fails("--pattern", "delay")
