"""The page: its tabs, and a line about each model.

A tab is a module with a function that adds its inputs, its outputs and what a
click does. The functions behind the clicks yield HTML, a sentence about what is
going on first. They hold `Models.turn` while something is computed or drawn.
"""

import gradio as gr

from mmdcodec import formatting
from mmdcodec.demo import codec_tab, comparison_tab, music_tab
from mmdcodec.demo.context import Context
from mmdcodec.demo.models import Model

TITLE = "mmdcodec"
# How often Gradio looks for files that it may remove, and their age: those of
# pages that a browser left without saying so.
_CLEANING = (300, 3600)
# Clicks that may wait for their turn, of all pages together. Of many quick ones
# on one button all wait, but all but the last one return at once.
_MOST_WAITING = 1000
_INPUTS = (("text", "a prompt"), ("melody", "a melody"), ("story", "a story"))


def make_page(context: Context) -> gr.Blocks:
  """Makes the page of some models."""
  models = context.models
  with gr.Blocks(
    title=TITLE, analytics_enabled=False, delete_cache=_CLEANING
  ) as page:
    gr.Markdown(
      f"# {TITLE}\n" + "\n".join(map(_describe, models.by_name.values()))
    )
    with gr.Tab("Codec"):
      codec_tab.add(context)
    if models.musical:
      with gr.Tab("Music"):
        music_tab.add(context)
    with gr.Tab("Side by side"):
      comparison_tab.add(context)

    def leave(request: gr.Request) -> None:
      context.sessions.end(str(request.session_hash))

    page.unload(leave)
  page.queue(max_size=_MOST_WAITING, api_open=False)
  return page


def _describe(model: Model) -> str:
  """A line about a model."""
  codec = model.codec
  books = formatting.count(codec.codebooks, "codebook", "codebooks")
  about = (
    f"- **{model.name}**: {codec.rate} Hz,"
    f" {formatting.channels(codec.channels)}, {books} of"
    f" {codec.codebook_size} codes,"
    f" {model.bits_per_second(codec.codebooks) / 1000:.2f} kbps"
  )
  if model.music is None:
    return about
  takes = [words for each, words in _INPUTS if model.takes(each)]
  made = " or ".join(takes) or "seeds alone"
  return f"{about}; makes music from {made}"
