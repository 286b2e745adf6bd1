"""The demo's page in a browser.

Must catch: inputs that do not reach the models; music that is only heard when
it is complete; clicks and pages that get in each other's way; mistakes without
a sentence; files that stay; anything that is loaded from elsewhere.
"""

import importlib.util
import json
import os
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request

import browser
import numpy as np
import pytest
import soundfile
from browser import wait
from random_models import write_random_models

LACKS = browser.missing()
if importlib.util.find_spec("gradio") is None:
  LACKS = ", ".join(filter(None, ["mmdcodec[demo]", LACKS]))
pytestmark = [
  pytest.mark.slow,
  pytest.mark.skipif(bool(LACKS), reason=f"not installed: {LACKS}"),
]
RATE = 8000


class Gate:
  """In the place of the lock: lets as many blocks be made as a test wants."""

  def __init__(self):
    self.lock, self.steps = threading.Lock(), None

  def __enter__(self):
    if (steps := self.steps) is not None:
      steps.acquire()
    self.lock.acquire()

  def __exit__(self, *_):
    self.lock.release()

  def allow(self, steps):
    self.steps = threading.Semaphore(steps)

  def open(self):
    steps, self.steps = self.steps, None
    steps.release(1000)


@pytest.fixture(scope="module")
def paths(tmp_path_factory):
  return write_random_models(tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="module")
def site(paths, tmp_path_factory):
  """(address, gate, folder of temporary files) of a server."""
  from mmdcodec.demo import models, server
  from mmdcodec.demo.uploads import Limits

  folder, gate = tmp_path_factory.mktemp("temporary"), Gate()
  opened = models.Models(models.open_models(paths).by_name, gate)
  limits = Limits(seconds=10.0, size=400_000)
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr("tempfile.tempdir", str(folder))
    made = server.opened(opened, host="127.0.0.1", port=0, limits=limits)
    with made as (address, serving):
      thread = threading.Thread(target=serving.run)
      thread.start()
      yield address, gate, folder
      serving.should_exit = True
      thread.join()
  assert not [*folder.glob("mmdcodec-demo-*")]


@pytest.fixture(scope="module")
def driver(site):
  with browser.opened() as driver:
    yield driver


@pytest.fixture
def page(site, driver):
  return Page(driver, site[0])


@pytest.fixture
def tune(tmp_path):
  path = tmp_path / "tune.wav"
  x = np.random.default_rng(0).uniform(-0.3, 0.3, 2 * RATE)
  soundfile.write(path, x, RATE)
  return path


class Page:
  """A page that was loaded anew; its elements by their ids."""

  def __init__(self, driver, address):
    self.driver = driver
    driver.get(address)
    wait(lambda: self.element("#code").is_displayed())

  def elements(self, css):
    return self.driver.find_elements("css selector", css)

  def element(self, css):
    return self.driver.find_element("css selector", css)

  def tab(self, name):
    tabs = self.elements("button[role=tab]")
    next(each for each in tabs if each.text == name).click()

  def upload(self, name, path):
    self.element(f"#{name} input[type=file]").send_keys(str(path))
    # It is there when it can be removed.
    wait(lambda: self.elements(f"#{name} button[aria-label*=lear]"))

  def record(self, name, seconds):
    self.element(f"#{name} button[aria-label='Record audio']").click()
    shown = lambda css: self.element(f"#{name} {css}").is_displayed()
    wait(lambda: shown(".record-button"))
    self.element(f"#{name} .record-button").click()
    wait(lambda: shown(".stop-button"))
    time.sleep(seconds)
    self.element(f"#{name} .stop-button").click()
    # The server has it.
    wait(lambda: self.elements(f"#{name} audio"))

  def write(self, name, text):
    box = self.element(f"#{name} textarea, #{name} input")
    wait(box.is_displayed)
    box.clear()
    box.send_keys(text)

  def click(self, name):
    wait(lambda: self.element(f"#{name}").is_displayed())
    # Of the mouse, or the browser would play nothing.
    self.element(f"#{name}").click()

  def click_often(self, name, times):
    wait(lambda: self.element(f"#{name}").is_displayed())
    script = "for (let i = 0; i < arguments[1]; i++) arguments[0].click()"
    self.driver.execute_script(script, self.element(f"#{name}"), times)

  def told(self, name, words):
    wait(lambda: words in self.element(f"#{name}").text)
    return self.element(f"#{name}").text

  def pictures(self, name, count):
    """Sources of the pictures, when all have been drawn."""
    shown = lambda: self.elements(f"#{name} img")
    wait(lambda: len(shown()) == count)
    wide = lambda each: int(each.get_property("naturalWidth")) > 300
    wait(lambda: all(map(wide, shown())))
    return [each.get_attribute("src") for each in shown()]

  def players(self, name):
    """What the players play."""
    script = (
      "return [...document.querySelectorAll(arguments[0])].map(a => a.src)"
    )
    return self.driver.execute_script(script, f"#{name} audio")

  def sounds(self, name):
    """(readyState, currentTime, duration) of the players."""
    script = (
      "return [...document.querySelectorAll(arguments[0])]"
      ".map(a => [a.readyState, a.currentTime, a.duration])"
    )
    return self.driver.execute_script(script, f"#{name} audio")


def test_a_file_is_coded(page, site, tune):
  """Also: nothing is loaded from elsewhere, and nothing is left."""
  page.driver.get_log("performance")  # forgets what the browser itself loads
  page.driver.refresh()
  wait(lambda: page.element("#code").is_displayed())
  page.upload("codec-audio", tune)
  # One to the left of 4.
  page.element("#codec-codebooks input[type=range]").send_keys("\ue012")
  page.click("code")
  told = page.told("codec-told", "kbps")
  # 3 codebooks of 32 codes, 40 times a second; 8000 x 16 bits are 213 x that.
  assert "80 frames" in told and "0.60 kbps, 1/213 of" in told
  assert len(set(page.pictures("codec-found", 3))) == 3
  wait(lambda: all(state for state, *_ in page.sounds("codec-found")))
  assert [each[2] for each in page.sounds("codec-found")] == [2, 2]
  events = [
    json.loads(each["message"])["message"]
    for each in page.driver.get_log("performance")
  ]
  asked = [
    each["params"]["request"]["url"]
    for each in events
    if each["method"] == "Network.requestWillBeSent"
  ]
  ours = (site[0], "data:", "blob:")
  assert len(asked) > 10 and all(each.startswith(ours) for each in asked)
  files = lambda: [
    each
    for folder in site[2].glob("mmdcodec-demo-*")
    for each in folder.rglob("*")
    if each.is_file()
  ]
  assert len(files()) == 3
  page.driver.get("about:blank")
  wait(lambda: not files())


def test_a_recorded_melody(page):
  """Catches a recording that the page cannot send, or that is not followed."""
  page.tab("Music")
  page.write("seconds", "1")
  page.click("make")
  page.told("music-told", "1 piece of 1.00 s")
  without, player = page.pictures("music-found", 2), page.players("music-found")
  page.element("#with-melody button").click()
  page.record("melody", seconds=1.5)
  page.click("make")
  wait(lambda: page.players("music-found") not in ([], player))
  page.told("music-told", "1 piece of 1.00 s")
  assert page.pictures("music-found", 2)[1] != without[1]


def test_music_is_heard_while_it_is_made(page, site):
  gate = site[1]
  page.tab("Music")
  page.write("prompt", "a tune")
  gate.allow(3)
  page.click("make")
  page.told("music-told", "3.0 of 8 s")
  # Nothing more is made now, and it plays.
  playing = lambda: [each for each in page.sounds("music-live") if each[1] > 0]
  wait(playing)
  assert playing()[0][0] >= 2
  assert "3.0 of 8 s" in page.element("#music-told").text
  assert not page.elements("#music-found img")
  gate.open()
  page.told("music-told", "1 piece of 8.00 s")
  page.pictures("music-found", 2)
  wait(lambda: page.sounds("music-found")[0][0])
  assert page.sounds("music-found")[0][2] == 8


def test_stopped_music_remains(page, site):
  gate = site[1]
  page.tab("Music")
  gate.allow(2)
  page.click("make")
  page.told("music-told", "2.0 of 8 s")
  page.click("stop")
  gate.open()
  page.told("music-told", "Stopped. 1 piece of 2.00 s")
  page.pictures("music-found", 2)
  wait(lambda: not gate.lock.locked())
  # And the page goes on.
  page.write("seconds", "1")
  page.click("make")
  page.told("music-told", "1 piece of 1.00 s")


def test_quick_clicks_on_two_pages(page, site, tune, capfd):
  """Catches work that is lost, done for another page, or blocks the rest."""
  first = page.driver.current_window_handle
  page.driver.switch_to.new_window("tab")
  second = page.driver.current_window_handle
  Page(page.driver, site[0])
  for window in (first, second):
    page.driver.switch_to.window(window)
    page.upload("codec-audio", tune)
    page.click_often("code", 20)
    page.tab("Music")
    page.write("prompt", "a tune")
    page.write("seeds", "1" if window == first else "1, 2")
    page.write("seconds", "2")
    page.click_often("make", 20)
  shown = {}
  for window in (first, second):
    page.driver.switch_to.window(window)
    count = 1 if window == first else 2
    page.told("music-told", f"{count} piece")
    shown[window] = page.pictures("music-found", 2 * count)
    page.tab("Codec")
    page.told("codec-told", "kbps")
    shown[window] += page.pictures("codec-found", 3)
    # Each goes on as before.
    before = page.players("codec-found")
    page.click("code")
    wait(lambda old=before: page.players("codec-found") not in ([], old))
    page.pictures("codec-found", 3)
    logs = page.driver.get_log("browser")
    assert not [each for each in logs if each["level"] == "SEVERE"], logs
  # The codes of seed 1, and what the codec made.
  assert shown[first][1] == shown[second][1] != shown[second][3]
  assert shown[first][-3:] == shown[second][-3:]
  page.driver.close()
  page.driver.switch_to.window(first)
  assert "Traceback" not in capfd.readouterr().err


def test_mistakes_are_told_on_the_page(page, tune, tmp_path):
  page.click("code")
  page.told("codec-told", "drop a file")
  broken = tmp_path / "broken.wav"
  broken.write_bytes(tune.read_bytes()[:9000])
  page.upload("codec-audio", broken)
  page.click("code")
  assert page.told("codec-told", "truncated").startswith("broken.wav")
  page.tab("Music")
  page.element("#music-model input").click()
  options = wait(lambda: page.elements("[role=option]"))
  next(each for each in options if "hierarchy" in each.text).click()
  page.write("story", "0 calm piano\n5 with drums\n3 alone")
  page.click("make")
  page.told("music-told", "its times must ascend")


def test_an_upload_that_is_too_large(page, site, tmp_path):
  """Catches a bound that the page alone knows."""
  large = tmp_path / "large.wav"
  soundfile.write(large, np.zeros(500_000), RATE)
  page.element("#codec-audio input[type=file]").send_keys(str(large))
  wait(lambda: "exceed the maximum" in page.element("body").text)
  url = f"{site[0]}gradio_api/upload"
  claims = {"Content-Length": str(large.stat().st_size)}
  request = urllib.request.Request(url, b"x", claims)
  with pytest.raises(urllib.error.HTTPError, match="413"):
    urllib.request.urlopen(request)


def test_two_models_side_by_side(page, tune):
  page.tab("Side by side")
  page.upload("both-audio", tune)
  page.click("code-both")
  page.told("both-told", "by both")
  pictures = page.pictures("both-found", 5)
  assert len(set(pictures)) == 5
  assert len(page.sounds("both-found")) == 3
  page.write("both-prompt", "a tune")
  page.write("both-seconds", "0.5")
  page.click("make-both")
  page.told("both-music-told", "by both")
  assert len(set(page.pictures("both-music-found", 4))) == 4


def test_the_command_leaves_nothing(paths, tmp_path):
  """Catches files that stay when the command is ended by a signal."""
  command = [sys.executable, "-m", "mmdcodec", "demo", "--port=0", "--model"]
  with subprocess.Popen(
    [*command, paths[0]],
    stdout=subprocess.PIPE,
    text=True,
    env={**os.environ, "TMPDIR": str(tmp_path)},
  ) as process:
    assert "http://127.0.0.1:" in process.stdout.readline()
    made = [*tmp_path.glob("mmdcodec-demo-*")]
    process.send_signal(signal.SIGTERM)
    assert process.stdout.read() == "ended\n"
  assert process.returncode == 0 and len(made) == 1
  assert not [*tmp_path.glob("mmdcodec-demo-*")]
