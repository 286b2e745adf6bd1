"""Files and folders of runs and jobs.

paths         paths that may be URLs; what replaces locks and renames there
urls          paths in object stores, by fsspec
uploads       writes files and folders to object stores
cached        copies of objects on this machine, for whoever needs a file
remote_locks  locks of folders in object stores
inputs        reads files that users give: regular files, texts, JSON
atomic        writes files and folders completely or not at all
disk          names full disks in errors
locks         locks that keep other processes out of a folder
jobs          jobs in stages that can resume
workdir       the configuration files in the workdir of a training run
checkpoints   checkpoints of a run; checkpoint_folder finds them and the damage
replicas      restores a large checkpoint on one replica for all
orbax_stores  prepares Orbax for the object stores to which it writes
digests       digests of the files in a folder
tensors       reads and writes safetensors files
scaled        floats as integers of 8 bits with a scale for each row
metrics       logs the metrics of a run: metrics.jsonl, TensorBoard, and
              weights_and_biases
starts        when, how and on what a run was started
goodput       where the time of a run went, over all its starts
renamed       renamed keys, so that files of earlier versions still load
"""
