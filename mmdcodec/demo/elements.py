"""Parts of the page as HTML, and mistakes in one sentence."""

import base64
import html
import sys
import traceback

from mmdcodec.errors import UserError

# Colors by the theme's variables, so that dark pages stay readable.
CSS = """
.told {padding: .5em .75em; border-left: 4px solid var(--primary-500);
  background: var(--background-fill-secondary); border-radius: 4px;}
.told.mistake {border-color: var(--error-border-color, #dc2626);}
.sound {margin: .25em 0 .75em; max-width: 730px;}
.sound .label {font-weight: 600; margin-bottom: .25em;}
.sound audio {width: 100%;}
.picture {width: 100%; max-width: 730px; border-radius: 4px; margin: .25em 0;}
.beside {display: grid; gap: 0 1.5em;
  grid-template-columns: repeat(auto-fit, minmax(min(330px, 100%), 1fr));}
"""


def told(text: str) -> str:
  """A sentence about what is going on."""
  return f'<div class="told" role="status">{html.escape(text)}</div>'


def failed(error: Exception) -> str:
  """A user's mistake in its sentence; what else went wrong in general."""
  if isinstance(error, UserError):
    text = str(error)
    # Not the name of a file.
    if text.partition(" ")[0].isalpha():
      text = text[0].upper() + text[1:]
  else:
    traceback.print_exception(error, file=sys.stderr)
    text = (
      "This failed because of a fault in the program; the terminal in which it"
      " runs says more."
    )
  text = html.escape(text)
  return f'<div class="told mistake" role="alert">{text}</div>'


def player(label: str, name: str, *, autoplay: bool = False) -> str:
  """A player of a sound of the session; see `Session.sounds`."""
  auto = " autoplay" if autoplay else ""
  return (
    f'<div class="sound"><div class="label">{html.escape(label)}</div>'
    f'<audio controls{auto} src="sound/{html.escape(name)}"></audio></div>'
  )


def picture(png: bytes, words: str) -> str:
  """A picture that is part of the page: no file, no further request."""
  data = base64.b64encode(png).decode()
  return (
    f'<img class="picture" alt="{html.escape(words)}"'
    f' src="data:image/png;base64,{data}">'
  )


def beside(*columns: str) -> str:
  """Columns beside each other, or below each other on a narrow screen."""
  inner = "".join(f"<div>{each}</div>" for each in columns)
  return f'<div class="beside">{inner}</div>'
