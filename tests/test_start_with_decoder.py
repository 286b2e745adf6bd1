"""A language model that begins with one whose conditions are others."""

import flax
import jax
import numpy as np
import optax
import pytest

from mmdcodec import bundle
from mmdcodec.errors import UserError
from mmdcodec.train import config_files, settings, warm_start
from mmdcodec.train.state import TrainState
from mmdcodec.train.task import make_task

flat = lambda tree: flax.traverse_util.flatten_dict(tree, sep="/")


def task_of(*words, **changes):
  config = config_files.parse([*words])
  config.model.update(changes)
  return make_task(settings.plain(config))


def begun(task, path):
  """(the state of a run that begins with a model, its state before that)."""
  variables = jax.jit(task.init)(jax.random.key(1))
  fresh = TrainState.create(variables, optax.sgd(1.0), ema=True)
  where = jax.sharding.SingleDeviceSharding(jax.devices()[0])
  layout = jax.tree.map(lambda _: where, fresh)
  return warm_start.start_from(task, fresh, str(path), layout, print)[0], fresh


def whole(task, state):
  """All parameters of a run's model, by path."""
  return flat(task.whole(state.released())["params"])


@pytest.fixture(scope="module")
def music(tmp_path_factory):
  """(path, parameters) of a music model with prompts."""
  task = task_of("--config=lm_small:tiny")
  variables = jax.jit(task.init)(jax.random.key(0))
  path = tmp_path_factory.mktemp("models") / "music"
  config = {
    "kind": "stage", "model": task.config["model"], "streams": {},
    "target": {"tokenizer": "codec", "hash": "0" * 16, "frame_rate": 50.0},
  }  # fmt: skip
  bundle.save(path, config, variables)
  return path, flat(variables["params"])


def same_decoder(music):
  """Fields of a stage that make its decoder that of the music model."""
  model = bundle.read(music[0]).config["model"]
  keys = (
    "width", "layers", "heads", "hidden", "activation", "positions", "kv_heads",
    "codebooks", "codebook_size", "qk_norm",
  )  # fmt: skip
  return {key: model[key] for key in keys}


@pytest.mark.parametrize(
  "freeze", ["", "^transformer/", "blocks/attention/", "joint_embedding"]
)
def test_a_stage_begins_with_a_music_model(music, freeze):
  """Catches parameters that are lost, or taken for those of conditions."""
  words = ("--config=musiclm_coarse:tiny", f"--config.freeze={freeze}")
  task = task_of(*words, **same_decoder(music))
  state, fresh = begun(task, music[0])
  found, before = whole(task, state), whole(task, fresh)
  taken = {path for path in found if path in music[1]}
  assert {"embedding", "head", "transformer/norm/scale"} <= taken
  for path, x in found.items():
    wanted = music[1][path] if path in taken else before[path]
    np.testing.assert_array_equal(x, wanted, err_msg=path)
  assert all(path.startswith("conditioner/") for path in found.keys() - taken)
  averaged = flat(state.ema)
  for path in taken & averaged.keys():
    np.testing.assert_array_equal(averaged[path], music[1][path])


@pytest.mark.parametrize(
  "more", [["--config.freeze=text_encoder"], ["--config.lora.rank=2"]]
)
def test_a_model_with_the_same_conditions_is_taken_whole(
  music, more, monkeypatch
):
  """Catches an encoder of texts that is lost, and stays random.

  And weights that are read once for each way to begin with them.
  """
  task = task_of("--config=lm_small:tiny", *more)
  read, count = bundle.read, []
  monkeypatch.setattr(
    bundle, "read", lambda *given, **named: count.append(1) or read(*given)
  )
  state, _ = begun(task, music[0])
  assert len(count) == 1 and not warm_start._read.cache_info().currsize
  found = whole(task, state)
  assert found.keys() == music[1].keys()
  for path, x in found.items():
    np.testing.assert_array_equal(x, music[1][path], err_msg=path)


def test_additions_to_the_decoder_of_a_model_with_other_conditions(music):
  """Catches low-rank additions that are taken for another decoder."""
  words = ("--config=musiclm_coarse:tiny", "--config.lora.rank=2")
  task = task_of(*words, **same_decoder(music))
  state, _ = begun(task, music[0])
  found = whole(task, state)
  np.testing.assert_array_equal(found["embedding"], music[1]["embedding"])


def test_another_decoder_is_refused(music):
  fields = same_decoder(music) | {"hidden": 24}
  task = task_of("--config=musiclm_coarse:tiny", **fields)
  with pytest.raises(UserError, match="must be the same, but for"):
    begun(task, music[0])
