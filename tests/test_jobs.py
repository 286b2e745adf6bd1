"""Jobs in stages.

Catches: finished work done again, an interrupted stage that starts over though
it could resume (or resumes though it cannot), stages kept although what they
rest on was replaced, settings of two runs mixed, work deleted unasked, files
of the user deleted, stages that run before what they need or again for
nothing, and two processes in one workdir.
"""

import dataclasses
import json
import threading

import pytest

from mmdcodec.errors import UserError
from mmdcodec.store import jobs, locks


class Job:
  """Three stages that write a file each and note that they ran."""

  def __init__(self, folder):
    self.folder, self.ran, self.lines = folder, [], []
    self.settings = {"a": {"n": 1}, "b": {"x": {"y": (1, 2)}}, "c": {}}
    self.fail = None
    self.resumes = False

  def stage(self, name):
    """A stage that notes whether its file was there when it ran."""
    path = self.folder / name

    def run():
      self.ran.append((name, path.exists()))
      path.write_text("x")
      if self.fail == name:
        raise KeyboardInterrupt
      return f"made {name}"

    return jobs.Stage(
      name, run, self.settings[name], [path], resumes=self.resumes
    )

  def __call__(self, **options):
    """Runs the job; the names of the stages that ran."""
    self.ran, self.lines = [], []
    jobs.run_stages(
      self.folder,
      [self.stage(name) for name in "abc"],
      log=self.lines.append,
      **options,
    )
    return [name for name, _ in self.ran]


@pytest.fixture
def job(tmp_path):
  return Job(tmp_path / "job")


def test_the_second_run_does_nothing(job):
  assert job() == ["a", "b", "c"]
  assert any("[2/3] b: made b (" in line for line in job.lines)
  assert "[2/3] b ..." in job.lines  # not "again"
  assert job() == []
  assert job.lines == [
    f"[{i}/3] {n}: done before: made {n}"
    for i, n in ((1, "a"), (2, "b"), (3, "c"))
  ]
  assert [*jobs.seconds_of(job.folder, "abc")] == ["a", "b", "c"]
  # The folder may have those of another job.
  assert [*jobs.seconds_of(job.folder, "cd")] == ["c"]


@pytest.mark.parametrize("resumes", [False, True])
def test_an_interrupted_stage(job, resumes):
  job.resumes, job.fail = resumes, "b"
  with pytest.raises(KeyboardInterrupt):
    job()
  assert [*jobs.seconds_of(job.folder, "abc")] == ["a"]
  job.fail = None
  assert job() == ["b", "c"]
  # What was left is there for a stage that resumes, and only for such a one.
  assert job.ran == [("b", resumes), ("c", False)]


def test_changed_settings_are_refused_then_done_over_by_force(job):
  job()
  job.settings["b"] = {"x": {"y": (1, 3)}}
  with pytest.raises(UserError, match=r"b: x\.y was \[1, 2\], is \[1, 3\]"):
    job()
  assert job.ran == [] and (job.folder / "b").exists()
  job.resumes = True
  assert job(force=True) == ["b", "c"]
  assert job.ran == [("b", False), ("c", False)]
  assert job() == []


def test_settings_of_unfinished_work_count_as_well(job):
  job.resumes, job.fail = True, "b"
  with pytest.raises(KeyboardInterrupt):
    job()
  job.settings["b"] = {}
  with pytest.raises(UserError, match="b: x was"):
    job()


def test_settings_of_earlier_versions(job):
  """Catches work refused because a key of its config has a new name."""
  job.settings["b"] = {"config": {"optimizer": {"rate": 0.1}}}
  assert job() == ["a", "b", "c"]
  job.settings["b"] = {"config": {"optimizer": {"learning_rate": 0.1}}}
  assert job() == []


def test_settings_of_an_earlier_version_are_the_same(job):
  """Catches a job that cannot go on after an update of the program."""
  job.settings["b"] = {"optimizer": {"rate": 0.1, "warmup": 1}}
  job()
  now = {"learning_rate": 0.1, "warmup": 1, "new": 0}
  job.settings["b"] = {"optimizer": now}
  assert job() == []
  job.settings["b"] = {"optimizer": {**now, "learning_rate": 0.2}}
  with pytest.raises(UserError, match="learning_rate was 0.1, is 0.2"):
    job()


def test_a_config_may_have_new_keys(job):
  """Catches a training that cannot go on, because configs have gained a key."""
  job.settings["b"] = {"task": "lm", "steps": 5, "old": 1}
  job()
  job.settings["b"] = {"task": "lm", "steps": 5, "hang_timeout": 9.0}
  assert job() == []
  job.settings["b"] = {"task": "lm", "steps": 6}
  with pytest.raises(UserError, match="b: steps was 5, is 6"):
    job()


def test_an_experiment_of_version_0_1_goes_on(job):
  """Catches old experiments refused, done again, or mixed with others."""
  job.folder.mkdir()
  for name in "ab":
    (job.folder / name).write_text("old")
  old = {"config": {"optimizer": {"rate": 1.0}}}
  (job.folder / "experiment.json").write_text(json.dumps(old))
  stages = [job.stage(name) for name in "abc"]
  now = {"config": {"optimizer": {"learning_rate": 1.0}}, "clips": 2}
  with pytest.raises(UserError, match="clips was None, is 2"):
    jobs.adopt(job.folder, now, stages)
  del now["clips"]
  jobs.adopt(job.folder, now, stages)
  assert job() == ["c"]
  assert (job.folder / "a").read_text() == "old"


def test_a_deleted_output_is_made_again_with_what_follows(job):
  job()
  (job.folder / "a").unlink()
  job.resumes = True
  assert job() == ["a", "b", "c"]
  assert job.ran[1] == ("b", False)


def test_a_new_last_stage_runs_alone(job):
  (job.folder).mkdir()
  jobs.run_stages(
    job.folder, [job.stage(n) for n in "ab"], log=job.lines.append
  )
  assert job() == ["c"]


def test_damaged_notes(job):
  job()
  (job.folder / jobs.FILE).write_text("{")
  with pytest.raises(UserError, match="damaged"):
    job()


@pytest.mark.parametrize("force", [False, True])
@pytest.mark.parametrize("name", "ac")
def test_files_of_the_user_are_not_touched(job, name, force):
  (job.folder / name).mkdir(parents=True)
  song = job.folder / name / "song.wav"
  song.write_text("precious")
  with pytest.raises(UserError, match=f"{name} was not made by this"):
    job(force=force)
  assert job.ran == [] and song.read_text() == "precious"


def test_files_that_came_while_a_job_was_interrupted_are_not_touched(job):
  job.fail = "b"
  with pytest.raises(KeyboardInterrupt):
    job()
  (job.folder / "c").write_text("precious")
  job.fail, job.settings["a"] = None, {"n": 2}
  with pytest.raises(UserError, match="c was not made by this"):
    job(force=True)
  assert (job.folder / "c").read_text() == "precious"


def test_notes_of_another_program(job):
  job.folder.mkdir()
  for text in ('["a"]', '{"a": {}}'):
    (job.folder / jobs.FILE).write_text(text)
    with pytest.raises(UserError, match="damaged"):
      job()


def test_one_process_at_a_time(job):
  job.folder.mkdir()
  with locks.exclusive(job.folder):
    with pytest.raises(UserError, match="another process"):
      job()
    assert job.ran == []
  assert job() == ["a", "b", "c"]


@pytest.mark.parametrize("workers", [1, 2])
def test_stages_depend_on_what_they_need_only(job, workers):
  """Catches work done over though nothing that it needs has changed."""
  needs = {"a": [], "b": ["a"], "c": []}
  stages = lambda: [
    dataclasses.replace(job.stage(name), needs=needs[name]) for name in "abc"
  ]

  def run(**options):
    job.ran = []
    jobs.run_stages(
      job.folder, stages(), workers=workers, log=lambda line: None, **options
    )
    return sorted(name for name, _ in job.ran)

  assert run() == ["a", "b", "c"]
  (job.folder / "a").unlink()
  assert run() == ["a", "b"]
  job.settings["a"] = {"n": 2}
  with pytest.raises(UserError, match="give another workdir.$"):
    run(force=None)
  assert run(force=True) == ["a", "b"]
  assert run() == []


def test_commands_that_share_their_first_stages(job):
  """Catches results that stay though another command replaced their source."""
  needs = {"a": [], "b": ["a"], "c": ["a"]}
  job.resumes = True

  def run(*names, **options):
    job.ran = []
    stages = [
      dataclasses.replace(job.stage(name), needs=needs[name]) for name in names
    ]
    log = options.pop("log", lambda line: None)
    jobs.run_stages(job.folder, stages, log=log, **options)
    return job.ran

  assert run("a", "b") == [("a", False), ("b", False)]
  assert run("a", "c") == [("c", False)]
  job.settings["a"] = {"n": 2}
  assert run("a", "b", force=True) == [("a", False), ("b", False)]
  lines = []
  assert run("a", "c", log=lines.append) == [("c", False)]
  assert lines[1] == "[2/2] c again, because of a ..."
  assert run("a", "b") == run("a", "c") == []
  # Notes of earlier versions do not say of what a stage was made. What this
  # version replaces is noticed all the same.
  path = job.folder / jobs.FILE
  for n, seen in ((3, True), (4, False)):
    known = json.loads(path.read_text())
    for entry in known.values():
      del entry["run"], entry["of"]
    path.write_text(json.dumps(known))
    if seen:
      assert run("a", "b") == run("a", "c") == []
    job.settings["a"] = {"n": n}
    assert run("a", "b", force=True) == [("a", False), ("b", False)]
    assert run("a", "c") == [("c", False)]
    assert run("a", "b") == run("a", "c") == []


def test_no_thread_waits_for_a_stage_that_is_done(job):
  """Catches a stage that waits for another one that it does not need."""
  begun = threading.Event()

  def stages(first):
    wait = lambda: str(begun.wait(5))
    follow = lambda: begun.set() or "begun"
    make = lambda name, run, *needs: jobs.Stage(name, run, {}, [], needs=needs)
    return [
      make("a", lambda: "done"),
      *([] if first else [make("b", wait), make("c", follow, "a")]),
    ]

  for first in (True, False):
    jobs.run_stages(job.folder, stages(first), workers=2, log=lambda line: None)
  known = json.loads((job.folder / jobs.FILE).read_text())
  assert known["b"]["result"] == "True"


def test_an_error_in_a_thread_stops_the_others(job):
  """Catches a job that waits for a stage whose work is for nothing."""
  stopped = threading.Event()

  def fail():
    raise UserError("b failed")

  def wait():
    assert stopped.wait(30)
    return "stopped"

  path = job.folder / "x"
  with pytest.raises(UserError, match="b failed"):
    jobs.run_stages(
      job.folder,
      [
        jobs.Stage("a", wait, {}, [path], needs=[], stop=stopped.set),
        jobs.Stage("b", fail, {}, [path], needs=[]),
        jobs.Stage("c", fail, {}, [path]),
      ],
      workers=2,
      log=lambda line: None,
    )
  assert stopped.is_set() and not jobs.seconds_of(job.folder, "abc")
