"""Memorization: a planted copy, the threshold, and continuations.

Must catch: a copy that is not found, a clip of the same recording that counts
as a stranger, a threshold that strangers pass, continuations that are not the
likeliest ones or that see another clip's conditions.
"""

import json
import math

import jax
import numpy as np
import pytest
from known_tokens import Known, songs, write
from random_music import random_params
from scipy import stats

from mmdcodec import bundle
from mmdcodec.cli.main import main
from mmdcodec.errors import UserError
from mmdcodec.evaluate import memorization, token_sets, transport
from mmdcodec.evaluate.memorization import Examples
from mmdcodec.generation.stage import Stage
from mmdcodec.models import token_lm

pytestmark = pytest.mark.usefixtures("compile_fast")

CODES, CONTINUED = 40, 12
COSTS = transport.distances(
  np.random.default_rng(7).normal(size=(CODES, 4)) + 3.0
)


def random_examples(clips=24, tokens=40):
  random = np.random.default_rng(0)
  codes = random.integers(0, CODES, (clips, tokens)).astype(np.int32)
  return Examples(codes, {}, [f"song {i // 2}" for i in range(clips)])


def test_planted_copies_are_found():
  """Catches copies that are missed, and strangers that pass for them."""
  examples = random_examples()
  random = np.random.default_rng(1)
  made = {
    n: random.integers(0, CODES, (24, CONTINUED)).astype(np.int32)
    for n in (0, 16)
  }
  own = examples.codes[:, 16 : 16 + CONTINUED]
  made[16][:3] = own[:3]
  # The same tokens in another order, but for one: near, and not equal.
  made[16][3:5] = own[3:5, ::-1]
  made[16][3:5, 0] = own[3:5, 0]
  found = memorization.compare(examples, made, COSTS, negatives=400)
  free, told = found.rows
  assert told.exact.value == 3 / 24 and told.approximate.value == 5 / 24
  assert free.exact.value == free.approximate.value == 0
  # The interval of 0 of 12, the recordings.
  assert free.exact.low == 0 and found.recordings == 12
  assert free.exact.high == pytest.approx(1 - 0.025 ** (1 / 12))
  assert told.distance < found.strangers and math.isnan(free.match_entropy)
  bits = [memorization.entropy(row) for row in made[16][:5]]
  assert told.match_entropy == pytest.approx(np.mean(bits))
  # 400 pairs cannot resolve 1 in 10,000.
  assert found.negatives == 400 and found.false_positives == 0
  assert found.false_bound == pytest.approx(1 - 0.025 ** (1 / 400))
  # Only the longer prompt has enough tokens to repeat.
  assert free.repeated is None and told.repeated.value == 0
  smooth = memorization.compare(
    examples, {16: made[16]}, COSTS, negatives=20, epsilon=0.1
  )
  assert smooth.rows[0].exact == told.exact
  assert smooth.rows[0].approximate.value >= 3 / 24


def test_clips_of_a_recording_count_as_one():
  """Catches intervals that more crops of the same recordings make narrower."""
  few, many = memorization.share(3 / 12, 12), memorization.share(3 / 12, 48)
  for found, total in ((few, 12), (many, 48)):
    exact = stats.binomtest(total // 4, total).proportion_ci(0.95, "exact")
    assert found == pytest.approx((0.25, exact.low, exact.high))
  once = random_examples()
  made = np.where(np.arange(24)[:, None] < 6, once.codes[:, :CONTINUED], 0)
  found = []
  for times in (1, 3):
    codes = np.tile(once.codes, (times, 1))
    examples = Examples(codes, {}, times * once.sources)
    again = {0: np.tile(made, (times, 1))}
    found.append(
      memorization.compare(examples, again, COSTS, negatives=20).rows[0].exact
    )
  assert found[0] == found[1] and found[0].value == 6 / 24


def test_many_crops_of_one_recording():
  """Catches an interval as if uneven crops were of as many recordings."""
  once = random_examples()
  sources = ["long"] * 19 + [f"short {i}" for i in range(5)]
  examples = Examples(once.codes, {}, sources)
  made = {0: np.zeros((24, CONTINUED), np.int64)}
  found = memorization.compare(examples, made, COSTS, negatives=20).rows[0]
  independent = 24**2 / (19**2 + 5)
  high = 1 - 0.025 ** (1 / independent)  # of no match
  assert found.exact == pytest.approx((0.0, 0.0, high))


def test_equal_clips_match_even_if_strangers_are_equal_too():
  """Catches fewer approximate matches than exact ones, as with silence."""
  examples = random_examples()
  examples.codes[:] = 5
  made = {0: examples.codes[:, :CONTINUED].copy()}
  made[0][:6, 0] = 7
  found = memorization.compare(examples, made, COSTS, negatives=100)
  (row,) = found.rows
  assert found.threshold == 0
  assert row.exact.value == row.approximate.value == 18 / 24


def test_music_that_repeats_itself_is_shown():
  """Catches a baseline that is not the last tokens of the prompt."""
  examples = random_examples()
  examples.codes[:6, 16:28] = examples.codes[:6, 4:16]
  made = {16: np.zeros((24, CONTINUED), np.int32)}
  found = memorization.compare(examples, made, COSTS, negatives=300)
  (row,) = found.rows
  assert row.repeated.value >= 6 / 24 and row.exact.value == 0
  assert row.entropy == 0


def test_a_recording_is_no_stranger_to_itself():
  """Catches a threshold that clips of the same recording pull down."""
  examples = random_examples()
  # Both clips of a recording are the same, and every clip is copied.
  examples.codes[1::2] = examples.codes[::2]
  made = {0: examples.codes[:, :CONTINUED]}
  found = memorization.compare(examples, made, COSTS, negatives=10_000)
  assert found.rows[0].exact.value == found.rows[0].approximate.value == 1
  assert found.threshold > 0 and found.negatives == 24 * 22


def test_the_threshold_lets_few_strangers_pass():
  """Catches a quantile at the wrong end, or one too many."""
  apart = np.random.default_rng(0).permutation(20_000) / 1000
  assert (apart < memorization.calibrate(apart)).sum() == 2
  assert (apart[:99] < memorization.calibrate(apart[:99])).sum() == 0


SEMANTIC, JOINT = Known("semantic", 25.0, (CODES,)), Known("mulan", 1.0, (8, 8))


def make_stage(**changes):
  """A semantic stage with random weights, and its bundle's contents."""
  joint = dict(kind="tokens", codebooks=2, size=8)
  model = token_lm.preset(
    "tiny", codebooks=1, codebook_size=CODES, frames=20, width=8, layers=1,
    cross=False, conditions={"joint": joint}, **changes,
  )  # fmt: skip
  config = {
    "kind": "stage",
    "model": model,
    "target": {
      "tokenizer": "semantic", "hash": SEMANTIC.hash, "frame_rate": 25.0
    },
    "streams": {"joint": {"tokenizer": "mulan", "hash": JOINT.hash}},
  }  # fmt: skip
  params = random_params(token_lm.from_config(model))
  return config, {"params": params}


@pytest.fixture(scope="module")
def tokens(tmp_path_factory):
  folder = tmp_path_factory.mktemp("tokens")
  write(songs(folder), folder / "tokens", SEMANTIC, JOINT)
  return folder / "tokens"


def test_continuations_are_the_likeliest(tokens):
  """Catches sampling, other prompts and conditions of another clip."""
  stage = Stage(*make_stage())
  sources = token_sets.of_stage(stage, token_sets.find([tokens]))
  examples = memorization.read(stage, sources, 5, 18)
  assert examples.codes.shape == (5, 20) and len({*examples.sources}) > 1
  made = memorization.continue_greedily(stage, examples, 6, 8)
  codes = np.concatenate([examples.codes[:, :6], made], axis=1)[..., None]
  start = np.full((5, 1, 1), stage.model.special)
  logits = jax.jit(stage.model.apply)(
    {"params": stage.variables["params"]},
    np.concatenate([start, codes[:, :-1]], axis=1),
    examples.conditions,
  )
  want = np.asarray(logits).argmax(-1)[:, 6:, 0]
  np.testing.assert_array_equal(made, want)
  # The joint tokens count.
  other = jax.tree.map(lambda x: np.roll(x, 1, axis=0), examples.conditions)
  moved = memorization.continue_greedily(
    stage, examples._replace(conditions=other), 6, 8
  )
  assert (moved != made).any()


def test_tokens_without_repeats(tokens, monkeypatch):
  """Catches prompts with repeats for a stage that never saw any."""
  config, variables = make_stage(collapse=True)
  config["target"]["token_rate"] = 12.5
  stage = Stage(config, variables)
  sources = token_sets.of_stage(stage, token_sets.find([tokens]))
  original = type(sources[0]).__getitem__

  def held(self, index):
    found = original(self, index)
    found["codes"] = np.arange(len(found["codes"]))[:, None] // 2 % 8
    return found

  monkeypatch.setattr(type(sources[0]), "__getitem__", held)
  examples = memorization.read(stage, sources, 3, 8)
  assert (np.diff(examples.codes[:, :8], axis=1) != 0).all()
  with pytest.raises(UserError, match="in one record"):
    memorization.read(stage, sources, 3, 15)


class Copier:
  """Samples what the crop of the same beginning has next."""

  def __init__(self, codes):
    self.codes = codes

  def start(self, codes, keys):
    """Keeps the prompt."""
    self.left = True
    return codes

  def next_window(self, state, stride):
    """One window."""
    return self.left or None

  def sample_window(self, codes, window, inputs, options):
    """All of it."""
    assert options.temperature == 0 and options.guidance == 1
    self.left = False
    known = int((codes[0, :, 0] >= 0).sum())
    same = (self.codes[:, None, :known] == codes[None, :, :known, 0]).all(2)
    new = self.codes[same.argmax(0)][:, : codes.shape[1], None]
    yield type("State", (), {"codes": new})


def test_a_stage_that_copies(tokens):
  """Catches prompts of another clip, and clips compared at another place."""
  stage = Stage(*make_stage())
  sources = token_sets.of_stage(stage, token_sets.find([tokens]))
  examples = memorization.read(stage, sources, 8, 20)
  stage.sampler = Copier(examples.codes)
  centres = np.random.default_rng(0).normal(size=(CODES, 3))
  found = memorization.measure(
    stage, sources, centres, clips=8, prompts=(6, 8, 50), continued=12
  )
  assert [row.exact.value for row in found.rows] == [1, 1]
  assert found.left_out == [50] and found.continued == 12
  for arguments, words in (
    (dict(prompts=(50,)), "do not fit"),
    (dict(centres=centres[:9]), "9 centres"),
    (dict(continued=200, prompts=(0,)), "do not fit"),
  ):
    options = dict(centres=centres, clips=8, prompts=(0,), continued=12)
    with pytest.raises(UserError, match=words):
      memorization.measure(stage, sources, **(options | arguments))


def test_the_data_of_a_stage(tokens, tmp_path):
  """Catches codes of another tokenizer, and a stream that is missing."""
  stage = Stage(*make_stage())
  sets = token_sets.find([tokens])
  assert {each.tokenizer for each in sets} == {"semantic", "mulan"}
  (found,) = token_sets.of_stage(stage, sets)
  assert [*found[0]["streams"]] == ["joint"]
  (alone,) = token_sets.of_stage(stage, sets, without=("joint",))
  assert "streams" not in alone[0]
  only = token_sets.find([tokens / "semantic"])
  with pytest.raises(UserError, match="model's joint"):
    token_sets.of_stage(stage, only)
  stage.streams["melody"] = {"tokenizer": "melody_embedding", "hash": "x"}
  assert [*token_sets.of_stage(stage, sets)[0][0]["streams"]] == ["joint"]
  stage.target["hash"] = "another"
  with pytest.raises(UserError, match="model's target"):
    token_sets.of_stage(stage, sets)
  with pytest.raises(UserError, match="data set"):
    token_sets.find([tmp_path])


@pytest.mark.slow
def test_the_command(tokens, tmp_path, monkeypatch, capsys, fails):
  """Catches a table of other numbers than those in results.json."""
  from mmdcodec.cli import evaluate_memorization

  bundle.save(tmp_path / "stage", *make_stage())
  argv = ["evaluate", "memorization", "--model", str(tmp_path / "stage")]
  assert "needs --tokens" in fails(*argv)
  argv += ["--tokens", str(tokens), "--clips", "4"]
  assert "--semantic" in fails(*argv)
  assert "omit --audio" in fails(*argv, "--audio", tmp_path)
  assert "expected at least 2" in fails(*argv, "--clips", "1")
  centres = np.random.default_rng(0).normal(size=(CODES, 3))
  monkeypatch.setattr(
    evaluate_memorization, "find", lambda args, model: (model, centres)
  )
  assert "do not fit" in fails(*argv)
  monkeypatch.setattr(memorization.measure, "__kwdefaults__", {
    **memorization.measure.__kwdefaults__, "prompts": (0, 6), "continued": 8
  })  # fmt: skip
  out = tmp_path / "out"
  assert main([*argv, "--out", str(out)]) == 0
  printed = capsys.readouterr().out
  found = json.loads((out / "results.json").read_text())
  assert [row["prompt"] for row in found["rows"]] == [0, 6]
  assert found["clips"] == 4 and "97.5% confidence" in printed
  page = (out / "report.html").read_text()
  assert f"{found['threshold']:.3f}" in page and "Memorization" in page
