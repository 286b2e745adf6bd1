"""A hierarchy of stages: who makes what, when, from which tokens.

Must catch: music that depends on its batch, on streaming or on how many chunks
are made at a time; prompts of a story that reach the wrong windows; a
continuation that changes what was given; codes that are not made (-1) in the
next stage or in the codec; stages that are not aligned in time.

Failures of the open re-implementations by their numbers in the project's notes:
-1 after an end token in the next stage (2), tokens of a prompt that are passed
over (6), conditions that have no effect (12). The stages here are fakes, see
`fake_stages`; `test_musiclm_bundle.py` has real ones.
"""

import numpy as np
import pytest
from fake_stages import RATE, fake_musiclm

from mmdcodec.errors import UserError
from mmdcodec.generation import stage_runs, windows
from mmdcodec.generation.story import Story
from mmdcodec.generation.windows import Window


@pytest.fixture
def music():
  return fake_musiclm()


def noise(seconds, seed=0):
  rng = np.random.default_rng(seed)
  return rng.uniform(-0.5, 0.5, (round(seconds * RATE), 1)).astype(np.float32)


def same(one, other, items=slice(None)):
  """Whether two dicts of tokens are equal, for some items of the second."""
  for name in one:
    np.testing.assert_array_equal(one[name], other[name][items], err_msg=name)


def test_shapes_and_codes(music):
  """Catches codes that nobody made, levels of other lengths, lost frames."""
  tokens = music.generate_tokens(["a", "b", "a"], seconds=3.25)
  assert {k: v.shape for k, v in tokens.items()} == {
    "joint": (3, 3), "semantic": (3, 82, 1), "coarse": (3, 130, 2),
    "fine": (3, 130, 2),
  }  # fmt: skip
  assert all(codes.min() >= 0 for codes in tokens.values())
  codes = music.generate_codes(["a", "b", "a"], seconds=3.25)
  assert not music.codec.decoded
  joined = np.concatenate([tokens["coarse"], tokens["fine"]], 2)
  np.testing.assert_array_equal(codes, joined)
  audio = music.generate(["a", "b", "a"], seconds=3.25)
  np.testing.assert_array_equal(audio, music.codec.decode(codes))
  # The same prompt and another seed.
  assert (tokens["joint"][0] == tokens["joint"][2]).all()
  for name in ("semantic", "coarse", "fine"):
    assert (tokens[name][0] != tokens[name][2]).mean() > 0.5


def test_an_item_is_alone(music):
  """Catches music that depends on batch mates, also on their prompts' length.

  And on whether they have a melody, or an audio prompt.
  """
  texts, audio = ["a", "", "c"], [noise(t, 1) for t in (0.3, 1.9, 1.13)]
  options = dict(seconds=3.2, audio=audio, melody=noise(1.7), guidance=2.0)
  together = music.generate_tokens(texts, seed=5, **options)
  for i, text in enumerate(texts):
    options["audio"] = audio[i]
    same(music.generate_tokens(text, seed=5 + i, **options), together, [i])


@pytest.mark.parametrize("block", (0.1, 0.45, 50))
@pytest.mark.parametrize(
  "without, overlap", (((), None), ((), 0), (("fine_lm",), None))
)
def test_looking_changes_nothing(block, without, overlap):
  """Catches a stream whose stages are told less, or later, or else."""
  music = fake_musiclm(without)
  options = dict(seconds=3.2, seed=3, audio=noise(0.5), stride=0.5)
  options["overlap"] = overlap
  codes = music.generate_codes(["a", "b"], **options)
  chunks = list(music.stream(["a", "b"], block=block, **options))
  assert len(chunks) == {0.1: 32, 0.45: 8, 50: 1}[block]
  streamed = np.concatenate([chunk.codes for chunk in chunks], 1)
  np.testing.assert_array_equal(streamed, codes)
  audio = np.concatenate([chunk.audio for chunk in chunks], 1)
  np.testing.assert_array_equal(audio, music.generate(["a", "b"], **options))
  # A callback hears the same, and may end it.
  heard = []
  ended = music.generate(
    ["a", "b"], block=0.3, **options,
    callback=lambda chunk: heard.append(chunk) or len(heard) == 2,
  )  # fmt: skip
  assert ended.shape[1] == 24 * music.codec.stride
  np.testing.assert_array_equal(ended, audio[:, : ended.shape[1]])


def test_a_stream_begins_early(music):
  """Catches a stream that waits for all windows of the stage above."""
  stream = music.stream("a", seconds=60, block=0.3)
  next(stream)
  made = {
    name: stage.sampler.calls for name, stage in music.parts.stages.items()
  }
  assert [len(calls) for calls in made.values()] == [1, 1, 1]


def test_chunks_of_any_number(music, monkeypatch):
  """Catches a chunk that depends on those beside it."""
  options = dict(seconds=3.2, audio=[noise(0.4), noise(1.6)], overlap=0)
  want = music.generate_tokens(["a", "b"], **options)
  fine = music.parts.stages["fine"].sampler
  # Two items of eleven chunks; six of these are given as a whole.
  rows = [len(state.codes) for state, *_ in fine.calls]
  assert rows == [16]
  for most, calls in ((1, 8), (5, 4), (7, 3)):
    fine.calls.clear()
    monkeypatch.setattr(stage_runs, "ROWS", most)
    same(music.generate_tokens(["a", "b"], **options), want)
    rows = [len(state.codes) for state, *_ in fine.calls]
    assert len(rows) == calls and len({*rows}) == 1
    assert rows[0] <= max(most, 2)


def test_windows_follow_the_paper():
  """Catches windows that leave gaps, and borders that are passed over."""
  plan = windows.plan(1500, 750, 375)
  assert plan == [
    (Window(0, 750), 0), (Window(375, 1125), 750), (Window(750, 1500), 1125)
  ]  # fmt: skip
  for total, stride in ((750, 375), (2000, 375), (751, 100)):
    plain = windows.windows(total, 0, 750, stride)
    assert [each for each, _ in windows.plan(total, 750, stride)] == plain
  story = windows.plan(1500, 750, 375, [375, 500, 2000])
  assert story == [
    (Window(0, 375), 0), (Window(0, 500), 375), (Window(125, 875), 500),
    (Window(500, 1250), 875), (Window(875, 1500), 1250),
  ]  # fmt: skip


def test_a_stage_with_an_attention_window():
  """Catches windows where none are needed, and none where they are."""
  fields = dict(window=8, positions="none")
  music = fake_musiclm(semantic=fields)
  calls = music.parts.stages["semantic"].sampler.calls
  for options, count in (
    (dict(texts="a"), 1),
    (dict(texts="a", stride=0.8), 4),
    (dict(texts="a", melody=noise(3)), 4),
    (dict(story=[(0, "a"), (2, "b")]), 5),
  ):
    calls.clear()
    music.generate_tokens(seconds=4, **options)
    assert len(calls) == count


def test_semantic_tokens_without_repeats():
  """Catches tokens that last too long, or are made too late for the stream."""
  music = fake_musiclm(semantic=dict(collapse=True, frames=14))
  audio = np.repeat(noise(0.2), 5, 0)
  options = dict(texts="a", seconds=3.2, audio=audio)
  tokens = music.generate_tokens(**options)
  assert tokens["semantic"].shape == (1, 80, 1)
  heard = music.semantic.encode(audio)[0, :, 0]
  kept = heard[np.flatnonzero(np.diff(heard, prepend=-1))]
  want = np.repeat(kept, 3)[:80]
  np.testing.assert_array_equal(tokens["semantic"][0, : len(want), 0], want)
  later = tokens["semantic"][0, len(want) // 3 * 3 : 78, 0].reshape(-1, 3)
  assert (later == later[:, :1]).all() and len({*later[:, 0]}) > 1
  for call in music.parts.stages["coarse"].sampler.calls:
    at = call[1].start * 25 // 40
    seen = tokens["semantic"][0, at : at + 20]
    np.testing.assert_array_equal(given(call, "semantic"), seen)
  chunks = list(music.stream(block=0.3, **options))
  streamed = np.concatenate([chunk.codes for chunk in chunks], 1)
  joined = music.join(tokens["coarse"], tokens["fine"])
  np.testing.assert_array_equal(streamed, joined)
  semantic, known = tokens["semantic"], music.semantic.encode(audio)
  again = music.make_semantic(tokens["joint"], 3.2, known=known)
  np.testing.assert_array_equal(again, semantic)
  coarse = music.make_coarse(tokens["joint"], semantic, known=None)
  assert coarse.shape == tokens["coarse"].shape


def given(call, name, item=0):
  """The tokens of a condition that a stage was given; None without."""
  arrays = call[2][name]
  if not arrays["given"][item]:
    return None
  return arrays["tokens"][item, : arrays["lengths"][item]]


def test_a_story_reaches_its_windows(music):
  """Catches a prompt that comes late, early, or not at all."""
  story = [(0, ["a", "x"]), (1.28, ["b", "y"]), (2.4, "c")]
  tokens = music.generate_tokens(story=story, seconds=4.0)
  joint = lambda text: music.joint_tokens(text)
  stages = music.parts.stages
  # Semantic windows of 1.6 s end at 1.28 and 2.4 s, and repeat 0.8 s.
  calls = stages["semantic"].sampler.calls
  assert [call[1] for call in calls] == [
    Window(0, 32), Window(12, 52), Window(32, 60), Window(40, 80),
    Window(60, 100),
  ]  # fmt: skip
  for call, pair in zip(calls, ("ax", "by", "by", "cc", "cc"), strict=True):
    for item, text in enumerate(pair):
      np.testing.assert_array_equal(given(call, "joint", item), joint(text))
  # Coarse windows add 0.4 s: the prompt is that of the middle of it.
  for call in stages["coarse"].sampler.calls:
    new = call[1].start + 16 if call[1].start else 0
    middle = (new + call[1].end) / 2 / 40
    text = "ax" if middle < 1.28 else "by" if middle < 2.4 else "cc"
    for item in range(2):
      want = joint(text[item])
      np.testing.assert_array_equal(given(call, "joint", item), want)
  # So do those of the fine stage, which add 0.225 s.
  for call in stages["fine"].sampler.calls:
    new = call[1].start + 3 if call[1].start else 0
    middle = (new + call[1].end) / 2 / 40
    text = "ax" if middle < 1.28 else "by" if middle < 2.4 else "cc"
    for item in range(2):
      want = joint(text[item])
      np.testing.assert_array_equal(given(call, "joint", item), want)
  # The form in which the tokens are returned makes the same music.
  assert [second for second, _ in tokens["joint"]] == [0, 1.28, 2.4]
  semantic = music.make_semantic(tokens["joint"], 4.0)
  np.testing.assert_array_equal(semantic, tokens["semantic"])
  # What came before the border is that of the first prompt alone.
  plain = music.generate_tokens(["a", "x"], seconds=1.28)
  np.testing.assert_array_equal(plain["semantic"], tokens["semantic"][:, :32])


def test_stages_are_aligned_in_time(music):
  """Catches tokens of another moment, at rates that do not divide."""
  tokens = music.generate_tokens("a", seconds=3.2)
  for call in music.parts.stages["coarse"].sampler.calls:
    at = call[1].start * 25 // 40
    want = tokens["semantic"][0, at : at + 20]
    np.testing.assert_array_equal(given(call, "semantic"), want)
  calls = music.parts.stages["fine"].sampler.calls
  assert len(calls) == 14
  for call in calls:
    want = tokens["coarse"][0, call[1].start : call[1].end]
    np.testing.assert_array_equal(given(call, "coarse"), want)


def test_melody_by_time(music):
  """Catches a melody that is late, and one that has ended or is missing."""
  melody = noise(2.0)
  codes = music.melody.encode(melody)[0]
  assert len(codes) == 3
  music.generate_tokens("a", seconds=4.8, melody=melody)
  calls = music.parts.stages["semantic"].sampler.calls
  assert [call[1].start for call in calls] == [0, 20, 40, 60, 80]
  for call, want in zip(
    calls, (codes[:2], codes[1:3], codes[2:], None, None), strict=True
  ):
    found = given(call, "melody")
    assert (found is None) == (want is None)
    if want is not None:
      np.testing.assert_array_equal(found, want)
  # Its rows overlap: the nearest to a window at 2 s begin at 2.25 s, not 1.5.
  calls.clear()
  melody = noise(3.5)
  music.generate_tokens("a", seconds=3.6, melody=melody, stride=1)
  assert [call[1].start for call in calls] == [0, 25, 50]
  want = music.melody.encode(melody)[0, 3:5]
  np.testing.assert_array_equal(given(calls[2], "melody"), want)
  # A melody that is longer than the music, and none.
  calls.clear()
  music.generate_tokens("a", seconds=1.6, melody=noise(20))
  music.generate_tokens("a", seconds=1.6)
  assert len(given(calls[0], "melody")) == 2
  assert given(calls[1], "melody") is None


def test_continuation_keeps_what_is_given(music):
  """Catches a prompt that is passed over, or changed, in any level."""
  audio = [noise(0.77, 1), noise(1.9, 2)]
  tokens = music.generate_tokens("a", seconds=3.2, audio=audio)
  for i, clip in enumerate(audio):
    codes, heard = music.codec.encode(clip)[0], music.semantic.encode(clip)[0]
    size = len(codes)
    np.testing.assert_array_equal(tokens["coarse"][i, :size], codes[:, :2])
    np.testing.assert_array_equal(tokens["fine"][i, :size], codes[:, 2:])
    np.testing.assert_array_equal(tokens["semantic"][i, : len(heard)], heard)
  # Without a text, the joint tokens are the prompt's own.
  free = music.generate_tokens(seconds=3.2, audio=audio[0])
  np.testing.assert_array_equal(
    free["joint"], music.joint_tokens(audio=audio[0])
  )
  assert (free["joint"] != tokens["joint"][:1]).any()
  # What follows depends on the prompt.
  plain = music.generate_tokens("a", seconds=3.2)
  for name in ("semantic", "coarse", "fine"):
    end = tokens[name][0, -10:] != plain[name][0, -10:]
    assert end.mean() > 0.5, name


def test_one_stage_at_a_time(music):
  """Catches single stages that make other tokens than the whole."""
  tokens = music.generate_tokens(["a", ""], seconds=3.2, seed=4)
  assert (tokens["joint"][1] == -1).all()
  joint = tokens["joint"]
  semantic = music.make_semantic(joint, 3.2, seed=4)
  np.testing.assert_array_equal(semantic, tokens["semantic"])
  coarse = music.make_coarse(joint, semantic, seed=4)
  np.testing.assert_array_equal(coarse, tokens["coarse"])
  fine = music.make_fine(joint, coarse, seed=4)
  np.testing.assert_array_equal(fine, tokens["fine"])
  np.testing.assert_array_equal(
    music.decode(coarse, fine), music.generate(["a", ""], seconds=3.2, seed=4)
  )
  # From the same tokens above, other seeds make other music.
  again = music.make_coarse(joint[:1], semantic[:1], seed=[1, 2, 3])
  assert len({codes.tobytes() for codes in again}) == 3
  known = music.make_coarse(joint, semantic, seed=4, known=coarse[:, :20])
  np.testing.assert_array_equal(known, coarse)
  for wrong, what in (
    (lambda: music.make_coarse(joint), "seconds"),
    (lambda: music.make_coarse(joint, seconds=1), "needs semantic"),
    (lambda: music.make_coarse(joint, semantic - 1), "semantic tokens must"),
    (lambda: music.make_fine(joint, fine + 32), "coarse tokens must"),
    (lambda: music.make_fine(joint + 16, coarse), "joint tokens must"),
    (lambda: music.make_semantic(joint, 3, known=semantic), "ask for more"),
    (
      lambda: music.make_semantic([(0, joint), (1, joint[[0, 1, 0]])], 3),
      "2 of joint tokens",
    ),
  ):
    with pytest.raises(UserError, match=what):
      wrong()
  for name in ("temprature", "overlap"):
    with pytest.raises(TypeError, match=f"no option '{name}'"):
      music.make_semantic(joint, 3, **{name: 0})


def test_best_of(music):
  """Catches a choice that is not the best, and prompts of other spans."""
  story = [(0, ["a", "b"]), (1.0, ["c", "d"])]
  options = dict(seconds=2.0, story=story, seed=9)
  best = music.generate(best_of=4, **options)
  score = lambda audio: sum(
    (music.joint.embed_audio(part) * music.joint.embed_text(texts)).sum(1) / 2
    for part, (_, texts) in zip(
      np.split(np.clip(audio, -1, 1), 2, axis=1), story, strict=True
    )
  )
  plain = score(music.generate(**options))
  three = score(music.generate(best_of=3, **options))
  assert (score(best) >= three).all() and (three >= plain).all()
  assert (score(best) > plain).any()
  tokens = music.generate_tokens(best_of=4, **options)
  audio = music.decode(tokens["coarse"], tokens["fine"])
  np.testing.assert_array_equal(audio, best)
  alone = dict(story=[(0, "b"), (1.0, "d")], seconds=2.0, best_of=4)
  np.testing.assert_array_equal(music.generate(seed=10, **alone)[0], best[1])
  # One seed in a list is that of all items.
  same_seed = music.generate(best_of=4, **options | dict(seed=[10]))
  np.testing.assert_array_equal(same_seed[1], best[1])
  for wrong in (dict(texts=["a", ""]), dict(texts=None)):
    with pytest.raises(UserError, match="best_of"):
      music.generate(best_of=2, seconds=1, **wrong)
  with pytest.raises(UserError, match="streamed"):
    next(music.stream("a", best_of=2, seconds=1))


@pytest.mark.parametrize("overlap", (None, 0))
def test_progress_names_the_stage(music, overlap):
  """Catches progress that stands still, goes back, or never ends."""
  told, options = [], dict(seconds=3.2, overlap=overlap)
  music.generate("a", progress=lambda *line: told.append(line), **options)
  totals = {"semantic": 80, "coarse": 128, "fine": 128}
  assert [*dict.fromkeys(stage for stage, *_ in told)] == [*totals]
  for stage, total in totals.items():
    done = [done for name, done, of in told if name == stage and of == total]
    assert done == sorted(done) and done[-1] == total
    assert len(done) >= total // 40 or (stage == "fine" and overlap == 0)
  # What is given counts, too.
  told.clear()
  options["audio"] = noise(1.6)
  music.generate(progress=lambda *line: told.append(line), **options)
  assert told[-1] == ("fine", 128, 128)


def test_hierarchies_with_fewer_stages():
  """Catches parts that are taken for granted."""
  audiolm = fake_musiclm(("joint", "melody"))
  tokens = audiolm.generate_tokens(seconds=2, seed=[3, 4])
  assert tokens["joint"] is None and not audiolm.takes("text")
  assert tokens["fine"].shape == (2, 80, 2)
  with pytest.raises(UserError, match="takes no text"):
    audiolm.generate("calm", seconds=2)
  ablation = fake_musiclm(("semantic", "melody", "semantic_lm"))
  tokens = ablation.generate_tokens("a", seconds=2, audio=noise(0.5))
  assert [*tokens] == ["joint", "coarse", "fine"]
  with pytest.raises(UserError, match="takes no melody"):
    ablation.generate("a", seconds=2, melody=noise(1))
  with pytest.raises(UserError, match="stride"):
    ablation.generate("a", seconds=2, stride=1)
  assert fake_musiclm(("fine_lm",)).generate_codes("a", seconds=1).shape[2] == 2


def test_conditions_that_training_never_saw():
  """Catches tokens given to a stage that cannot know them."""
  music = fake_musiclm(("melody",), semantic=dict(deaf=("melody",)))
  assert not music.takes("melody")
  music.generate_tokens("a", seconds=1)
  (call,) = music.parts.stages["semantic"].sampler.calls
  assert given(call, "melody") is None and given(call, "joint") is not None
  ablation = fake_musiclm(
    ("semantic", "melody", "semantic_lm"), coarse=dict(deaf=("semantic",))
  )
  tokens = ablation.generate_tokens("a", seconds=1)
  assert [*tokens] == ["joint", "coarse", "fine"]
  calls = ablation.parts.stages["coarse"].sampler.calls
  assert all(given(call, "semantic") is None for call in calls)
  # A stage that knows melodies works without the embedding.
  assert not fake_musiclm(("melody",), semantic=dict()).takes("melody")


def test_options_by_stage(music):
  """Catches options that reach another stage, or none."""
  options = dict(
    temperature={"coarse": 0.5}, top_k=7, top_p={"fine": 0.9}, guidance=3
  )
  music.generate_tokens("a", seconds=1, **options)
  music.generate_tokens("", seconds=1, guidance=3)
  found = {
    name: [call[3] for call in stage.sampler.calls]
    for name, stage in music.parts.stages.items()
  }
  first = {name: calls[0] for name, calls in found.items()}
  assert [first[k].temperature for k in first] == [1.0, 0.5, 0.4]
  assert [first[k].top_p for k in first] == [None, None, 0.9]
  assert all(each.top_k == 7 and each.guidance == 3 for each in first.values())
  # Guidance never takes the tokens of the stage above away, and needs a prompt.
  assert all(each.removed == ("joint",) for each in first.values())
  assert all(calls[-1].guidance == 1 for calls in found.values())


def test_wrong_orders(music):
  """Catches mistakes that end elsewhere than in one sentence."""
  for options, what in (
    (dict(seconds=0), "seconds is 0"),
    (dict(seconds=float("nan")), "seconds is nan"),
    (dict(seconds=1e9), "too long"),
    (dict(seconds=1e308), "too long"),
    (dict(seed=-1), "seeds are"),
    (dict(seed=[1, 2], texts=["a", "b", "c"]), "2 of seed"),
    (dict(guidance=-1), "guidance is -1"),
    (dict(top_p={"coarse": 2}), "top_p is 2"),
    (dict(temperature={"middle": 1}), "'middle'"),
    (dict(stride=1.6), "stride is 1.6"),
    (dict(stride=1e308), "stride is 1e"),
    (dict(overlap=0.3), "below 0.3 s"),
    (dict(overlap=-1), "overlap is -1"),
    (dict(overlap=1e308), "overlap is 1e"),
    (dict(best_of=0), "best_of is 0"),
    (dict(audio=noise(10)), "ask for more"),
    (dict(audio=noise(1) * np.nan), "audio"),
    (dict(melody=noise(1) * np.nan), "melody"),
    (dict(joint=[[1, 2]]), "joint tokens must"),
    (dict(joint=[[1, 2, 3]], texts="a"), "place of texts"),
    (dict(story=[(0, "a")], texts="a"), "place of the prompt"),
    (dict(story=[]), "at least one"),
    (dict(story=[(0, "a"), 3]), "at least one"),
    (dict(story=[(1, "a")]), "begins at 1 s"),
    (dict(story=[(0, "a"), (2, "b"), (1, "c")]), "from 2 s to 1 s"),
    (dict(story=[(0, "a"), (2, "b"), (2, "c")]), "ascend"),
    (dict(story=[(0, "a"), (10, "b")]), "over after 10 s"),
    (dict(story=[(0, ["a", "b", "c"]), (2, ["b", "c"])]), "2 of texts"),
    (dict(story=[(0, 3)]), "prompts"),
  ):
    with pytest.raises(UserError, match=what):
      music.check(**options)
  assert not any(stage.sampler.calls for stage in music.parts.stages.values())


def test_the_right_prompt_at_a_time():
  """Catches an index that is off by one."""
  story = Story((0.0, 1.0, 2.5), ("a", "b", "c"))
  times = (0, 0.99, 1, 2.4, 2.5, 100)
  assert "".join(map(story.at, times)) == "aabbcc"
