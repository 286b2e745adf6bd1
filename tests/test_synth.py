"""Built-in music: must catch captions that lie and songs that are not the same.

What tags and caption say is measured in the audio: tempo, drums, bass, the
notes of the tune. Also: another song from the same seed (in another process,
or because something unrelated was asked for), clipping, silence, clicks at the
ends, a set of songs that differs with the number of workers.
"""

import hashlib
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from mmdcodec.audio import (
  composition,
  files,
  instruments,
  song_captions,
  song_files,
  synth,
)
from mmdcodec.errors import UserError

RATE = 16000
TESTS = Path(__file__).resolve().parent
ALONE = dict(drums=False, bass=False, chords=False)


def spectrogram(x, window, hop):
  pieces = np.lib.stride_tricks.sliding_window_view(x, window)[::hop]
  return np.abs(np.fft.rfft(pieces * np.hanning(window)))


def flux(song, hop, low=0):
  """Onset strength: rise of the log spectrum above `low` Hz."""
  s = np.log(spectrogram(song.audio[:, 0], 1024, hop) + 1e-2)
  s = s[:, int(low * 1024 / song.rate) :]
  return np.maximum(0, np.diff(s, axis=0)).sum(1)


def digest(song):
  data = song.audio.tobytes() + song.caption.encode()
  return hashlib.sha256(data + json.dumps(song.tags).encode()).hexdigest()


def test_a_seed_is_a_song_in_every_process(tmp_path):
  code = (
    "import sys; sys.path[:0] = sys.argv[1:]; import test_synth as t;"
    "print(t.digest(t.synth.render(7, seconds=3, rate=t.RATE)))"
  )
  out = subprocess.run(
    # The folder of this file and that of the package, from wherever.
    [sys.executable, "-c", code, str(TESTS), str(TESTS.parent)],
    capture_output=True,
    text=True,
    check=True,
    cwd=tmp_path,
  )
  songs = [synth.render(s, seconds=3, rate=RATE) for s in (7, 7, 8)]
  a, again, other = map(digest, songs)
  assert out.stdout.strip() == a == again != other


def test_sound_is_sane_and_varied():
  seen, correlations = set(), []
  previous = None
  for seed in range(12):
    song = synth.render(seed, seconds=5, rate=RATE)
    x = song.audio
    assert x.shape == (5 * RATE, 1) and x.dtype == np.float32
    assert np.isfinite(x).all() and abs(x.mean()) < 1e-4
    assert np.abs(x).max() == pytest.approx(10 ** (-3 / 20), abs=1e-3)
    assert -26 < 20 * np.log10(x.std()) < -11
    assert abs(x[0, 0]) < 0.05 and abs(x[-1, 0]) < 1e-3
    # Not silent anywhere for long.
    assert x.reshape(10, -1).std(1).min() > 0.01
    seen.add((song.tags["timbre"], song.tags["key"], song.tags["tempo"]))
    mean = np.log(spectrogram(x[:, 0], 1024, 512).mean(0) + 1e-3)
    if previous is not None:
      correlations.append(np.abs(mean - previous).mean())
    previous = mean
  assert len(seen) == 12 and min(correlations) > 0.1


def test_whole_form_ends_at_home():
  song = synth.render(3, rate=8000, speed="fast")
  bar = 60 / song.tags["tempo"] * song.tags["beats"]
  assert len(song.audio) == pytest.approx((17 * bar + 1) * 8000, abs=2)
  tonic = composition.NAMES.index(song.tags["key"])
  assert song.melody[-1].pitch % 12 == tonic
  assert len(song.tags["harmony"]) == 17


@pytest.mark.parametrize("tempo", [66, 97, 144])
def test_tempo_is_what_the_tag_says(tempo):
  """Autocorrelation of onsets peaks at the beat, to 2%."""
  for seed in (1, 2):
    song = synth.render(seed, seconds=12, rate=RATE, tempo=tempo, drums=True)
    hop = 128
    o = flux(song, hop)
    o = o - o.mean()
    spectrum = np.abs(np.fft.rfft(o, 4 * len(o))) ** 2
    auto = np.fft.irfft(spectrum)
    beat = 60 / tempo * RATE / hop
    lags = np.linspace(0.8, 1.25, 400) * beat
    # Two and four beats as well: sharper than one alone.
    score = sum(
      np.interp(lags * k, np.arange(len(auto)), auto) for k in (1, 2, 4)
    )
    assert lags[score.argmax()] == pytest.approx(beat, rel=0.02)
    assert song.tags["tempo"] == tempo


@pytest.mark.parametrize("seed", [0, 3, 4])
def test_drums_and_bass_are_there_when_tagged_and_not_otherwise(seed):
  fixed = dict(seconds=6, rate=RATE, timbre="flute", reverb=0.0)
  full = synth.render(seed, bass="synth", drums=True, **fixed)
  no_drums = synth.render(seed, bass="synth", drums=False, **fixed)
  no_bass = synth.render(seed, bass=False, drums=False, **fixed)
  high = [flux(s, 256, low=5000).max() for s in (full, no_drums)]
  assert high[0] > 3 * high[1]
  low = [
    spectrogram(s.audio[:, 0], 4096, 2048)[:, 8:30].mean()
    for s in (no_drums, no_bass)
  ]
  assert low[0] > 3 * low[1]
  assert (full.tags["drums"], no_drums.tags["drums"]) == (True, False)
  assert no_bass.tags["bass"] is False
  assert full.melody == no_drums.melody == no_bass.melody


def melody_agreement(song):
  """Share of frames whose strongest pitch class is the note's."""
  window, hop = 4096, 512
  s = spectrogram(song.audio[:, 0], window, hop) ** 2
  hz = np.fft.rfftfreq(window, 1 / song.rate)
  keep = (hz > 130) & (hz < 2500)
  pitch_class = np.round(69 + 12 * np.log2(hz[keep] / 440)).astype(int) % 12
  chroma = np.stack([s[:, keep][:, pitch_class == c].sum(1) for c in range(12)])
  hits = []
  for t in range(chroma.shape[1]):
    middle = (t * hop + window / 2) / song.rate
    half = 0.4 * window / song.rate
    for n in song.melody:
      if n.onset < middle - half and middle + half < n.onset + n.duration:
        hits.append(chroma[:, t].argmax() == n.pitch % 12)
  assert len(hits) > 15
  return np.mean(hits)


def test_melody_keeps_its_notes_in_every_timbre():
  fixed = dict(seconds=7, rate=RATE, speed="slow", reverb=0.1, **ALONE)
  songs = {}
  for timbre, voice in instruments.VOICES.items():
    song = synth.render(5, timbre=timbre, **fixed)
    assert melody_agreement(song) > 0.9, timbre
    assert song.tags["family"] == voice.family
    songs[timbre] = song
  tune = songs["flute"]
  means = []
  for song in songs.values():
    assert song.melody == tune.melody
    mean = np.log(spectrogram(song.audio[:, 0], 1024, 512).mean(0) + 1e-3)
    means.append(mean - mean.mean())
  for i, a in enumerate(means):
    assert all(np.abs(a - b).mean() > 0.1 for b in means[:i])


def test_melody_of_one_song_in_the_sound_of_another():
  song = synth.render(11, seconds=8, rate=RATE)
  other = synth.render(
    12, melody=song, seconds=8, rate=RATE, timbre="organ", **ALONE
  )
  assert other.melody == song.melody
  for name in ("key", "mode", "tempo", "beats", "degrees"):
    assert other.tags[name] == song.tags[name]
  assert melody_agreement(other) > 0.8
  # A bare list of notes: chords are found that carry it.
  again = synth.render(11, melody=song.melody, seconds=8, rate=RATE)
  bar = 60 / song.tags["tempo"] * song.tags["beats"]
  tonic = composition.NAMES.index(song.tags["key"])
  held = total = 0.0
  for n in song.melody:
    degree = again.tags["degrees"][int((n.onset + 0.02) / bar)]
    classes = composition.chord(degree, tonic, song.tags["mode"]).classes
    held += n.duration * (n.pitch % 12 in classes)
    total += n.duration
  assert held > 0.55 * total
  with pytest.raises(UserError, match="keeps its"):
    synth.render(12, melody=song, tempo=song.tags["tempo"] + 1)


def test_tunes_follow_their_harmony():
  """In key, singable, strong notes on chord tones, phrases that return."""
  strong, leaps, count = [], 0, 0
  for seed in range(40):
    rng = np.random.default_rng(seed)
    mode, tonic = ("major", "minor")[seed % 2], seed % 12
    beats, form = 3 if seed % 5 == 0 else 4, composition.FORMS[seed % 5]
    degrees = composition.harmony(rng, mode, form)
    notes = composition.melody(
      rng, degrees, form, tonic=tonic, mode=mode, beats=beats
    )
    assert degrees[0] == degrees[-1] == 0 and degrees[-2] == 4
    assert notes[-1].pitch % 12 == tonic
    allowed = {(tonic + p) % 12 for p in composition.SCALES[mode]}
    allowed.add((tonic + 11) % 12 if mode == "minor" else tonic)
    for a, b in zip(notes, notes[1:], strict=False):
      leaps += abs(a.pitch - b.pitch) > 7
      assert a.onset + a.duration <= b.onset + 1e-9
    for n in notes:
      assert n.pitch % 12 in allowed and 48 <= n.pitch <= 86
      if n.onset % beats == 0:
        degree = degrees[int(n.onset // beats)]
        chord = composition.chord(degree, tonic, mode)
        strong.append(n.pitch % 12 in chord.classes)
    count += len(notes)
    # The first two bars of every A are the same tune.
    first = [n for n in notes if n.onset < 2 * beats]
    for i, letter in enumerate(form):
      at = 4 * i * beats
      same = [n for n in notes if at <= n.onset < at + 2 * beats]
      if letter == "A" and i < len(form) - 1:
        assert [(n.onset - at, n.pitch) for n in same] == [
          (n.onset, n.pitch) for n in first
        ]
  assert np.mean(strong) > 0.9 and leaps < 0.05 * count


def says(text, phrase):
  return re.search(rf"(?<![\w-]){re.escape(phrase)}(?![\w-])", text)


def own_key(tags):
  return tags["key"], tags["mode"]


# The ways to put it that leave something out.
NO_SPEED, NO_TONIC, NO_CHORDS = {4}, {0, 3, 4, 5, 6}, {3, 5}


def test_captions_say_what_the_tags_say():
  texts = set()
  for seed in range(60):
    tags = synth.render(seed, seconds=0.5, rate=4000).tags
    for phrasing in range(7):
      text = song_captions.caption(tags, phrasing)
      texts.add(text)
      words = set(re.findall(r"[a-z0-9#-]+", text.lower()))
      other = {"major": "minor", "minor": "major"}[tags["mode"]]
      assert other not in words
      assert re.findall(r"(\d+) bpm", text) in ([], [str(tags["tempo"])])
      # Every caption speaks of drums and bass, or names all that plays.
      for part in ("drums", "bass"):
        named = part in words and f"no {part}" not in text
        assert named == bool(tags[part]), text
        assert not (f"no {part}" in text and tags[part]), text
      voice = text.partition("chords on ")[2]
      if phrasing not in NO_CHORDS:
        assert bool(voice) == bool(tags["chords"]), text
      if voice:
        names = instruments.VOICES[tags["chords"]].names
        names = names if tags["chords"] != tags["timbre"] else "the same sound"
        assert voice.startswith(names), text
      keys = re.findall(r"in ([A-G][b#]?) (major|minor)", text)
      assert keys == ([] if phrasing in NO_TONIC else [own_key(tags)]), text
      assert ("waltz" in words) <= (tags["beats"] == 3)
      assert not words & {"tune", "song", "piece"} or tags["beats"] == 4
      for speed, synonyms in song_captions.SPEEDS.items():
        named = any(says(text, s) for s in synonyms)
        expected = speed == tags["speed"] and phrasing not in NO_SPEED
        assert named == expected, text
      for alone in ("alone", "unaccompanied", "nothing else"):
        quiet = not (tags["drums"] or tags["bass"] or tags["chords"])
        assert not says(text, alone) or quiet
      names = instruments.VOICES[tags["timbre"]].names
      assert any(n.split(" ", 1)[1] in text or n in text for n in names)
      assert not re.search(r"\ba [aeou]|\ban [^aeoufFhH]|  |,,", text), text
    tempo = tags["tempo"]
    assert (tags["speed"] == "slow") == (tempo < 86)
    assert (tags["speed"] == "fast") == (tempo >= 118)
  assert len(texts) > 300


def test_a_folder_of_songs(tmp_path, monkeypatch):
  # A name that is not UTF-8, where output must be.
  ticks, folder = [], tmp_path / "caf\udce9"
  monkeypatch.setenv("PYTHONIOENCODING", "utf-8:strict")
  kwargs = dict(songs=3, seconds=1.5, rate=RATE, seed=5, drums=True)
  paths = song_files.write_songs(
    folder,
    workers=2,
    progress=lambda done, songs: ticks.append((done, songs)),
    **kwargs,
  )
  assert ticks == [(0, 3), (1, 3), (2, 3), (3, 3)]
  assert paths == files.find(folder) and len(paths) == 3
  for path in paths:
    x, rate = files.read(path)
    sidecar = json.loads(path.with_suffix(".json").read_text())
    song = synth.render(
      sidecar["tags"]["seed"], seconds=1.5, rate=RATE, drums=True
    )
    assert rate == RATE and set(sidecar) == {"caption", "tags", "_request"}
    np.testing.assert_allclose(x, song.audio, atol=1e-4)
    assert sidecar["caption"] == song.caption and sidecar["tags"]["drums"]
  # Stopped after two songs, begun again: only what is missing is made.
  paths[1].with_suffix(".json").unlink()
  before = [p.stat().st_mtime_ns for p in paths]
  song_files.write_songs(folder, workers=1, **kwargs)
  after = [p.stat().st_mtime_ns for p in paths]
  assert [a == b for a, b in zip(before, after, strict=True)] == [1, 0, 1]
  # Made for something else, if only by chance as long or without drums.
  for other in (dict(seconds=None), dict(drums=None), dict(bass=False)):
    written = sidecar_of(paths[0])
    song_files.write_songs(
      folder, workers=1, **{**kwargs, **other, "songs": 1}
    )
    assert sidecar_of(paths[0]) != written
  # Stopped between a song and its sidecar: the old one must not vouch for it.
  kwargs |= {"songs": 1, "workers": 1}
  song_files.write_songs(folder, **kwargs)
  before = files.read(paths[0])[0]
  with monkeypatch.context() as patch:
    patch.delattr("mmdcodec.store.atomic.write_json")
    with pytest.raises(AttributeError):
      song_files.write_songs(folder, **kwargs | {"drums": False})
  song_files.write_songs(folder, **kwargs)
  np.testing.assert_array_equal(files.read(paths[0])[0], before)
  kwargs |= {"songs": 3, "seed": 6}
  others = song_files.write_songs(tmp_path / "b", **kwargs)
  seeds = [
    json.loads(p.with_suffix(".json").read_text())["tags"]["seed"]
    for p in paths + others
  ]
  assert len(set(seeds)) == 6


def sidecar_of(path):
  return path.with_suffix(".json").read_text()


def test_the_cpus_of_the_process_are_used(tmp_path, monkeypatch):
  monkeypatch.setattr(song_files, "cpus", lambda: 3)
  seen = []

  def in_processes(jobs, workers):
    seen.append(workers)
    return iter(jobs)

  monkeypatch.setattr(song_files, "_in_processes", in_processes)
  song_files.write_songs(tmp_path, songs=5)
  assert seen == [3]


def test_a_renderer_that_dies_is_one_clear_error(tmp_path, monkeypatch):
  # More songs than a pipe takes unread: writing to the dead one fails.
  for program in ("false", "true"):
    monkeypatch.setattr(song_files.sys, "executable", shutil.which(program))
    with pytest.raises(UserError, match="0 of 2000 songs"):
      song_files.write_songs(tmp_path, songs=2000, workers=2)


def test_a_song_played_again_at_its_own_speed_keeps_its_tempo():
  song = synth.render(11, seconds=1, rate=4000)
  for speed in (song.tags["speed"], None):
    again = synth.render(12, melody=song, seconds=1, rate=4000, speed=speed)
    assert again.tags["tempo"] == song.tags["tempo"]


def test_impossible_choices_are_clear_errors():
  for choices in (
    dict(timbre="kazoo"),
    dict(tempo=1000),
    dict(key="H"),
    dict(mode="dorian"),
    dict(colour="blue"),
    dict(beats=5),
    dict(seconds=0),
    dict(seconds=1e-6),
    dict(rate=2000),
    dict(drums="loud"),
    dict(speed="slow", tempo=150),
    dict(speed="fast", tempo=90),
  ):
    with pytest.raises(UserError):
      synth.render(0, **choices)
  with pytest.raises(UserError):
    synth.render(-1)
