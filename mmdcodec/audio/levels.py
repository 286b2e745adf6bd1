"""The one rule for samples that audio may not have."""

import numpy as np

from mmdcodec.errors import UserError

# Floats may exceed full scale: mixes of studios peak at 2 or 4. Beyond 18 dB,
# where next to nothing of the music would survive clipping, samples are of
# another scale.
MAX_PEAK = 8.0

# Music in floats is never all whole numbers, but for silence and full scale.
_MIN_WHOLE = 2.0


def check(x: np.ndarray, name: str) -> None:
  """Checks that samples are audio of full scale 1.

  Args:
    x: float samples of any shape.
    name: what holds them, in messages.

  Raises:
    UserError: a sample is NaN or infinite; or exceeds full scale by more than
      18 dB; or all of them are whole numbers and some exceed 1.
  """
  if not x.size:
    return
  peak = float(max(x.max(), -x.min()))
  if not np.isfinite(peak):
    raise UserError(
      f"{name}: holds NaN or infinite samples; export it again as finite audio."
    )
  if peak >= _MIN_WHOLE and (x == np.rint(x)).all():
    raise UserError(
      f"{name}: holds whole numbers (to {peak:g}) as floats, whose full scale"
      " is 1; divide them by 32768 (if they were 16 bits) and save it again."
    )
  if peak > MAX_PEAK:
    raise UserError(
      f"{name}: samples reach {peak:.3g}, expected at most 1; scale them and"
      " save it again."
    )


def over(x: np.ndarray) -> int:
  """Counts samples beyond full scale, which integer formats clip."""
  return int(np.count_nonzero(np.abs(x) > 1.0))
