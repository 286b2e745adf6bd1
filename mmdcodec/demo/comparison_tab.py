"""Two models side by side: the same audio, or the same prompt and seed."""

from collections.abc import Iterator
from typing import Any

import gradio as gr

from mmdcodec.demo import codec_tab, elements, pictures, uploads
from mmdcodec.demo.context import QUICK, Context, codebook_range
from mmdcodec.demo.making import MOST_TEXT, Making, Request
from mmdcodec.demo.reconstruction import reconstruct

PLACE = "comparison"
SIDES = ("left", "right")


def add(context: Context) -> None:
  """Adds the tab's contents: audio first, and music if there is a model."""
  audio = context.audio_input("audio", "both-audio")
  _add_audio(context, audio)
  if context.models.musical:
    gr.Markdown("### The same prompt and seed")
    _add_music(context)


def _add_audio(context: Context, audio: gr.Audio) -> None:
  """Adds the comparison of codecs."""
  models = context.models
  names, sliders = [], []
  with gr.Row():
    for i, side in enumerate(SIDES):
      with gr.Column(min_width=320):
        # Two models if there are two.
        at = min(i, len(models.names) - 1)
        name = context.model_input(models.names, side, f"{side}-model")
        name.value = models.names[at]
        slider = context.codebook_input(
          models[models.names[at]], f"{side}-codebooks"
        )
        slider.label = f"{side}: codebooks"
        name.change(
          lambda chosen: gr.Slider(**codebook_range(models[chosen])),
          name,
          slider,
          **QUICK,
        )
        names.append(name)
        sliders.append(slider)
  button = gr.Button(
    "Encode and decode with both", variant="primary", elem_id="code-both"
  )
  told = gr.HTML(elem_id="both-told")
  found = gr.HTML(elem_id="both-found")

  def code(
    number: int,
    path: str | None,
    left: str,
    right: str,
    left_count: float,
    right_count: float,
    request: gr.Request,
  ) -> Iterator[Any]:
    try:
      session = context.session(request)
      if not session.begin(PLACE, number):
        yield gr.skip()
        return
      yield elements.told("Coding..."), ""
      x, rate = uploads.need(path, context.limits)
      sides = [models[left], models[right]]
      counts = [int(left_count), int(right_count)]
      with models.turn:
        if session.latest(PLACE, number):
          made = [
            reconstruct(model, x, rate, count)
            for model, count in zip(sides, counts, strict=True)
          ]
          best = max(made, key=lambda each: each.rate)
          drawn = pictures.spectrograms(
            {"original": (best.original, best.rate)}
            | {
              side: (each.decoded, each.rate)
              for side, each in zip(SIDES, made, strict=True)
            }
          )
          codes = [
            pictures.codes(model, each.codes)
            for model, each in zip(sides, made, strict=True)
          ]
      if not session.latest(PLACE, number):  # see codec_tab
        yield gr.skip()
        return
      columns = []
      for side, model, each, picture in zip(
        SIDES, sides, made, codes, strict=True
      ):
        name = session.add_audio(PLACE, each.decoded, each.rate)
        columns.append(
          elements.player(f"{side}: {model.name}", name)
          + elements.told(codec_tab.describe(model, each))
          + drawn[side]
          + picture
        )
      original = session.add_audio(PLACE, best.original, best.rate)
      yield (
        elements.told("The same audio, coded and decoded by both."),
        elements.player("original", original)
        + drawn["original"]
        + elements.beside(*columns),
      )
    except Exception as error:
      yield elements.failed(error), ""

  inputs = [audio, *names, *sliders]
  context.on_click(button, PLACE, code, inputs, [told, found])


def _add_music(context: Context) -> None:
  """Adds the comparison of music models."""
  models, limits, place = context.models, context.limits, f"{PLACE} of music"
  with gr.Row():
    names = []
    for i, side in enumerate(SIDES):
      name = context.model_input(models.musical, side, f"{side}-music-model")
      name.value = models.musical[min(i, len(models.musical) - 1)]
      names.append(name)
  with gr.Row():
    prompt = gr.Textbox(
      label="prompt",
      max_length=MOST_TEXT,
      visible=models.any_takes("text"),
      scale=3,
      elem_id="both-prompt",
    )
    seconds = gr.Number(
      8.0,
      label="seconds",
      minimum=0.1,
      maximum=limits.seconds,
      min_width=100,
      elem_id="both-seconds",
    )
    seeds = [
      gr.Textbox(
        str(seed if len(models.musical) == 1 else 0),
        label=f"{side}: seed",
        max_length=20,
        min_width=100,
        elem_id=f"{side}-seed",
      )
      for seed, side in enumerate(SIDES)
    ]
  with gr.Row():
    button = gr.Button(
      "Make music with both", variant="primary", elem_id="make-both"
    )
    stop = gr.Button("Stop", variant="stop", elem_id="stop-both")
  told = gr.HTML(elem_id="both-music-told")
  found = gr.HTML(elem_id="both-music-found")

  def make(
    number: int,
    left: str,
    right: str,
    prompt: str,
    seconds: float,
    left_seed: str,
    right_seed: str,
    request: gr.Request,
  ) -> Iterator[Any]:
    try:
      session = context.session(request)
      if not session.begin(place, number):
        yield gr.skip()
        return
      yield elements.told("Beginning..."), ""
      columns: list[str] = []
      for side, name, seed in zip(
        SIDES, (left, right), (left_seed, right_seed), strict=True
      ):
        model = models[name]
        asked = Request(prompt=prompt or "", seconds=seconds, seeds=seed)
        making = Making(model, models.turn, asked, most=limits.seconds)
        session.work(place, number, making)
        for made, _ in making.run():
          words = f"{side}: {made:.1f} of {seconds:g} s"
          yield elements.told(words), gr.skip()
        if making.stopped:
          yield gr.skip()
          return
        piece, codes = making.pieces[0], making.codes
        assert codes is not None
        with models.turn:
          drawn = pictures.spectrograms({side: (piece.audio, piece.rate)})
          picture = pictures.codes(model, codes[0])
        sound = session.add_audio(place, piece.audio, piece.rate)
        columns.append(
          elements.player(f"{side}: {name}, seed {making.seeds[0]}", sound)
          + drawn[side]
          + picture
        )
        yield gr.skip(), elements.beside(*columns)
      yield elements.told("The same prompt, by both."), gr.skip()
    except Exception as error:
      yield elements.failed(error), gr.skip()

  def end(request: gr.Request) -> str:
    context.session(request).stop(place)
    return elements.told("Stopped.")

  inputs = [*names, prompt, seconds, *seeds]
  work = context.on_click(button, place, make, inputs, [told, found])
  stop.click(end, None, told, cancels=[work], **QUICK)
