"""Music models that are ready to use: from prompts to codes and audio.

Must catch: music that depends on what is beside it or on how it is looked at;
a seam between windows; an audio prompt or a melody that is not what was given;
mistakes without a clear word. `test_sampling` has the draws alone.
"""

import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from random_music import random_music

from mmdcodec.errors import UserError
from mmdcodec.generation import sampling, windows
from mmdcodec.generation.musicgen import LoadedMusic
from mmdcodec.generation.token_sampler import TokenSampler
from mmdcodec.models import text_tokens
from mmdcodec.models.conditioning import drop
from mmdcodec.models.melody_condition import Melody
from mmdcodec.models.text_condition import Text
from mmdcodec.nn import cache
from mmdcodec.parallel import mesh as mesh_lib

MELODY = dict(classes=12, frames=6, rate=8000, window=512, hop=256)
FRAMES = 24


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  """A place for bundles."""
  return tmp_path_factory.mktemp("music")


@pytest.fixture(scope="module")
def music(folder):
  """A model with text, made once."""
  return LoadedMusic(*random_music(folder / "text", frames=FRAMES))


def seconds_of(music, frames):
  return frames / music.frame_rate


def naive(music, codes, text, *, guidance, pattern):
  """Greedy codes of one item: the whole sequence again for every step."""
  model, params = music.model, {"params": music.variables["params"]}
  tokens = [*text.encode(), 256]
  inputs = {
    "text": dict(
      tokens=np.array([tokens]),
      lengths=np.array([len(tokens)]),
      given=np.ones(1, bool),
    )
  }
  none = drop(music.conditions, inputs, np.zeros(1, bool))
  apply = jax.jit(model.apply)
  table = pattern.frame_of
  sequence = np.full((1, *table.shape), model.special)
  for step in range(1, len(table)):
    given = apply(params, sequence, inputs)[0, step - 1]
    free = apply(params, sequence, none)[0, step - 1]
    best = np.argmax(free + guidance * (given - free), axis=-1)
    for k in range(model.codebooks):
      frame = table[step, k]
      if frame >= 0:
        known = codes[frame, k]
        sequence[0, step, k] = best[k] if known < 0 else known
  return np.asarray(pattern.revert(sequence))[0]


def test_greedy_is_the_likeliest_step_by_step(music, compile_fast):
  """Catches a cache, a pattern, a mask or guidance that is not the model's."""
  texts, frames = ["piano", "a very long prompt of a slow guitar"], 7
  known = np.full((2, frames, music.model.codebooks), -1, np.int32)
  audio = np.random.default_rng(0).normal(0, 0.3, (2 * 20 * 20, 1))
  audio = [audio[: 2 * music.codec.model.stride], audio[:37]]
  for i, clip in enumerate(audio):
    found = music.codec.encode(clip)[0]
    known[i, : len(found)] = found
  assert (known[1, 3] < 0).all() and (known[0, 1] >= 0).all()
  codes = music.generate_codes(
    texts, seconds=seconds_of(music, frames), temperature=0, guidance=2.5,
    audio=audio,
  )  # fmt: skip
  pattern = music.model.pattern_of(frames)
  for i, text in enumerate(texts):
    want = naive(music, known[i], text, guidance=2.5, pattern=pattern)
    np.testing.assert_array_equal(codes[i], want)
    np.testing.assert_array_equal(
      codes[i][known[i] >= 0], known[i][known[i] >= 0]
    )


def test_an_item_is_alone(music, compile_fast):
  """Catches music that depends on its batch, its place in it, or padding."""
  texts = ["drums", "", "a long text about a fast violin", "x"]
  options = dict(seconds=seconds_of(music, 10), top_k=5)
  together = music.generate_codes(texts, seed=7, **options)
  assert len({codes.tobytes() for codes in together}) == 4
  for i, text in enumerate(texts):
    alone = music.generate_codes(text, seed=7 + i, **options)
    np.testing.assert_array_equal(alone[0], together[i])
  turned = music.generate_codes(texts[::-1], seed=[10, 9, 8, 7], **options)
  np.testing.assert_array_equal(turned[::-1], together)


def test_a_model_without_text(folder, compile_fast):
  """Catches empty prompts that do not count, and texts that are passed over."""
  given = dict(frames=FRAMES, conditions={}, cross=False)
  music = LoadedMusic(*random_music(folder / "free", **given))
  seconds = seconds_of(music, 6)
  codes = music.generate_codes(["", None, ""], seconds=seconds, seed=3)
  assert len(codes) == 3
  alone = music.generate_codes(seconds=seconds, seed=4)
  np.testing.assert_array_equal(codes[1:2], alone)
  with pytest.raises(UserError, match="takes no text"):
    music.generate_codes(["", "calm"], seconds=seconds)


def test_a_seed_in_an_array(music):
  """Catches one that is refused, or taken for a list."""
  key = lambda seed: jax.random.key_data(music.check(seconds=1, seed=seed).keys)
  np.testing.assert_array_equal(key(np.array(5)), key(5))


def test_guidance_needs_a_condition(music, compile_fast):
  """Catches music from nothing that takes twice its time for no change."""
  guidance = lambda *texts: music.check(*texts, seconds=1).options.guidance
  assert guidance() == guidance(["", " "]) == 1.0
  assert guidance(["", "calm"]) == 3.0
  options = dict(seconds=seconds_of(music, 6), seed=3)
  both = music.generate_codes(["", "calm"], **options)
  np.testing.assert_array_equal(both[:1], music.generate_codes(**options))


def test_beginnings_of_other_lengths(music, compile_fast):
  """Catches windows that follow the shortest beginning of a batch."""
  stride = music.codec.model.stride
  x = np.random.default_rng(0).normal(0, 0.3, (40 * stride, 1))
  clips = [x[: 38 * stride], x[: 3 * stride], x[: 20 * stride]]
  options = dict(
    seconds=seconds_of(music, 60), stride=seconds_of(music, 14), top_k=5
  )
  together = music.generate_codes(["a", "b", "c"], audio=clips, **options)
  for i, text in enumerate("abc"):
    alone = music.generate_codes(text, audio=clips[i], seed=i, **options)
    np.testing.assert_array_equal(alone[0], together[i])


def test_eight_devices(folder, compile_fast):
  """Catches draws that follow the device, and parameters cut wrongly."""
  made, sizes = random_music(folder / "mesh", frames=FRAMES), (2, 2, 2)
  music = LoadedMusic(*made)
  texts = [f"song {i}" for i in range(8)]
  options = dict(seconds=seconds_of(music, 6), seed=3)
  want = music.generate_codes(texts, **options)
  mesh = mesh_lib.make_mesh(dict(zip(mesh_lib.AXES, sizes, strict=True)))
  music.place(mesh)
  kernel = music.sampler._params["transformer"]["blocks"][0]["inner"]["kernel"]
  parts = {shard.data.shape for shard in kernel.addressable_shards}
  # On CPUs [outputs, inputs].
  assert parts == {(64 // sizes[2], 32 // sizes[1])}
  np.testing.assert_array_equal(music.generate_codes(texts, **options), want)
  # A number of items that does not divide.
  np.testing.assert_array_equal(
    music.generate_codes(texts[:3], **options), want[:3]
  )


@pytest.mark.parametrize(
  "preset, causal",
  [
    ("soundstream_tiny", True),
    ("encodec_tiny", False),
  ],
)
def test_looking_changes_nothing(folder, preset, causal, compile_fast):
  """Catches a stream whose codes or audio are not those of the whole."""
  changes = dict(preset=preset, causal=causal)
  music = LoadedMusic(
    *random_music(folder / preset, frames=FRAMES, codec=changes)
  )
  seconds = seconds_of(music, 61)
  options = dict(seconds=seconds, seed=1, stride=seconds_of(music, 11))
  codes = music.generate_codes(["a", "b"], **options)
  audio = music.codec.decode(codes)
  chunks = list(music.stream(["a", "b"], block=seconds_of(music, 8), **options))
  assert len(chunks) > 4
  np.testing.assert_array_equal(
    np.concatenate([chunk.codes for chunk in chunks], axis=1), codes
  )
  streamed = np.concatenate([chunk.audio for chunk in chunks], axis=1)
  assert streamed.shape == audio.shape
  np.testing.assert_allclose(
    streamed, audio, atol=1e-5 * np.abs(audio).max(), rtol=0
  )
  # A callback hears the same, and may end it.
  heard = []
  ended = music.generate(
    ["a", "b"], block=seconds_of(music, 8), **options,
    callback=lambda chunk: heard.append(chunk) or len(heard) == 2,
  )  # fmt: skip
  assert len(heard) == 2 and 0 < ended.shape[1] < audio.shape[1]
  np.testing.assert_allclose(ended, streamed[:, : ended.shape[1]], atol=1e-6)


def test_windows_without_a_seam(music, compile_fast):
  """Catches a window that changes or forgets what the one before made."""
  total, stride = 3 * FRAMES, 10
  options = dict(seed=5, temperature=0, stride=seconds_of(music, stride))
  codes = music.generate_codes(
    "a tune", seconds=seconds_of(music, total), **options
  )[0]
  assert codes.shape == (total, 4) and (codes >= 0).all()
  plan = windows.windows(total, 0, FRAMES, stride)
  assert len(plan) > 3 and plan[-1].end == total
  # By hand: each window is a continuation of the frames that it knows.
  made = codes[:FRAMES]
  pattern = music.model.pattern_of(FRAMES)
  unknown = np.full((FRAMES, 4), -1)
  first = naive(music, unknown, "a tune", guidance=3.0, pattern=pattern)
  np.testing.assert_array_equal(made, first)
  for window in plan[1:]:
    size = window.end - window.start
    known = np.full((size, 4), -1)
    before = len(made) - window.start
    known[:before] = made[window.start :]
    found = naive(
      music, known, "a tune", guidance=3.0,
      pattern=music.model.pattern_of(size),
    )  # fmt: skip
    made = np.concatenate([made, found[before:]])
  np.testing.assert_array_equal(codes, made)


def test_plans():
  """Catches gaps, windows that are too long, and ones that make nothing."""
  for total, known, stride in itertools.product(
    (1, 23, 24, 25, 100), (0, 5, 24, 60), (1, 10, 23)
  ):
    done = known
    for window in windows.windows(total, known, 24, stride):
      assert window.end - window.start <= 24 and window.start <= done
      assert window.start % stride == 0
      assert window.start == 0 or done - window.start >= 24 - stride
      assert window.end > done
      done = window.end
    assert done == max(total, known)


def test_frames_that_are_whole():
  """Catches a frame that is given away before all of its codes are there."""
  from mmdcodec import patterns

  for name in ("parallel", "delay", "unroll", "flatten", "coarse_first"):
    pattern = patterns.make(name, 4)(6)
    complete = windows.complete_frames(pattern)
    for step, count in enumerate(complete):
      known = (pattern.step_of < step).all(axis=1)
      assert count == (6 if known.all() else np.argmin(known))


def test_melody_and_joint_tokens(folder, compile_fast):
  """Catches conditions that do not reach the music, or double guidance."""
  music = LoadedMusic(
    *random_music(
      folder / "melody", frames=FRAMES, cross=False, melody=MELODY, joint=(2, 9)
    )
  )
  time = np.arange(4000) / 8000
  tune = np.sin(2 * np.pi * 440 * time).astype(np.float32)
  other = np.sin(2 * np.pi * 523 * time).astype(np.float32)
  run = lambda **given: music.generate_codes(
    ["x"], seconds=seconds_of(music, 5), temperature=0, **given
  )
  plain = run()
  joint = np.array([[3, 8]])
  for given in (
    dict(melody=tune),
    dict(joint=joint),
    dict(melody=tune, joint=joint),
  ):
    assert np.any(run(**given) != plain)
  assert np.any(run(melody=tune) != run(melody=other))
  # Another rate of the same tune, and a batch of it.
  slow = np.sin(2 * np.pi * 440 * np.arange(2000) / 4000).astype(np.float32)
  np.testing.assert_array_equal(
    run(melody=slow, rate=4000), run(melody=tune, rate=8000)
  )
  double = run(melody=tune, text_guidance=4.0)
  assert np.any(double != run(melody=tune))
  # With text counted once it is guidance as it is.
  np.testing.assert_array_equal(
    run(melody=tune, text_guidance=1.0), run(melody=tune)
  )


def test_a_melody_begins_again():
  """Catches a melody of another item's length, and one that is cut."""
  condition = Melody(
    name="melody", classes=12, frames=9, rate=8000, window=512, hop=256
  )
  melodies = [np.array([5]), None, np.arange(1, 8)]
  found = condition.arrays(melodies, 5 * 256 / 8000)
  np.testing.assert_array_equal(found["classes"][0], [5] * 9)
  np.testing.assert_array_equal(
    found["classes"][2], [6, 7, 1, 2, 3, 4, 5, 6, 7]
  )
  np.testing.assert_array_equal(found["given"], [True, False, True])


def test_conditions_change_between_windows(music, compile_fast):
  """Catches a state that keeps the conditions of the window before."""
  sampler, frames = music.sampler, 2 * FRAMES
  options = sampling.SamplingOptions(temperature=0.0)

  def run(*texts):
    codes = np.full((1, frames, 4), -1, np.int32)
    state = sampler.start(codes, jax.random.split(jax.random.key(0), 1))
    for text in texts:
      window = sampler.next_window(state, FRAMES // 2)
      inputs = {"text": music.conditions[0].arrays([text], 0.0)}
      (state,) = sampler.sample_window(state, window, inputs, options)
      assert state.done == window.end
    assert sampler.next_window(state, FRAMES // 2) is None
    return state.codes

  assert isinstance(sampler, TokenSampler)
  calm, story = run("calm", "calm", "calm"), run("calm", "drums", "calm")
  seconds = seconds_of(music, frames)
  stride = seconds_of(music, FRAMES // 2)
  whole = music.generate_codes(
    "calm", seconds=seconds, temperature=0, stride=stride
  )
  np.testing.assert_array_equal(calm, whole)
  np.testing.assert_array_equal(calm[:, :FRAMES], story[:, :FRAMES])
  assert np.any(calm[:, FRAMES:] != story[:, FRAMES:])


def test_tokens_and_embeddings(folder, compile_fast):
  """Catches conditions of other names that are passed over or misplaced."""
  kinds = {
    "semantic": dict(kind="tokens", size=9, frames=3, frame_rate=100.0),
    "mood": dict(kind="embedding", size=2),
  }
  music = LoadedMusic(
    *random_music(
      folder / "tokens", frames=FRAMES, cross=False, conditions=kinds
    )
  )
  run = lambda **given: music.generate_codes(
    seconds=seconds_of(music, 5), temperature=0, conditions=given
  )
  plain, tokens = run(), np.array([[3, 8, 1, 2, 0]])
  for given in (dict(semantic=tokens), dict(mood=[[1.0, -1.0]])):
    assert np.any(run(**given) != plain)
  # Those of a window that starts later, and padding after the last.
  semantic = next(each for each in music.conditions if each.name == "semantic")
  found = semantic.arrays(semantic.check(tokens, 0), 0.03)
  np.testing.assert_array_equal(found["tokens"][0, :, 0], [2, 0, 0])
  np.testing.assert_array_equal(found["lengths"], [2])
  for given, words in (
    (dict(semantic=[[9]]), "semantic tokens must be .* below 9"),
    (dict(semantic=[[0.5]]), "whole numbers"),
    (dict(mood=[[1.0]]), r"mood must be finite numbers \[batch, 2\]"),
    (dict(other=3), "takes no other; it takes mood, semantic"),
  ):
    with pytest.raises(UserError, match=words):
      run(**given)


@pytest.mark.parametrize(
  "options, words",
  (
    (dict(seconds=0), "seconds"),
    (dict(seconds=float("nan")), "seconds"),
    (dict(seconds=1e9), "too long"),
    (dict(seconds=1e308), "too long"),
    (dict(seconds=np.inf), "seconds"),
    (dict(texts=[]), "prompts"),
    (dict(texts=[3]), "prompts"),
    (dict(texts="x" * 300), "tokens"),
    (dict(temperature=-1), "temperature"),
    (dict(top_k=-1), "top_k"),
    (dict(top_p=0), "top_p"),
    (dict(guidance=-1), "guidance"),
    (dict(seed=-1), "seed"),
    (dict(seed=0.5), "seed"),
    (dict(seed=None), "seed"),
    (dict(seed=1 << 63), "seed"),
    (dict(seed=[]), "0 of seed"),
    (dict(texts=["a", "b", "c"], seed=[1, 2]), "items"),
    (dict(melody=np.zeros(100)), "melody"),
    (dict(joint=[[0]]), "joint"),
    (dict(text_guidance=3.0, texts="x"), "text_guidance"),
    (dict(audio=np.zeros(10_000), seconds=0.1), "audio prompt"),
    (dict(audio=np.zeros((0, 1))), "audio"),
    (dict(audio=np.full(100, np.nan)), "NaN"),
    (dict(audio=np.zeros(100), rate=0), "rate"),
    (dict(stride=100.0, seconds=1), "stride"),
    (dict(stride=np.inf, seconds=1), "stride"),
  ),
)
def test_mistakes(music, options, words):
  """Catches a mistake that computes for long, or ends in a traceback."""
  texts = options.pop("texts", None)
  with pytest.raises(UserError, match=words):
    music.check(texts, **options)


def test_prompts_as_pieces():
  """Catches a text that is padded, cut or left without its end."""
  import tokenizers

  words = {"<pad>": 0, "</s>": 1, "calm": 2, "piano": 3, "?": 4}
  made = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, "?"))
  made.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
  made.post_processor = tokenizers.processors.TemplateProcessing(
    single="$A </s>", special_tokens=[("</s>", 1)]
  )
  made.enable_padding(length=9)
  made.enable_truncation(2)
  files = {text_tokens.TOKENIZER_FILE: made.to_str().encode()}
  condition = Text(
    name="text", tokenizer="t5", longest=9, encoder={}, assets=files
  )
  found = condition.arrays(
    condition.check(["calm calm piano", "", "fast"], 0), 0
  )
  np.testing.assert_array_equal(found["tokens"][0], [2, 2, 3, 1])
  np.testing.assert_array_equal(found["tokens"][2], [4, 1, 0, 0])
  np.testing.assert_array_equal(found["lengths"], [4, 1, 2])
  np.testing.assert_array_equal(found["given"], [True, False, True])
  short = dataclasses.replace(condition, longest=3)
  with pytest.raises(UserError, match="at most 3"):
    short.check(["calm calm piano"], 0)
  # Captions are cut before their end, and padded to one size for all batches.
  cut = short.read({"caption": "calm calm piano"}, 0.0)
  np.testing.assert_array_equal(cut["tokens"], [2, 2, 1])
  padded = condition.read({"caption": "fast"}, 0.0)
  assert padded["tokens"].shape == (9,) and padded["lengths"] == 2
  with pytest.raises(UserError, match=text_tokens.TOKENIZER_FILE):
    text_tokens.make_tokenizer("t5", {})


def test_a_codec_of_another_model(folder):
  """Catches codes that a codec does not have, and loudness that is lost."""
  config, variables = random_music(folder / "other")
  config["model"]["codebook_size"] += 1
  with pytest.raises(UserError, match="do not belong together"):
    LoadedMusic(config, variables)


def test_bfloat16_weights_change_nothing(folder, compile_fast):
  """Catches a weight that is rounded before it would be, as tables are."""
  config, variables = random_music(folder / "low", dtype="bfloat16")
  music = LoadedMusic(config, variables)
  made = music.sampler._params["transformer"]["blocks"][0]
  assert made["inner"]["kernel"].dtype == jnp.bfloat16
  assert made["feed_norm"]["scale"].dtype == jnp.float32
  kept = music.sampler._params["embedding"]
  assert kept.dtype == jnp.float32
  # Greedy decoding is in float32.
  options = dict(seconds=seconds_of(music, 8), temperature=1)
  found = music.generate_codes(["a"], **options)
  whole = music.variables["params"]
  music.sampler._params = {
    **music.sampler._params,
    "head": whole["head"],
    "transformer": cache.by_block(whole["transformer"], music.model.layers),
  }
  again = music.generate_codes(["a"], **options)
  np.testing.assert_array_equal(found, again)
