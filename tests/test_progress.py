"""The progress line: when it is shown, in a terminal and in a log.

Defects that these tests must catch: a line for each piece of work, lines after
short work, a terminal left in the middle of a line, a rate of what an earlier
run did.
"""

import pytest

from mmdcodec import progress


@pytest.fixture
def clock(monkeypatch):
  """[seconds] that tests move on."""
  now = [100.0]
  monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
  return now


def work(clock, counts, seconds):
  """Does so many pieces of 8, each in so many seconds."""
  show = progress.counter("songs")
  for done in counts:
    show(done, 8)
    clock[0] += seconds


def test_short_work_shows_nothing(clock, capsys):
  work(clock, range(9), 1.0)
  assert capsys.readouterr().err == ""


def test_a_log_gets_a_line_now_and_then(clock, capsys):
  work(clock, range(9), 10.0)
  assert capsys.readouterr().err.splitlines() == [
    "  2/8 songs, 0.1 a second, 1 min 00 s left",
    "  4/8 songs, 0.1 a second, 40 s left",
    "  6/8 songs, 0.1 a second, 20 s left",
    "  8/8 songs, 0.1 a second, 0.00 s left",
  ]


def test_slow_work_has_no_rate_of_zero(clock, capsys):
  work(clock, range(2), 50.0)
  assert capsys.readouterr().err == "  1/8 songs, 5 min 50 s left\n"


def test_what_an_earlier_run_did_is_no_speed(clock, capsys):
  work(clock, (6, 7), 20.0)
  assert "20 s left" in capsys.readouterr().err


def test_a_terminal_keeps_one_line(clock, capsys, monkeypatch):
  monkeypatch.setattr(progress.sys.stderr, "isatty", lambda: True)
  work(clock, range(9), 1.0)
  shown = capsys.readouterr().err
  assert shown.count("\r\x1b[K") == 8 and shown.count("\n") == 1
  assert shown.endswith("0.00 s left\n")
