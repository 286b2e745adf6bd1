"""Files and folders of runs and jobs.

atomic        files and folders that appear whole or not at all
locks         locks that keep other processes out of a folder
jobs          jobs in stages that resume
workdir       what the workdir of a training run says about the run
checkpoints   checkpoints of a run
metrics       what a run logs: metrics.jsonl, TensorBoard
renamed       names that changed, so that files of earlier versions still load
"""
