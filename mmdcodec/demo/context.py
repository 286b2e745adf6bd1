"""What the tabs of the page share."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import gradio as gr

from mmdcodec.demo.models import Model, Models
from mmdcodec.demo.sessions import Session, Sessions
from mmdcodec.demo.uploads import Limits


@dataclasses.dataclass(frozen=True)
class Context:
  """What the tabs of the page share.

  Attributes:
    models: the models.
    sessions: what belongs to open pages.
    limits: how much a user may give and ask for.
  """

  models: Models
  sessions: Sessions
  limits: Limits

  def session(self, request: gr.Request) -> Session:
    """Returns the session of a click."""
    return self.sessions.of(str(request.session_hash))

  def audio_input(self, label: str, name: str) -> gr.Audio:
    """Adds an input for a file or a recording.

    Args:
      label: what it is for.
      name: id of the element.
    """
    audio = gr.Audio(
      type="filepath",
      sources=["upload", "microphone"],
      label=f"{label} (at most {self.limits.seconds:g} s)",
      elem_id=name,
      buttons=[],
    )

    def hold(path: str | None, request: gr.Request) -> None:
      self.sessions.hold(str(request.session_hash), path)

    audio.change(hold, audio, None, **QUICK)
    return audio

  def model_input(self, names: list[str], label: str, name: str) -> gr.Dropdown:
    """Adds a choice of models, which is hidden if there is none to make."""
    return gr.Dropdown(
      names,
      value=names[0],
      label=label,
      elem_id=name,
      visible=len(names) > 1,
    )

  def codebook_input(self, model: Model, name: str) -> gr.Slider:
    """Adds a choice of codebooks."""
    return gr.Slider(**codebook_range(model), label="codebooks", elem_id=name)

  def on_click(
    self,
    button: gr.Button,
    place: str,
    make: Callable[..., Any],
    inputs: Sequence[Any],
    outputs: Sequence[Any],
  ) -> Any:
    """Adds what a click computes; of several quick clicks, the last one's.

    They arrive in any order, and most of them wait while others compute. So the
    browser numbers them, and a number is noted as soon as it arrives.

    Args:
      button: the button.
      place: see `Session.note`.
      make: takes the number and the inputs, and yields outputs.
      inputs: elements of the page.
      outputs: elements of the page.

    Returns:
      Gradio's event.
    """
    numbered = [gr.Number(0, precision=0, visible=False), *inputs]

    def note(request: gr.Request, number: int, *_: Any) -> list[Any]:
      self.session(request).note(place, number)
      return [gr.validate(True, "") for _ in numbered]

    return button.click(
      make,
      numbered,
      outputs,
      js=_NUMBER % len(numbered),
      validator=note,
      **_WORK,
    )


def codebook_range(model: Model) -> dict[str, Any]:
  """What a slider of a model's codebooks shows."""
  count, step = model.codec.codebooks, model.codebook_step
  words = "more codebooks: more bits, and closer to the original"
  return dict(
    minimum=step,
    # A slider cannot have one place only.
    maximum=max(count, 2 * step) if count == step else count,
    step=step,
    value=count,
    info=words,
    interactive=count > step,
  )


# Of events that compute nothing: they wait for no model.
QUICK: dict[str, Any] = dict(
  queue=False, show_progress="hidden", api_visibility="private"
)
# Puts the number of a click in the place of the first input.
_NUMBER = """(...given) => {
  window.clicks = (window.clicks || 0) + 1;
  return [window.clicks, ...given.slice(1, %d)];
}"""
# Of events that use models. Two may be under way: `Models.turn` divides the
# time between them.
_WORK: dict[str, Any] = dict(
  concurrency_limit=2,
  concurrency_id="models",
  trigger_mode="once",
  show_progress="minimal",
  api_visibility="private",
)
