"""The parts of the demo's page that need no browser.

Must catch: uploads without bounds; files that outlive their page or go with
another one; a stream that is not the piece; music that does not stop.
"""

import asyncio
import io
import sys
import threading

import numpy as np
import pytest
import soundfile
from random_models import write_random_models

from mmdcodec.demo import elements, models, piece, reconstruction, uploads
from mmdcodec.demo.making import Making, Request, read_seeds
from mmdcodec.demo.sessions import Sessions
from mmdcodec.errors import UserError

RATE = 8000


@pytest.fixture(scope="module")
def opened(tmp_path_factory):
  return models.open_models(write_random_models(tmp_path_factory.mktemp("m")))


def tone(seconds, channels=1):
  x = 0.3 * np.sin(np.arange(round(seconds * RATE)) / 10)
  return np.repeat(x[:, None], channels, 1).astype(np.float32)


def test_what_each_model_can_do(opened):
  assert opened.names == ["codec", "music", "hierarchy"]
  assert opened.musical == ["music", "hierarchy"]
  takes = {
    name: [w for w in ("text", "melody", "story") if opened[name].takes(w)]
    for name in opened.names
  }
  assert takes == {
    "codec": [],
    "music": ["text", "melody"],
    "hierarchy": ["text", "melody", "story"],
  }
  # 4 codebooks of 32 codes, 40 times a second.
  assert opened["codec"].bits_per_second(3) == 3 * 5 * 40
  with pytest.raises(UserError, match="reload the page"):
    opened["other"]


def test_fewer_codebooks_are_those_of_the_codec(opened):
  """Catches a slider that changes nothing, and audio of another length."""
  x = tone(0.8, channels=2)
  made = reconstruction.reconstruct(opened["codec"], x, RATE, 2)
  codec = opened["codec"].codec
  codes = codec.encode(x, RATE, codebooks=2)
  assert made.codes.shape == (32, 2)
  np.testing.assert_array_equal(made.codes, codes[0])
  assert made.original.shape == made.decoded.shape == (len(x), 1)
  np.testing.assert_array_equal(made.decoded, codec.decode(codes)[0, : len(x)])


# --------------------------------------------------------------------- uploads


def test_bounds_of_uploads(tmp_path):
  """Each mistake is one sentence, with the user's name of the file alone."""
  limits = uploads.Limits(seconds=2.0, size=100_000)
  path = tmp_path / "tune.wav"
  soundfile.write(path, tone(1.5, 2), RATE)
  x, rate = uploads.need(str(path), limits)
  assert (x.shape, rate) == ((12_000, 2), RATE)
  whole = path.read_bytes()
  for contents, words in (
    (b"", "is empty"),
    (b"no audio at all", "tune.wav"),
    (whole[:5000], "truncated"),
    (bytes(200_000), "at most"),
  ):
    path.write_bytes(contents)
    with pytest.raises(UserError, match=words) as told:
      uploads.need(str(path), limits)
    assert str(tmp_path) not in str(told.value)
  soundfile.write(path, tone(2.5), RATE)
  with pytest.raises(UserError, match="lasts 2.5"):
    uploads.need(str(path), limits)
  path.unlink()
  with pytest.raises(UserError, match="no longer here"):
    uploads.need(str(path), limits)
  assert uploads.read(None, limits) is None
  with pytest.raises(UserError, match="drop a file"):
    uploads.need(None, limits)


# -------------------------------------------------------------------- sessions


def test_files_go_with_their_page(tmp_path):
  """Catches files that stay, and those that another page still shows."""
  folder = tmp_path / "sounds"
  folder.mkdir()
  sessions = Sessions(folder)
  shared, own = tmp_path / "shared.wav", tmp_path / "own.wav"
  for path in (shared, own):
    path.write_bytes(b"x")
  sessions.hold("a", str(shared))
  sessions.hold("a", str(own))
  sessions.hold("b", str(shared))
  name = sessions.of("a").add_audio("codec", tone(0.1), RATE)
  file = sessions.find(name)
  assert soundfile.info(file).frames == 800
  # New work in a place takes the place of the old, which the page may still
  # ask for until the work after that; in another place it stays.
  other = sessions.of("a").add_audio("music", tone(0.1), RATE)
  assert sessions.of("a").begin("codec", 1)
  assert sessions.find(name) == file and file.exists()
  newer = sessions.of("a").add_audio("codec", tone(0.1), RATE)
  assert sessions.of("a").begin("codec", 2)
  assert sessions.find(name) is None and not file.exists()
  assert sessions.find(newer).exists()
  assert sessions.find(other).exists()
  ended = sessions.of("a")
  sessions.end("a")
  assert not own.exists() and shared.exists()
  assert not [*folder.iterdir()] and sessions.find(other) is None
  # What still runs when the page is closed leaves nothing.
  assert ended.add_audio("codec", tone(0.1), RATE) == ""
  assert not [*folder.iterdir()]
  sessions.end_all()
  assert not shared.exists()


def test_closing_a_page_stops_its_music(tmp_path, opened):
  sessions = Sessions(tmp_path)
  making = [
    Making(opened["music"], opened.turn, Request(), most=10) for _ in range(3)
  ]
  session = sessions.of("a")
  assert session.begin("music", 1)
  session.work("music", 1, making[0])
  session.begin("music", 2)
  session.work("music", 2, making[1])
  assert making[0].stopped and not making[1].stopped
  sessions.end("a")
  assert making[1].stopped
  assert not session.begin("music", 3)
  session.work("music", 3, making[2])
  assert making[2].stopped and not [*making[2].run()]


def test_the_last_click_wins(tmp_path, opened):
  """Catches an older click that takes the place of the last one."""
  old, new = (
    Making(opened["music"], opened.turn, Request(), most=10) for _ in range(2)
  )
  session = Sessions(tmp_path).of("a")
  assert session.begin("music", 1)
  session.work("music", 1, old)
  # It is stopped when a later click arrives, though that has to wait.
  session.note("music", 3)
  assert old.stopped and not session.latest("music", 1)
  assert session.begin("music", 3)
  session.work("music", 3, new)
  name = session.add_audio("music", tone(0.1), RATE)
  # Another one of the same moment arrives late.
  session.note("music", 2)
  assert not session.begin("music", 2)
  session.work("music", 2, old)
  assert not new.stopped and session.latest("music", 3)
  assert session.sounds[name].exists() and session.stop("music") is new
  # Other places are others' business.
  assert session.begin("codec", 1) and session.latest("music", 3)


# ------------------------------------------------------------------ the server


@pytest.mark.slow  # because of Gradio
def test_other_sites_are_refused(tmp_path):
  """Catches a page that any site in the browser can use."""
  pytest.importorskip("gradio")
  from fastapi.testclient import TestClient

  from mmdcodec.demo import context, server

  mine = ("127.0.0.1", "localhost", "::1")
  for host in ("127.0.0.1:80", "localhost", "[::1]:7860"):
    assert not server.is_foreign(host, "", mine)
    assert not server.is_foreign(host, f"http://{host}", mine)
    assert server.is_foreign(host, "http://evil.example", mine)
    assert server.is_foreign(host, "null", mine)
    assert server.is_foreign(host, "http://[::1", mine)
  for host in ("evil.example", "evil.example:80", "127.0.0.1.evil.example", ""):
    assert server.is_foreign(host, "", mine)
    assert not server.is_foreign(host, "")
  shared = context.Context(None, Sessions(tmp_path), uploads.Limits())
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(server, "make_page", lambda _: context.gr.Blocks())
    client = TestClient(server.make_app(shared, mine))
  ask = lambda host: client.get("/sound/a.wav", headers={"Host": host})
  assert ask("evil.example").status_code == 403
  assert ask("localhost:7860").status_code == 404


@pytest.mark.slow  # because of Gradio
def test_parts_of_sounds(tmp_path):
  """Catches players that cannot seek, and files that go while they are read."""
  pytest.importorskip("gradio")
  from fastapi.testclient import TestClient

  from mmdcodec.demo import context, server

  sessions = Sessions(tmp_path)
  shared = context.Context(None, sessions, uploads.Limits())
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(server, "make_page", lambda _: context.gr.Blocks())
    client = TestClient(server.make_app(shared))
  name = sessions.of("a").add_audio("codec", tone(0.1), RATE)
  whole = sessions.find(name).read_bytes()
  size = len(whole)
  ask = lambda part: client.get(f"/sound/{name}", headers={"Range": part})
  for part, first, end in (
    ("bytes=0-", 0, size),
    ("bytes=10-10", 10, 11),
    ("bytes=40-99999", 40, size),
    ("bytes=-100", size - 100, size),
    ("bytes=-99999", 0, size),
  ):
    found = ask(part)
    assert (found.status_code, found.content) == (206, whole[first:end]), part
    told = f"bytes {first}-{end - 1}/{size}"
    assert found.headers["content-range"] == told
  for part in ("", "bytes=-", "bytes=0-1,5-6", "lines=0-1"):
    found = ask(part)
    assert (found.status_code, found.content) == (200, whole), part
    assert found.headers["accept-ranges"] == "bytes"
  for part in (f"bytes={size}-", "bytes=-0"):
    assert ask(part).status_code == 416
    assert ask(part).headers["content-range"] == f"bytes */{size}"
  sessions.find(name).unlink()
  assert ask("bytes=0-").status_code == 404
  assert client.get("/sound/other.wav").status_code == 404


# ------------------------------------------------------------------ the stream


def test_a_stream_is_the_piece():
  """Catches parts that are lost or doubled, and a header that lies."""
  made = piece.Piece(RATE, 1, 2000)
  x = 1.5 * np.sin(np.arange(2000) / 20).astype(np.float32)[:, None]

  def write():
    for part in np.split(x, [300, 1100]):
      made.add(part)
    made.finish()

  async def listen():
    return b"".join([each async for each in made.wav()])

  async def both():
    early = asyncio.create_task(listen())
    await asyncio.sleep(0)
    threading.Thread(target=write).start()
    return await early, await listen()

  want = np.clip(1.5 * np.sin(np.arange(12_000) / 120), -1, 1)
  for found in asyncio.run(both()):
    y, rate = soundfile.read(io.BytesIO(found), always_2d=True)
    assert (rate, y.shape) == (48_000, (12_000, 2))
    np.testing.assert_array_equal(y[:, 0], y[:, 1])
    # Resampling rings where the piece begins and ends.
    middle = slice(1000, -1000)
    np.testing.assert_allclose(y[middle, 0], want[middle], atol=0.01)


# ----------------------------------------------------------------------- music


def test_music_is_that_of_the_model(opened):
  """Catches seeds, prompts and audio that do not reach the model."""
  model = opened["music"]
  request = Request(
    prompt="calm", seconds=1.5, seeds="3, 1", audio=(tone(0.5), RATE),
    melody=(tone(1.0), RATE), temperature=0.9, top_k=20, guidance=2.0,
  )  # fmt: skip
  making = Making(model, opened.turn, request, most=10)
  assert making.codes is None
  times = [made for made, _ in making.run()]
  assert times == sorted(times) and times[-1] == 1.5 and len(times) > 1
  want = model.music.generate_codes(
    "calm", seconds=1.5, seed=[3, 1], audio=tone(0.5), melody=tone(1.0),
    rate=RATE, temperature=0.9, top_k=20, guidance=2.0,
  )  # fmt: skip
  np.testing.assert_array_equal(making.codes, want)
  y = model.codec.decode(want)
  for each, audio in zip(making.pieces, y, strict=True):
    np.testing.assert_allclose(each.audio, audio, atol=1e-4)
    assert each.samples == len(audio)
  assert not opened.turn.locked()


def test_music_stops(opened):
  """Catches a lock that is kept, and music that goes on."""
  request = Request(seconds=9.0)
  making = Making(opened["music"], opened.turn, request, most=10)
  run = making.run()
  next(run)
  making.stop()
  assert [*run] == [] and not opened.turn.locked()
  assert making.codes.shape[1] < 9 * 40
  assert asyncio.run(_count(making.pieces[0])) > 44
  # A hierarchy looks within its blocks, which are long.
  making = Making(opened["hierarchy"], opened.turn, request, most=10)
  making.stop()
  with pytest.raises(Exception, match="^$"):
    making._options["progress"]("semantic", 1, 2)


async def _count(made):
  return sum([len(each) async for each in made.wav()])


@pytest.mark.parametrize(
  "changes, words",
  [
    (dict(seconds=0), "above 0 and at most 10 s"),
    (dict(seconds=11), "above 0 and at most 10 s"),
    (dict(seconds=float("nan")), "above 0 and at most 10 s"),
    (dict(seconds=None), "above 0 and at most 10 s"),
    (dict(seeds="1, x"), "whole numbers"),
    (dict(seeds="0,1,2,3,4"), "one to 4 whole numbers"),
    (dict(seeds="-1"), "whole numbers"),
    (dict(prompt="a" * 9000), "has 9000 characters; at most 4000"),
    (dict(prompt="a" * 3000), "tokens; this model takes at most"),
    (dict(story="0 calm\n5 loud\n3 calm"), "times must ascend"),
    (dict(story="calm"), "The story, line 1"),
    (dict(story="0 calm", prompt="loud"), "give one of them"),
    (dict(temperature=-1.0), "temperature"),
    (dict(audio=(tone(9), RATE)), "ask for more"),
  ],
)
def test_mistakes_in_requests(opened, changes, words):
  """Each of them is one sentence; most are found before anything is made."""
  with pytest.raises(UserError, match=words) as told:
    request = Request(**changes)
    making = Making(opened["hierarchy"], opened.turn, request, most=10)
    [*making.run()]
  assert not opened.turn.locked() and "\n" not in str(told.value)


def test_seeds():
  assert read_seeds(" 7,  8 9") == [7, 8, 9]
  assert read_seeds("") == [0]


# -------------------------------------------------------------------- the page


def test_words_of_users_are_no_html(capsys):
  """Catches a name or prompt that becomes part of the page's code."""
  bad = "<img src=x onerror=alert(1)>"
  for made in (
    elements.told(bad),
    elements.failed(UserError(bad)),
    elements.player(bad, '"><b>'),
  ):
    assert "<img" not in made and "<b>" not in made
  # A fault of ours is not shown, but told in the terminal.
  shown = elements.failed(ValueError("secret"))
  assert "secret" not in shown and "fault in the program" in shown
  assert "ValueError: secret" in capsys.readouterr().err


def test_the_command_without_a_model(fails, tmp_path):
  pytest.importorskip("gradio")
  assert "holds no model" in fails("demo", "--model", tmp_path)


def test_the_command_without_gradio(fails, tmp_path, monkeypatch):
  """Catches a traceback, and a page that only then refuses a number."""
  words = ["demo", "--model", tmp_path]
  monkeypatch.setitem(sys.modules, "gradio", None)
  for name in [name for name in sys.modules if "mmdcodec.demo" in name]:
    monkeypatch.delitem(sys.modules, name)
  assert "pip install 'mmdcodec[demo]'" in fails(*words)
  assert "above 0" in fails(*words, "--max-seconds", "nan")
