"""The language model over K codebooks: one Transformer, K streams of codes.

MusicGen (Copet et al. 2023, arXiv 2306.05284, 3.1): the vectors of a step's K
tokens are summed, a decoder Transformer follows, and K heads predict the next
step, or a depth transformer (`mmdcodec.models.depth`) in their place. The
pattern (`mmdcodec.patterns`) determines which codes share a step. The model
sees tokens [batch, steps, codebooks] in the pattern's order, with the special
token where a step has no code.
"""

import math
from collections.abc import Mapping
from typing import Annotated, Any

import flax
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from mmdcodec import bounds, patterns
from mmdcodec.bounds import flag, mapping, null_or, number, whole
from mmdcodec.models import depth, fields
from mmdcodec.models.condition import Condition, make_conditions
from mmdcodec.models.conditioning import Conditioner, EncodedConditions, Inputs
from mmdcodec.models.depth import DepthTransformer
from mmdcodec.models.lm_presets import PRESETS
from mmdcodec.nn import turned
from mmdcodec.nn.transformer import Transformer
from mmdcodec.quantize.residual import MOST_CODEBOOKS, MOST_CODES
from mmdcodec.store import renamed

# Fields of `TokenLM.depth`.
OF_DEPTH = fields.defaults(DepthTransformer, hidden=depth.OF_MODEL)


class TokenLM(bounds.Checked, nn.Module):
  """A Transformer that predicts the codes of each step from those before.

  Attributes:
    codebooks: K, the number of codebooks that it models.
    codebook_size: codes per codebook; the special token is the next number.
    first_codebook: first of the tokenizer's codebooks that it models.
    pattern: which codes share a step: `name` and options of `patterns.make`;
      None means the delay pattern.
    frames: length of the training clips; longer music is generated in windows
      of this length, or in one go if attention has a window.
    collapse: learns codes without repeats of frames, see `quantize.repeats`.
      How long each lasts is lost: only stages may be trained so.
    width: channels of a token's vector.
    layers: blocks of the Transformer.
    heads: query heads of attention.
    kv_heads: key and value heads, each shared by several query heads; 0 means
      as many as `heads`.
    hidden: width of the feed-forward layers.
    activation: "gelu", "relu" or "geglu", a gated one.
    positions: "sinusoidal", "rotary", "relative" or "none".
    window: steps of the pattern that a step attends to, itself included; 0
      means all before it. Conditions stay visible.
    sinks: learned keys and values per head, which every step attends to.
    qk_norm: normalise queries and keys of attention.
    cross: has cross-attention for the conditions that use it; otherwise all
      conditions are a prefix to the music.
    conditions: fields of each condition by name, see
      `condition.make_conditions`.
    depth: fields of the depth transformer, see `DepthTransformer`; None means
      that a head per codebook predicts the codes of a step, each independently
      of the others.
    dropout: share of activations dropped in training.
    forget: share of the tokens, conditions included, that training hides from
      all others; see `nn.forgetting`.
    gradient_shrink: training multiplies the gradient at the embeddings of codes
      and of conditions without cross-attention by this, against jumps of the
      loss (GLM-130B, Zeng et al. 2022, arXiv 2210.02414).
    remat: "none", "full" or "dots", see `Transformer`.
    dtype: compute dtype, "float32" or "bfloat16"; parameters, norms, sums
      and logits are float32.
  """

  called = "the language model"

  # `Transformer` has the bounds of its own fields.
  codebooks: Annotated[int, whole(1, MOST_CODEBOOKS)] = 4
  codebook_size: Annotated[int, whole(1, MOST_CODES)] = 2048
  first_codebook: Annotated[int, whole(0, MOST_CODEBOOKS - 1)] = 0
  pattern: Annotated[Mapping[str, Any] | None, null_or(mapping())] = None
  frames: Annotated[int, whole(1, 1 << 20)] = 1500
  collapse: Annotated[bool, flag()] = False
  width: int = 1024
  layers: int = 24
  heads: int = 16
  kv_heads: Annotated[int, whole(0, 256)] = 0
  hidden: int = 4096
  activation: str = "gelu"
  positions: str = "sinusoidal"
  window: int = 0
  sinks: int = 0
  qk_norm: bool = False
  cross: bool = True
  conditions: Annotated[Mapping[str, Any], mapping()] = flax.core.FrozenDict()
  depth: Annotated[Mapping[str, Any] | None, null_or(mapping())] = None
  dropout: float = 0.0
  forget: float = 0.0
  gradient_shrink: Annotated[float, number(0, 1)] = 1.0
  remat: str = "none"
  dtype: Annotated[str, bounds.dtype("float32", "bfloat16")] = "float32"

  @property
  def problem(self) -> str | None:
    """See the base class."""
    # Their own checks come first.
    Transformer(**self.transformer_fields(), parent=None)
    self.pattern_of(1)
    added = [each.name for each in self.make_conditions() if each.added]
    if self.collapse and added:
      # Its steps are not the music's frames.
      return (
        f"collapse leaves out repeats, so that the condition {added[0]!r}"
        f" cannot be added to the music: set conditions.{added[0]}.added_to=0"
      )
    if self.depth is not None:
      self.make_depth()
    return None

  @property
  def special(self) -> int:
    """The token of a step without a code."""
    return self.codebook_size

  @nn.nowrap
  def pattern_of(self, frames: int) -> patterns.Pattern:
    """The pattern, for a number of frames."""
    options = dict(self.pattern or {"name": "delay"})
    name = options.pop("name", None)
    return patterns.make(name, self.codebooks, **options)(frames)

  @nn.nowrap
  def make_conditions(
    self, assets: Mapping[str, bytes] | None = None
  ) -> tuple[Condition, ...]:
    """The model's conditions in their order; see `condition.make_conditions`.

    Args:
      assets: files of the model's bundle by name, to tokenize texts.
    """
    return make_conditions(self.conditions, assets)

  @property
  def grid(self) -> int:
    """Frames of the music at whose multiples all added conditions begin one."""
    added = (each.added for each in self.make_conditions() if each.added)
    return math.lcm(*added)

  def no_conditions(self, batch: int) -> Inputs:
    """Inputs without conditions, for a number of items."""
    return {
      condition.name: condition.nothing(batch)
      for condition in self.make_conditions()
    }

  @nn.nowrap
  def transformer_fields(self) -> dict[str, Any]:
    """Fields of the Transformer."""
    return dict(
      layers=self.layers,
      width=self.width,
      heads=self.heads,
      kv_heads=self.kv_heads or self.heads,
      hidden=self.hidden,
      activation=self.activation,
      positions=self.positions,
      window=self.window,
      sinks=self.sinks,
      qk_norm=self.qk_norm,
      cross=self.cross,
      dropout=self.dropout,
      forget=self.forget,
      remat=self.remat,
      dtype=jnp.dtype(self.dtype),
    )

  @nn.nowrap
  def make_depth(self) -> DepthTransformer:
    """The depth transformer.

    Raises:
      UserError: `depth` has an unknown field, or an invalid value.
    """
    shared = {name: getattr(self, name) for name in depth.OF_MODEL}
    given = self.depth or {}
    fields.check_known(given, DepthTransformer, hidden=depth.OF_MODEL)
    shared["dtype"] = jnp.dtype(self.dtype)
    return DepthTransformer(**given, **shared, parent=None)

  def conditioner_fields(self) -> dict[str, Any]:
    """Fields of the conditioner."""
    return dict(
      width=self.width,
      conditions=self.conditions,
      cross=self.cross,
      dtype=jnp.dtype(self.dtype),
    )

  def setup(self) -> None:
    """Builds embeddings, conditioner, Transformer and what predicts codes."""
    self.embedding = self.param(
      "embedding",
      nn.initializers.normal(self.width**-0.5),
      (self.codebooks, self.codebook_size + 1, self.width),
      jnp.float32,
    )
    self.transformer = Transformer(**self.transformer_fields())
    if self.depth is None:
      self.head = self.param(
        "head",
        nn.initializers.normal(self.width**-0.5),
        (self.codebooks, self.width, self.codebook_size),
        jnp.float32,
      )
    else:
      self.depth_transformer = self.make_depth()
    if self.conditions:
      self.conditioner = Conditioner(**self.conditioner_fields())

  def encode_conditions(self, inputs: Inputs) -> EncodedConditions:
    """Vectors of the conditions."""
    if not self.conditions:
      return EncodedConditions()
    return self.conditioner(inputs)

  def __call__(
    self,
    tokens: jax.Array,
    inputs: Inputs | None = None,
    *,
    targets: jax.Array | None = None,
    frames: jax.Array | np.ndarray | None = None,
    encoded: EncodedConditions | None = None,
    train: bool = False,
  ) -> jax.Array:
    """Logits of a whole sequence; each step sees the tokens up to its own.

    Args:
      tokens: int [batch, steps, codebooks], as `Pattern.build` returns them.
      inputs: the conditions; None for a model without any.
      targets: int [batch, steps, codebooks], the next step of each. The depth
        transformer needs them: its logits of a codebook also see the targets
        of the codebooks before it. Without one they are ignored.
      frames: int [steps], `Pattern.frame_of_step` of the steps that are
        predicted. Conditions that are added to the music need them.
      encoded: vectors of the conditions, instead of inputs.
      train: applies dropout, with the random key "dropout".

    Returns:
      float32 [batch, steps, codebooks, codebook_size], each of the next step.

    Raises:
      ValueError: the tokens have another shape, or are not integers; or the
        targets or the frames are missing.
    """
    bounds.check_integers("tokens", tokens)
    bounds.check_shape(
      "tokens", tokens, batch=..., steps=..., codebooks=self.codebooks
    )
    if self.depth is not None and targets is None:
      raise ValueError("a model with a depth transformer needs the targets")
    if encoded is None:
      encoded = self.encode_conditions(inputs or {})
    x, valid, before = embed(tokens, self.embedding), None, 0
    if encoded.added is not None:
      if frames is None:
        raise ValueError(
          "conditions are added to the music: give frames, such as"
          " model.pattern_of(count).frame_of_step"
        )
      x = x + encoded.at(frames)
    if encoded.prefix is not None:
      before = encoded.prefix.shape[1]
      x = jnp.concatenate([encoded.prefix, x], axis=1)
      valid = jnp.pad(
        encoded.prefix_mask,
        ((0, 0), (0, tokens.shape[1])),
        constant_values=True,
      )
    if train and self.gradient_shrink != 1:
      share = self.gradient_shrink
      x = share * x + (1 - share) * jax.lax.stop_gradient(x)
    x = self.transformer(
      x,
      valid=valid,
      states=encoded.states,
      states_mask=encoded.states_mask,
      before=before,
      train=train,
    )
    x, dtype = x[:, before:], jnp.dtype(self.dtype)
    if self.depth is None:
      return logits(x, self.head, self.codebooks, dtype)
    assert targets is not None
    return self.depth_transformer(x, targets, train=train)


def embed(tokens: jax.Array, table: jax.Array) -> jax.Array:
  """Sums the vectors of each step's tokens.

  Args:
    tokens: int [batch, steps, codebooks].
    table: [codebooks, size + 1, width].

  Returns:
    float32 [batch, steps, width].
  """
  # Parameters may be NumPy arrays, which traced values cannot index.
  table = jnp.asarray(table)
  return table[np.arange(len(table)), tokens].sum(axis=-2)


def flat_head(head: jax.Array) -> jax.Array:
  """The heads side by side in one matrix: [codebooks * size, width].

  For sampling step by step, see `nn.turned`.

  Args:
    head: [codebooks, width, size], as in training.
  """
  return head.swapaxes(1, 2).reshape(-1, head.shape[1])


def logits(
  x: jax.Array, head: jax.Array, codebooks: int, dtype: jnp.dtype
) -> jax.Array:
  """Logits of the next step.

  Args:
    x: [batch, steps, width], output of the Transformer.
    head: [codebooks, width, size], or the result of `flat_head`.
    codebooks: K.
    dtype: compute dtype; sums are float32.

  Returns:
    float32 [batch, steps, codebooks, size].
  """
  x, head = x.astype(dtype), head.astype(dtype)
  if head.ndim == 2:
    y = turned.product(x, head, jnp.float32)
    return y.reshape(*x.shape[:2], codebooks, -1)
  return jnp.einsum(
    "bsw,kwv->bskv", x, head, preferred_element_type=jnp.float32
  )


def preset(name: str, **changes: Any) -> dict[str, Any]:
  """All fields of a published or tiny language model.

  Args:
    name: one of `lm_presets.PRESETS`.
    **changes: fields to change.

  Returns:
    dict for `from_config`, ready for JSON.

  Raises:
    UserError: there is no such preset or field.
  """
  of_preset = PRESETS.get(name, {}).get("conditions", {})
  changes = renamed.update_lm(changes, of_preset)
  found = fields.preset(TokenLM, PRESETS, name, changes)
  # Dicts, so that a command line can change their entries.
  found["pattern"] = found["pattern"] or dict(name="delay", delays=())
  found["conditions"] = dict(found["conditions"])
  # None before it has layers. It is half as wide as the model.
  found["depth"] = {
    **OF_DEPTH,
    "layers": 0,
    "width": found["width"] // 2,
    "heads": max(found["heads"] // 2, 1),
    "hidden": found["hidden"] // 2,
    "activation": found["activation"],
    **(found["depth"] or {}),
  }
  return found


def from_config(config: Mapping[str, Any]) -> TokenLM:
  """Builds a TokenLM from a mapping of its fields.

  Raises:
    UserError: an unknown key, or an invalid value.
  """
  bounds.check("the config of the language model", config, mapping())
  config = renamed.update_lm(config)
  given = config.get("depth")
  if isinstance(given, Mapping) and given.get("layers") == 0:
    fields.check_known(given, DepthTransformer, hidden=depth.OF_MODEL)
    config["depth"] = None
  return fields.build(TokenLM, config)


def shapes(
  model: TokenLM, encoded: EncodedConditions | None = None
) -> dict[str, Any]:
  """Shapes and dtypes of a model's variables, without making them.

  Args:
    model: the language model.
    encoded: vectors of conditions, instead of those of its own conditioner.

  Returns:
    `{"params": ...}` of `jax.ShapeDtypeStruct`.
  """
  tokens = jax.ShapeDtypeStruct((1, 1, model.codebooks), jnp.int32)
  inputs = model.no_conditions(1)
  return jax.eval_shape(
    lambda key, tokens: model.init(
      key,
      tokens,
      inputs,
      targets=tokens,
      frames=np.zeros(1, np.int32),
      encoded=encoded,
    ),
    jax.random.key(0),
    tokens,
  )
