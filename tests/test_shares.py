"""Work that the processes of a run share: the results of one process.

Must catch: results that are lost, doubled or out of order; a mistake in one
process for which the others wait; pieces and figures that depend on which
process made them, or on what else it made.
"""

import subprocess
import sys

import jax
import numpy as np
import pytest
from peer_processes import free_port
from random_music import random_music

import mmdcodec
from mmdcodec import bundle
from mmdcodec.cli.main import main
from mmdcodec.errors import UserError
from mmdcodec.evaluate import clips as clips_lib
from mmdcodec.parallel import roll, shares


@pytest.fixture
def as_process(monkeypatch):
  """Runs a function as one of several processes; returns what it sends."""

  def run(index, count, function):
    monkeypatch.setattr(jax, "process_index", lambda: index)
    monkeypatch.setattr(jax, "process_count", lambda: count)
    monkeypatch.setattr(roll, "exchange", lambda topic, text, **_: [text])
    sent = []

    def gather(value):
      sent.append(value)
      raise StopIteration

    with monkeypatch.context() as patch:
      patch.setattr(shares, "gather", gather)
      with pytest.raises(StopIteration):
        function()
    return sent[0]

  return run


@pytest.mark.parametrize("count", [1, 2, 3, 9])
def test_results_are_in_order(monkeypatch, as_process, count):
  """Also if there are more processes than items."""
  items, seen = [3, 1, 4, 1, 5, 9], []

  def double():
    return shares.apply(lambda x: 2 * x, items, lambda *of: seen.append(of))

  if count > 1:
    sent = [as_process(i, count, double) for i in range(count)]
    assert sorted(sum(sent, [])) == sorted(2 * x for x in items)
    monkeypatch.setattr(shares, "gather", lambda own: sent)
  assert double() == [2 * x for x in items]
  if count == 1:
    assert seen == [(i, 6) for i in range(1, 7)]


def test_a_mistake_of_another_process(monkeypatch):
  """Ends this one too, with its sentence."""
  monkeypatch.setattr(roll, "exchange", lambda topic, text, **_: [text, "no."])
  with pytest.raises(UserError, match=r"^no\.$"), shares.together("x"):
    pass
  # Its own comes first.
  with pytest.raises(ZeroDivisionError), shares.together("x"):
    1 / 0  # noqa: B018


SCRIPT = """
import sys
import numpy as np
from mmdcodec.errors import UserError
from mmdcodec.parallel import mesh, shares

me, port = int(sys.argv[1]), sys.argv[2]
mesh.start("localhost:" + port, 2, me)
shares._AT_A_TIME = 1000

def work(x):
  if x < 0 and me:
    raise UserError(f"{x} is below 0.")
  return {"x": np.full(x * 100, x), "by": me}

found = shares.apply(work, range(7))
assert [each["by"] for each in found] == [0, 1, 0, 1, 0, 1, 0]
for x, each in enumerate(found):
  np.testing.assert_array_equal(each["x"], np.full(x * 100, x))
try:
  shares.apply(work, [0, -1, 2, 3])
except UserError as error:
  assert str(error) == "-1 is below 0."
  print("told")
assert shares.gather(me) == [0, 1]
"""


@pytest.mark.slow
def test_two_processes(compile_fast):
  """Results of any size and kind, and a mistake of one of them."""
  port = str(free_port())
  processes = [
    subprocess.Popen(
      [sys.executable, "-c", SCRIPT, str(i), port],
      stdout=subprocess.PIPE,
      stderr=subprocess.STDOUT,
      text=True,
    )
    for i in range(2)
  ]
  outputs = [each.communicate(timeout=600)[0] for each in processes]
  for each, output in zip(processes, outputs, strict=True):
    assert each.returncode == 0 and "told" in output, output


@pytest.mark.slow
def test_pieces_of_each_process(tmp_path, monkeypatch, compile_fast, capsys):
  """They are the same as if one process made them all, to the last bit."""
  config, variables = random_music(
    tmp_path / "codec", codec=dict(dilations=(1,)), frames=12, layers=1
  )
  bundle.save(tmp_path / "music", config, variables)
  argv = ["generate", "calm", str(tmp_path / "a.wav"), "--count=3", "--seed=5"]
  argv += ["--seconds=0.02", "--model", str(tmp_path / "music")]
  assert main(argv) == 0
  told = capsys.readouterr().out.splitlines()
  pieces = [tmp_path / f"a-{i}.wav" for i in (1, 2, 3)]
  want = [piece.read_bytes() for piece in pieces]
  assert len({*want}) == 3 and len(told) == 3
  for piece in pieces:
    piece.unlink()
  for index in (1, 0):
    mine = range(index, 3, 2)
    monkeypatch.setattr(shares, "mine", lambda count, mine=mine: mine)
    assert main(argv) == 0
    assert [p.exists() for p in pieces] == [index == 0, True, index == 0]
    lines = capsys.readouterr().out.splitlines()
    assert lines == [told[i] for i in mine]
    made = {i: pieces[i].read_bytes() for i in mine}
    assert made == {i: want[i] for i in mine}
    if index:
      pieces[1].rename(tmp_path / "kept.wav")
      argv.append("--force")
      pieces[1].write_bytes(want[1])


@pytest.mark.slow
def test_figures_do_not_depend_on_who_measured(model, monkeypatch):
  """Clips are measured in another order, as by several processes."""
  codec, random = mmdcodec.load(model), np.random.default_rng(0)
  clips = [
    clips_lib.Clip(str(i), random.normal(0, 0.1, (n, 1)).astype(np.float32))
    for i, n in enumerate((700, 900, 4000))
  ]
  one = clips_lib.reconstruct(codec, clips)
  apply = shares.apply

  def backwards(function, items, *args, **kwargs):
    return apply(function, items[::-1], *args, **kwargs)[::-1]

  monkeypatch.setattr(shares, "apply", backwards)
  other = clips_lib.reconstruct(codec, clips)
  assert one.rows == other.rows and one.summary == other.summary
  np.testing.assert_array_equal(one.counts, other.counts)
  for x, y in zip(one.audio, other.audio, strict=True):
    np.testing.assert_array_equal(x, y)
