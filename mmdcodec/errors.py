"""The error for mistakes that the user can fix."""


class UserError(Exception):
  """A mistake in the input; the message tells the user what to do.

  The command line prints the message without a traceback and exits with 2.
  """
