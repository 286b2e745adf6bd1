"""Measures of a MusicLM over time: stories, seams and long pieces."""

from typing import Any

import numpy as np

from mmdcodec.evaluate import (
  adherence,
  bootstrap,
  built_in,
  multiple,
  report,
  seams,
)
from mmdcodec.evaluate.musiclm import (
  BATCH,
  PROMPTS,
  Found,
  Setting,
  hear,
)
from mmdcodec.generation.musiclm_stages import Hierarchy
from mmdcodec.parallel import shares

# Lengths in units of that of a clip: a span of a story, a piece in which seams
# are looked for, a part of a long piece, and how many parts it has.
SPAN, WHOLE, PART, PARTS = 1.5, 6, 3, 10
# Prompts of a story.
SPANS = 3


def story(of: Setting, classifiers: Any) -> Found:
  """Whether each span of a story follows its own prompt.

  Args:
    of: the setting; a third of its pieces are stories of three prompts.
    classifiers: those of the traits.
  """
  count = max(2, of.pieces // SPANS)
  texts, told = built_in.prompts(count * SPANS, PROMPTS + 1)
  span = SPAN * of.seconds
  stories = [
    [(k * span, texts[SPANS * i + k]) for k in range(SPANS)]
    for i in range(count)
  ]
  audio = of.generate("stories", stories, SPANS * span)
  # The end of each span, when the one before has ended for long.
  size, rate = round(of.seconds * of.music.rate), of.music.rate
  ends = [round((k + 1) * span * rate) for k in range(SPANS)]
  cut = np.stack([audio[:, end - size : end] for end in ends], axis=1)
  flat = cut.reshape(-1, *cut.shape[2:])
  heard = np.asarray(of.music.joint.embed_audio(flat, rate))
  asked = np.asarray(of.music.joint.embed_text(texts))
  split = lambda x: np.asarray(x).reshape(count, SPANS, -1)
  alike = np.einsum("skd,spd->skp", split(heard), split(asked))
  found = {"joint embedding": adherence.story_likeness(alike)}
  by_ear = hear(classifiers, flat, rate)
  for name, values in by_ear.items():
    pairs = adherence.trait_likeness(
      split(told[name])[..., 0], split(values)[..., 0]
    )
    found[name] = adherence.story_likeness(pairs)
  known = {name: each for name, each in found.items() if each is not None}
  corrected = multiple.holm([each.p for each in known.values()])
  rows, values = [], {}
  for (name, x), holm in zip(known.items(), corrected, strict=True):
    own = bootstrap.shown(x.own, x.low, x.high)
    rows.append((name, own, f"{x.p:.4f}", f"{holm:.4f}", x.things))
    values[name] = x._asdict() | {"p_holm": holm}
  return Found(
    report.Table(
      "Stories",
      ["", "own prompt above neighbour's", "p", "p (Holm)", "stories"],
      rows,
      f"{SPANS} prompts, {span:g} s each; the last {of.seconds:g} s of each are"
      " heard. Cosine with the span's own prompt, less that with the prompts of"
      " the spans beside it; for traits, the share that agrees, less the share"
      " that agrees with the prompt beside it where that is another one. Chance"
      " is 0; p by random signs of the stories, and corrected for the number of"
      " rows.",
    ),
    values,
    [
      (" / ".join(text for _, text in each), x)
      for each, x in zip(stories, audio, strict=True)
    ],
  )


def find_seams(of: Setting) -> Found:
  """Whether the borders of windows are places like any other."""
  count, seconds = max(2, of.pieces // 4), WHOLE * of.seconds
  texts: list[Any] = [None] * count
  if of.music.takes("text"):
    texts = built_in.prompts(count, PROMPTS + 3)[0]
  rate, values = of.music.rate, {}

  def make(start: int) -> tuple[np.ndarray, np.ndarray]:
    some = texts[start : start + BATCH]
    options: dict[str, Any] = dict(seconds=seconds, overlap=of.overlap)
    options["seed"] = [of.seed + start + i for i in range(len(some))]
    if some[0] is not None:
      options["guidance"] = of.guidance
    codes = of.music.generate_codes(some, **options)
    # One by one: a minute of audio is large.
    audio = [np.asarray(of.music.codec.decode(each[None]))[0] for each in codes]
    return np.asarray(codes), np.stack(audio)

  show = of.show("pieces with windows")
  made = shares.apply(make, range(0, count, BATCH), show, size=BATCH)
  codes, audio = map(np.concatenate, zip(*made, strict=True))
  kinds, seen = [], []
  tracks = {
    name: ([track(x, rate) for x in audio], rate / round(seams.MOMENT * rate))
    for name, track in seams.AUDIO.items()
  }
  frame_rate = of.music.frame_rate
  tracks["codes"] = [seams.code_change(x) for x in codes], frame_rate
  for stage, places in borders(of.music, seconds, of.overlap).items():
    for name, (track, track_rate) in tracks.items():
      found = seams.compare(track, track_rate, places)
      if found is not None:
        kinds.append((stage, name))
        seen.append(found)
  rows = []
  corrected = multiple.holm([found.p for found in seen])
  for (stage, name), found, holm in zip(kinds, seen, corrected, strict=True):
    values[f"{stage}: {name}"] = found._asdict() | {"p_holm": holm}
    rank = bootstrap.shown(found.rank, found.low, found.high)
    above = f"{100 * found.above:.1f}%"
    p = f"{found.p:.3f}", f"{holm:.3f}"
    rows.append((stage, name, rank, above, *p, found.borders))
  return Found(
    report.Table(
      "Seams",
      [
        "windows of", "change of", "mean rank", "above 95th", "p", "p (Holm)",
        "borders",
      ],
      rows,
      f"Pieces of {seconds:g} s. The rank of a border among all other moments"
      " of its piece: 0.5 on average, and 5% above the 95th percentile, if"
      " borders are places like any other; p: shifts of all borders with a mean"
      " rank at least as high, and corrected for the number of rows.",
    ),
    values,
    [(text or "no prompt", x) for text, x in zip(texts, audio, strict=True)],
  )  # fmt: skip


def borders(
  music: Any, seconds: float, overlap: float | None = None
) -> dict[str, list[float]]:
  """Seconds at which the windows of each stage end, without the last.

  Codes without repeats have no exact place in time, so neither do the windows
  of a stage that makes them.

  Args:
    music: the `LoadedMusicLM`.
    seconds: length of the music.
    overlap: see `MusicLMRequest`.
  """
  checked = music.check("", seconds=seconds, overlap=overlap)
  run = Hierarchy(music.parts, checked)
  return {
    name: [
      window.end / stage.frame_rate
      for window, _ in getattr(run, name).plan[:-1]
    ]
    for name, stage in music.parts.stages.items()
    if not stage.model.collapse
  }


def drift(of: Setting, classifiers: Any) -> Found:
  """Whether long pieces keep to their prompts.

  Args:
    of: the setting; an eighth of its pieces are as long.
    classifiers: those of the traits.
  """
  count = max(2, of.pieces // 8)
  texts, told = built_in.prompts(count, PROMPTS + 4)
  seconds, rate = PARTS * PART * of.seconds, of.music.rate
  audio = of.generate("long pieces", texts, seconds)
  size = audio.shape[1] // (PARTS * PART)
  clips = audio[:, : PARTS * PART * size].reshape(-1, size, audio.shape[-1])
  heard = {
    name: np.array(values).reshape(count, PARTS, PART)
    for name, values in hear(classifiers, clips, rate).items()
  }
  parts = adherence.drift(told, heard, PART * of.seconds)
  return Found(
    report.Table(
      "Long pieces",
      ["from (s)", "traits as prompted", "change since the first"],
      [
        (
          f"{x.start:g}",
          bootstrap.shown(x.share, x.low, x.high),
          bootstrap.shown(x.change, x.change_low, x.change_high),
        )
        for x in parts
      ],
      f"{count} pieces of {seconds:g} s. Share of the traits"
      f" {', '.join(heard)} that classifiers hear as prompted, and its change"
      " in the same pieces. In brackets, 95% intervals over the pieces.",
    ),
    {"parts": [x._asdict() for x in parts]},
    [*zip(texts, audio, strict=True)][:1],
  )
