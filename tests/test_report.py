"""The HTML report.

Catches: anything that the page would have to fetch, images or audio that do
not decode to what was put in, names that break out of the markup, numbers
printed to nothing, a picture that is not of the player above it, and a section
that is silently left out.
"""

import base64
import html.parser
import io
import struct
import zlib

import numpy as np
import pytest
import soundfile

from mmdcodec import formatting
from mmdcodec.evaluate import report, report_template


def tiny_png(width=3, height=2):
  """A valid grey PNG, written by hand."""

  def chunk(kind, data):
    body = kind + data
    return (
      struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))
    )

  rows = b"".join(b"\0" + bytes(width) for _ in range(height))
  head = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
  return (
    b"\x89PNG\r\n\x1a\n"
    + chunk(b"IHDR", head)
    + chunk(b"IDAT", zlib.compress(rows))
    + chunk(b"IEND", b"")
  )


class Page(html.parser.HTMLParser):
  """Collects tags, their attributes and the text."""

  VOID = {"meta", "img", "br", "link"}

  def __init__(self, text):
    super().__init__()
    self.tags, self.text, self.open = [], "", []
    self.feed(text)
    assert not self.open, f"never closed: {self.open}"

  def handle_starttag(self, tag, attrs):
    """Notes an opened tag."""
    self.tags.append((tag, dict(attrs)))
    if tag not in self.VOID:
      self.open.append(tag)

  def handle_endtag(self, tag):
    """Tags close in order."""
    assert self.open.pop() == tag

  def handle_data(self, data):
    """Collects words."""
    if self.open[-1:] != ["style"]:
      self.text += data

  def all(self, tag):
    """Attributes of every such tag."""
    return [attrs for name, attrs in self.tags if name == tag]


def payload(uri):
  head, data = uri.split(",", 1)
  assert head.endswith(";base64")
  return head, base64.b64decode(data, validate=True)


@pytest.fixture(scope="module")
def audio():
  t = np.arange(4000) / 8000
  mono = 0.5 * np.sin(2 * np.pi * 440 * t).astype(np.float32)
  return mono, np.stack([mono, -mono], 1)


@pytest.fixture(scope="module")
def page(tmp_path_factory, audio):
  folder = tmp_path_factory.mktemp("report")
  (folder / "b.png").write_bytes(tiny_png(5, 4))
  path = report.write_report(
    folder / "report.html",
    [
      report.Text("What was run", ["first", "a < b & c"], code="$ mmdcodec"),
      report.Table("Table", ("m", "x"), [("a", 1.23456), ("b", 7)], "a note"),
      report.Figure("Curves", [tiny_png(), folder / "b.png"], "two images"),
      report.Players(
        "Listen",
        [
          report.Clip(
            "<script>x.wav",
            [report.Recording("original", audio[0])],
            8000,
            "d",
          ),
          report.Clip(
            "stereo",
            [
              report.Recording("left one", audio[1], tiny_png(7, 1)),
              report.Recording("right one", audio[0], tiny_png(7, 2)),
            ],
            8000,
          ),
        ],
      ),
      report.environment(),
    ],
    title='<b> & "title"',
    lead="The result.",
  )
  assert sorted(p.name for p in folder.iterdir()) == ["b.png", "report.html"]
  return Page(path.read_text("utf-8"))


def test_the_page_needs_nothing_beside_itself(page):
  assert {tag for tag, _ in page.tags}.isdisjoint(
    {"script", "link", "iframe", "object", "base"}
  )
  sources = [a["src"] for _, a in page.tags if "src" in a]
  assert len(sources) == 7
  assert all(source.startswith("data:") for source in sources)
  assert not any("href" in attrs for _, attrs in page.tags)
  assert (
    "url(" not in report_template.STYLE
    and "@import" not in report_template.STYLE
  )


def test_images_come_back_whole(page):
  images = [payload(a["src"]) for a in page.all("img")]
  assert [head for head, _ in images] == ["data:image/png;base64"] * 4
  assert [data for _, data in images] == [
    tiny_png(), tiny_png(5, 4), tiny_png(7, 1), tiny_png(7, 2)
  ]  # fmt: skip
  assert all(a["alt"] for a in page.all("img"))


def test_audio_comes_back_to_16_bits(page, audio):
  expected = [audio[0], audio[1], audio[0]]
  for attrs, x in zip(page.all("audio"), expected, strict=True):
    assert "controls" in attrs
    head, data = payload(attrs["src"])
    assert head == "data:audio/flac;base64"
    y, rate = soundfile.read(io.BytesIO(data), dtype="float32")
    assert rate == 8000
    np.testing.assert_allclose(y, x, atol=1 / 32768)


def test_every_picture_stands_under_its_own_player(page, audio):
  """Catches players and pictures in different orders, or under one title."""
  order = [
    (tag, attrs)
    for tag, attrs in page.tags
    if tag in ("figcaption", "audio", "img")
  ]
  stereo = next(
    i
    for i, (_, attrs) in enumerate(order)
    if "left one" in attrs.get("alt", "")
  )
  group = order[stereo - 2 : stereo + 4]
  assert [tag for tag, _ in group] == ["figcaption", "audio", "img"] * 2
  expected = (("left one", audio[1], 1), ("right one", audio[0], 2))
  for index, (title, x, height) in enumerate(expected):
    (_, _), (_, player), (_, image) = group[3 * index : 3 * index + 3]
    data = payload(player["src"])[1]
    y, _ = soundfile.read(io.BytesIO(data), dtype="float32")
    np.testing.assert_allclose(y, x, atol=1 / 32768)
    assert payload(image["src"])[1] == tiny_png(7, height)
    assert image["alt"] == f"spectrogram: {title}, stereo"
  assert page.text.index("left one") < page.text.index("right one")


def test_words_numbers_and_markup(page):
  for words in (
    '<b> & "title"',
    "The result.",
    "a < b & c",
    "<script>x.wav",
    "1.23",
    "a note",
    "two images",
    "jaxlib",
    "CPU cores",
  ):
    assert words in page.text
  titles = ["What was run", "Table", "Curves", "Listen", "Environment"]
  assert len(page.all("h2")) == len(titles)
  places = [page.text.index(title) for title in titles]
  assert places == sorted(places)


def test_audio_that_is_not_finite_or_too_loud_is_still_playable(tmp_path):
  x = np.array([np.nan, np.inf, -5.0, 5.0, 0.25], np.float32)
  path = report.write_report(
    tmp_path / "r.html",
    [report.Players("p", [report.Clip("c", [report.Recording("x", x)], 8000)])],
  )
  _, data = payload(Page(path.read_text()).all("audio")[0]["src"])
  y, _ = soundfile.read(io.BytesIO(data), dtype="float32")
  np.testing.assert_allclose(y, [0, 1, -1, 1, 0.25], atol=1e-4)


def test_unknown_section_is_refused_and_leaves_no_file(tmp_path):
  with pytest.raises(TypeError, match="dict"):
    report.write_report(tmp_path / "r.html", [{}])
  assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
  "value, text",
  [
    (0.0, "0.00"),
    (0.0123456, "0.012"),
    (0.00234, "0.0023"),
    (2.3e-7, "2.30e-07"),
    (-12.3456, "-12.35"),
    (123.456, "123.5"),
    (12345.6, "12,346"),
    (1234567, "1,234,567"),
    (float("nan"), "–"),
    ("word", "word"),
    (np.float32(1.5), "1.50"),
  ],
)
def test_numbers(value, text):
  assert formatting.cell(value) == text
