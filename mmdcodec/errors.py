"""Errors and the warning that users read; causes of any error."""

from collections.abc import Iterator

from mmdcodec import formatting


class UserError(Exception):
  """A mistake in the input; the message tells the user what to do.

  The command line prints the message without a traceback.

  Attributes:
    exit_code: with which the command then ends.
  """

  exit_code = 2

  def __str__(self) -> str:
    """Returns the message; the middle of a very long one is left out."""
    return formatting.shortened(super().__str__())


class Unreachable(UserError):
  """A store does not answer; perhaps it does later."""


class UnknownServer(Unreachable):
  """Nobody knows the name of a store's server; perhaps it is misspelt."""


class StoreGone(UserError):
  """A store that a run uses does not answer.

  The exit code makes a supervisor start the run again.
  """

  exit_code = 75


def causes(error: BaseException) -> Iterator[BaseException]:
  """Yields an error and, one after the other, those that led to it."""
  seen: set[int] = set()
  cause: BaseException | None = error
  while cause is not None and id(cause) not in seen:
    seen.add(id(cause))
    yield cause
    cause = cause.__cause__ or cause.__context__


class Notice(UserWarning):
  """Something in the input or output that the user should know.

  The command line prints the message in a line on stderr.
  """
