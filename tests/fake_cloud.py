"""Commands that stand in for gcloud, kubectl, sbatch, sky and mmdcodec.

`Cloud` puts them into a folder of the PATH. Each call is recorded, and answered
from a script; see `fake_command.sh`.
"""

import os
import pathlib
import shlex
import shutil
import subprocess

LAUNCH = pathlib.Path(__file__).parents[1] / "launch"
FAKE = pathlib.Path(__file__).parent / "fake_command.sh"


class Cloud:
  """Fake commands, what they answer, and what was asked.

  Attributes:
    folder: everything is here; scripts run in `work`. `sources` stands for
      these sources: it has the scripts, and of the rest only names.
  """

  def __init__(self, folder: pathlib.Path) -> None:
    """Makes the folder."""
    self.folder = folder
    for name in ("bin", "answers", "work", "hosts"):
      (folder / name).mkdir(parents=True)
    sources = folder / "sources"
    shutil.copytree(LAUNCH, sources / "launch")
    for name in ("mmdcodec", "configs"):
      (sources / name).mkdir()
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
      (sources / name).touch()
    self.environment = dict(
      PATH=f"{folder / 'bin'}:{os.environ['PATH']}",
      CLOUD=str(folder),
      HOME=str(folder / "work"),
      POLL="0.02",
      PAUSE="0",
    )

  def fake(self, name: str, *rules: list[str]) -> None:
    """Adds a command.

    Args:
      name: of the command.
      *rules: what a command line must contain, and answers to it in turn, of
        which the last repeats: output, `exit CODE`, or `ERROR...`, which goes
        to stderr.
    """
    (self.folder / "bin" / name).symlink_to(FAKE)
    folder = self.folder / "answers" / name
    folder.mkdir()
    for i, rule in enumerate(rules):
      (folder / str(i)).write_text("\n".join(rule) + "\n")

  def script(self, name: str, text: str) -> None:
    """Adds a command that is a shell script."""
    path = self.folder / "bin" / name
    path.write_text(f"#!/usr/bin/env bash\n{text}")
    path.chmod(0o755)

  def run(
    self, line: str, *, timeout: float = 30
  ) -> subprocess.CompletedProcess:
    """Runs a script of `launch/` with its arguments."""
    return subprocess.run(
      self._command(line),
      env=self.environment,
      cwd=self.folder / "work",
      capture_output=True,
      text=True,
      timeout=timeout,
    )

  def start(self, line: str) -> subprocess.Popen:
    """Starts a script of `launch/` with its arguments."""
    return subprocess.Popen(
      self._command(line),
      env=self.environment,
      cwd=self.folder / "work",
      stdout=subprocess.PIPE,
      stderr=subprocess.STDOUT,
      text=True,
    )

  def _command(self, line: str) -> list[str]:
    name, *arguments = shlex.split(line)
    return [str(self.folder / "sources/launch" / name), *arguments]

  @property
  def calls(self) -> list[str]:
    """The command lines so far."""
    path = self.folder / "calls"
    return path.read_text().splitlines() if path.exists() else []

  def verbs(self, name: str, place: int) -> list[str]:
    """A word of each call of a command, without repetitions in a row."""
    words = [shlex.split(c)[place] for c in self.calls if c.startswith(name)]
    return [w for i, w in enumerate(words) if i == 0 or words[i - 1] != w]
