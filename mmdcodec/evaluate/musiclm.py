"""Measures of a MusicLM: what its pieces have to do with what was asked for.

Each function makes pieces and measures one thing, and returns it as a table
with chance beside it:

  consistency   MuLan cycle consistency: prompts and pieces in the joint
                embedding (Agostinelli et al. 2023, arXiv 2301.11325, 4.3)
  melody        pieces and the melodies that they were to follow
  likelihood    bits of each stage for held-out tokens

`musiclm_time` has those of long pieces, and `oracle` that of single stages.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from mmdcodec.audio import synth
from mmdcodec.data.token_records import TokenSource
from mmdcodec.errors import UserError
from mmdcodec.evaluate import (
  bootstrap,
  built_in,
  chroma,
  pairing,
  report,
  stage_likelihood,
  token_sets,
  traits,
)
from mmdcodec.evaluate.pairing import Pairing
from mmdcodec.parallel import shares

# Pieces made at a time.
BATCH = 16
# Seeds of prompts and of melodies.
PROMPTS, _MELODIES = 2_000_001, 2_000_002

Show = Callable[[str], Callable[[int, int], None]]


class Setting(NamedTuple):
  """What all measures share.

  Attributes:
    music: the `LoadedMusicLM`.
    pieces: number of pieces.
    seconds: length of a clip.
    seed: seed of the pieces.
    guidance: weight of the prompt.
    show: what is counted -> a function that shows progress.
    overlap: seconds of codes that windows of the fine stage go on from; None:
      the default.
  """

  music: Any
  pieces: int
  seconds: float
  seed: int = 0
  guidance: float = 1.0
  show: Show = lambda what: lambda done, total: None
  overlap: float | None = None

  def generate(
    self, what: str, texts: Sequence[Any], seconds: float, **options: Any
  ) -> np.ndarray:
    """Makes a piece for each text, some at a time; see `generate`.

    Values of options that are lists have one item for each piece. Texts that
    are lists are stories.
    """

    def make_batch(start: int) -> np.ndarray:
      some = list(texts[start : start + BATCH])
      given = {
        name: value[start : start + BATCH] if isinstance(value, list) else value
        for name, value in options.items()
      }
      given |= dict(seconds=seconds, seed=self.seed + start)
      given |= dict(overlap=self.overlap)
      if some[0] is not None:
        given |= dict(guidance=self.guidance)
      if isinstance(some[0], list):
        times = [time for time, _ in some[0]]
        given["story"] = [
          (time, [each[k][1] for each in some]) for k, time in enumerate(times)
        ]
      else:
        given["texts"] = some
      # As in a file: the embeddings take no samples far beyond full scale.
      return np.clip(self.music.generate(**given), -1, 1)

    starts, show = range(0, len(texts), BATCH), self.show(what)
    return np.concatenate(shares.apply(make_batch, starts, show, size=BATCH))


class Found(NamedTuple):
  """What a measure found.

  Attributes:
    table: for people.
    values: for results.json.
    pieces: (name, audio [samples, channels]) to listen to.
  """

  table: report.Table
  values: dict[str, Any]
  pieces: list[tuple[str, np.ndarray]]


PAIRING_COLUMNS = ["", "own", "others", "p", "items"]


def pairing_row(name: str, found: Pairing) -> tuple:
  """A row of a table with PAIRING_COLUMNS."""
  own = bootstrap.shown(found.own, found.low, found.high)
  return (name, own, f"{found.chance:.3f}", f"{found.p:.4f}", found.things)


def consistency(
  of: Setting,
  prompts: Sequence[str] | None = None,
  references: np.ndarray | None = None,
) -> Found:
  """MuLan cycle consistency (MCC), with shuffled prompts beside it.

  Args:
    of: the setting.
    prompts: prompts, repeated as often as necessary; None for balanced ones of
      built-in music.
    references: audio [clips, samples, channels] that the prompts describe, for
      comparison.

  Raises:
    UserError: all prompts are the same.
  """
  texts = built_in.prompts(of.pieces, PROMPTS)[0]
  if prompts is not None:
    texts = [prompts[i % len(prompts)] for i in range(of.pieces)]
  if len({*texts}) < 2:
    raise UserError(
      f"all {of.pieces} pieces have the prompt {texts[0]!r:.60}; consistency"
      " compares with other prompts, so give --prompt for at least two."
    )
  audio = of.generate("pieces of prompts", texts, of.seconds)
  embed = of.music.joint.embed_audio
  text = np.asarray(of.music.joint.embed_text(texts), np.float64)
  alike = embed(audio, of.music.rate) @ text.T
  rows = {"pieces": pairing.measure(alike, partners=texts)}
  if references is not None and prompts is not None:
    own = np.asarray(of.music.joint.embed_text(list(prompts)), np.float64)
    heard = np.concatenate([embed(x[None], of.music.rate) for x in references])
    rows["music with these captions"] = pairing.measure(
      heard @ own.T, partners=prompts
    )
  return Found(
    report.Table(
      "MuLan cycle consistency",
      PAIRING_COLUMNS,
      [pairing_row(name, each) for name, each in rows.items()],
      "Mean cosine of prompt and piece in the joint embedding; others: of the"
      " other prompts; p by random pairings.",
    ),
    {name: each._asdict() for name, each in rows.items()},
    [*zip(texts, audio, strict=True)],
  )


def melody(of: Setting) -> Found:
  """Whether pieces follow the melodies that they were given.

  The melodies are those of built-in songs, played alone; pieces are made from
  balanced prompts.
  """
  texts = built_in.prompts(of.pieces, PROMPTS + 2)[0]
  alone: dict[str, Any] = dict(drums=False, bass=False, chords=False)
  rate = of.music.rate
  tunes = [
    synth.render(_MELODIES + i, seconds=of.seconds, rate=rate, **alone).audio
    for i in range(of.pieces)
  ]
  given = texts if of.music.takes("text") else [None] * of.pieces
  audio = of.generate(
    "pieces of melodies", given, of.seconds, melody=tunes, melody_rate=rate
  )
  made = [chroma.classes(x, rate) for x in audio]
  played = [chroma.classes(x, rate) for x in tunes]
  found = pairing.measure(chroma.agreement(made, played))
  return Found(
    report.Table(
      "Melodies",
      PAIRING_COLUMNS,
      [pairing_row("pieces", found)],
      "Share of frames with the pitch class of the melody; others: of the"
      " melodies of other pieces; p by random pairings.",
    ),
    {"pieces": found._asdict()},
    [
      each
      for text, tune, x in zip(texts, tunes, audio, strict=True)
      for each in ((f"melody for: {text}", tune), (text, x))
    ],
  )


def hear(
  classifiers: Any, clips: np.ndarray, rate: int
) -> dict[str, list[str]]:
  """Classifies clips [clips, samples, channels]."""
  return classifiers(traits.features(np.asarray(clips).mean(-1), rate))


def likelihood(of: Setting, sets: Sequence[TokenSource]) -> Found:
  """Bits that each stage needs for held-out tokens.

  Args:
    of: the setting; it has one crop for each piece.
    sets: data sets, from `token_sets.find`.
  """
  rows, values = [], {}
  for name, stage in of.music.parts.stages.items():
    found = stage_likelihood.measure(
      stage,
      token_sets.of_stage(stage, sets),
      crops=of.pieces,
      show=of.show(f"crops of the {name} stage"),
    )
    perplexity = 2**found.bits_per_token
    rows.append(
      (
        name,
        bootstrap.shown(found.bits_per_token, found.low, found.high),
        perplexity,
        found.bits_per_frame,
        found.bits_per_frame * found.frame_rate / 1000,
        found.alone,
        found.uniform,
      )
    )
    values[name] = {
      **{k: v for k, v in found._asdict().items() if k != "found"},
      "perplexity": perplexity,
      "perplexity_by_codebook": found.found.summary["perplexity"].tolist(),
    }
  return Found(
    report.Table(
      "Held-out tokens",
      [
        "stage", "bits per token", "perplexity", "bits per frame", "kbps",
        "each codebook alone", "equally likely",
      ],
      rows,
      "Each stage with the true tokens of the stage above. Beside it, the bits"
      " per token of an adaptive coder that counts the codes of each codebook,"
      " and of equally likely codes.",
    ),
    values,
    [],
  )  # fmt: skip
