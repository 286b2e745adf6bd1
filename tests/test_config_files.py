"""What command lines and files of configs say when they are wrong.

Catches: quotes of quotes, a key without its name, and a traceback of a file
that is not Python.
"""

import importlib.util

import pytest

from mmdcodec.errors import UserError
from mmdcodec.train import config_files


@pytest.mark.parametrize(
  ("argument", "said"),
  [
    ("loss=", "the config has no key 'loss'; did you mean \"losses\""),
    ("optimiser.rate=1", "no key 'optimiser'; did you mean \"optimizer\""),
    ("optimizer.nothing=1", "the config has no key 'nothing'."),
    ("steps=it's", "--config.steps=it's: expected a whole number, such as 20."),
    ("keep=True", "--config.keep=True: expected a whole number, such as 3."),
    ("balancer.on=7: x", "on=7: x: expected True or False, such as False."),
    ("steps=" + 99 * "7 ", "--config.steps=7 7 7"),
    ("optimizer=inf", "one of them, such as --config.optimizer."),
    ("optimizer.learning_rate='x'", "='x': expected a number, such as 0.0003."),
  ],
)
def test_overrides(argument, said):
  with pytest.raises(UserError) as caught:
    config_files.parse(["--config=codec_small:tiny", f"--config.{argument}"])
  words = str(caught.value)
  assert said in words and "\\" not in words and "\n" not in words
  assert len(words) < 150


@pytest.mark.parametrize(
  ("text", "said"),
  [
    ('def get_config(x): return {"a', "config.py, line 1"),
    ("import nothing_there", "nothing_there"),
    ("def get_config(): return {}['a']", "'a'"),
  ],
)
def test_files(tmp_path, text, said):
  path = tmp_path / "config.py"
  path.write_text(text)
  with pytest.raises(UserError, match=said):
    config_files.parse([f"--config={path}"])


def test_configs_that_are_not_installed(monkeypatch):
  """Catches an assertion of a checkout that is on the path alone."""
  monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
  with pytest.raises(UserError, match="'overfit'.*pip install -e"):
    config_files.parse(["--config=overfit"])
