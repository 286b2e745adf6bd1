"""Command lines that cannot be parsed: one sentence, with what was meant.

Must catch: usage instead of advice, a near miss that goes unnamed, an option
whose other spelling is not understood.
"""

import pytest

from mmdcodec.cli import main as cli


@pytest.mark.parametrize(
  "words, parts",
  [
    (["encod"], ["did you mean encode?"]),
    (["zzz"], ["expected one of", "quickstart", "selftest"]),
    (["encode"], ["encode needs IN and OUT", "encode --help"]),
    (["decode", "a.mmdc", "a.wav"], ["decode needs --model"]),
    (["decode", "a", "b", "--modle=m"], ["no option --modle", "mean --model?"]),
    (["encode", "a", "b", "--codebook", "2"], ["did you mean --codebooks?"]),
    (["encode", "a", "b", "--codebooks", "two"], ["'two'", "a whole number"]),
    (["encode", "a", "b", "--chunk", "x"], ["--chunk is 'x'", "a number"]),
    (["encode", "a", "b", "--chunk"], ["--chunk needs a value"]),
    (["encode", "a", "b", "--coding", "adaptiv"], ["mean adaptive?"]),
    (
      ["generate", "calm", "piano", "a.wav", "--model", "m"],
      ["no place for 'a.wav'", "in quotes"],
    ),
    (["experiment"], ["experiment needs NAME, one of", "prompts"]),
    (["experiment", "promts"], ["did you mean prompts?"]),
    (["evaluate", "reconstuction"], ["did you mean reconstruction?"]),
  ],
)
def test_one_sentence_says_what_was_meant(words, parts, fails):
  error = fails(*words)
  for part in parts:
    assert part in error


def test_no_verb_shows_all(capsys):
  assert cli.main([]) == 2
  shown = capsys.readouterr().err
  assert all(f"\n    {verb}" in shown for verb in cli.VERBS)
  assert "small_musiclm" in shown


@pytest.mark.parametrize(
  "option", ["--num-processes", "--num_processes", "--process-id"]
)
def test_both_spellings_are_one_option(option):
  words = ["evaluate", "--model", "m", f"{option}=3"]
  args = cli.make_parser(("evaluate",)).parse_args(words)
  assert vars(args)[option[2:].replace("-", "_")] == 3


def test_the_help_shows_hyphens_only(capsys):
  """Catches an option whose spelling differs from that of all others."""
  for verb in ("train", "evaluate", "generate", "tokenize"):
    with pytest.raises(SystemExit):
      cli.main([verb, "--help"])
    assert "--num_" not in capsys.readouterr().out
