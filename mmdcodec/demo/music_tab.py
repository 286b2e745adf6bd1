"""Music from prompts, melodies and audio, heard while it is made."""

from collections.abc import Iterator
from typing import Any

import gradio as gr

from mmdcodec import formatting
from mmdcodec.demo import elements, pictures, uploads
from mmdcodec.demo.context import QUICK, Context
from mmdcodec.demo.making import MOST_SEEDS, MOST_TEXT, Making, Request
from mmdcodec.demo.models import Model
from mmdcodec.demo.sessions import Session

PLACE = "music"
# Inputs that only some models take, and what they are called.
_INPUTS = ("text", "story", "melody")


def add(context: Context) -> None:
  """Adds the tab's contents."""
  models, limits = context.models, context.limits
  first = models[models.musical[0]]
  with gr.Row():
    with gr.Column(scale=1, min_width=320):
      choice = context.model_input(models.musical, "model", "music-model")
      given: dict[str, Any] = {
        "text": gr.Textbox(
          label="prompt",
          placeholder="calm piano, slow",
          max_length=MOST_TEXT,
          visible=first.takes("text"),
          elem_id="prompt",
        ),
        "story": gr.Textbox(
          label="story, in place of a prompt",
          info="lines of a time and what is to be heard from then on",
          placeholder="0 calm piano\n0:05 with drums",
          lines=3,
          max_length=MOST_TEXT,
          visible=first.takes("story"),
          elem_id="story",
        ),
      }
      with gr.Accordion(
        "a melody to follow",
        open=False,
        visible=first.takes("melody"),
        elem_id="with-melody",
      ) as with_melody:
        melody = context.audio_input("melody", "melody")
      with gr.Accordion("audio to continue", open=False, elem_id="with-audio"):
        audio = context.audio_input("audio", "continue")
      with gr.Row():
        seconds = gr.Number(
          8.0,
          label="seconds",
          info="with the audio to continue",
          minimum=0.1,
          maximum=limits.seconds,
          min_width=140,
          elem_id="seconds",
        )
        seeds = gr.Textbox(
          "0",
          label="seeds",
          info=f"a piece for each, at most {MOST_SEEDS}",
          max_length=100,
          min_width=140,
          elem_id="seeds",
        )
      with gr.Accordion("sampling", open=False):
        gr.Markdown("What is left empty is as the model does it by default.")
        with gr.Row():
          sampling = [
            gr.Number(None, label=label, minimum=0, min_width=100)
            for label in ("temperature", "top k", "guidance")
          ]
      with gr.Row():
        button = gr.Button("Make music", variant="primary", elem_id="make")
        stop = gr.Button("Stop", variant="stop", elem_id="stop")
    with gr.Column(scale=2, min_width=320):
      told = gr.HTML(elem_id="music-told")
      live = gr.HTML(elem_id="music-live")
      found = gr.HTML(elem_id="music-found")
  outputs = [told, live, found]

  def make(
    number: int,
    name: str,
    prompt: str,
    story: str,
    melody: str | None,
    audio: str | None,
    seconds: float,
    seeds: str,
    temperature: float | None,
    top_k: float | None,
    guidance: float | None,
    request: gr.Request,
  ) -> Iterator[Any]:
    try:
      session = context.session(request)
      if not session.begin(PLACE, number):
        yield gr.skip()
        return
      yield elements.told("Beginning..."), "", ""
      model = models[name]
      asked = Request(
        prompt=prompt or "",
        story=story or "",
        seconds=seconds,
        seeds=seeds,
        melody=uploads.read(melody, limits) if model.takes("melody") else None,
        audio=uploads.read(audio, limits),
        temperature=temperature,
        top_k=None if top_k is None else int(top_k),
        guidance=guidance,
      )
      making = Making(model, models.turn, asked, most=limits.seconds)
      session.work(PLACE, number, making)
      yield gr.skip(), _live(session, making), gr.skip()
      for made, spent in making.run():
        yield elements.told(_progress(made, spent, seconds)), *_skip(2)
      if making.stopped:
        # A later click, or the other button, tells what there is.
        yield gr.skip()
        return
      yield elements.told(_result(making)), gr.skip(), _show(
        session, context, model, making
      )
    except Exception as error:
      yield elements.failed(error), "", ""

  def end(name: str, request: gr.Request) -> tuple[Any, ...]:
    try:
      session = context.session(request)
      making = session.stop(PLACE)
      if making is None or making.codes is None:
        return elements.told("Stopped."), gr.skip(), gr.skip()
      found = _show(session, context, models[name], making)
      return elements.told(f"Stopped. {_result(making)}"), gr.skip(), found
    except Exception as error:
      return elements.failed(error), "", ""

  def show_inputs(name: str) -> list[Any]:
    return [gr.update(visible=models[name].takes(each)) for each in _INPUTS]

  inputs = [choice, *given.values(), melody, audio, seconds, seeds, *sampling]
  work = context.on_click(button, PLACE, make, inputs, outputs)
  stop.click(end, choice, outputs, cancels=[work], **QUICK)
  choice.change(show_inputs, choice, [*given.values(), with_melody], **QUICK)


def _skip(count: int) -> list[Any]:
  return [gr.skip() for _ in range(count)]


def _live(session: Session, making: Making) -> str:
  """Players of pieces that are being made; the first one begins by itself."""
  return elements.beside(
    *(
      elements.player(
        f"while it is made, seed {seed}",
        session.add_piece(PLACE, piece),
        autoplay=i == 0,
      )
      for i, (seed, piece) in enumerate(
        zip(making.seeds, making.pieces, strict=True)
      )
    )
  )


def _progress(made: float, spent: float, seconds: float) -> str:
  speed = made / max(spent, 1e-9)
  return f"{made:.1f} of {seconds:g} s, made at {speed:.1f} x its own speed"


def _result(making: Making) -> str:
  seconds = len(making.pieces[0].audio) / making.pieces[0].rate
  count = formatting.count(len(making.pieces), "piece", "pieces")
  return f"{count} of {formatting.duration(seconds)}."


def _show(
  session: Session, context: Context, model: Model, making: Making
) -> str:
  """Players of whole pieces, with spectrograms and codes."""
  codes = making.codes
  assert codes is not None
  titles = [f"seed {seed}" for seed in making.seeds]
  audio = [piece.audio for piece in making.pieces]
  rate = making.pieces[0].rate
  with context.models.turn:
    drawn = pictures.spectrograms(
      {title: (x, rate) for title, x in zip(titles, audio, strict=True)}
    )
    codes_drawn = [pictures.codes(model, each) for each in codes]
  return elements.beside(
    *(
      elements.player(
        f"the whole piece, {title}", session.add_audio(PLACE, x, rate)
      )
      + spectrogram
      + picture
      for title, x, spectrogram, picture in zip(
        titles, audio, drawn.values(), codes_drawn, strict=True
      )
    )
  )
