"""`mmdcodec quickstart --system musiclm`: the hierarchy from music to page.

Catches: a part that does not fit the one before it, a codec that is trained
again, work done again when the command is repeated, stages that do not follow
their tokenizers, a page without its players, and configs that cannot train.
"""

import hashlib
import json
import re

import pytest
import smallest_codec
import soundfile
from mmdcodec.configs import quickstart as codec_configs
from mmdcodec.configs import quickstart_musiclm

import mmdcodec
from mmdcodec import bundle, packaged
from mmdcodec.cli.main import main
from mmdcodec.data import record_source
from mmdcodec.errors import UserError
from mmdcodec.evaluate import built_in, musiclm
from mmdcodec.train import config_checks
from mmdcodec.train.task import make_task
from mmdcodec.workflows import quickstart_job, stage_training
from mmdcodec.workflows import quickstart_musiclm as workflow
from mmdcodec.workflows import quickstart_musiclm_models as models
from mmdcodec.workflows import quickstart_musiclm_pieces as pieces
from mmdcodec.workflows.quickstart_musiclm_job import make_job


def smallest_config(arg):
  """2 x 32 codes at 50 Hz."""
  return smallest_codec.get_config(arg, ratios=(10, 16))


@pytest.mark.slow
def test_the_whole_job(tmp_path, capsys, monkeypatch, compile_fast):
  monkeypatch.setattr(codec_configs, "get_config", smallest_config)
  argv = ["quickstart", "--tiny", "--steps", "2", "--workdir"]
  argv.append(str(tmp_path / "job"))
  # The codec of the plain command, as if it had been interrupted after it.
  with monkeypatch.context() as patch:

    def interrupt(job):
      raise KeyboardInterrupt

    patch.setattr("mmdcodec.workflows.quickstart_codec.evaluate", interrupt)
    assert main(argv) == 130
  argv += ["--system", "musiclm"]
  capsys.readouterr()

  assert main(argv) == 0
  shown = capsys.readouterr().out
  for number, name in enumerate(workflow.SHARED, 1):
    assert f"[{number}/18] {name}: done before" in shown
  assert "3 stages and 4 tokenizers" in shown
  assert "MuLan cycle consistency" in shown
  folder = tmp_path / "job" / "musiclm"
  assert str(folder / "report.html") in shown

  music = mmdcodec.load(folder / "bundle")
  assert music.takes("text") and music.takes("melody")
  codec = mmdcodec.load(tmp_path / "job" / "bundle")
  assert music.codec.hash == codec.hash
  stages = music.parts.stages
  made = {
    name: (stage.model.first_codebook, stage.model.codebooks)
    for name, stage in stages.items()
  }
  assert made == {"semantic": (0, 1), "coarse": (0, 1), "fine": (1, 1)}
  # Every condition was trained with.
  assert {name: {*stage.streams} for name, stage in stages.items()} == {
    "semantic": {"joint", "melody"},
    "coarse": {"joint", "semantic"},
    "fine": {"joint", "coarse"},
  }
  told, rate = soundfile.read(folder / "generated" / "story.flac")
  assert len(told) == pytest.approx(3 * 0.2 * rate, abs=1)

  page = (folder / "report.html").read_text()
  results = json.loads((folder / "measures" / "results.json").read_text())
  pairs = len(results["prompts"])
  # A piece and a song for each prompt, the story, a melody and its piece; each
  # above its spectrogram.
  assert pairs == 2 and page.count("<audio ") == 2 * pairs + 3
  found = re.findall(
    r"<figcaption>([^<]*)</figcaption><audio [^>]*></audio>"
    r'<img alt="spectrogram: ([^"]*)"',
    page,
  )
  assert [title for title, _ in found[-3:]] == [
    "generated",
    "melody",
    "generated",
  ]
  # Six curves, one for each training.
  assert page.count("Training of the") == 6
  assert "--system musiclm" in page and not re.search(r'src="(?!data:)', page)
  for row in ("pieces", "music with these captions"):
    assert row in results["measures"]["consistency"]

  assert main(argv) == 0
  assert capsys.readouterr().out.count("done before") == 18


@pytest.mark.parametrize("name", quickstart_musiclm.MODELS)
def test_each_model_can_be_built(name):
  """Catches sizes that do not go together, before minutes of training."""
  args = [name, f"{name}_tiny"]
  if name.removesuffix("_lm") in quickstart_musiclm.FURTHER and "_" in name:
    args.append(f"{name}_further")
  else:
    with pytest.raises(UserError, match=f"{name}_further"):
      quickstart_musiclm.get_config(f"{name}_further")
  for arg in args:
    config = quickstart_musiclm.get_config(arg).to_dict()
    config_checks.check(config)
    make_task(config)


def test_stages_follow_their_tokenizers(tmp_path, monkeypatch):
  """Catches crops of another length, and codebooks left out or made twice."""
  about = {
    "codec": dict(codebooks=6, codebook_sizes=[128] * 6, frame_rate=75.0),
    "semantic": dict(codebooks=1, codebook_sizes=[99], frame_rate=50.0),
    "mulan": dict(codebooks=5, codebook_sizes=[33] * 5, frame_rate=1.0),
    "melody_embedding": dict(
      codebooks=7, codebook_sizes=[17] * 7, frame_rate=0.5
    ),
  }
  monkeypatch.setattr(record_source, "describe", lambda path: about[path.name])
  job = make_job(tmp_path)
  found = {
    name: stage_training.fit(job.configs[f"{name}_lm"], name, tmp_path)
    for name in quickstart_musiclm.STAGES
  }
  coarse, fine = found["coarse"]["model"], found["fine"]["model"]
  assert (coarse["first_codebook"], coarse["codebooks"]) == (0, 3)
  assert (fine["first_codebook"], fine["codebooks"]) == (3, 3)
  assert coarse["frames"] == 5 * 75 and fine["frames"] == 2 * 75
  assert coarse["codebook_size"] == 128
  semantic = found["semantic"]["model"]
  assert semantic["frames"] == 10 * 50 and semantic["codebook_size"] == 99
  joint = dict(codebooks=5, size=33, frame_rate=0.0)
  for model in (semantic, coarse, fine):
    assert joint.items() <= model["conditions"]["joint"].items()
  for condition, expected in (
    (semantic["conditions"]["melody"], (7, 17, 4, 0.5)),
    (coarse["conditions"]["semantic"], (1, 99, 250, 50.0)),
    (fine["conditions"]["coarse"], (3, 128, 150, 75.0)),
  ):
    keys = ("codebooks", "size", "frames", "frame_rate")
    assert tuple(condition[key] for key in keys) == expected
  for config in found.values():
    config_checks.check(config)
    make_task(config)
  # The job's own settings stay as they are recorded.
  assert job.configs == make_job(tmp_path).configs


def test_a_codec_that_is_replaced_trains_the_stages_again(tmp_path):
  """Catches needs that are left out: tokens of a codec that is gone."""
  stages = workflow.make_stages(make_job(tmp_path, tiny=True))
  names = [stage.name for stage in stages]
  needs = {
    stage.name: names[:i] if stage.needs is None else stage.needs
    for i, stage in enumerate(stages)
  }

  def after(name):
    """Names of the stages that depend on one."""
    found = {name}
    for each, needed in needs.items():
      if found & {*needed}:
        found.add(each)
    return found

  kept = {f"{work} {name}" for work in ("train", "cluster")
          for name in quickstart_musiclm.TOKENIZERS}  # fmt: skip
  assert after("train") == {*needs} - kept - {"music", "prepare"}
  assert after("train joint") >= {"tokenize for stages", "page", "measure"}
  assert len({*needs}) == len(stages) == 18
  # No name is that of another stage of the plain command in the same folder.
  plain = quickstart_job.make_job(tmp_path, tiny=True)
  others = {stage.name for stage in workflow.quickstart.make_stages(plain)}
  assert others & {*needs} == {*workflow.SHARED}


@pytest.mark.parametrize("tiny", [False, True])
def test_prompts_are_not_too_long(tmp_path, tiny):
  """Catches an error after minutes of training."""
  job = make_job(tmp_path, tiny=tiny)
  if tiny:
    model = job.configs["joint"]["model"]
  else:
    shipped = bundle.read(packaged.FOLDER / job.packaged).config["parts"]
    model = shipped["joint"]["model"]
  longest = model["text"]["longest"]
  asked = pieces.story_prompts()
  for seed in (musiclm.PROMPTS, musiclm.PROMPTS + 2):
    asked += built_in.prompts(int(job.measured["pieces"]), seed)[0]
  assert len(asked) == 4 + 2 * job.measured["pieces"]
  # One more for the end of a text.
  assert max(len(text.encode()) for text in asked) < longest


def test_what_ships_is_taken(tmp_path):
  """Catches a packaged part that is trained, or that trained ones miss."""
  job = make_job(tmp_path)
  names = [stage.name for stage in workflow.make_stages(job)]
  assert "parts" in names and not {*job.configs} & {*workflow.TOKENIZERS}
  assert not any(name.startswith("cluster") for name in names)
  weights = (packaged.FOLDER / job.packaged / bundle.WEIGHTS_FILE).read_bytes()
  assert hashlib.sha256(weights).hexdigest()[:16] in models.take(job)
  shipped = mmdcodec.load("small_musiclm").parts
  for name in workflow.TOKENIZERS:
    taken = mmdcodec.load(tmp_path / "musiclm" / "parts" / name)
    assert taken.hash == getattr(shipped, name).hash
  # Prompts become as many codes as the stages are told of.
  assert shipped.joint.encode_clip(["a slow tune"]).shape == (1, 12)
  # From nothing, all of it is trained.
  fresh = make_job(tmp_path, from_scratch=True)
  names = [stage.name for stage in workflow.make_stages(fresh)]
  assert "train joint" in names and not fresh.packaged
  assert not any(each["init_from"] for each in fresh.configs.values())


def test_packaged_stages_are_trained_further(tmp_path, monkeypatch):
  """Catches a stage that cannot begin from what ships, or does not.

  Tokens of the quickstart are those of the packaged tokenizers.
  """
  job = make_job(tmp_path)
  models.take(job)
  parts = mmdcodec.load("small_musiclm").parts
  assert job.begun == tuple(parts.stages)
  kinds = dict(codec=parts.codec, semantic=parts.semantic)
  kinds |= dict(mulan=parts.joint, melody_embedding=parts.melody)
  about = {
    kind: dict(
      codebooks=each.codebooks,
      codebook_sizes=[*each.codebook_sizes],
      frame_rate=each.frame_rate,
    )
    for kind, each in kinds.items()
  }
  monkeypatch.setattr(record_source, "describe", lambda path: about[path.name])
  seen = {}

  def train(config, workdir):
    seen[workdir.name] = config

  monkeypatch.setattr(stage_training, "train", train)
  for name in quickstart_musiclm.STAGES:
    models.train_stage(job, name=name)
  assert seen["fine_lm"]["init_from"] == ""
  for name in job.begun:
    config = seen[f"{name}_lm"]
    found = bundle.read(config["init_from"])
    assert found.config["model"] == json.loads(json.dumps(config["model"]))
    usual = quickstart_musiclm.get_config(f"{name}_lm").optimizer
    assert config["optimizer"]["learning_rate"] < usual.learning_rate


def test_mistakes(tmp_path, fails):
  argv = ["quickstart", "--system", "musiclm", "--workdir", tmp_path / "job"]
  assert "leave out --audio" in fails(*argv, "--audio", tmp_path)
  assert "at least 1" in fails(*argv, "--steps", "0")
  assert not (tmp_path / "job").exists()
