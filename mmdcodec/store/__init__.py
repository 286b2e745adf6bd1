"""Files and folders of runs and jobs.

atomic        writes files and folders completely or not at all
locks         locks that keep other processes out of a folder
jobs          jobs in stages that can resume
workdir       the configuration files in the workdir of a training run
checkpoints   checkpoints of a run
metrics       logs the metrics of a run: metrics.jsonl, TensorBoard
renamed       renamed keys, so that files of earlier versions still load
"""
