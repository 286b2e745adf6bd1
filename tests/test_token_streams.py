"""What a training crop reads from the token streams beside its codes.

Must catch: rows of another part of the piece than the crop; levels that are not
the first; a stream that is passed over because it has more than is needed.
"""

import numpy as np
import pytest
from known_tokens import Known, songs, write

from mmdcodec.data import token_batches
from mmdcodec.data.aligned_tokens import AlignedTokens
from mmdcodec.data.token_records import TokenSource
from mmdcodec.errors import UserError
from mmdcodec.models.token_conditions import Tokens

CODEC = Known("codec", 50.0, (100,) * 6)
JOINT = Known("mulan", 1.0, (50, 50), window=2.0)
MELODY = Known("melody_embedding", 1 / 3, (40,), window=4.0)


@pytest.fixture(scope="module")
def source(tmp_path_factory):
  """A codec's tokens of songs of 12 s, beside those of the others."""
  folder = tmp_path_factory.mktemp("streams")
  paths = write(
    songs(folder, 2, seconds=12.0), folder / "tokens", CODEC, JOINT, MELODY
  )
  codec = TokenSource(paths["codec"])
  streams = {
    "coarse": codec,
    "joint": TokenSource(paths["mulan"]),
    "melody": TokenSource(paths["melody_embedding"]),
  }
  return AlignedTokens(codec, streams)


def read(source, condition, where, frames=100):
  """The rows of a condition that a crop of song 1 reads, without padding."""
  (found,) = token_batches.crop(
    source, 0, where, frames, [condition]
  )["conditions"].values()  # fmt: skip
  assert found["given"]
  return found["tokens"][: found["lengths"]]


def test_the_first_codebooks_of_a_wider_stream(source):
  """Catches levels that are not the first, or not those of the crop."""
  coarse = Tokens(
    name="coarse", codebooks=4, size=100, frames=100, frame_rate=50.0
  )
  codes = CODEC.codes_of(1, 600)
  np.testing.assert_array_equal(read(source, coarse, 0.0), codes[:100, :4])
  # Starts are 0 to 500: half way is 250.
  np.testing.assert_array_equal(read(source, coarse, 0.5), codes[250:350, :4])
  wide = Tokens(name="coarse", codebooks=7, size=100, frame_rate=50.0)
  with pytest.raises(UserError, match="7 x 100 tokens; the data set has 6"):
    read(source, wide, 0.0)
  small = Tokens(name="coarse", codebooks=4, size=20, frame_rate=50.0)
  with pytest.raises(UserError, match="4 x 20 tokens"):
    read(source, small, 0.0)


def test_the_window_in_the_middle_of_the_crop(source):
  """Catches joint tokens of what comes before, after or at the start."""
  joint = Tokens(name="joint", codebooks=2, size=50)
  codes = JOINT.codes_of(1, 12)
  # 8 s from 0 s: their middle is 4 s, that of row 3 (3 s to 5 s).
  np.testing.assert_array_equal(read(source, joint, 0.0, 400), codes[3:4])
  # 2 s from 5 s on are row 5; from the very end there is only the last one.
  np.testing.assert_array_equal(read(source, joint, 0.5), codes[5:6])
  np.testing.assert_array_equal(read(source, joint, 0.999, 2), codes[11:12])
  # A crop that is longer than the song: 12 s, so the middle is 6 s.
  np.testing.assert_array_equal(read(source, joint, 0.0, 900), codes[5:6])
  several = Tokens(name="joint", codebooks=2, size=50, frames=3)
  np.testing.assert_array_equal(read(source, several, 0.0, 400), codes[2:5])


def test_melody_tokens_have_their_own_frame_rate(source):
  """Catches windows of 4 s that begin a whole stride from the crop."""
  melody = Tokens(name="melody", size=40, frames=2, frame_rate=1 / 3)
  codes = MELODY.codes_of(1, 4)
  np.testing.assert_array_equal(read(source, melody, 0.0), codes[:2])
  # The crop from 5 s on: the row from 6 s on is nearer than that from 3 s on.
  np.testing.assert_array_equal(read(source, melody, 0.5), codes[2:4])
  # From 10 s on there is only the row from 9 s on.
  np.testing.assert_array_equal(read(source, melody, 0.9999), codes[3:4])
