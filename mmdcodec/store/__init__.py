"""Files and folders of runs and jobs.

inputs        reads files that users give: regular files, texts, JSON
atomic        writes files and folders completely or not at all
disk          names full disks in errors
locks         locks that keep other processes out of a folder
jobs          jobs in stages that can resume
workdir       the configuration files in the workdir of a training run
checkpoints   checkpoints of a run; checkpoint_folder finds them and the damage
digests       digests of the files in a folder
tensors       reads and writes safetensors files
metrics       logs the metrics of a run: metrics.jsonl, TensorBoard
renamed       renamed keys, so that files of earlier versions still load
"""
