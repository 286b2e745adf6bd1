"""`mmdcodec demo`: a local web page to hear what models do."""

import argparse
import math

from mmdcodec.errors import UserError

HELP = "open a local web page to hear what models do"
EXAMPLE = (
  "mmdcodec demo\n"
  "  mmdcodec demo --model codec music\n"
  "  mmdcodec demo --model musiclm --port 8000"
)
_PACKAGES = ("gradio", "fastapi", "uvicorn")
_MODELS = ("small", "small_music", "small_musiclm")


def add_arguments(parser: argparse.ArgumentParser) -> None:
  """Adds the verb's arguments."""
  parser.add_argument(
    "--model",
    nargs="+",
    action="extend",
    metavar="MODEL",
    help="codecs and music models: bundles, workdirs or public weights; may be"
    f" repeated (default: the packaged ones, {' '.join(_MODELS)})",
  )
  parser.add_argument(
    "--host",
    default="127.0.0.1",
    help="address to listen on (default: %(default)s, for this machine alone)",
  )
  parser.add_argument(
    "--port",
    type=int,
    default=7860,
    metavar="N",
    help="port to listen on; 0 for any that is free (default: %(default)s)",
  )
  parser.add_argument(
    "--max-seconds",
    type=float,
    default=120.0,
    metavar="S",
    help="length of the longest clip that a user may give, and of the longest"
    " piece (default: %(default)s)",
  )


def run(args: argparse.Namespace) -> int:
  """Opens the models and serves the page until Ctrl-C."""
  if not 0 < args.max_seconds < math.inf:
    raise UserError(
      f"--max-seconds is {args.max_seconds}; it must be above 0."
    )
  try:
    from mmdcodec.demo import server
  except ImportError as error:
    if (error.name or "").partition(".")[0] not in _PACKAGES:
      raise
    raise UserError(
      "the page needs Gradio: pip install 'mmdcodec[demo]'."
    ) from None
  from mmdcodec.demo.models import open_models
  from mmdcodec.demo.uploads import Limits

  server.serve(
    open_models(args.model or _MODELS),
    host=args.host,
    port=args.port,
    limits=Limits(seconds=args.max_seconds),
  )
  return 0
