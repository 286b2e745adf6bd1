"""`python -m mmdcodec` is the `mmdcodec` command."""

import sys

from mmdcodec.cli.main import main

if __name__ == "__main__":
  sys.exit(main())
