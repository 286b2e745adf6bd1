"""A joint embedding with its weights: audio and texts in, vectors or codes out.

A clip is heard in windows as long as the audio tower's (10 s), one a second
(MusicLM, arXiv 2301.11325, 3.2).

What is fitted after training by `mmdcodec cluster` is in two collections:

  "codebook"  12 x 1024 residual codes of the audio's embeddings;
  "bridge"    "audio" and "text" [dim], the means of both, and "mapper", see
              `mmdcodec.models.embedding_mapper`.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from mmdcodec import bounds, precision
from mmdcodec.bounds import mapping, one_of
from mmdcodec.errors import UserError
from mmdcodec.models import embedding_mapper, mulan, text_tokens
from mmdcodec.models.text_condition import text_list
from mmdcodec.tokenizers import validation
from mmdcodec.tokenizers.windowed import Windowed

BRIDGE = "bridge"
# What brings texts nearer to audio.
BRIDGES = ("none", "shift", "mapper")
# Seconds from the beginning of a window to that of the next.
STRIDE = 1.0
# Texts that are embedded at a time.
_ROWS = 8


class Mulan(Windowed):
  """A joint embedding with its weights, two towers; see `Windowed`."""

  kind = "mulan"
  # Makes the towers from the fields of a bundle's model.
  build: Callable[[Mapping[str, Any]], Any] = staticmethod(mulan.from_config)
  # MusicLM's, arXiv 2301.11325, 3.2.
  usual_levels, usual_codes = 12, 1024

  def __init__(
    self,
    config: dict[str, Any],
    variables: Mapping[str, Any],
    assets: Mapping[str, bytes] | None = None,
  ) -> None:
    """Takes what a bundle of kind "mulan" holds.

    Raises:
      UserError: a field is out of its bounds, arrays do not fit, or the text
        tower's tokenizer is missing.
    """
    model = self.build(config["model"])
    super().__init__(config, variables, model, round(model.rate * STRIDE))
    if (bridge := variables.get(BRIDGE)) is not None:
      _check_bridge(bridge, self.model.dim)
    self.assets = dict(assets or {})
    text = self.model.text_fields
    self._tokenizer = text_tokens.make_tokenizer(text["tokenizer"], self.assets)
    self._longest = text["longest"]
    self._audio = jax.jit(
      precision.exactly(
        lambda v, x, lengths: self.model.apply(
          v, x, lengths, method="embed_audio"
        )
      )
    )
    self._text = jax.jit(
      precision.exactly(
        lambda v, tokens, mask: self.model.apply(
          v, tokens, mask.sum(1), method="embed_text"
        )
      )
    )
    self._bridges = {
      "shift": jax.jit(embedding_mapper.shift),
      "mapper": jax.jit(
        precision.exactly(
          lambda bridge, x: embedding_mapper.apply(bridge["mapper"], x)
        )
      ),
    }

  # ------------------------------------------------------------------- audio

  def embed_windows(self, x: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Embeds windows, float32 [windows, dim] of norm 1; see `Windowed`."""
    return np.asarray(self._audio(self.variables, x, lengths))

  def embed_audio(
    self, x: Any, rate: int | None = None, *, lengths: Any = None
  ) -> np.ndarray:
    """Embeds clips of any length: the mean of their windows, on the sphere.

    Args:
      x: float audio in [-1, 1]: [samples], [samples, channels] or [batch,
        samples, channels].
      rate: sample rate of x in Hz; None: the model's own.
      lengths: valid samples of each item [batch]; None: all.

    Returns:
      float32 [batch, dim] of norm 1; that of a clip does not depend on the
      rest of the batch.

    Raises:
      UserError: x has another shape or is not finite.
    """
    rows, valid = self.features(*self.prepare(x, rate, lengths))
    return clip_mean(rows, valid)

  # -------------------------------------------------------------------- text

  def embed_text(
    self, texts: str | Sequence[str], *, bridge: str = "none"
  ) -> np.ndarray:
    """Embeds texts.

    Args:
      texts: a text or several; long ones are cut.
      bridge: "none" for the text tower's own output, which is what
        `embed_audio` was trained with; "shift" or "mapper" to look like audio,
        see `mmdcodec.models.embedding_mapper`.

    Returns:
      float32 [texts, dim] of norm 1.

    Raises:
      UserError: there is no text, it is not valid Unicode, its tokens are not
        those of the weights, or the bridge is unknown or was not fitted.
    """
    texts = text_list(texts)
    bounds.check("bridge", bridge, one_of(BRIDGES))
    out = np.empty((len(texts), self.model.dim), np.float32)
    blocks = text_tokens.blocks(
      self._tokenizer, texts, self._longest, rows=_ROWS
    )
    for at, tokens, mask in blocks:
      found = self._text(self.variables, tokens, mask)
      if bridge != "none":
        found = self._crossed(found, bridge)
      out[at] = np.asarray(found)[: len(at)]
    return validation.text_vectors(out)

  def check_prompts(self, texts: Sequence[str]) -> None:
    """Raises UserError if a text is longer than the text tower reads.

    `embed_text` cuts such texts, which suits captions, but not prompts.
    """
    for text in texts:
      if (count := len(self._tokenizer.encode(text))) > self._longest:
        raise UserError(
          f"the prompt {text[:40]!r}... has {count} tokens; this model takes at"
          f" most {self._longest}."
        )

  def _crossed(self, x: jax.Array, bridge: str) -> jax.Array:
    if BRIDGE not in self.variables:
      raise UserError(
        f"the model has no {bridge} from text to audio yet; fit it with"
        " `mmdcodec cluster MODEL DATASET BUNDLE`, DATASET with captions, and"
        " use the BUNDLE."
      )
    found = self.variables[BRIDGE]
    if bridge == "shift":
      return self._bridges[bridge](x, {k: found[k] for k in ("text", "audio")})
    return self._bridges[bridge](found, x)

  @property
  def bridge(self) -> str:
    """What codes of texts are made with: the mapper, if there is one."""
    return "mapper" if BRIDGE in self.variables else "none"

  # ------------------------------------------------------------------- codes

  def encode(
    self, x: Any, rate: int | None = None, *, lengths: Any = None
  ) -> np.ndarray:
    """Turns audio or texts into codes.

    Args:
      x: audio as in `Tokenizer.encode`, or a text or a list of texts.
      rate: sample rate of audio in Hz; None: the model's own.
      lengths: valid samples of each item of audio; None: all.

    Returns:
      int32 [batch, windows, codebooks]; texts have one row each.

    Raises:
      UserError: there are no codebooks, or x cannot be used.
    """
    if not is_text(x):
      return super().encode(x, rate, lengths=lengths)
    self.check_codes_suffice()
    rows = self.embed_text(x, bridge=self.bridge)[:, None]
    return self.codes_of(rows, np.ones(rows.shape[:2], bool))

  def encode_clip(
    self, x: Any, rate: int | None = None, *, lengths: Any = None
  ) -> np.ndarray:
    """Turns each clip or text into one row of codes, that of its embedding.

    MusicLM conditions on these: of `embed_audio` for a clip, and for a text of
    its embedding.

    Returns:
      int32 [batch, codebooks].
    """
    if is_text(x):
      return self.encode(x)[:, 0]
    self.check_codes_suffice()
    rows = self.embed_audio(x, rate, lengths=lengths)[:, None]
    return self.codes_of(rows, np.ones(rows.shape[:2], bool))[:, 0]

  # ----------------------------------------------------------------- fitting

  def bridge_of(
    self, audio: Any, texts: Sequence[str], *, seed: int = 0
  ) -> tuple[dict[str, Any], embedding_mapper.Fit]:
    """Fits the collection "bridge" to pairs.

    Args:
      audio: float32 [pairs, dim] of norm 1, from `embed_audio`.
      texts: the texts of these clips.
      seed: seed of the mapper.

    Returns:
      (the collection, how the mapper was fitted).
    """
    audio, text = np.asarray(audio, np.float32), self.embed_text(texts)
    key = jax.random.key(seed)
    found = embedding_mapper.fit(key, text, audio)
    bridge = {
      "audio": audio.mean(0),
      "text": text.mean(0),
      "mapper": found.params,
    }
    return bridge, found


def _check_bridge(found: Any, dim: int) -> None:
  """Raises UserError if the arrays of a bridge do not fit the model."""
  bounds.check("the bridge from text to audio", found, mapping())
  key = jax.random.key(0)
  mapper = jax.eval_shape(lambda: embedding_mapper.init(key, dim))
  wanted = {"audio": (dim,), "text": (dim,)}
  wanted["mapper"] = jax.tree.map(np.shape, mapper)
  fits = jax.tree.map(np.shape, dict(found)) == wanted
  if not fits or not all(np.isfinite(x).all() for x in jax.tree.leaves(found)):
    raise UserError(
      "the bridge from text to audio does not fit the model, or holds values"
      " that are not finite: run `mmdcodec cluster` again."
    )


def is_text(x: Any) -> bool:
  """Whether x is a text or a list of them, and not audio."""
  if isinstance(x, str):
    return True
  return (
    isinstance(x, list | tuple)
    and len(x) > 0
    and all(isinstance(each, str) for each in x)
  )


def clip_mean(rows: np.ndarray, valid: np.ndarray) -> np.ndarray:
  """Mean of the valid rows [batch, rows, dim] of each item, on the sphere."""
  kept = np.where(valid[..., None], rows, 0).astype(np.float64)
  mean = kept.sum(1) / np.maximum(valid.sum(1), 1)[:, None]
  return unit_rows(mean).astype(np.float32)


def unit_rows(x: np.ndarray) -> np.ndarray:
  """Scales vectors [..., dim] to length 1; one of length 0 stays so."""
  norm = np.linalg.norm(x, axis=-1, keepdims=True)
  return x / np.maximum(norm, 1e-12)
