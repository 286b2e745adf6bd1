"""A headless browser, for tests of pages."""

import contextlib
import importlib.util
import shutil
import tempfile
import time

import numpy as np
import soundfile

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
_FLAGS = (
  "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic",
  "--no-first-run", "--disable-background-networking",
  "--disable-component-update", "--disable-sync", "--window-size=1280,1500",
  # A microphone that every page may use.
  "--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream",
  # Nothing but this machine can be reached.
  "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
)  # fmt: skip


def missing():
  """What is not installed, for the reason of a skipped test; "" if all is."""
  lacks = []
  if importlib.util.find_spec("selenium") is None:
    lacks.append("selenium")
  if not any(map(shutil.which, BROWSERS)):
    lacks.append("chromium")
  if not shutil.which("chromedriver"):
    lacks.append("chromedriver")
  return ", ".join(lacks)


@contextlib.contextmanager
def opened():
  """A browser of its own, whose microphone hears a tone: a Selenium driver."""
  from selenium import webdriver

  with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
    options = webdriver.ChromeOptions()
    heard = f"{profile}/heard.wav"
    soundfile.write(heard, 0.5 * np.sin(np.arange(96_000) * 0.1), 48_000)
    for flag in (
      *_FLAGS,
      f"--user-data-dir={profile}",
      f"--use-file-for-fake-audio-capture={heard}",
    ):
      options.add_argument(flag)
    options.binary_location = next(filter(None, map(shutil.which, BROWSERS)))
    logs = {"browser": "ALL", "performance": "ALL"}
    options.set_capability("goog:loggingPrefs", logs)
    # With a path, Selenium looks for no driver on the network.
    service = webdriver.ChromeService(shutil.which("chromedriver"))
    driver = webdriver.Chrome(options=options, service=service)
    try:
      yield driver
    finally:
      driver.quit()


def wait(ready, seconds=120.0):
  """Returns the first result of `ready` that is true."""
  end = time.monotonic() + seconds
  while True:
    failure = None
    try:
      if found := ready():
        return found
    except Exception as error:  # the element is not there yet, or not now
      failure = error
    if time.monotonic() > end:
      raise TimeoutError(f"in vain for {seconds} s") from failure
    time.sleep(0.1)
