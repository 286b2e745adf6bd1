"""Language models over codes without repeats.

Must catch: repeats that are learned, or that a condition shows; a stage whose
codes are taken for frames, so that its music is too long or too fast; a codec
that is to decode such codes.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from known_tokens import Known, songs, write
from mmdcodec.configs import musiclm_coarse, musiclm_semantic
from random_music import random_params

import mmdcodec
from mmdcodec import bundle
from mmdcodec.errors import UserError
from mmdcodec.models import token_lm
from mmdcodec.models.code_likelihood import nats_of_codes
from mmdcodec.quantize import repeats
from mmdcodec.store import workdir
from mmdcodec.train import loop

LONG = np.array([[3, 3, 5, 5, 5, 3, 1, 1], [2, 2, 2, 2, 7, 7, 9, 9]])[..., None]
LENGTHS = np.array([8, 6])
SHORT = np.array([[3, 5, 3, 1, 0, 0, 0, 0], [2, 7, 0, 0, 0, 0, 0, 0]])[
  ..., None
]
KEPT = np.array([4, 2])


def make(**changes):
  """A tiny model over one codebook that reads tokens of the same kind."""
  fields = token_lm.preset(
    "tiny", codebooks=1, codebook_size=10, frames=8, width=8, hidden=8,
    layers=1, cross=False, pattern={"name": "flatten"}, **changes,
  )  # fmt: skip
  return token_lm.from_config(fields)


def tokens(**changes):
  """A condition of 8 frames."""
  fields = dict(kind="tokens", size=10, frames=8, frame_rate=1.0, **changes)
  return {"seen": fields}


@pytest.mark.parametrize("what", ("target", "condition"))
def test_what_is_learned(what, compile_fast):
  """Catches repeats in target or condition, and a place that they keep."""
  short, target = make(conditions=tokens()), what == "target"
  long = make(conditions=tokens(collapse=not target), collapse=target)
  params = random_params(short)

  def nats(model, codes, lengths):
    seen = {
      "tokens": jnp.asarray(codes if not target else SHORT),
      "lengths": jnp.asarray(lengths if not target else KEPT),
      "given": np.ones(2, bool),
    }
    if not target:
      codes, lengths = SHORT, KEPT
    run = jax.jit(
      lambda params, codes, lengths, seen: nats_of_codes(
        model, params, codes, lengths, {"seen": seen}
      )
    )
    return run(params, jnp.asarray(codes), jnp.asarray(lengths), seen)

  (found, mask), (want, other) = (
    nats(long, LONG, LENGTHS),
    nats(short, SHORT, KEPT),
  )
  assert mask.sum() == KEPT.sum() and np.any(want)
  np.testing.assert_array_equal(mask, other)
  np.testing.assert_allclose(found, want, atol=1e-5)
  # Without the option, repeats count.
  plain, _ = nats(short, LONG, LENGTHS)
  assert np.any(np.abs(plain - want) > 1e-3)


def test_frames_of_codes_without_repeats():
  """Catches codes that come too late, or that later ones move."""
  codes = np.arange(7)[None, :, None]
  found = repeats.stretch(codes, 2.5)[0, :, 0]
  want = [0, 0, 0, 1, 1, 2, 2, 2, 3, 3, 4, 4, 4, 5, 5, 6, 6]
  np.testing.assert_array_equal(found, want)
  part = repeats.stretch(codes[:, :4], 2.5)[0, :, 0]
  np.testing.assert_array_equal(part, want[:10])
  np.testing.assert_array_equal(repeats.stretch(codes, 1.0), codes)
  assert [repeats.count_kept(codes) for codes in LONG] == [4, 3]
  assert repeats.count_kept(np.zeros((0, 1))) == 0


@pytest.mark.slow
def test_a_stage_without_repeats(tmp_path, compile_fast):
  """Catches a rate that is not measured, kept, or used for the length."""
  semantic = Known("semantic", 25.0, (32,), hold=3)
  joint = Known("mulan", 1.0, (32,) * 12, window=2.0)
  audio = songs(tmp_path)
  paths = write(audio, tmp_path / "tokens", semantic, joint)
  config = musiclm_semantic.get_config("tiny").to_dict()
  config["model"] |= dict(collapse=True, width=8, hidden=8, layers=1, frames=50)
  config |= dict(steps=2, eval_every=2, save_every=2)
  config["optimizer"] |= dict(warmup=1)
  config["data"] |= dict(
    train=paths["semantic"],
    valid=paths["semantic"],
    streams=f"joint={paths['mulan']}",
  )
  with pytest.raises(UserError, match="cannot decode"):
    loop.train(config | {"codec": "x"}, tmp_path / "x", log=lambda line: None)
  loop.train(config, tmp_path / "run", log=lambda line: None)
  all_codes = [semantic.codes_of(song, 100) for song in (1, 2, 3)]
  kept = sum(map(repeats.count_kept, all_codes)) / 12
  rate = workdir.read_target(tmp_path / "run")["token_rate"]
  np.testing.assert_allclose(rate, kept)
  assert 7 < rate < 25 / 3 + 0.5
  bundle.export(tmp_path / "run", tmp_path / "bundle")
  stage = mmdcodec.load(tmp_path / "bundle")
  # Two seconds, as in training, but fewer frames.
  assert stage.seconds == 2.0 and stage.frame_rate == rate
  assert stage.model.frames == round(2 * rate)
  codes, lengths = stage.from_frames(LONG.astype(np.int32), LENGTHS)
  np.testing.assert_array_equal(codes, SHORT)
  np.testing.assert_array_equal(lengths, KEPT)
  made = np.arange(round(4 * rate), dtype=np.int32)[None, :, None]
  frames = stage.to_frames(made)
  assert abs(frames.shape[1] - 100) <= 4
  np.testing.assert_array_equal(
    stage.from_frames(frames, np.array([frames.shape[1]]))[0][:, :8],
    made[:, :8],
  )


def test_the_option_of_the_coarse_stage():
  """Catches a setting that the command line does not know."""
  config = musiclm_coarse.get_config()
  assert config.model.conditions.semantic.collapse is False
  assert config.model.collapse is False
