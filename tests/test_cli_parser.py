"""Command lines that cannot be parsed: one sentence, with what was meant.

Must catch: usage instead of advice, a near miss that goes unnamed, an option
whose other spelling is not understood.
"""

import argparse

import pytest

from mmdcodec.cli import main as cli
from mmdcodec.cli.parser import Parser
from mmdcodec.errors import UserError


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
    # The value of a misspelt option is not the measure.
    (
      ["evaluate", "--model", "small", "--audoi", "x"],
      ["evaluate has no option --audoi; did you mean --audio?"],
    ),
    (
      ["evaluate", "--model", "small", "--zzz", "x"],
      ["evaluate has no option --zzz; `mmdcodec evaluate --help`"],
    ),
    (["evaluate", "--model", "small", "x"], ["MEASURE is 'x'; expected one"]),
    (
      ["experiment", "--workdir", "x", "prompts"],
      ["--workdir goes after NAME"],
    ),
    (["--modle", "small", "encode"], ["mmdcodec has no option --modle"]),
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


def parsers_of(parser):
  """A parser and all those of its verbs and their subjects."""
  yield parser
  for action in parser._actions:
    if isinstance(action, argparse._SubParsersAction):
      for each in action.choices.values():
        yield from parsers_of(each)


def test_the_help_shows_hyphens_only():
  """Catches an option whose spelling differs from that of all others."""
  names = {
    name
    for parser in parsers_of(cli.make_parser())
    for action in parser._actions
    for name in action.option_strings
  }
  # Of all verbs, of a verb, and of a subject.
  assert {"--version", "--num-processes", "--balanced"} <= names
  assert [name for name in names if name.startswith("--") and "_" in name] == []


def test_second_spellings():
  """Catches options of groups that have none, and short ones that have."""
  parser = Parser()
  group = parser.add_argument_group("files").add_mutually_exclusive_group()
  group.add_argument("-o", "--out-file")
  assert parser.parse_args(["--out_file", "a"]).out_file == "a"
  for word in ("--_h", "--_o"):
    with pytest.raises(UserError, match=f"{word}"):
      parser.parse_args([word, "a"])
  assert "out_file" not in parser.format_help()
