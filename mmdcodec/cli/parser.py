"""The parser of the command line, whose errors are one sentence with advice."""

import argparse
import difflib
import itertools
import re
import textwrap
from collections.abc import Iterable, Sequence
from typing import Any, NoReturn

from mmdcodec.errors import UserError

# What argparse calls the types of numbers.
_KINDS = {"int": "a whole number", "float": "a number"}


class Formatter(argparse.RawDescriptionHelpFormatter):
  """Leaves examples as they are, and wraps descriptions."""

  def _fill_text(self, text: str, width: int, indent: str) -> str:
    """Wraps a text of one line."""
    if "\n" in text:
      return super()._fill_text(text, width, indent)
    return textwrap.fill(
      text, width, initial_indent=indent, subsequent_indent=indent
    )


class Parser(argparse.ArgumentParser):
  """An `ArgumentParser` that raises `UserError` and knows near misses.

  Options are spelt with hyphens; underscores are understood too, as in
  `--config.key_of_config` beside them.
  """

  def __init__(self, *args: Any, **settings: Any) -> None:
    """Takes what `ArgumentParser` does; options can't be abbreviated."""
    super().__init__(*args, **{"allow_abbrev": False, **settings})
    self._given: list[str] = []

  def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
    """Parses, and keeps the words for errors; see `ArgumentParser`."""
    self._given = [*args] if args is not None else []
    # Second spellings, which the help leaves out. Here, because options of a
    # group pass by every method of the parser that adds some.
    for name, action in [*self._option_string_actions.items()]:
      if name.startswith("--"):
        other = "--" + name[2:].replace("-", "_")
        self._option_string_actions.setdefault(other, action)
    return super().parse_known_args(args, namespace)

  def error(self, message: str) -> NoReturn:
    """Raises argparse's message as a sentence.

    Raises:
      UserError: always.
    """
    missing = re.fullmatch(r"the following arguments.*required: (.*)", message)
    if missing:
      raise UserError(self._missing(missing[1].split(", ")))
    named = r"argument ([^:]+): "
    wrong = re.fullmatch(named + r"invalid (\w+) value: (.*)", message)
    if wrong:
      kind = _KINDS.get(wrong[2], f"a value of type {wrong[2]}")
      raise UserError(f"{wrong[1]} is {wrong[3]}; expected {kind}.")
    valueless = re.fullmatch(named + r"expected .*argument.*", message)
    if valueless:
      raise UserError(f"{valueless[1]} needs a value; {self._help()}.")
    raise UserError(f"{message.rstrip('.')}; {self._help()}.")

  def refuse(self, rest: Sequence[str]) -> None:
    """Refuses the words that a verb did not take.

    Raises:
      UserError: there are any.
    """
    if not rest:
      return
    word = rest[0].partition("=")[0]
    if word.startswith("-"):
      near = _near(word, self._options())
      advice = f"did you mean {near}?" if near else f"{self._help()}."
      raise UserError(f"{self._name()} has no option {word}; {advice}")
    raise UserError(
      f"{self._name()} has no place for {rest[0]!r}: put a text or a name with"
      f" spaces in quotes; {self._help()}."
    )

  def verb(self, name: str) -> "Parser":
    """The parser of one of the verbs."""
    (verbs,) = (
      each.choices
      for each in self._actions
      if isinstance(each, argparse._SubParsersAction)
    )
    return verbs[name]

  def _check_value(self, action: argparse.Action, value: Any) -> None:
    """Refuses what is not among an argument's choices."""
    choices = [str(each) for each in action.choices or ()]
    if not choices or str(value) in choices:
      return
    name = "/".join(action.option_strings) or str(action.metavar or action.dest)
    if not action.option_strings:
      self._check_word_before(str(value), action, name)
    near = _near(str(value), choices)
    advice = f"did you mean {near}?" if near else f"{', '.join(choices)}."
    link = "" if near else "expected one of "
    raise UserError(f"{name} is {str(value)!r}; {link}{advice}")

  def _check_word_before(
    self, value: str, action: argparse.Action, name: str
  ) -> None:
    """Refuses an unknown option whose value was taken for another argument.

    Raises:
      UserError: there is one before the value.
    """
    known = self._option_string_actions
    for word, after in itertools.pairwise(self._given):
      unknown = word.startswith("--") and word not in known
      if after == value and unknown and "=" not in word:
        inner = action.choices if isinstance(action.choices, dict) else {}
        if any(word in each._option_string_actions for each in inner.values()):
          raise UserError(f"{word} goes after {name}; {self._help()}.")
        self.refuse([word])

  def _missing(self, names: list[str]) -> str:
    """The sentence for arguments that were not given."""
    unknown = [
      word.partition("=")[0]
      for word in self._given
      if word.partition("=")[0] not in self._options()
    ]
    for name in names:
      near = _near(name, [word for word in unknown if word.startswith("--")])
      if name.startswith("--") and near:
        return f"{self._name()} has no option {near}; did you mean {name}?"
    words = names[-1]
    if len(names) > 1:
      words = f"{', '.join(names[:-1])} and {words}"
    for each in self._actions:
      if each.metavar == words and each.choices:
        words += f", one of {', '.join(map(str, each.choices))}"
    return f"{self._name()} needs {words}; {self._help()}."

  def _options(self) -> list[str]:
    """All options, as the help spells them."""
    return [name for each in self._actions for name in each.option_strings]

  def _name(self) -> str:
    """The verb; every sentence begins with the program."""
    return self.prog.partition(" ")[2] or self.prog

  def _help(self) -> str:
    return f"`{self.prog} --help` has an example"


def _near(word: str, known: Iterable[str]) -> str | None:
  """The known word that was probably meant."""
  found = difflib.get_close_matches(word, [*known], n=1, cutoff=0.7)
  return found[0] if found else None
