"""The launch scripts for GKE, SLURM and SkyPilot, with fake commands."""

import re
import shlex

import jsonschema
import pytest
import yaml
from fake_cloud import Cloud
from launch_schemas import JOBSET, SKYPILOT

TRAIN = "-- mmdcodec train --workdir='a b' --config.x='$y \"z\"'"
WORDS = ["mmdcodec", "train", "--workdir=a b", '--config.x=$y "z"']
GKE = "gke_jobset.sh {} --name try --slice v5e:4x4 --image host/image:1"


@pytest.fixture
def cloud(tmp_path):
  return Cloud(tmp_path)


@pytest.mark.parametrize(
  "options, hosts, chips, slices, kind, sides",
  [
    ("", 4, 4, 1, "tpu-v5-lite-podslice", "4x4"),
    ("--slice=3xv5e:2x4", 1, 8, 3, "tpu-v5-lite-podslice", "2x4"),
    ("--slice=v6e:1x1", 1, 1, 1, "tpu-v6e-slice", "1x1"),
    ("--slice=v5p:2x2x4", 4, 4, 1, "tpu-v5p-slice", "2x2x4"),
    ("--slice=v4:2x2x1", 1, 4, 1, "tpu-v4-podslice", "2x2x1"),
  ],
)
def test_jobset(cloud, options, hosts, chips, slices, kind, sides):
  """Catches fields that Kubernetes does not know, and slices of wrong size."""
  cloud.fake("kubectl")
  done = cloud.run(f"{GKE.format('run')} {options} --restarts 2 {TRAIN}")
  assert done.returncode == 0, done.stderr
  jobset = yaml.safe_load((cloud.folder / "applied.yaml").read_text())
  jsonschema.validate(jobset, JOBSET)
  (job,) = jobset["spec"]["replicatedJobs"]
  spec = job["template"]["spec"]
  assert job["replicas"] == slices
  assert spec["parallelism"] == spec["completions"] == hosts
  pod = spec["template"]["spec"]
  assert list(pod["nodeSelector"].values()) == [kind, sides]
  (container,) = pod["containers"]
  assert container["resources"]["limits"] == {"google.com/tpu": chips}
  assert container["args"] == WORDS
  assert jobset["spec"]["failurePolicy"]["maxRestarts"] == 2


def test_jobset_restarts_on_75_without_counting(cloud):
  """Catches rules that do not meet: they name each other's reasons."""
  cloud.fake("kubectl")
  cloud.run(f"{GKE.format('run')} {TRAIN}")
  spec = yaml.safe_load((cloud.folder / "applied.yaml").read_text())["spec"]
  assert spec["failurePolicy"] == {
    "maxRestarts": 0,
    "rules": [
      {
        "name": "again",
        "action": "RestartJobSetAndIgnoreMaxRestarts",
        "onJobFailureReasons": ["PodFailurePolicy"],
      }
    ],
  }
  job = spec["replicatedJobs"][0]["template"]["spec"]
  codes, disruption = job["podFailurePolicy"]["rules"]
  pod = job["template"]["spec"]
  assert codes["onExitCodes"]["values"] == [75]
  assert codes["onExitCodes"]["containerName"] == pod["containers"][0]["name"]
  assert disruption["onPodConditions"][0]["type"] == "DisruptionTarget"
  # Kubernetes takes no podFailurePolicy otherwise.
  assert pod["restartPolicy"] == "Never"


def test_gke_up_waits_for_the_end(cloud):
  """Catches a failure that is taken for a success, or loses its code."""
  states = ["try ", "ERROR: no network", "try ", "try Failed"]
  cloud.fake("kubectl", ["get jobset", *states], ["get pods", r"\n75\n137\n0"])
  done = cloud.run(f"{GKE.format('up')} {TRAIN}")
  assert done.returncode == 137
  assert "launch: the run failed with exit code 137;" in done.stderr
  assert [call.split()[2] for call in cloud.calls] == (
    ["apply", "get", "get", "get", "get", "get"]
  )


def test_gke_watch_logs_and_delete(cloud):
  cloud.fake("kubectl", ["get jobset", "try Completed"])
  done = cloud.run("gke_jobset.sh watch --name try")
  assert done.returncode == 0 and "the run is done." in done.stderr
  for verb in ("logs", "delete"):
    assert cloud.run(f"gke_jobset.sh {verb} --name try").returncode == 0
  assert cloud.calls[-1].endswith("delete jobset try")
  assert "jobset.sigs.k8s.io/jobset-name=try" in cloud.calls[-2]


def test_gke_watch_ends_if_there_is_nothing_to_watch(cloud):
  """Catches a script that waits for ever for what somebody has deleted."""
  cloud.fake("kubectl", ["get jobset", "try ", ""])
  done = cloud.run("gke_jobset.sh watch --name try")
  assert done.returncode == 2 and "no JobSet try" in done.stderr
  assert len(cloud.calls) == 2


@pytest.mark.parametrize("word", ['a"b', r"a\b", "$(HOME)", "${NAME}", "a&b"])
def test_any_word_reaches_a_container(cloud, word):
  """Catches words that YAML, Kubernetes or the script itself would change."""
  cloud.fake("kubectl")
  cloud.run(f"{GKE.format('run')} -- mmdcodec {shlex.quote(word)}")
  text = (cloud.folder / "applied.yaml").read_text()
  pod = yaml.safe_load(text)["spec"]["replicatedJobs"][0]["template"]["spec"]
  (container,) = pod["template"]["spec"]["containers"]
  # As Kubernetes reads it: $(NAME) is a variable, $$ a $.
  variable = lambda found: "" if found.group(1) else "$"
  read = re.sub(r"\$(?:\((\w+)\)|\$)", variable, container["args"][1])
  assert read == word


@pytest.mark.parametrize("verb", ["run", "up"])
def test_gke_refuses_what_yaml_cannot_hold(cloud, verb):
  cloud.fake("kubectl", ["get jobset", "try Completed"])
  done = cloud.run(f"{GKE.format(verb)} -- mmdcodec 'a\nb'")
  assert done.returncode == 2 and "control character" in done.stderr
  assert not cloud.calls


# Two nodes with two tasks each, whose exit codes are in `tasks`, and a queue
# that starts the copy of a script once.
SRUN = """
printf -v line ' %q' "$@"
echo "srun$line" >>"$CLOUD/calls"
while [[ $1 == --* ]]; do shift; done
read -r codes rest <"$CLOUD/tasks"
sed -i 1d "$CLOUD/tasks"
worst=0
for code in $codes $rest; do
  CODE=$code "$@" || { ((worst = $? > worst ? $? : worst)); }
done
exit "$worst"
"""
SBATCH = """
printf -v line ' %q' "$@"
echo "sbatch$line" >>"$CLOUD/calls"
while [[ $1 == --* ]]; do
  [[ $1 != --cpus-per-task=* ]] || export SLURM_CPUS_PER_TASK=${1#*=}
  shift
done
cp "$1" "$CLOUD/spooled"
shift
SLURM_JOB_ID=7 bash "$CLOUD/spooled" "$@"
"""
MMDCODEC = """
printf -v line ' %q' "$@"
echo "mmdcodec$line" >>"$CLOUD/calls"
exit "$CODE"
"""


@pytest.fixture
def slurm(cloud):
  """A function that sets the exit codes of all tasks, of one srun a line."""
  cloud.script("srun", SRUN)
  cloud.script("sbatch", SBATCH)
  cloud.script("mmdcodec", MMDCODEC)
  cloud.fake("scontrol")

  def run(*codes, options=""):
    (cloud.folder / "tasks").write_text("\n".join(codes) + "\n")
    return cloud.run(f"slurm.sh --nodes 2 {options} {TRAIN}")

  return run


@pytest.mark.parametrize(
  "codes, code, queued",
  [
    ("0 0", 0, False),
    ("75 75", 75, True),
    # Another process is gone, and srun returns the greatest code.
    ("75 2", 2, False),
    ("1 75", 1, False),
    ("137 75", 137, False),
    ("0 139", 139, False),
  ],
)
def test_slurm(cloud, slurm, codes, code, queued):
  """Catches a failure that 75 hides and that is queued again forever."""
  done = slurm(codes)
  assert done.returncode == code, done.stderr
  assert ("scontrol requeue 7" in cloud.calls) == queued
  program = next(c for c in cloud.calls if c.startswith("mmdcodec"))
  assert shlex.split(program) == WORDS
  last = done.stderr.splitlines()[-1]
  assert {0: "is done", 75: "queued again"}.get(code, f"code {code};") in last


def test_slurm_restarts(cloud, slurm):
  """Catches restarts that are not counted."""
  done = slurm("0 1", "0 1", "0 1", options="--restarts 1")
  assert done.returncode == 1
  assert len([c for c in cloud.calls if c.startswith("srun")]) == 2


def test_slurm_options(cloud, slurm):
  """Catches a job that gets no SIGTERM, or a GPU that no process uses."""
  slurm("0", options="--gpus-per-node=4 --partition=gpu --warning 60")
  (batch,) = [c for c in cloud.calls if c.startswith("sbatch")]
  for option in (
    "--nodes=2", "--ntasks-per-node=4", "--gpus-per-node=4", "--requeue",
    "--signal=TERM@60", "--partition=gpu", "--open-mode=append",
  ):  # fmt: skip
    assert option in batch.split()
  slurm("0", options="--gpus-per-node=0")
  assert "--ntasks-per-node=1" in cloud.calls[-3]
  assert "--gpus-per-node" not in cloud.calls[-3]
  steps = [c for c in cloud.calls if c.startswith("srun")]
  assert not any("--cpus-per-task" in step for step in steps)


def test_slurm_tasks_get_their_cpus(cloud, slurm):
  """Catches tasks with one CPU, and a dry run of another command."""
  options = "--cpus-per-task=12 --partition=gpu"
  slurm("0", options=options)
  batch, step = cloud.calls[:2]
  assert "--cpus-per-task=12" in batch.split()
  words = shlex.split(step)
  assert "--cpus-per-task=12" in words[: words.index("mmdcodec")]
  done = cloud.run(f"slurm.sh --nodes 2 {options} --dry-run {TRAIN}")
  assert shlex.split(done.stdout.splitlines()[-1]) == words


@pytest.mark.parametrize(
  "options, accelerators, nodes, extras",
  [
    ("--slice v5e:4x4", "tpu-v5litepod-16", 1, "tpu,gcs,hub"),
    ("--slice v6e:2x4 --extras tpu,s3", "tpu-v6e-8", 1, "tpu,s3"),
    ("--accelerators H100:8 --nodes 4", "H100:8", 4, "cuda,gcs,hub"),
  ],
)
def test_skypilot(cloud, options, accelerators, nodes, extras):
  """Catches fields that SkyPilot does not know, and machines left alone."""
  cloud.fake("sky")
  done = cloud.run(f"skypilot.sh {options} --restarts 3 --infra=gcp {TRAIN}")
  assert done.returncode == 0, done.stderr
  (call,) = cloud.calls
  assert call.startswith("sky jobs launch --yes --infra=gcp ")
  job = yaml.safe_load((cloud.folder / "job.yaml").read_text())
  jsonschema.validate(job, SKYPILOT)
  assert job["resources"]["accelerators"] == accelerators
  recovery = {"recover_on_exit_codes": [75], "max_restarts_on_errors": 3}
  assert job["resources"]["job_recovery"] == recovery
  assert job["num_nodes"] == nodes
  assert job["workdir"] == str(cloud.folder / "sources")
  assert job["setup"] == f"launch/host.sh setup {extras} ''\n"
  # What the third machine runs.
  cloud.environment |= {
    "SKYPILOT_NODE_IPS": "10.0.0.1\n10.0.0.2\n10.0.0.3\n10.0.0.4",
    "SKYPILOT_NUM_NODES": "4",
    "SKYPILOT_NODE_RANK": "2",
  }
  cloud.script("mmdcodec", 'printf "%s\\n" "$@"')
  script = cloud.folder / "sources/launch/task.sh"
  script.write_text(f"#!/usr/bin/env bash\ncd ../sources\n{job['run']}")
  script.chmod(0o755)
  words = cloud.run("task.sh").stdout.splitlines()
  process = [
    "--coordinator=10.0.0.1:8482", "--num-processes=4", "--process-id=2",
  ]  # fmt: skip
  assert words == WORDS[1:] + process * (nodes > 1)


@pytest.mark.parametrize(
  "line",
  [
    GKE.format("up"),
    "slurm.sh --nodes 2",
    "skypilot.sh --slice v5e:4x4",
    "tpu_queued_resource.sh up --name n --zone z --slice v5e:4x4",
    "local.sh --processes 2",
  ],
)
def test_dry_run_shows_everything_and_does_nothing(cloud, line):
  done = cloud.run(f"{line} --dry-run -- mmdcodec train --workdir=runs/x")
  assert done.returncode == 0, done.stderr
  assert not cloud.calls and not list((cloud.folder / "work").iterdir())
  words = re.sub(r'[\\",]', "", done.stdout)
  assert "mmdcodec train --workdir=runs/x" in words


@pytest.mark.parametrize(
  "name", ["tpu_queued_resource", "gke_jobset", "slurm", "skypilot", "local"]
)
def test_usage(cloud, name):
  """Catches a usage text that is cut off, or goes on into the script."""
  text = cloud.run(f"{name}.sh --help").stdout
  assert f"launch/{name}.sh" in text and "--dry-run" in text
  assert "#" not in text and "source" not in text.split()
