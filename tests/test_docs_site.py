"""The site of `docs/`: it builds without a warning, and no link is broken.

Must catch: a page, an anchor or a name of the package that is gone; a docstring
that the reference can't read; a public name that has no entry.
"""

import pathlib
import re
import subprocess
import sys
import zlib

import public_names
import pytest

import mmdcodec

ROOT = pathlib.Path(__file__).resolve().parent.parent
CONFIG = ROOT / "docs" / "site" / "mkdocs.yml"
# What the README and the guides promise to stay; everything else may move.
PROMISED = {
  "mmdcodec.load",
  "mmdcodec.UserError",
  "mmdcodec.quantize.independence.independence_loss",
  "mmdcodec.quantize.independence.mmd2",
  "mmdcodec.quantize.independence.dhsic",
  "mmdcodec.quantize.independence.GaussianKernel",
  "mmdcodec.quantize.independence.LaplacianKernel",
  "mmdcodec.quantize.independence.InverseMultiquadricKernel",
  "mmdcodec.quantize.independence.LinearKernel",
  "mmdcodec.quantize.independence.QuadraticKernel",
  "mmdcodec.quantize.residual.ResidualVectorQuantizer",
  "mmdcodec.generation.patterns.Pattern",
  "mmdcodec.generation.patterns.delay",
  "mmdcodec.generation.patterns.parallel",
  "mmdcodec.generation.patterns.flatten",
  "mmdcodec.generation.patterns.coarse_first",
  "mmdcodec.train.task.Task",
}


def test_every_documented_name_is_there():
  """Catches a page of the reference that names what has moved."""
  names = public_names.documented()
  assert names >= PROMISED and len(names) > 100
  for name in names:
    assert public_names.find(name) is not None, name


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md"])
def test_links_outside_the_site(page):
  """Catches a link to a file or heading that is gone."""
  text = (ROOT / page).read_text()
  links = re.findall(r"\]\(([^)#\s]*)(?:#([^)]*))?\)", text)
  links = [link for link in links if not link[0].startswith("http")]
  assert links
  for path, anchor in links:
    target = ROOT / (path or page)
    assert target.exists(), path
    if anchor:
      headings = re.findall(r"^#+ (.*)$", target.read_text(), re.M)
      slugs = [re.sub(r"[^\w\- ]", "", h).lower() for h in headings]
      assert anchor in [slug.replace(" ", "-") for slug in slugs], anchor


@pytest.mark.slow
def test_the_site_builds(tmp_path):
  """Catches a warning of the build, and public names without an entry."""
  pytest.importorskip("mkdocs", reason="needs pip install -e '.[docs]'")
  command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet"]
  command += [f"--config-file={CONFIG}", f"--site-dir={tmp_path}"]
  built = subprocess.run(command, capture_output=True, text=True)
  assert built.returncode == 0, built.stderr
  entries = (tmp_path / "objects.inv").read_bytes().split(b"zlib.\n", 1)[1]
  lines = zlib.decompress(entries).decode().splitlines()
  entries = {line.split(" ")[0] for line in lines}
  # The package has two names by themselves, and configs another place.
  elsewhere = {f"mmdcodec.{name}" for name in mmdcodec.__all__}
  missing = {
    name
    for name in public_names.documented() - elsewhere
    if re.sub(r"^mmdcodec\.configs\b", "configs", name) not in entries
  }
  assert not missing
  commands = (tmp_path / "api" / "commands.html").read_text()
  assert "mmdcodec train --config=" in commands
  # Nothing is fetched from other hosts, but for what a reader clicks on.
  home = (tmp_path / "index.html").read_text()
  assert not re.findall(r'<(?:script|link)[^>]*(?:src|href)="https?:', home)
