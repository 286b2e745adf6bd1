"""The pitch classes of a melody, added to the steps at the same time.

Must catch: notes that come late or early, in training, in sampling, or in a
later window; a melody that goes on after its end; a stage that does not get it.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from fake_stages import fake_musiclm
from mmdcodec.configs import musiclm_coarse, musiclm_semantic, small_musiclm

from mmdcodec.data import record_source
from mmdcodec.errors import UserError
from mmdcodec.models import lm_presets
from mmdcodec.models.condition import make_conditions
from mmdcodec.models.conditioning import Conditioner
from mmdcodec.train import token_data
from mmdcodec.train.lm_task import LMTask
from mmdcodec.workflows import stage_training

# Analysed ten times a second, for music of 50 frames a second.
FIELDS = lm_presets.CHROMA | dict(
  kind="melody", frames=20, frame_rate=25.0, added_to=2, rate=1000, hop=100
)


def condition(**changes):
  (found,) = make_conditions({"chroma": {**FIELDS, **changes}})
  return found


def test_every_frame_has_the_class_of_its_time():
  """Catches a melody that is shifted, and one that begins again."""
  tune = np.array([3, 5, 7, 9, 11, 0], np.int32)
  found = condition().arrays([tune, None], 0.2)
  middles = 0.2 + (np.arange(20) + 0.5) / 25
  want = [tune[round(t * 10)] if round(t * 10) < 6 else -1 for t in middles]
  assert want[0] == 7 and want[-1] == -1 and 0 in want
  np.testing.assert_array_equal(found["classes"][0], want)
  assert found["given"].tolist() == [True, False]
  # A crop of training at the same time reads the same.
  record = condition().read({"melody": tune}, 0.2)
  np.testing.assert_array_equal(record["classes"], want)


def test_vectors_are_added_where_there_is_a_melody():
  """Catches class 0 in place of silence, and an absent melody that is heard."""
  module = Conditioner(width=8, conditions={"chroma": FIELDS}, cross=False)
  arrays = condition().arrays([np.array([4, 2], np.int32)] * 2, 0.0)
  arrays["given"] = np.array([True, False])
  params = module.init(jax.random.key(0), {"chroma": arrays})
  encoded = module.apply(params, {"chroma": arrays})
  table = params["params"]["chroma_embedding"]
  want = np.zeros((2, 40, 8), np.float32)
  for frame, of in enumerate(np.repeat(arrays["classes"][0], 2)):
    if of >= 0:
      want[0, frame] = table[of]
  assert {4, 2, -1} == {*arrays["classes"][0]}
  np.testing.assert_array_equal(encoded.added, want)
  assert encoded.prefix is None and encoded.states is None


def test_a_prefix_needs_no_frame_rate():
  with pytest.raises(UserError, match="needs a frame_rate"):
    condition(frame_rate=0.0)
  assert condition(added_to=0).added == 0


def test_the_ratio_of_frame_rates():
  """Catches notes that drift away from the music."""
  config = {"data": {"frame_rate": 75.0, "streams": ""}}
  model = LMTask(musiclm_coarse.get_config("tiny").to_dict()).model
  check = lambda **changes: token_data.check(
    config, model, [condition(**changes)], []
  )
  with pytest.raises(UserError, match=r"chroma.frame_rate=37\.5"):
    check()
  assert model.frames == 50
  with pytest.raises(UserError, match="chroma.frames=25"):
    check(frame_rate=37.5, frames=24)
  check(frame_rate=37.5, frames=25)


def test_small_stages_have_the_condition():
  """Catches a stage that learns the melody at another rate than its codes."""
  for module in (musiclm_semantic, musiclm_coarse):
    config = module.get_config("small")
    fields = config.model.conditions.chroma
    assert fields.frame_rate == config.data.frame_rate * fields.added_to
    assert fields.frames == config.model.frames
    assert config.chroma_dropout == 0.5
    assert "chroma" not in module.get_config().model.conditions


def classes_of(call):
  arrays = call[2]["chroma"]
  return [
    row if given else None
    for row, given in zip(arrays["classes"], arrays["given"], strict=True)
  ]


def test_windows_get_the_notes_of_their_time():
  """Catches a window with the notes of the first one, and a missing stage."""
  takes = dict(takes=("joint", "semantic", "chroma"))
  music = fake_musiclm(("melody",), coarse=takes)
  assert music.takes("melody")
  rng = np.random.default_rng(0)
  tunes = [rng.standard_normal(800 * 2), rng.standard_normal(800 * 3)]
  tunes = [tune.astype(np.float32) / 9 for tune in tunes]
  music.generate_tokens(["a", "b"], seconds=2.4, melody=tunes, guidance=2.0)
  stage = music.parts.stages["coarse"]
  (chroma,) = (each for each in stage.conditions if each.name == "chroma")
  items = chroma.check(tunes, 800)
  starts = [call[1].start for call in stage.sampler.calls]
  assert starts == [0, 16, 32, 48, 64]
  for call in stage.sampler.calls:
    want = chroma.arrays(items, call[1].start / 40)["classes"]
    np.testing.assert_array_equal(np.stack(classes_of(call)), want)
  assert (want[0, -8:] == -1).all() and (want[1] >= 0).all()
  music.generate_tokens("a", seconds=1.0)
  assert classes_of(stage.sampler.calls[-1]) == [None]


def test_a_model_without_melody():
  with pytest.raises(UserError, match="takes no melody"):
    fake_musiclm(("melody",)).generate("a", seconds=2, melody=jnp.ones(800) / 2)


def test_the_quickstart_gives_melodies_the_rate_of_the_codes(
  tmp_path, monkeypatch
):
  """Catches crops of another length or rate than their melodies."""
  rates = {
    "codec": (75.0, [8] * 4),
    "semantic": (25.0, [16]),
    "mulan": (1.0, [4]),
    "melody_embedding": (1 / 3, [4]),
  }

  def describe(path):
    rate, sizes = rates[path.name]
    return dict(frame_rate=rate, codebook_sizes=sizes, codebooks=len(sizes))

  monkeypatch.setattr(record_source, "describe", describe)
  for name, rate in (("semantic", 25.0), ("coarse", 75.0)):
    config = small_musiclm.get_config(f"{name}_lm").to_dict()
    config = stage_training.fit(config, name, tmp_path)
    fields = config["model"]["conditions"]["chroma"]
    assert fields["frames"] == config["model"]["frames"]
    assert fields["frame_rate"] == config["data"]["frame_rate"] == rate
    assert "chroma" not in config["data"]["streams"]
