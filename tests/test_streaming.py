"""Codes and audio of clips that come in pieces, streams and long clips.

Must catch: any difference between a clip in pieces and the whole clip (a state
that is not carried, mirrored where the clip does not end, or taken at the wrong
sample), streams of a batch that touch each other, a reach that is too short, a
chunk dropped or counted twice, a program compiled for a length, memory that
grows with the clip.
"""

import logging

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_codec_model import random_variables

from mmdcodec.errors import UserError
from mmdcodec.models import codec, receptive_field, streaming
from mmdcodec.nn.conv import STREAM, ConvTranspose
from mmdcodec.tokenizers import long_clips, piecewise
from mmdcodec.tokenizers.loaded_codec import LoadedCodec

SMALL = dict(ratios=(3, 2), filters=2, dim=8, codebooks=3)
ROWS = 15  # of every batch that is coded as a whole: one program


def loaded(preset, **changes):
  """A small codec of random weights."""
  small = dict(SMALL)
  if preset == "spectral_tiny":
    del small["filters"]
  config = codec.preset(preset, **small | changes)
  model = codec.from_config(config)
  return LoadedCodec({"model": config}, random_variables(model))


@pytest.fixture(scope="module")
def mirrored():
  """The structure of the 24 kHz EnCodec."""
  return loaded("encodec_tiny")


@pytest.fixture(scope="module")
def plain():
  """The structure of SoundStream."""
  return loaded("soundstream_tiny", dilations=(3,))


@pytest.fixture(scope="module")
def lapped():
  """A spectral codec, whose frames overlap."""
  return loaded("spectral_tiny", causal=True)


def noise(rng, samples, channels=1):
  return rng.normal(0, 0.5, (samples, channels)).astype(np.float32)


def whole(k, clips):
  """(codes, audio) of each clip, coded as a whole in one batch."""
  lengths = np.array([len(x) for x in clips] + [1] * (ROWS - len(clips)))
  x = np.zeros((ROWS, 240, k.channels), np.float32)
  for row, clip in zip(x, clips, strict=False):
    row[: len(clip)] = clip
  count = -(-lengths // k.model.stride)
  codes = np.asarray(k._encode(k.variables, x, lengths, None).codes)
  audio = np.asarray(k._decode(k.variables, codes, None, lengths))
  return [
    (c[:n], y[: len(x)])
    for c, n, y, x in zip(codes, count, audio, clips, strict=False)
  ]


def close(y, want, error=1e-5):
  """To 1e-5 of the loudest sample, or of 0.1 where a short clip is near 0."""
  most = max(np.abs(want).max(), 0.1)
  np.testing.assert_allclose(y, want, atol=error * most, rtol=0)


def pieces(rng, x):
  """X cut at random, or into pieces of one row or of one frame."""
  kind = rng.integers(4)
  if kind < 2:
    return np.split(x, np.arange(1, len(x), (1, 6)[kind]))
  return np.split(x, np.sort(rng.integers(0, len(x) + 1, rng.integers(1, 9))))


@pytest.mark.parametrize("name", ["plain", "lapped"])
def test_any_chunking_is_the_whole(name, request):
  """One stream, as simple as it can be used."""
  k, rng = request.getfixturevalue(name), np.random.default_rng(0)
  stream = k.streamer(block=7)
  # Shorter than any edge, ends in every place of a frame, longer than steps.
  lengths = [1, 2, 5, 6, 7, 12, 29, 41, 42, 43, 84, 89, 121, 190, 233]
  clips = [noise(rng, n) for n in lengths]
  for x, (codes, audio) in zip(clips, whole(k, clips), strict=True):
    *some, last = pieces(rng, x)
    got = [stream.encode(piece) for piece in some]
    got.append(stream.encode(last, last=True))
    np.testing.assert_array_equal(np.concatenate(got), codes)
    y = [stream.decode(piece) for piece in pieces(rng, codes)]
    y.append(stream.decode(last=True))
    close(np.concatenate(y)[: len(x)], audio)


def test_latency_is_what_it_says(mirrored, plain, lapped):
  """The first codes and the first audio come with the last sample needed."""
  for k, frames, overlap in (mirrored, 7, 0), (plain, 1, 0), (lapped, 1, 3):
    latency, stride = streaming.latency(k.model), k.model.stride
    assert latency["encoder"].start == latency["decoder"].start == frames
    for side in latency.values():
      assert side.start_samples == frames * stride + overlap
    assert latency["encoder"].steady_ms == 1000 * stride / k.rate
    if k is plain:
      continue
    streams = k.streamer(3, block=7)
    assert streams.latency == latency
    encode = lambda x, s=streams: s.encode([None, x, None])[1]
    decode = lambda codes, s=streams: s.decode([None, codes, None])[1]
    x = noise(np.random.default_rng(1), (frames + 1) * stride + overlap)
    first = frames * stride + overlap
    assert len(encode(x[: first - 1])) == 0
    codes = encode(x[first - 1 : first])
    assert len(codes) == frames
    assert len(encode(x[first:-1])) == 0
    assert len(encode(x[-1:])) == 1
    assert len(decode(codes[:-1])) == 0
    assert len(decode(codes[-1:])) == frames * stride - overlap


@pytest.mark.parametrize("name", ["mirrored", "lapped"])
def test_streams_of_a_batch_are_alone(name, request):
  """Three streams wait, end and begin when they like."""
  k, rng = request.getfixturevalue(name), np.random.default_rng(2)
  # Shorter than any edge, ends in every place of a frame, longer than steps.
  lengths = [(1, 89, 5, 41), (42, 2, 121, 12), (190, 43, 29, 84)]
  clips = [[noise(rng, n) for n in some] for some in lengths]
  expected = whole(k, sum(clips, []))
  expected = [expected[i : i + 4] for i in (0, 4, 8)]
  stream = k.streamer(batch=3, block=7)
  for side in (0, 1):
    feed = (stream.encode, stream.decode)[side]
    queues = []
    for some, results in zip(clips, expected, strict=True):
      queue = []
      for x, (codes, _) in zip(some, results, strict=True):
        parts = pieces(rng, (x, codes)[side])
        queue += [(part, i == len(parts) - 1) for i, part in enumerate(parts)]
      queues.append(queue)
    got, done = [[[]] for _ in clips], 0
    while any(queues):
      turn = [q.pop(0) if q and rng.random() < 0.6 else None for q in queues]
      out = feed(
        [None if t is None else t[0] for t in turn],
        last=[t is not None and t[1] for t in turn],
      )
      for results, y, t in zip(got, out, turn, strict=True):
        results[-1].append(y)
        if t is not None and t[1]:
          results.append([])
          done += 1
    assert done == 12
    for results, wanted in zip(got, expected, strict=True):
      for y, want in zip(results, wanted, strict=False):
        y = np.concatenate(y)[: len(want[side])]
        close(y, want[side])
        assert side or (y == want[0]).all()


def test_steps_inside_of_a_jit(plain):
  """A scan over frames in one program, with the state in its carry."""
  k, stride = plain, plain.model.stride
  x = noise(np.random.default_rng(3), 8 * stride)

  @jax.jit
  def run(variables, x):
    def step(carry, x):
      state, start = carry
      codes, state = streaming.encode_step(
        k.model, variables, state, x[None], jnp.array([stride]), start
      )
      return (state, jnp.array([False])), codes[0, 0]

    carry = streaming.encoder_state(k.model, k.variables, 1), jnp.array([True])
    return jax.lax.scan(step, carry, x.reshape(8, stride, 1))[1]

  (codes, _), *_ = whole(k, [x])
  np.testing.assert_array_equal(run(k.variables, x), codes)


def test_an_overlap_is_rounded_once():
  """Catches an overlap in bfloat16, in which a whole clip is not summed."""
  layer, rng = ConvTranspose(3, 8, 4, dtype=jnp.bfloat16), np.random.default_rng
  x, kernel = (noise(rng(i), 8 * n, 5) for i, n in enumerate((5, 3)))
  params = {"kernel": kernel.reshape(8, 5, 3), "bias": np.zeros(3, np.float32)}
  step = jax.jit(
    lambda stream, x: layer.apply(
      {"params": params, STREAM: stream}, x, mutable=[STREAM]
    )
  )
  state, got = {STREAM: {"overlap": np.zeros((1, 4, 3), np.float32)}}, []
  for piece in x.reshape(5, 1, 8, 5):
    y, state = step(state[STREAM], piece)
    got.append(y)
  whole = jax.jit(layer.apply)({"params": params}, x[None])
  assert (np.concatenate(got, 1) != whole).mean() < 0.005


def test_state_has_the_batch_in_front(mirrored):
  for state in (streaming.encoder_state, streaming.decoder_state):
    for leaf in jax.tree.leaves(state(mirrored.model, mirrored.variables, 5)):
      assert leaf.shape[0] == 5 and not leaf.any()


def test_codecs_that_do_not_stream_say_why():
  for change, word in [
    (dict(causal=False), "causal=False"),
    (dict(trim_right_ratio=0.5), "trim_right_ratio"),
    (dict(norm="time_group"), "normalises"),
    (dict(normalize=True), "loudness"),
    (dict(chunk_seconds=0.1), "chunks"),
  ]:
    model = codec.from_config(codec.preset("encodec_tiny", **change))
    with pytest.raises(UserError, match=word) as error:
      streaming.encoder_state(model, {}, 1)
    assert "encode_blocks" in str(error.value)


def test_mistakes_in_streams_are_named(plain):
  stream, two = plain.streamer(), plain.streamer(2)
  for call, words in [
    (lambda: stream.encode(np.zeros((5, 2))), r"\[samples, 1\]"),
    (lambda: stream.encode([np.nan]), "NaN"),
    (lambda: stream.decode(np.full((5, 3), 99)), "from 0 to 31"),
    (lambda: stream.decode(np.zeros((5, 4), int)), "1 to 3 codebooks"),
    (lambda: stream.decode(np.full((5, 3), 0.9)), "integers"),
    (lambda: two.encode([[0.0]]), "2 streams"),
    (lambda: two.encode(0.0), "2 streams"),
    (lambda: two.encode(last=[True]), "2 streams"),
    (lambda: plain.streamer(0), "batch is 0"),
    (lambda: plain.streamer(block=0), "block is 0"),
    (lambda: plain.streamer(codebooks=9), "1 to 3"),
  ]:
    with pytest.raises(UserError, match=words):
      call()


def test_streams_have_one_number_of_codebooks(mirrored):
  """Catches codes of unequal width in one step, and a stream left half fed."""
  some, more = np.zeros((2, 2), int), np.zeros((2, 3), int)
  stream = mirrored.streamer(3, block=7)
  with pytest.raises(UserError, match="2 and 3 codebooks"):
    stream.decode([some, more, None])
  stream.decode([some, None, None])
  for codes in ([more, None, None], [None, more, None]):
    with pytest.raises(UserError, match="2 and 3 codebooks"):
      stream.decode(codes)
  stream.decode([more[:0], some, None])
  # One bool of NumPy's ends them all; then they are free again.
  ended = [len(y) for y in stream.decode(last=np.bool_(True))]
  assert ended == [2 * mirrored.model.stride] * 2 + [0]
  stream.decode([more, None, None])


@pytest.mark.parametrize(
  "changes",
  [
    dict(causal=False, pad_mode="constant", dilations=(1, 2)),
    dict(causal=True, trim_right_ratio=0.3, ratios=(4, 3)),
  ],
)
def test_reach_is_that_of_the_gradient(changes):
  """Outputs depend on exactly the inputs that the kernels say."""
  k = loaded("encodec_tiny", lstm_layers=0, **changes)
  n, stride = k.model.network, k.model.stride
  n = type(n)(**{**vars(n), "pad_mode": "constant"})
  model = codec.from_config({**k.config["model"], "pad_mode": "constant"})
  rng, frames, at = np.random.default_rng(4), 24, 12
  width = n.filters * 4
  cases = [
    (
      "encoder",
      "front",
      (frames * stride, 1),
      1,
      receptive_field.encoder_layers(n)[0],
    ),
    (
      "decoder",
      "back",
      (frames, width),
      stride,
      receptive_field.decoder_layers(n)[1],
    ),
  ]
  for half, part, shape, unit, layers in cases:
    x = rng.standard_normal((1, *shape)).astype(np.float32)

    def total(x, half=half, part=part, unit=unit):
      y = model.apply(
        k.variables, x, method=lambda m, x: getattr(getattr(m, half), part)(x)
      )[:, at * unit : (at + 1) * unit]
      return jnp.vdot(y, rng.standard_normal(y.shape))

    touched = np.flatnonzero(np.abs(jax.jit(jax.grad(total))(x)).sum((0, 2)))
    step = shape[0] // frames
    first, last = receptive_field.inputs_of(layers, n, 0, unit - 1)
    assert (touched[0], touched[-1]) == (first + at * step, last + at * step)


@pytest.fixture
def cut_early(monkeypatch):
  """Clips of more than 16 frames are cut into pieces of 8."""
  monkeypatch.setattr(piecewise, "BLOCK", 8)
  monkeypatch.setattr(long_clips, "WHOLE", 16)


def together(k, x, rng, length=None):
  """Codes, scale and audio by `encode_blocks` and `decode_blocks`."""
  out = list(k.encode_blocks(pieces(rng, x)))
  audio = list(k.decode_blocks(iter(out), length=length))
  codes, scale = zip(*out, strict=True)
  scale = None if scale[0] is None else np.concatenate(scale)
  return np.concatenate(codes), scale, np.concatenate(audio)


@pytest.mark.parametrize(
  ("changes", "lengths"),
  [
    (dict(causal=False, dilations=(2,), lstm_layers=1), [233, 190, 97, 3]),
    (dict(preset="spectral_tiny"), [233, 190, 97, 3]),
    (dict(preset="spectral_tiny", causal=True), [233, 190, 97, 3]),
    (
      dict(preset="spectral_tiny", phase_iterations=1, ratios=(2, 2)),
      [233, 190, 97, 3],
    ),
    (dict(), [233, 190, 97, 3]),
    # Chunks of 96 samples every 67: ends in an overlap, and just after it.
    (
      dict(
        chunk_seconds=0.012,
        overlap=0.3,
        causal=False,
        normalize=True,
        norm="time_group",
        ratios=(4,),
        lstm_layers=1,
      ),
      [211, 229, 134, 3],
    ),
  ],
  ids=[
    "windows",
    "lapped",
    "lapped_causal",
    "phases",
    "stream",
    "chunks",
  ],  # fmt: skip
)
def test_long_clips_are_the_whole(changes, lengths, cut_early, monkeypatch):
  """A batch of unequal clips, and some of them by blocks."""
  k = loaded(**{"preset": "encodec_tiny", **changes})
  rng = np.random.default_rng(5)
  x = np.zeros((4, max(lengths), 1), np.float32)
  clips = [noise(rng, n) for n in lengths]
  for row, clip in zip(x, clips, strict=True):
    row[: len(clip)] = clip
  codes, scale = k.encode(x, lengths=lengths, return_scale=True)
  audio = k.decode(codes, scale=scale, length=max(lengths))
  # The phase of a faint bin depends on rounding.
  error = 1e-3 if "phase_iterations" in changes else 1e-5
  # The same without cutting; audio as long as the longest, and as each.
  want = k._encode(k.variables, x, np.array(lengths), None)
  np.testing.assert_array_equal(codes, want.codes)
  if scale is not None:
    close(scale, np.asarray(want.scale))
  decoded = lambda lengths: np.asarray(
    k._decode(k.variables, codes, scale, np.array(lengths))
  )
  close(audio, decoded([max(lengths)] * 4)[:, : audio.shape[1]], error)
  monkeypatch.setattr(long_clips, "WHOLE", 0)
  audio = decoded(lengths)
  for i, clip in enumerate(clips[:3]):
    n = int(want.lengths[i])
    parts, loud, y = together(k, clip, rng, len(clip))
    np.testing.assert_array_equal(parts, codes[i, :n])
    assert len(y) == len(clip)
    close(y, audio[i, : len(clip)], error)
    if loud is not None:
      close(loud, scale[i, : len(loud)])


def test_blocks_are_taken_as_they_are_needed(mirrored, cut_early):
  """However long the clip, only a few pieces of it are in memory."""
  stride, taken = mirrored.model.stride, 0

  def audio():
    nonlocal taken
    for _ in range(1000):
      yield np.ones((stride, 1), np.float32)
      taken += 1

  done = 0
  for y in mirrored.decode_blocks(mirrored.encode_blocks(audio())):
    done += len(y) // stride
    assert taken - done <= 4 * long_clips.WHOLE
  assert done == taken == 1000


def test_no_length_compiles_anew(mirrored, cut_early, caplog):
  """After a long and a short clip, twenty lengths find their programs."""
  stride = mirrored.model.stride

  def code(samples):
    x = noise(np.random.default_rng(samples), samples)
    mirrored.decode(mirrored.encode(x), length=samples)

  for frames in (12, 17):
    code(frames * stride)
  with jax.log_compiles(), caplog.at_level(logging.WARNING):
    for samples in (61, 66, 69, 72, *range(16 * stride + 1, 400, 17)):
      code(samples)
    assert not [r for r in caplog.records if "ompil" in r.message]
    jax.jit(lambda x: x * 2.5)(np.ones(3))
  assert [r for r in caplog.records if "ompil" in r.message]


def test_blocks_that_do_not_fit_are_named(mirrored, cut_early):
  zeros = np.zeros((200, 3), np.int32)
  for call, words in [
    (lambda: mirrored.encode_blocks([]), "at least one sample"),
    (lambda: mirrored.encode_blocks([np.zeros((9, 2))]), r"\[samples, 1\]"),
    (lambda: mirrored.decode_blocks([]), "no frames"),
    (lambda: mirrored.decode_blocks([(zeros + 99, None)]), "from 0 to 31"),
    (lambda: mirrored.decode_blocks([(zeros, None)], length=9999), "1200"),
    (lambda: mirrored.encode_blocks([], codebooks=4), "1 to 3"),
  ]:
    with pytest.raises(UserError, match=words):
      list(call())
