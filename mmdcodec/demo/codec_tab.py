"""Audio, coded with the codebooks that the user chooses, and decoded again."""

from collections.abc import Iterator
from typing import Any

import gradio as gr

from mmdcodec import formatting
from mmdcodec.demo import elements, pictures, uploads
from mmdcodec.demo.context import QUICK, Context, codebook_range
from mmdcodec.demo.models import Model
from mmdcodec.demo.reconstruction import Reconstruction, reconstruct

PLACE = "codec"
_PCM_BITS = 16


def add(context: Context) -> None:
  """Adds the tab's contents."""
  models = context.models
  with gr.Row():
    with gr.Column(scale=1, min_width=320):
      audio = context.audio_input("audio", "codec-audio")
      choice = context.model_input(models.names, "model", "codec-model")
      codebooks = context.codebook_input(
        models[models.names[0]], "codec-codebooks"
      )
      button = gr.Button("Encode and decode", variant="primary", elem_id="code")
    with gr.Column(scale=2, min_width=320):
      told = gr.HTML(elem_id="codec-told")
      found = gr.HTML(elem_id="codec-found")

  def code(
    number: int,
    path: str | None,
    name: str,
    count: float,
    request: gr.Request,
  ) -> Iterator[Any]:
    try:
      session = context.session(request)
      if not session.begin(PLACE, number):
        yield gr.skip()
        return
      yield elements.told("Coding..."), ""
      model = models[name]
      x, rate = uploads.need(path, context.limits)
      with models.turn:
        if session.latest(PLACE, number):
          made = reconstruct(model, x, rate, int(count))
          drawn = _draw(model, made)
      # Gradio sends the last output once more when a function ends: that of an
      # older click has to be nothing.
      if not session.latest(PLACE, number):
        yield gr.skip()
        return
      original = session.add_audio(PLACE, made.original, made.rate)
      decoded = session.add_audio(PLACE, made.decoded, made.rate)
      yield (
        elements.told(describe(model, made)),
        elements.beside(
          elements.player("original", original) + drawn["original"],
          elements.player("reconstruction", decoded) + drawn["reconstruction"],
        )
        + drawn["codes"],
      )
    except Exception as error:
      yield elements.failed(error), ""

  inputs = [audio, choice, codebooks]
  context.on_click(button, PLACE, code, inputs, [told, found])
  choice.change(
    lambda name: gr.Slider(**codebook_range(models[name])),
    choice,
    codebooks,
    **QUICK,
  )


def _draw(model: Model, made: Reconstruction) -> dict[str, str]:
  """Draws both recordings and the codes."""
  audio = {"original": made.original, "reconstruction": made.decoded}
  drawn = pictures.spectrograms(
    {title: (x, made.rate) for title, x in audio.items()}
  )
  return {**drawn, "codes": pictures.codes(model, made.codes)}


def describe(model: Model, made: Reconstruction) -> str:
  """Says what was coded, and in how many bits."""
  samples, channels = made.original.shape
  count = made.codes.shape[1]
  bits = model.bits_per_second(count)
  share = made.rate * channels * _PCM_BITS / bits
  return (
    f"{formatting.duration(samples / made.rate)} at {made.rate} Hz,"
    f" {formatting.channels(channels)}: {len(made.codes)} frames,"
    f" {model.codec.frame_rate:g} a second, of"
    f" {formatting.count(count, 'code', 'codes')}. That is"
    f" {bits / 1000:.2f} kbps, 1/{share:.0f} of the original with 16 bits a"
    " sample."
  )
