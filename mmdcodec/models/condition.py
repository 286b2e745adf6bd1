"""Base class and registry of the kinds of conditions of a language model.

A language model's conditions are data: a mapping from the name of each to its
kind and fields (`TokenLM.conditions`). A kind is a subclass of `Condition`. It
defines everything that the rest of the library needs: which arrays hold the
condition, how they become vectors, how its absence is represented, what a
training crop reads from a record, and which values a user may pass. To add a
kind, write a subclass; defining it registers it.
"""

import abc
import dataclasses
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from mmdcodec import bounds
from mmdcodec.bounds import flag, mapping, whole
from mmdcodec.errors import UserError
from mmdcodec.models import fields as fields_lib
from mmdcodec.nn.attention import kernel_init

# One condition of a batch: arrays by name, the batch first. `given` is False
# for items without the condition.
Arrays = dict[str, Any]

# Kinds by name.
KINDS: dict[str, type["Condition"]] = {}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Condition(bounds.Checked, abc.ABC):
  """A condition of a language model, such as its prompt.

  Subclasses are frozen dataclasses whose fields come from the model's config.
  They set `kind`, which registers them under that name, and declare the bounds
  of their fields. Their parameters belong
  to the `Conditioner` and have names that begin with that of the condition.

  Attributes:
    name: name of the condition, unique in its model.
    order: conditions are sorted by this number, then by name.
    cross: whether the vectors go through cross-attention where the model has
      it; otherwise they are a prefix to the music.
    assets: files of the model's bundle by name, for conditions that need them.
  """

  kind: ClassVar[str]

  name: str
  order: Annotated[int, whole(-(1 << 16), 1 << 16)] = 0
  cross: Annotated[bool, flag()] = True
  assets: Mapping[str, bytes] = dataclasses.field(
    default_factory=dict, compare=False, repr=False
  )

  @property
  def called(self) -> str:  # type: ignore[override]
    """See the base class."""
    return f"the condition {self.name!r}"

  def __init_subclass__(cls, **options: Any):
    """Registers a kind."""
    super().__init_subclass__(**options)
    if "kind" in cls.__dict__:
      KINDS[cls.kind] = cls

  # ------------------------------------------------------------------- model

  @abc.abstractmethod
  def shapes(self) -> dict[str, tuple[tuple[int, ...], Any]]:
    """(shape, dtype) of each array of one item, `given` excluded."""

  @abc.abstractmethod
  def encode(
    self, module: nn.Module, arrays: Arrays
  ) -> tuple[jax.Array, jax.Array]:
    """Returns vectors of a batch; those of an item must not depend on others.

    Args:
      module: the `Conditioner`, inside its compact call; it makes the
        parameters and has `width` and `dtype`.
      arrays: arrays of the condition.

    Returns:
      (float32 [batch, length, width], bool [batch, length], False for positions
      that must not be attended to). Where `given` is False the vectors are 0.
      Vectors that are added to the music are 0 wherever the mask is False.
    """

  def example(self, batch: int) -> Arrays:
    """`jax.ShapeDtypeStruct`s of a training batch."""
    return {
      name: jax.ShapeDtypeStruct((batch, *shape), dtype)
      for name, (shape, dtype) in {
        **self.shapes(),
        "given": ((), jnp.bool_),
      }.items()
    }

  def nothing(self, batch: int) -> Arrays:
    """Arrays of items without the condition."""
    return {
      name: np.zeros(leaf.shape, leaf.dtype)
      for name, leaf in self.example(batch).items()
    }

  @property
  def in_time(self) -> bool:
    """Whether the condition follows the music, so that windows differ."""
    return False

  @property
  def added(self) -> int:
    """Frames of music that each vector is added to; 0 if they are not added."""
    return 0

  def drop(self, arrays: Arrays, kept: jax.Array | np.ndarray) -> Arrays:
    """Removes the condition from the items where `kept` is False."""
    return {**arrays, "given": arrays["given"] & kept}

  # ---------------------------------------------------------------- training

  @property
  def files(self) -> tuple[str, ...]:
    """Names of the bundle's files that the condition needs."""
    return ()

  @property
  def pretrained(self) -> str:
    """Regular expression of parameters that fine-tuning keeps fixed, or ""."""
    return ""

  def in_training(self, data: Mapping[str, Any]) -> "Condition":
    """The condition as a training run uses it.

    Args:
      data: the run's `config.data`.

    Raises:
      UserError: the data sets cannot provide the condition.
    """
    del data
    return self

  @abc.abstractmethod
  def read(self, record: Mapping[str, Any], start: float) -> Arrays:
    """Reads the condition of a crop from its record.

    Args:
      record: record of a token data set: `caption`, `melody`, `streams` (codes
        and their frame rate by name), `windows` (the seconds that a row of each
        stream describes, or None), `seconds` (length of the crop without
        padding) and so on.
      start: start of the crop in seconds.

    Returns:
      NumPy arrays of one item, without the batch axis, always of `shapes`.
    """

  # -------------------------------------------------------------- generation

  @abc.abstractmethod
  def check(self, value: Any, rate: int) -> list[Any]:
    """Checks a value from a user.

    Args:
      value: the value as given by the user.
      rate: Hz of audio in the value.

    Returns:
      One item for each piece of music, in the form that `arrays` takes.

    Raises:
      UserError: the value is invalid.
    """

  @abc.abstractmethod
  def arrays(self, items: Sequence[Any], start: float) -> Arrays:
    """The arrays for a window of music.

    Args:
      items: items from `check`; None for a piece without the condition.
      start: start of the window in seconds.
    """


def dense(module: nn.Module, name: str) -> nn.Dense:
  """A linear layer to the width of the language model."""
  return nn.Dense(
    module.width, kernel_init=kernel_init(), dtype=jnp.float32, name=name
  )


def first(arrays: Arrays) -> Arrays:
  """The first item of a batch, without the batch axis."""
  return {name: array[0] for name, array in arrays.items()}


def make_conditions(
  conditions: Mapping[str, Mapping[str, Any]],
  assets: Mapping[str, bytes] | None = None,
) -> tuple[Condition, ...]:
  """Makes conditions from their descriptions, in their order.

  Args:
    conditions: the fields of each by name; its `kind` is the name by default.
    assets: files of the model's bundle by name.

  Raises:
    UserError: an unknown kind or field, or an invalid value.
  """
  found = []
  for name, given in conditions.items():
    bounds.check(f"the condition {name!r}", given, mapping())
    options = {"kind": name, **given}
    kind = options.pop("kind")
    if not name.isidentifier():
      raise UserError(
        f"a condition is named {name!r}; use letters, digits and underscores."
      )
    if not isinstance(kind, str) or kind not in KINDS:
      raise UserError(
        f"the condition {name!r} has the unknown kind {kind!r}; choose one of"
        f" {', '.join(sorted(KINDS))}, or import the module that defines it."
      )
    cls = KINDS[kind]
    what = f"the condition {name!r}"
    fields_lib.check_known(options, cls, hidden=("assets",), called=what)
    needed = {
      field.name
      for field in dataclasses.fields(cls)
      if field.default is field.default_factory is dataclasses.MISSING
    }
    if missing := sorted(needed - {"name", *options}):
      raise UserError(f"{what} lacks {', '.join(missing)}.")
    found.append(cls(name=name, assets=assets or {}, **options))
  return tuple(sorted(found, key=lambda each: (each.order, each.name)))
