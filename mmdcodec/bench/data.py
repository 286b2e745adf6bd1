"""`mmdcodec bench data`: crops per second of the input pipeline.

Without a data set it makes one from five minutes of noisy tones, which FLAC
compresses about as well as music. A training step of B crops waits for data
unless this rate is above B divided by the time of the step.
"""

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np

HELP = "crops per second of the input pipeline"
EXAMPLE = "mmdcodec bench data --dataset data/music"


def add_arguments(parser: argparse.ArgumentParser) -> None:
  """Adds the subject's arguments."""
  parser.add_argument(
    "--dataset", metavar="DIR", help="a prepared data set (default: made up)"
  )
  parser.add_argument(
    "--batch", type=int, default=64, help="(default: %(default)s)"
  )
  parser.add_argument(
    "--seconds",
    type=float,
    default=1.0,
    help="length of a crop (default: %(default)s)",
  )
  parser.add_argument(
    "--rate",
    type=int,
    default=24000,
    metavar="HZ",
    help="of the crops (default: %(default)s)",
  )
  parser.add_argument(
    "--threads",
    type=int,
    help="(default: one for each CPU, at most 16)",
  )
  parser.add_argument(
    "--mix",
    type=float,
    default=0.0,
    help="probability of adding a second crop (default: %(default)s)",
  )
  parser.add_argument(
    "--time",
    type=float,
    default=3.0,
    metavar="S",
    help="seconds to measure, three times (default: %(default)s)",
  )


def run(args: argparse.Namespace) -> int:
  """Measures, and prints the rate and the CPU time per crop."""
  from mmdcodec import platform
  from mmdcodec.data import record_order

  with tempfile.TemporaryDirectory() as scratch:
    dataset = args.dataset or make(Path(scratch))
    results = [
      measure(
        dataset,
        batch=args.batch,
        seconds=args.seconds,
        rate=args.rate,
        threads=args.threads,
        mix=args.mix,
        duration=args.time,
      )
      for _ in range(3)
    ]
  cpus = platform.cpus()
  threads = args.threads or record_order.default_threads()
  print(
    f"{args.seconds:g} s crops at {args.rate} Hz, batch {args.batch},"
    f" {threads} threads, {cpus} CPUs"
  )
  for crops, cpu in results:
    print(f"  {crops:8.0f} crops/s   {1e3 * cpu:.3f} ms of CPU time a crop")
  crops, cpu = max(results)
  # What the machine could do with nothing else running.
  print(
    f"best {crops:.0f} crops/s; CPU time allows for"
    f" {cpus / min(c for _, c in results):.0f} on {cpus} CPUs"
  )
  return 0


def measure(
  dataset: str | Path,
  *,
  batch: int,
  seconds: float,
  rate: int,
  threads: int | None = None,
  mix: float = 0.0,
  duration: float,
) -> tuple[float, float]:
  """Measures crops per second and CPU seconds per crop."""
  from mmdcodec.data.pipeline import batches

  with batches(
    dataset,
    batch=batch,
    seconds=seconds,
    rate=rate,
    threads=threads,
    mix=mix,
    process_index=0,
    process_count=1,
  ) as crops:
    # Crops buffered at the start are counted but not timed, those buffered at
    # the end timed but not counted: with full buffers, these errors cancel.
    for _ in range(4):
      next(crops)
    start, cpu, count = time.perf_counter(), time.process_time(), 0
    while time.perf_counter() - start < duration or count < 4 * batch:
      next(crops)
      count += batch
    wall = time.perf_counter() - start
    return count / wall, (time.process_time() - cpu) / count


def make(folder: Path) -> Path:
  """Prepares a data set of tones in noise: five minutes in 15 records."""
  from mmdcodec.audio import files
  from mmdcodec.data.records import prepare

  rng, rate = np.random.default_rng(0), 24000
  (folder / "audio").mkdir()
  time_axis = np.arange(60 * rate) / rate
  for i in range(5):
    x = 0.02 * rng.standard_normal(len(time_axis))
    for _ in range(8):
      tone = np.sin(2 * np.pi * rng.uniform(60, 4000) * time_axis)
      swell = np.sin(2 * np.pi * rng.uniform(0.1, 4) * time_axis) ** 2
      x += 0.08 * tone * swell
    files.write(folder / "audio" / f"{i}.wav", x, rate=rate)
  # Records as long as those of the published figures.
  prepare(
    folder / "audio", folder / "data", rate=rate, seconds=20.0, progress=False
  )
  return folder / "data"
