"""Configs: every name is known, and every number is possible."""

import importlib
import inspect
import json
import pkgutil

import pytest

from mmdcodec import configs
from mmdcodec.cli.main import main
from mmdcodec.errors import UserError
from mmdcodec.train import config_checks, config_files, loop


def config_of(name="codec_small", **changes):
  """A config as nested dicts, with changes by dotted name."""
  config = config_files.parse([f"--config={name}"]).to_dict()
  for path, value in changes.items():
    *sections, key = path.split(".")
    at = config
    for section in sections:
      at = at.setdefault(section, {})
    at[key] = value
  return config


NAN, INFINITE = float("nan"), float("inf")


@pytest.mark.parametrize(
  "name, key, value",
  [
    ("codec_small", "optimizer.learning_rate", NAN),
    ("codec_small", "optimizer.learning_rate", -1.0),
    ("codec_small", "optimizer.learning_rate", INFINITE),
    ("codec_small", "optimizer.learning_rate", 10**400),
    ("codec_small", "optimizer.learning_rate", "1e-3"),
    ("codec_small", "optimizer.b1", 1.0),
    ("codec_small", "optimizer.b2", -0.1),
    ("codec_small", "optimizer.clip", NAN),
    ("codec_small", "optimizer.weight_decay", -1.0),
    ("codec_small", "optimizer.warmup", -5),
    ("codec_small", "optimizer.final", NAN),
    ("codec_small", "optimizer", 3),
    ("codec_small", "adversarial.optimizer.learning_rate", NAN),
    ("codec_small", "adversarial.every", 0.5),
    ("codec_small", "losses.mel.weight", INFINITE),
    ("codec_small", "losses.mel.weight", True),
    ("codec_small", "losses.mel.form", "soundstrem"),
    ("codec_small", "losses.adversarial", {}),
    ("codec_small", "losses.independence.pattern", {"a": 1}),
    ("codec_small", "losses.independence.kernel.name", [3]),
    ("codec_small", "losses.independence.keep_scale", "no"),
    ("codec_small", "adversarial.discriminators", (3,)),
    ("codec_small", "balancer.on", "no"),
    ("codec_small", "losses.mel.windows", (64, 30)),
    ("codec_small", "losses.commitment.weight", -1),
    ("codec_small", "losses.independence.every", 0),
    ("codec_small", "balancer.decay", 1.5),
    ("codec_small", "balancer.total_norm", 0.0),
    ("codec_small", "data.mix", 2.0),
    ("codec_small", "data.seconds", NAN),
    ("codec_small", "data.gain_db", (0.0, NAN)),
    ("codec_small", "data.train", {"a": NAN}),
    ("codec_small", "data.train", "a=1,b=1e999"),
    ("codec_small", "ema", 1.0),
    ("codec_small", "steps", 1.5),
    ("codec_small", "steps", 2**40),
    ("codec_small", "seed", -1),
    ("codec_small", "seed", 2**32),
    ("codec_small", "losses.mel.windows", (1 << 20,)),
    ("codec_small", "losses.mel.mels", 10**6),
    ("codec_small", "data.train", 3),
    ("codec_small", "task", ["codec"]),
    ("lm_small", "model", None),
    ("lm_small", "model.conditions", "text"),
    ("codec_small", "keep", 0),
    ("codec_small", "mesh.data", 0),
    ("codec_small", "profile.steps", -1),
    ("lm_small", "text_dropout", 1.5),
    ("lm_small", "condition_dropout", NAN),
    ("lm_small", "lora.rank", -1),
    ("lm_small", "lora.alpha", NAN),
    ("lm_small", "data.frame_rate", 0.0),
  ],
)
def test_impossible_numbers_are_refused(name, key, value):
  """Catches a number that ruins the weights, or fails far inside."""
  with pytest.raises(UserError, match=f"^{key} is .*; it must be ") as error:
    config_checks.check(config_of(name, **{key: value}))
  assert "\n" not in str(error.value)


@pytest.mark.parametrize(
  "name, key, nearest",
  [
    ("codec_small", "losses.mell.weight", "losses.mel"),
    ("codec_small", "optimizer.lerning_rate", "optimizer.learning_rate"),
    ("codec_small", "optimizr", "optimizer"),
    ("codec_small", "losses.independence.weigth", "losses.independence.weight"),
    ("codec_small", "adversarial.optimizer.betas", "one of name, learn"),
    ("codec_small", "losses.perceptual.weight", "one of waveform, mel"),
    ("lm_small", "text_droput", "text_dropout"),
    ("lm_small", "data.text_token", "data.text_tokens"),
    ("lm_small", "stepz", "steps"),
    ("codec_small", "data.notes", "one of train"),
  ],
)
def test_unknown_settings_are_refused(name, key, nearest):
  """Catches a misspelt setting that is silently ignored."""
  with pytest.raises(UserError, match=f"there is no setting .*{nearest}"):
    config_checks.check(config_of(name, **{key: 1}))


@pytest.mark.parametrize(
  "change, word",
  [
    ("optimizer.learning_rate=nan", "optimizer.learning_rate"),
    ("optimizer.rate=-1", "optimizer.learning_rate"),
    ("losses.mell.weight=1", "mell"),
  ],
)
def test_the_command_refuses_them(tmp_path, capsys, change, word):
  """Catches checks that the command skips, or that come after the data."""
  run = tmp_path / "run"
  args = ["--config=codec_small:tiny", f"--config.{change}", "--workdir"]
  assert main(["train", *args, str(run)]) == 2
  said = capsys.readouterr().err
  assert said.count("\n") == 1 and word in said
  assert not run.exists()


def test_a_dict_is_checked_before_it_is_trained(tmp_path):
  """Catches checks in the command alone."""
  with pytest.raises(UserError, match="did you mean losses.mel?"):
    loop.train(config_of(**{"losses.mell.weight": 1}), tmp_path)


def shipped():
  """Every config of the package, with each of its arguments."""
  for module in pkgutil.iter_modules(configs.__path__):
    if module.name == "common":
      continue
    made = importlib.import_module(f"mmdcodec.configs.{module.name}")
    yield module.name
    if "tiny" in inspect.getsource(made):
      yield f"{module.name}:tiny"


@pytest.mark.parametrize("name", shipped())
def test_shipped_configs_pass(name):
  """Catches a setting that is not in the tables, or a default out of bounds.

  Twice: the second time as a workdir keeps it.
  """
  config = config_of(name)
  config_checks.check(config)
  config_checks.check(json.loads(json.dumps(config)))


@pytest.mark.parametrize("name", ["codec_small", "lm_small"])
@pytest.mark.parametrize(
  "key, value",
  [("notes", "a baseline"), ("wandb", {"project": "music"}), ("tags", [1])],
)
def test_a_config_may_have_keys_of_the_user(name, key, value):
  """Catches a config file that is refused for what it only carries along."""
  config_checks.check(config_of(name) | {key: value})


def test_users_may_have_settings_of_their_own():
  """Catches a closed list of names, for tasks and conditions of users."""
  task = config_of()
  task |= {"task": "mine.py:Mine", "models": 3, "lora": "none"}
  task["data"]["files"] = 7
  config_checks.check(task)
  task["optimizer"]["clap"] = 1
  with pytest.raises(UserError, match="optimizer.clip"):
    config_checks.check(task)
  lm = config_of("lm_small")
  lm["model"]["conditions"]["mood"] = {"kind": "tokens"}
  config_checks.check(lm | {"mood_dropout": 0.5})
  with pytest.raises(UserError, match="mood_dropout is 2"):
    config_checks.check(lm | {"mood_dropout": 2})


@pytest.mark.parametrize(
  "condition", [("mood", {}), ("feel", {"kind": "mood"})]
)
def test_conditions_of_users_may_have_settings_of_their_own(
  monkeypatch, condition
):
  """Catches a kind that is missed because the condition has its name."""
  monkeypatch.setitem(config_checks.KINDS, "mood", type("Mood", (), {}))
  lm = config_of("lm_small", **{"data.moods": "moods.csv"})
  with pytest.raises(UserError, match="no setting data.moods"):
    config_checks.check(lm)
  lm["model"]["conditions"] = dict([condition])
  config_checks.check(lm)


def test_a_seed_may_have_32_bits():
  """Catches a seed of earlier runs that is refused."""
  config_checks.check(config_of(seed=2**32 - 1))


def test_the_tables_name_what_configs_have():
  """Catches a rule for a setting that no longer exists."""

  def names(rules, path=""):
    for key, rule in rules.items():
      if isinstance(rule, dict):
        yield from names(rule, f"{path}{key}.")
      else:
        yield path + key

  for name, rules in (
    ("codec_small", config_checks.CODEC),
    ("lm_small", config_checks.LM),
  ):
    config = config_of(name)
    for path in names(rules):
      at = config
      for key in path.split("."):
        at = at[key]
