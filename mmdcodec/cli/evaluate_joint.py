"""`mmdcodec evaluate joint`: retrieval and zero-shot tagging."""

import argparse
from typing import Any

CLIPS = 200


def load(path: str) -> Any:
  """Opens a joint embedding; see `common.load_joint`."""
  from mmdcodec.cli import common

  return common.load_joint(path)


def run(args: argparse.Namespace, model: Any) -> None:
  """Measures, prints tables, and writes results to --out."""
  from mmdcodec import formatting
  from mmdcodec.cli import common
  from mmdcodec.evaluate import joint, joint_report

  clips, about = common.read_clips(args, model)
  result = joint.measure(model, clips)
  print(joint_report.head(result))
  for table in joint_report.tables(result):
    print(f"\n{table.title}\n")
    print(formatting.table(table.columns, table.rows))
  if args.out:
    page = joint_report.write(result, args.out, about)
    print(f"\nresults: {args.out}\npage: {page}")
