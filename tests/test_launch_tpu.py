"""`launch/tpu_queued_resource.sh` against a simulated cloud.

Its slice has two hosts. They run the real commands that the script sends them,
with the real sources, but mmdcodec itself is a shell script.
"""

import re
import shlex
import subprocess
import time

import pytest
from fake_cloud import Cloud

UP = "tpu_queued_resource.sh up --name try --zone z --slice v5p:2x2x2"
TRAIN = "-- mmdcodec train --workdir='a b' --config.x='$y \"z\"'"
MISSING = "ERROR: NOT_FOUND: no such queued resource"

# Stands for python3 on a host, whose `uv venv` makes an environment.
PYTHON3 = """
[[ $* != *"uv venv"* ]] || {
  mkdir -p .venv/bin
  cp "$CLOUD/mmdcodec" .venv/bin/
}
"""
# Ends with the next code of the host; with `wait`, when it is told to.
MMDCODEC = """#!/usr/bin/env bash
host=$(basename "$HOME")
echo "$host started: $*" | tee -a "$CLOUD/started"
read -r code rest <"$CLOUD/codes.$host"
echo "$rest" >"$CLOUD/codes.$host"
if [[ $code == wait ]]; then
  trap 'exit 75' TERM
  for _ in {1..1500}; do sleep 0.02; done
fi
exit "$code"
"""


@pytest.fixture
def cloud(tmp_path):
  cloud = Cloud(tmp_path)
  cloud.script("python3", PYTHON3)
  program = tmp_path / "mmdcodec"
  program.write_text(MMDCODEC)
  program.chmod(0o755)
  return cloud


def prepare(cloud, states, *codes, rules=()):
  """What `describe` answers in turn, and how each host's runs end."""
  cloud.fake("gcloud", ["describe", *states], *rules)
  for host, words in enumerate(codes):
    (cloud.folder / f"codes.{host}").write_text(words + "\n")


def steps(cloud):
  """What the script asked of the cloud and the hosts, without its looks."""
  found = []
  for line in cloud.calls:
    words = shlex.split(line)
    assert words[:4] == ["gcloud", "compute", "tpus", "queued-resources"]
    assert words[5].partition(":")[0] == "try" or words[4] == "scp"
    command = re.search(r"host.sh (\w+)", line.replace("\\", ""))
    step = command.group(1) if command else words[4]
    if step not in ("describe", "status"):
      found.append(step)
  return found


def started(cloud):
  """The starts of mmdcodec on the hosts."""
  file = cloud.folder / "started"
  return file.read_text().splitlines() if file.exists() else []


def until(condition):
  deadline = time.time() + 30
  while not condition():
    assert time.time() < deadline
    time.sleep(0.02)


ASK = ["create", "scp", "setup", "start"]


def test_up_runs_to_the_end(cloud):
  """Catches lost arguments, hosts left out, and a slice that is left behind."""
  states = [MISSING, "WAITING_FOR_RESOURCES", "PROVISIONING", "ACTIVE"]
  prepare(cloud, states, "0", "0")
  done = cloud.run(f"{UP} --spot --project=p {TRAIN}")
  assert done.returncode == 0, done.stderr
  assert steps(cloud) == [*ASK, "why", "delete"]
  create = next(line for line in cloud.calls if " create " in line)
  assert set(shlex.split(create)[6:]) == {
    "--accelerator-type=v5p-16",
    "--runtime-version=v2-alpha-tpuv5",
    "--node-id=try",
    "--zone=z",
    "--project=p",
    "--spot",
  }
  arguments = 'train --workdir=a b --config.x=$y "z"'
  assert started(cloud).count(f"0 started: {arguments}") == 1
  assert started(cloud).count(f"1 started: {arguments}") == 1
  assert "launch: the run is done." in done.stderr
  assert not list((cloud.folder / "work").iterdir())


def test_runs_know_the_commit_of_the_sources(cloud):
  """Catches hosts whose runs record no commit, as they have no checkout."""

  def git(*words):
    root = cloud.folder / "sources"
    person = ("-c", "user.name=x", "-c", "user.email=x@y")
    return subprocess.run(
      ["git", "-C", root, *person, *words],
      check=True, capture_output=True, text=True,
    ).stdout.strip()  # fmt: skip

  program = cloud.folder / "mmdcodec"
  program.write_text('#!/bin/sh\necho "$MMDCODEC_COMMIT" >>"$CLOUD/started"\n')
  git("init", "-q")
  git("add", ".")
  git("commit", "-qm", "x")
  prepare(cloud, [MISSING, "ACTIVE"])
  assert cloud.run(f"{UP} {TRAIN}").returncode == 0
  (cloud.folder / "sources/README.md").write_text("x")
  answers = cloud.folder / "answers/gcloud/0"
  answers.write_text(f"describe\n{MISSING}\nACTIVE\n")
  assert cloud.run(f"{UP} {TRAIN}").returncode == 0
  head = git("rev-parse", "HEAD")
  assert started(cloud) == 2 * [head] + 2 * [f"{head} with changes"]


@pytest.mark.parametrize("state", ["SUSPENDED", "FAILED"])
def test_preempted_slice_is_asked_for_again(cloud, state):
  """Catches a run that is not set up and started on the new slice."""
  states = [MISSING, "ACTIVE", "SUSPENDING", state, MISSING, "ACTIVE"]
  prepare(cloud, states, "wait 0", "wait 0")
  done = cloud.run(f"{UP} {TRAIN}")
  assert done.returncode == 0, done.stderr
  assert steps(cloud) == [*ASK, "delete", *ASK, "why", "delete"]
  # The same line on each host of each slice.
  assert sorted(started(cloud)) == sorted(2 * list(set(started(cloud))))
  assert len(started(cloud)) == 4
  assert f"the slice is {state}" in done.stderr


def test_exit_code_75_starts_again(cloud):
  """Catches a run that is given up, or a slice that is set up again."""
  prepare(cloud, [MISSING, "ACTIVE"], "75 75 0", "75 75 0")
  done = cloud.run(f"{UP} {TRAIN}")
  assert done.returncode == 0, done.stderr
  assert steps(cloud) == [*ASK, "start", "start", "why", "delete"]


def test_failure_ends_with_its_code(cloud):
  """Catches a failure of one host that the 75 of another one hides."""
  prepare(cloud, [MISSING, "ACTIVE"], "75 0", "3 0")
  done = cloud.run(f"{UP} {TRAIN}")
  assert done.returncode == 3
  assert steps(cloud) == [*ASK, "why", "delete"]
  assert done.stderr.splitlines()[-1].startswith(
    "launch: the run failed with exit code 3;"
  )
  # The end of the output, of the host that failed alone.
  assert "1 started" in done.stdout and "0 started" not in done.stdout


def test_restarts_after_failures_are_counted(cloud):
  """Catches a limit that is off by one, and --keep without effect."""
  prepare(cloud, [MISSING, "ACTIVE"], "3 75 3 3", "0 75 0 0")
  done = cloud.run(f"{UP} --restarts 1 --keep 1 {TRAIN}")
  assert done.returncode == 3
  assert steps(cloud) == [*ASK, "start", "start", "why"]


def test_up_goes_on_with_what_is_there(cloud):
  """Catches a second slice, and a running command that is started again."""
  prepare(cloud, [MISSING, "ACTIVE"], "wait", "wait")
  first = cloud.start(f"{UP} {TRAIN}")
  until(lambda: len(started(cloud)) == 2)
  first.kill()
  first.communicate()
  calls = len(cloud.calls)
  second = cloud.start(f"{UP} {TRAIN}")
  until(lambda: len(cloud.calls) > calls + 4)
  # As when its hosts are shut down: it saves, and starts again.
  for host in range(2):
    (cloud.folder / f"codes.{host}").write_text("0\n")
  stopped = cloud.run("tpu_queued_resource.sh stop --name try --zone z")
  assert stopped.returncode == 0, stopped.stderr
  output = second.communicate(timeout=30)[0]
  assert second.returncode == 0, output
  assert steps(cloud)[:5] == [*ASK, "stop"]
  assert steps(cloud).count("create") == 1


def test_silent_hosts_and_errors_of_gcloud_are_waited_for(cloud):
  """Catches a slice that is made anew because one look has failed."""
  states = [MISSING, "ERROR: no network", "ACTIVE"]
  # The first look at the hosts finds new ones, the second none, then one.
  looks = ["status: new\\nstatus: new", "ERROR: no route", "status: 0"]
  looks.append("status: 0\\nstatus: 0")
  prepare(cloud, states, "0", "0", rules=[["host.sh\\ status", *looks]])
  done = cloud.run(f"{UP} {TRAIN}")
  assert done.returncode == 0, done.stderr
  assert "no network" in done.stderr
  assert "0 of 2 hosts answer." in done.stderr
  assert "1 of 2 hosts answer." in done.stderr
  assert steps(cloud) == [*ASK, "why", "delete"]


def test_hosts_without_the_sources_are_not_set_up(cloud):
  """Catches hosts that run what an earlier attempt has left there."""
  looks = ["status: new\\nstatus: new", "status: 0\\nstatus: 0"]
  rules = [["host.sh\\ status", *looks], [" scp ", "ERROR: no route"]]
  prepare(cloud, ["ACTIVE"], "0", "0", rules=rules)
  done = cloud.run(f"{UP} {TRAIN}")
  assert done.returncode == 0 and "no route" in done.stderr
  assert steps(cloud) == ["scp", "why", "delete"]


def test_a_request_that_is_refused_ends_at_once(cloud):
  """Catches a mistake in the options that is tried forever."""
  cloud.fake("gcloud", ["describe", MISSING], [" create ", "ERROR: no quota"])
  done = cloud.run(f"{UP} {TRAIN}")
  assert done.returncode == 1 and "no quota" in done.stderr


@pytest.mark.parametrize(
  "line, sentence",
  [
    (f"{UP} -- mmdcode train", "the command is missing"),
    (f"{UP} --restarts two {TRAIN}", "--restarts is 'two'; expected a number"),
    (f"{UP} --slice v5e:3x {TRAIN}", "'v5e:3x' is not a slice"),
    (f"{UP} --slice v5e:3x3 {TRAIN}", "9 chips"),
    (f"{UP} --zone", "--zone needs a value"),
    (f"{UP} v5e {TRAIN}", "v5e is not an option"),
    ("tpu_queued_resource.sh up --zone z", "--name is missing"),
    ("tpu_queued_resource.sh fly --zone z --name n", "'fly' is not a verb"),
  ],
)  # fmt: skip
def test_mistakes_are_one_sentence(cloud, line, sentence):
  cloud.fake("gcloud")
  done = cloud.run(line)
  assert done.returncode == 2 and sentence in done.stderr
  assert done.stderr.startswith("launch: ") and not cloud.calls
  assert len(done.stderr.splitlines()) == 1


def test_several_slices(cloud):
  """Catches slices that are not asked for together."""
  done = cloud.run(f"{UP} --dry-run --slice 4xv5e:4x4 {TRAIN}")
  assert done.returncode == 0
  assert "--node-count=4 --accelerator-type=v5litepod-16" in done.stdout
  assert "--node-id" not in done.stdout and not cloud.calls


@pytest.fixture
def host(cloud):
  """A host that is set up, and a function that says how it is."""
  assert cloud.run("host.sh status").stdout == "status: new\n"
  assert cloud.run("host.sh setup tpu").returncode == 0
  return lambda: cloud.run("host.sh status").stdout.strip()


def test_a_rebooted_host_has_no_run(cloud, host):
  """Catches a number of a process that another one has after a reboot."""
  assert host() == "status: gone"
  prepare(cloud, [], "wait")
  (cloud.folder / "codes.0").rename(cloud.folder / "codes.work")
  assert cloud.run("host.sh start mmdcodec train").returncode == 0
  until(lambda: started(cloud))
  assert host() == "status: running"
  group = cloud.folder / "sources/run.group"
  number, boot = group.read_text().split()
  group.write_text(f"{number} another-boot\n")
  assert host() == "status: gone"
  group.write_text(f"{number} {boot}\n")
  assert cloud.run("host.sh stop").returncode == 0
  assert host() == "status: 75"


def test_a_run_that_does_not_stop_is_killed(cloud, host):
  """Catches a stop that waits forever, and then two runs at once."""
  cloud.environment["PATIENCE"] = "1"
  program = cloud.folder / "sources/.venv/bin/mmdcodec"
  program.write_text(
    "#!/usr/bin/env bash\ntrap '' TERM\ntouch ready\nsleep 60\n"
  )
  assert cloud.run("host.sh start mmdcodec train").returncode == 0
  until((cloud.folder / "sources/ready").exists)
  stopped = cloud.run("host.sh stop")
  assert stopped.returncode == 0 and "it is killed" in stopped.stderr
  assert host() == "status: gone"
