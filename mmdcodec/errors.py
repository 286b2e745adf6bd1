"""The one error that is the user's to mend."""


class UserError(Exception):
  """A mistake in the input: one clear sentence says what was expected.

  The command line prints the sentence without a traceback and exits with 2.
  """
