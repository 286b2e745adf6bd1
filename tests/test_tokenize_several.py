"""Several tokenizers in one pass over the audio."""

import collections

import jax
import numpy as np
import pytest
from extension.loudness import Loudness

from mmdcodec import bundle
from mmdcodec.cli import main as cli
from mmdcodec.data import (
  record_encoder,
  record_source,
  token_shards,
  tokenization,
)
from mmdcodec.data.aligned_tokens import AlignedTokens
from mmdcodec.data.token_records import TokenSource
from mmdcodec.errors import UserError


def loudness(kind, step, dies_at=99):
  """A tokenizer with a kind of its own, which may stop after some batches."""

  class Other(Loudness):
    calls = 0

    def encode(self, x, rate=None, *, lengths=None):
      Other.calls += 1
      if Other.calls > dies_at:
        raise RuntimeError("killed")
      return super().encode(x, rate, lengths=lengths)

  Other.kind, Other.frame_rate = kind, 160.0 / step
  return Other({"model": {"step": step}}, {}, {})


@pytest.fixture(autouse=True)
def one_at_a_time(monkeypatch):
  """Shards of two records, encoded in their order."""
  monkeypatch.setattr(token_shards, "_LEAST", 2)
  monkeypatch.setattr(record_encoder, "_AT_A_TIME", 1)
  devices = jax.local_devices()[:1]
  monkeypatch.setattr(jax, "local_devices", lambda: devices)


def test_each_set_is_what_its_tokenizer_makes_alone(
  dataset, tmp_path, monkeypatch
):
  """Catches codes in the wrong set, and audio that is read twice."""
  reads = collections.Counter()
  get = record_source.Source.__getitem__

  def count(self, index):
    reads[index] += 1
    return get(self, index)

  kinds = {"loud": 4.0, "soft": 2.0}
  models = [loudness(*item) for item in kinds.items()]
  with monkeypatch.context() as patch:
    patch.setattr(record_source.Source, "__getitem__", count)
    found = tokenization.tokenize_all(dataset, tmp_path / "both", models)
  assert set(reads.values()) == {1} and [*found] == [*kinds]
  sets = {kind: TokenSource(tmp_path / "both" / kind) for kind in kinds}
  for kind, model in zip(kinds, models, strict=True):
    tokenization.tokenize(dataset, tmp_path / kind, model)
    alone = TokenSource(tmp_path / kind)
    assert alone.summary == sets[kind].summary == found[kind]
    for i in range(len(alone)):
      np.testing.assert_array_equal(alone[i]["codes"], sets[kind][i]["codes"])
  assert AlignedTokens(sets["loud"], {"soft": sets["soft"]}).grid == 1
  assert AlignedTokens(sets["soft"], {"loud": sets["loud"]}).grid == 2


def test_a_killed_run_goes_on(dataset, tmp_path):
  """Catches work done twice, and shards of another tokenizer that are kept."""
  first = lambda: loudness("loud", 4.0)
  run = lambda *models: tokenization.tokenize_all(
    dataset, tmp_path / "both", models, batch=1
  )
  with pytest.raises(RuntimeError, match="killed"):
    run(first(), loudness("soft", 2.0, dies_at=2))
  assert not (tmp_path / "both").exists()
  shards = len([*(tmp_path / ".both.unfinished").rglob("shard-*")])
  assert shards == 2
  again = first()
  run(again, loudness("soft", 2.0))
  assert type(again).calls == len(TokenSource(tmp_path / "both/loud")) - 2
  with pytest.raises(UserError, match="--force"):
    run(first(), loudness("soft", 2.0))
  with pytest.raises(UserError, match="several tokenizers of kind loud"):
    run(first(), first())


def test_the_command_and_info(dataset, tmp_path, capsys, monkeypatch, fails):
  """Catches a second --model that replaces the first."""
  words = ["tokenize", dataset, tmp_path / "both"]
  for kind in ("loud", "soft"):
    config = {"kind": kind, "model": {"step": 4.0}}
    bundle.save(tmp_path / kind, config, {"params": {"none": np.zeros(1)}})
    monkeypatch.setitem(bundle.LOADERS, kind, f"{__name__}:{kind}")
    words += ["--model", tmp_path / kind]
  assert not cli.main([str(word) for word in words])
  assert not cli.main([str(word) for word in [*words, "--force"]])
  printed = capsys.readouterr().out
  assert "both/loud: " in printed and "both/soft: " in printed
  assert not cli.main(["info", str(tmp_path / "both")])
  printed = capsys.readouterr().out
  assert printed.count("data set ") == 2
  assert "--force" in fails(*words)


def loud(config, variables, assets):
  """Opens a bundle."""
  return loudness("loud", config["model"]["step"])


def soft(config, variables, assets):
  """Opens a bundle."""
  return loudness("soft", config["model"]["step"])
