"""The recipes in `launch/recipes`: their commands, and the files around."""

import json
import math
import re
import shlex

import pytest
from fake_cloud import LAUNCH, Cloud

from mmdcodec.train import config_checks, config_files, settings

RECIPES = [
  (path.stem, slice)
  for path in sorted(LAUNCH.glob("recipes/*.sh"))
  for slice in sorted(
    set(re.findall(r"(?:\d+x)?v\w+:[\dx]+", path.read_text()))
  )
]
GIVEN = dict(
  DATA="data/x", CODEC="codec", WORKDIR="runs/x", JOINT="joint", SEMANTIC="s"
)


@pytest.fixture
def cloud(tmp_path):
  cloud = Cloud(tmp_path)
  cloud.fake("mmdcodec")
  return cloud


def parse(words):
  """The config of a command line."""
  config = settings.plain(config_files.parse(words))
  config_checks.check(config)
  return config


def sized(config):
  """A config without what is read, in which compiling and training differ."""
  other = ("data", "codec", "init_from", "steps")
  return {key: config[key] for key in config if key not in other}


@pytest.fixture(scope="module")
def fitting():
  """Slices and configs of the training steps that the compiler says fit."""
  paths = (LAUNCH.parent / "docs/results/scaling").glob("*_train_*.json")
  rows = [json.loads(path.read_text()) for path in paths]
  return [
    (row["topology"], sized(parse(row["command"].split()[2:-1])))
    for row in rows
    if row["fits"]
  ]


def test_every_large_model_has_a_recipe():
  assert {name for name, _ in RECIPES} == {
    "codec", "mulan", "semantic", "musicgen_small", "musicgen_medium",
    "musicgen_large", "musiclm_semantic", "musiclm_coarse", "musiclm_fine",
  }  # fmt: skip


@pytest.mark.parametrize("name, slice", RECIPES)
def test_recipe(cloud, fitting, name, slice):
  """Catches settings that do not exist, or that nobody knows to fit."""
  cloud.environment |= dict(COMPILE="1", SLICE=slice)
  done = cloud.run(f"recipes/{name}.sh -- --config.steps=7")
  assert done.returncode == 0, done.stderr
  cloud.environment |= dict(COMPILE="", **GIVEN)
  done = cloud.run(f"recipes/{name}.sh -- --config.steps=7")
  ahead, train = map(shlex.split, cloud.calls)
  assert ahead[:2] == ["mmdcodec", "compile"] and train[1] == "train"
  assert f"--topology={slice}" in ahead and "--workdir=runs/x" in train
  compiled = parse([w for w in ahead if w.startswith("--config")])
  trained = parse([w for w in train if w.startswith("--config")])
  for config in (compiled, trained):
    assert config["steps"] == 7
    slices, sides = re.fullmatch(r"(?:(\d+)x)?\w+:(.+)", slice).groups()
    chips = int(slices or 1) * math.prod(map(int, sides.split("x")))
    sizes = [config["mesh"][axis] for axis in ("data", "fsdp", "model")]
    known = math.prod(size for size in sizes if size > 0)
    assert chips % known == 0 and (-1 in sizes or known == chips)
    parts = config["accumulate"] * chips // config["mesh"]["model"]
    assert config["batch"] % parts == 0
  compiled, trained = sized(compiled), sized(trained)
  assert compiled == trained
  # Codecs compile for half an hour each, so not all of them have a row.
  assert name == "codec" or (slice, compiled) in fitting


@pytest.mark.parametrize(
  "name, sentence",
  [
    ("musicgen_small", "launch: DATA is not set; see --help.\n"),
    ("mulan", "there are no settings for SLICE=v5p:2x2x1; expected v5e:8x8,"),
  ],
)
def test_mistakes_are_one_sentence(cloud, name, sentence):
  if name == "mulan":
    cloud.environment |= dict(SLICE="v5p:2x2x1", **GIVEN)
  done = cloud.run(f"recipes/{name}.sh")
  assert done.returncode == 2 and sentence in done.stderr
  assert len(done.stderr.splitlines()) == 1 and not cloud.calls


def test_launcher_gets_the_slice_and_the_command(cloud):
  """Catches a recipe that runs here although a launcher was named."""
  cloud.environment |= dict(SLICE="v5e:8x8", **GIVEN)
  launcher = cloud.folder / "sources/launch/tpu_queued_resource.sh"
  done = cloud.run(
    f"recipes/musicgen_large.sh {launcher} up --dry-run --name n --zone z"
  )
  assert done.returncode == 0, done.stderr
  assert "--accelerator-type=v5litepod-64" in done.stdout
  words = done.stdout.replace("\\", "")
  assert "mmdcodec train --config=musicgen:large --workdir=runs/x" in words
  assert "--config.accumulate=3 --config.mesh.data=4" in words


@pytest.mark.parametrize(
  "launcher",
  [
    "tpu_queued_resource.sh up --dry-run --name n --zone z",
    "skypilot.sh --dry-run",
  ],
)
def test_hosts_can_read_the_text_encoder_of_a_recipe(cloud, launcher):
  """Catches hosts without the packages that fetch and use a T5 of the Hub."""
  cloud.environment |= GIVEN
  script, _, options = launcher.partition(" ")
  script = cloud.folder / "sources/launch" / script
  done = cloud.run(f"recipes/musicgen_small.sh {script} {options}")
  assert done.returncode == 0, done.stderr
  words = done.stdout.replace("\\", "")
  assert "--config.init_from=google-t5/t5-base" in words
  (extras,) = re.findall(r"host.sh setup ([\w,]+)", words)
  (of_image,) = re.findall(
    r"^ARG EXTRAS=(.*)$", (LAUNCH / "Dockerfile").read_text(), re.M
  )
  assert "hub" in extras.split(",") and extras == of_image


def test_melody_is_a_stream_if_it_is_given(cloud):
  cloud.environment |= dict(MELODY="m", **GIVEN)
  cloud.run("recipes/musiclm_semantic.sh")
  streams = "--config.data.streams=joint=joint,melody=m"
  assert streams in shlex.split(cloud.calls[0])


def test_sources_are_complete():
  """Catches an image, or a set-up host, that cannot be installed."""
  root = LAUNCH.parent
  copied = re.findall(
    r"^COPY (.*) \S+$", (LAUNCH / "Dockerfile").read_text(), re.M
  )
  image = set(" ".join(copied).split())
  script = (LAUNCH / "tpu_queued_resource.sh").read_text()
  (packed,) = re.findall(r"\n +(mmdcodec configs .*) &&\n", script)
  assert image == set(packed.split())
  ignore = (LAUNCH / "Dockerfile.dockerignore").read_text().split()
  assert image == {word[1:] for word in ignore if word.startswith("!")}
  # What setup.py reads and installs.
  setup = (root / "setup.py").read_text()
  read = re.findall(r'HERE / "(\w[\w.]*)', setup)
  assert read and {*read, "setup.py", "pyproject.toml", "configs"} <= image
  assert all((root / name).exists() for name in image)


def test_readme_names_scripts_and_options_that_exist(cloud):
  """Catches a table that scripts have moved on from."""
  readme = (LAUNCH.parent / "README.md").read_text()
  lines = re.findall(r"\| `(?:COMPILE=1 )?launch/(.*?)` \|", readme)
  assert len(lines) == 6
  for line in lines:
    name, _, options = line.partition(" ")
    assert (LAUNCH / name).exists()
    usage = cloud.run(f"{name} --help").stdout
    own = options.replace("--spot", "").replace("--time=", "")
    assert set(re.findall(r"--[a-z-]{2,}", own)) <= set(
      re.findall(r"--[a-z-]{2,}", usage)
    )
