"""What `mmdcodec info` says about the run in a workdir."""

import pathlib

from mmdcodec import formatting
from mmdcodec.store import goodput, starts


def describe(workdir: pathlib.Path) -> str:
  """Describes the last start of a run, and where its time went.

  Returns:
    A table; "" for a bundle, and for runs of earlier versions.
  """
  rows = starts.rows(workdir)
  if (account := goodput.read(workdir)) is not None:
    rows.append(("time", goodput.describe(account.seconds)))
  return formatting.table(None, rows)
