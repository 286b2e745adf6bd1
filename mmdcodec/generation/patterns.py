"""The public name of `mmdcodec.patterns`, which losses and models share."""

from mmdcodec.patterns import (
  MAKERS,
  Pattern,
  PatternMaker,
  coarse_first,
  delay,
  flatten,
  grouped,
  make,
  parallel,
  unroll,
)

__all__ = [
  "MAKERS",
  "Pattern",
  "PatternMaker",
  "coarse_first",
  "delay",
  "flatten",
  "grouped",
  "make",
  "parallel",
  "unroll",
]
