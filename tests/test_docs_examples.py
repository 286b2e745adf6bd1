"""The Python blocks of the README and of the guides.

Must catch: an example that no test knows, and a name that is gone.
"""

import pathlib

import examples
import public_names
import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent
# Python blocks of each page.
COUNTS = {
  "README.md": 7,
  "docs/index.md": 1,
  "docs/own_music.md": 3,
  "docs/own_loss.md": 3,
  "docs/own_model.md": 3,
  "docs/tpu_pods.md": 1,
  "docs/evaluation.md": 2,
  "docs/from_pytorch.md": 1,
}


def _pages() -> set[str]:
  pages = [ROOT / "README.md", ROOT / "CONTRIBUTING.md"]
  pages += (ROOT / "docs").rglob("*.md")
  return {
    str(page.relative_to(ROOT)) for page in pages if examples.blocks(page)
  }


def test_all_pages_are_known():
  """Catches a page whose examples no test runs."""
  assert _pages() == set(COUNTS)


@pytest.mark.parametrize("page", COUNTS)
def test_all_names_are_in_the_reference(page):
  """Catches a public name that the reference leaves out."""
  code = "\n".join(code for _, code in examples.blocks(ROOT / page))
  assert not public_names.used(code) - public_names.documented()


def test_a_broken_block_is_reported(tmp_path):
  """Catches a runner that runs nothing, or hides what fails."""
  page = tmp_path / "page.md"
  page.write_text("```python\nx = 1\n```\n\n```\nnot Python\n```\n")
  scope: dict = {}
  assert examples.run(page, scope) == 1 and scope["x"] == 1
  more = "\n```python\nx += 1\ny = x.missing\n```\n"
  page.write_text(page.read_text() + more)
  with pytest.raises(AttributeError, match="missing") as error:
    examples.run(page, scope)
  assert scope["x"] == 2
  assert error.traceback[-1].lineno + 1 == 11
  assert str(error.traceback[-1].path) == str(page)
