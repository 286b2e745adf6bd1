"""Measures of what distances do not hear: combs, pre-echo, a stereo image.

SI-SDR and spectral distances average over a clip and hardly move for a faint
whistle at the frame rate, for noise before a click, or for two channels that
change places. Here, synthetic signals go through a codec, and each of those
defects has a measure of its own, in dB. `probe` does it all; the other
functions measure one pair of signals. All compute in float64 with NumPy.
"""

import dataclasses
from collections.abc import Callable

import numpy as np

from mmdcodec.tokenizers.loaded_codec import LoadedCodec

# Energies are at least this share of what they are compared with.
LEAST = 1e-12
SECONDS = 2.0
# Tones in Hz, moved to 0.35 frame rates above a multiple of the frame rate.
TONES = (220, 1000, 3200)
# Samples of the windows of sweep and stereo image, with a hop of a quarter.
WINDOW = 1024

# name -> (heading, how to read it)
MEASURES = {
  "comb": (
    "comb beside tones (dB)",
    "energy in lines at multiples of the frame rate, and at those from a tone,"
    " relative to the tone; the worst of three tones",
  ),
  "pre_echo": (
    "pre-echo (dB)",
    "energy in the two frames before a click, relative to the two after it;"
    " the worst of four clicks",
  ),
  "silence": ("decoded silence (dBFS)", "level of what silence becomes"),
  "sweep_level": (
    "sweep: level (dB)",
    "decoded relative to original, in the octave where they differ most",
  ),
  "sweep_rest": (
    "sweep: other frequencies (dB)",
    "energy beside the frequency of the sweep, relative to the sweep",
  ),
  "image_level": (
    "stereo: level (dB)",
    "error of the difference of levels between left and right",
  ),
  "image_correlation": (
    "stereo: correlation",
    "error of the correlation of left and right, from 0 to 2",
  ),
}


@dataclasses.dataclass(frozen=True)
class Artefacts:
  """What `probe` found.

  Attributes:
    values: name of a measure -> its value; those of stereo only with 2
      channels. `MEASURES` explains them.
    sweep: a sine sweep [samples], and what the codec made of it.
    rate: Hz.
  """

  values: dict[str, float]
  sweep: tuple[np.ndarray, np.ndarray]
  rate: int


def comb(
  x: np.ndarray, y: np.ndarray, *, tone: float, frame_rate: float, rate: int
) -> float:
  """Energy in lines at multiples of the frame rate.

  A codec that treats all frames alike, but not all samples of a frame,
  modulates a tone of f Hz at the frame rate r: lines at k r + f and k r - f. If
  it makes the same of every frame, lines are at k r. Noise also has energy
  there, so that between the lines is subtracted:

    10 log10 (sum_h (P(h) - M)) / X(f),   h = k r and k r +- f but for f

  with P the power within two bins of a frequency, under a Hann window over all
  of y, M its mean halfway between lines, and X the power of the original.
  Lines from 0 to rate / 2 count.

  Args:
    x: the tone [samples], of many frames.
    y: decoded, same shape.
    tone: f in Hz, far from multiples of r.
    frame_rate: r in Hz.
    rate: Hz.

  Returns:
    dB relative to the original tone, at least -120.
  """
  bins = len(y) / rate

  def powers(u: np.ndarray, hz: np.ndarray) -> np.ndarray:
    spectrum = np.abs(np.fft.rfft(u * np.hanning(len(u)))) ** 2
    hz = hz[(hz > 3 / bins) & (hz < rate / 2 - 3 / bins)]
    near = np.round(hz * bins).astype(int)[:, None] + np.arange(-2, 3)
    return spectrum[near].sum(1)

  k = np.arange(int(rate / 2 / frame_rate) + 1)
  place, offset = divmod(tone / frame_rate, 1)
  least = min(offset, 1 - offset)
  # The wider of the gaps between 0, f and r - f, modulo r.
  gap = least / 2 if least > 1 / 3 else 0.5
  places = [k, k[k != place] + offset, k + 1 - offset]
  lines = np.concatenate(places) * frame_rate
  found, between = powers(y, lines), powers(y, (k + gap) * frame_rate)
  excess = found.sum() - between.mean() * len(found)
  return _db(float(excess), float(powers(x, np.array([tone])).sum()))


def pre_echo(y: np.ndarray, *, click: int, frame: int, rate: int) -> float:
  """Energy before a click, relative to the click.

  A transform codec spreads the error of a frame over all of it. After a click
  the ear does not notice, before it it does. The last millisecond before the
  click counts with neither.

  Args:
    y: decoded audio [samples], silent originally but for clicks.
    click: sample of the click.
    frame: samples of a frame; two before and two after the click are heard.
    rate: Hz.

  Returns:
    dB, at least -120.
  """
  before = y[max(0, click - 2 * frame) : max(0, click - rate // 1000)]
  after = y[click : click + 2 * frame]
  return _db(float(np.sum(before**2)), float(np.sum(after**2)))


def level(y: np.ndarray) -> float:
  """RMS level in dBFS, at least -120; a full-scale square wave has 0."""
  return _db(float(np.mean(y**2)), 1.0)


def sweep_response(
  x: np.ndarray, y: np.ndarray, rate: int
) -> tuple[np.ndarray, float]:
  """Levels of a decoded sine sweep, at its frequency and elsewhere.

  The sweep is where the STFT (Hann, 1024 samples) of the original is within 60
  dB of the loudest bin of its frame.

  Args:
    x: the sweep [samples].
    y: decoded, same shape.
    rate: Hz.

  Returns:
    (dB of y relative to x, the median over the frames of each octave from 125
    Hz on; energy of y elsewhere relative to the energy of x, in dB).
  """
  px, py = _power(x), _power(y)
  near = px > 1e-6 * px.max(1, keepdims=True)
  centre = np.fft.rfftfreq(WINDOW, 1 / rate)[px.argmax(1)]
  octave = np.floor(np.log2(np.maximum(centre, 1) / 125))
  sums = np.where(near, py, 0).sum(1), px.sum(1)
  levels = [_db(*map(float, pair)) for pair in zip(*sums, strict=True)]
  found = [
    np.median(np.array(levels)[here])
    for o in range(int(octave.max()) + 1)
    if (here := octave == o).any()
  ]
  return np.array(found), _db(float(py[~near].sum()), float(px.sum()))


def image_error(x: np.ndarray, y: np.ndarray, rate: int) -> tuple[float, float]:
  """How far the stereo image moves.

  The difference of levels is 10 log10 L / R of the powers in an octave of an
  STFT frame (Hann, 1024 samples), at most 30 dB to either side. Its error is a
  mean over octaves and frames, weighted by the power of the original.

  Args:
    x: original [samples, 2].
    y: decoded, same shape.
    rate: Hz.

  Returns:
    (mean absolute error of the difference of levels in dB, absolute error of
    the correlation of left and right over the whole clip, which is 0 for a
    silent channel).
  """
  hz = np.fft.rfftfreq(WINDOW, 1 / rate)
  octave = np.floor(np.log2(np.maximum(hz, 125) / 125))
  edges = np.flatnonzero(np.diff(octave, prepend=-1))

  def powers(u: np.ndarray) -> np.ndarray:
    """[samples, 2] -> [2, frames, octaves]."""
    both = np.stack([_power(u[:, 0]), _power(u[:, 1])])
    return np.add.reduceat(both, edges, -1)

  px, py = powers(x), powers(y)
  weight = px.sum(0)
  differences = [
    np.clip(10 * np.log10((p[0] + LEAST) / (p[1] + LEAST)), -30, 30)
    for p in (px, py)
  ]
  moved = np.sum(weight * np.abs(differences[0] - differences[1]))
  correlations = [
    np.sum(u[:, 0] * u[:, 1])
    / max(LEAST, np.sqrt(np.prod(np.sum(u**2, 0, dtype=np.float64))))
    for u in (x, y)
  ]
  return (
    float(moved / max(LEAST, weight.sum())),
    float(abs(correlations[0] - correlations[1])),
  )


def probe(
  code: Callable[[np.ndarray], np.ndarray],
  *,
  rate: int,
  channels: int,
  frame_rate: float,
) -> Artefacts:
  """Sends silence, tones, clicks, a sweep and noise through a codec.

  Args:
    code: encodes and decodes float32 [batch, samples, channels].
    rate: Hz.
    channels: of the codec; all are alike but for the stereo image.
    frame_rate: frames per second.

  Returns:
    Artefacts.
  """
  count, frame = round(SECONDS * rate), round(rate / frame_rate)
  t = np.arange(count) / rate
  tones = [
    (hz // frame_rate + 0.35) * frame_rate for hz in TONES if hz < 0.45 * rate
  ]
  # A quarter of a frame apart in their frames, each far from the next.
  clicks = [round((i + 0.5) * count / 4 + i * frame / 4) for i in range(4)]
  impulses = np.zeros(count)
  impulses[clicks] = 0.9
  sweep = sine_sweep(count, rate)
  mono = [np.zeros(count), impulses, sweep]
  mono += [0.25 * np.sin(2 * np.pi * hz * t) for hz in tones]
  signals = np.repeat(np.stack(mono)[..., None], channels, -1)
  stereo = stereo_noise(count)
  if channels == 2:
    signals = np.concatenate([signals, stereo[None]])
  y = np.asarray(code(signals.astype(np.float32)), np.float64)
  middle = y.mean(-1)
  responses, rest = sweep_response(sweep, middle[2], rate)
  values = {
    "comb": max(
      comb(x, each, tone=hz, frame_rate=frame_rate, rate=rate)
      for x, each, hz in zip(mono[3:], middle[3:], tones, strict=False)
    ),
    "pre_echo": max(
      pre_echo(middle[1], click=click, frame=frame, rate=rate)
      for click in clicks
    ),
    "silence": level(y[0]),
    "sweep_level": float(responses[np.abs(responses).argmax()]),
    "sweep_rest": rest,
  }
  if channels == 2:
    names = "image_level", "image_correlation"
    values |= zip(names, image_error(stereo, y[-1], rate), strict=True)
  return Artefacts(values, (sweep, middle[2]), rate)


def of_codec(codec: LoadedCodec, codebooks: int | None = None) -> Artefacts:
  """Probes a codec with its first `codebooks` codebooks, None for all."""

  def code(x: np.ndarray) -> np.ndarray:
    codes, scale = codec.encode(x, codebooks=codebooks, return_scale=True)
    return codec.decode(codes, scale=scale, length=x.shape[1])

  return probe(
    code,
    rate=codec.rate,
    channels=codec.channels,
    frame_rate=codec.frame_rate,
  )


def sine_sweep(count: int, rate: int) -> np.ndarray:
  """A sine of amplitude 0.25 from 125 Hz to 0.45 rate, each octave as long.

  Args:
    count: samples.
    rate: Hz.

  Returns:
    [samples].
  """
  octaves = np.log2(0.45 * rate / 125)
  seconds = count / rate
  phase = 125 * seconds / (octaves * np.log(2))
  phase *= 2 ** (octaves * np.arange(count) / count)
  return 0.25 * np.sin(2 * np.pi * phase)


def stereo_noise(count: int) -> np.ndarray:
  """Noise of 1 / f power [samples, 2]: left, right, then on both sides.

  In the first third it is 12 dB louder on the left, in the second on the
  right; in the last, the sides have noise of their own.
  """
  rng = np.random.default_rng(0)
  shape = np.maximum(np.arange(count // 2 + 1), count / 200)[:, None] ** -0.5
  spectrum = np.fft.rfft(rng.standard_normal((count, 2)), axis=0) * shape
  x = np.fft.irfft(spectrum, count, 0)
  x *= 0.1 / x.std()
  third = count // 3
  x[:third, 1] = 0.25 * x[:third, 0]
  x[third : 2 * third, 0] = 0.25 * x[third : 2 * third, 1]
  return x


def _db(energy: float, reference: float) -> float:
  """The ratio in dB, at least -120; -120 also if there is nothing at all."""
  if reference <= 0:
    return -120.0 if energy <= 0 else 120.0
  return 10 * float(np.log10(max(energy / reference, LEAST)))


def _power(x: np.ndarray) -> np.ndarray:
  """Power spectra [frames, bins] of [samples]."""
  x = np.pad(x, (0, max(0, WINDOW - len(x))))
  frames = np.lib.stride_tricks.sliding_window_view(x, WINDOW)
  frames = frames[:: WINDOW // 4] * np.hanning(WINDOW)
  return np.abs(np.fft.rfft(frames, axis=-1)) ** 2
