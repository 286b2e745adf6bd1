"""`experiments.arm_run` with measures that are as short as they can be.

    python -m quick_arm_run RUN [--curve]
"""

import sys

from mmdcodec import platform
from mmdcodec.evaluate import total_correlation
from mmdcodec.experiments import arm_run

if __name__ == "__main__":
  platform.end_with_parent()
  arm_run.CALIBRATION = 2  # batches
  total_correlation.STEPS = (24, 24)  # of each network
  arm_run.main(sys.argv[1:])
