"""The error for mistakes that the user can fix."""


class UserError(Exception):
  """A mistake in the input; its message says in one sentence what to do.

  The command line prints the sentence without a traceback and exits with 2.
  """
