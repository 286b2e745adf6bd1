"""Writes the page of commands from what `mmdcodec VERB --help` prints."""

import argparse
import os

from mmdcodec.cli.main import VERBS, make_parser

MARK = "<!-- commands -->"


def on_page_markdown(markdown: str, **_: object) -> str:
  """Fills in the commands where a page asks for them."""
  if MARK not in markdown:
    return markdown
  # Or the width would be that of the terminal.
  os.environ["COLUMNS"] = "80"
  parser = make_parser()
  (verbs,) = [
    action.choices
    for action in parser._actions
    if isinstance(action, argparse._SubParsersAction)
  ]
  text = "\n".join(
    f"## {verb}\n\n```\n{verbs[verb].format_help().strip()}\n```\n"
    for verb in VERBS
  )
  return markdown.replace(MARK, text)
