"""The public name of `mmdcodec.patterns`, which losses and models share."""

from mmdcodec.patterns import *  # noqa: F403
