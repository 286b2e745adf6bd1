"""`mmdcodec convert`: make a bundle from public weights."""

import argparse

from mmdcodec.errors import UserError
from mmdcodec.store import paths

HELP = "make a bundle of public weights (EnCodec, MusicGen, CLAP, ...)"
EXAMPLE = "mmdcodec convert facebook/encodec_24khz encodec_24khz"


def add_arguments(parser: argparse.ArgumentParser) -> None:
  """Adds the verb's arguments."""
  parser.add_argument(
    "source",
    metavar="HF_FOLDER",
    help="folder with config.json and model.safetensors, a .safetensors file of"
    " an original release, a folder of the package musicnn, or an id on the"
    " Hugging Face Hub: facebook/encodec_24khz, facebook/musicgen-small,"
    " sentence-transformers/all-MiniLM-L6-v2, ...",
  )
  parser.add_argument("bundle", metavar="BUNDLE", help="folder to make")
  parser.add_argument(
    "--preset",
    help="preset of a codec or language model, for weights without a"
    " config.json; not needed for published models",
  )
  parser.add_argument(
    "--force", action="store_true", help="replace the bundle if it exists"
  )


def run(args: argparse.Namespace) -> int:
  """Converts one model."""
  from mmdcodec import bundle, convert
  from mmdcodec.convert import hub

  # Checked before downloading; `bundle.save` checks again.
  convert.spare(args.bundle)
  source = hub.find(args.source)
  folder = source.parent if source.is_file() else source
  if folder.resolve() == paths.of(args.bundle).resolve():
    raise UserError(
      f"{args.bundle} is where the weights come from: choose another name for"
      " the bundle."
    )
  config, variables, assets = convert.read(source, args.preset)
  bundle.save(args.bundle, config, variables, assets=assets, force=args.force)
  name = config["source"]["name"]
  describe = {
    "codec": describe_codec,
    "lm": describe_music,
    "text": describe_text,
    "clap": describe_joint,
    "tagger": describe_tagger,
    "semantic": describe_semantic,
  }[config["kind"]]
  print(f"{args.bundle}: {name}, {describe(config)}, every tensor used")
  if config["kind"] == "codec" and not config["source"]["config"]:
    model = config["model"]
    print(
      "there is no config.json; taken to be"
      f" {'causal' if model['causal'] else 'not causal'}, padded by"
      f" {model['pad_mode']}, in chunks of {model['chunk_seconds']:g} s"
    )
  print("its licence is that of the weights")
  return 0


def describe_codec(config: dict) -> str:
  """Describes rate and codes."""
  model = config["model"]
  return (
    f"{model['rate']} Hz, {model['codebooks']} x {model['codebook_size']} codes"
  )


def describe_music(config: dict) -> str:
  """Describes size and conditions of a language model, and its codec."""
  model = config["model"]
  return (
    f"a language model {model['layers']} x {model['width']} for"
    f" {' and '.join(model['conditions'])}, {describe_codec(config['codec'])}"
  )


def describe_semantic(config: dict) -> str:
  """Describes the size of a network for semantic tokens."""
  model = config["model"]
  return (
    f"{model['network']} {model['layers']} x {model['width']}, features of"
    f" layer {model['feature_layer']}"
  )


def describe_text(config: dict) -> str:
  """Describes the size of a text encoder."""
  model = config["model"]
  return f"a text encoder {model['layers']} x {model['width']}"


def describe_joint(config: dict) -> str:
  """Describes a joint embedding of audio and text."""
  return f"an embedding of audio and text, {config['model']['dim']} dimensions"


def describe_tagger(config: dict) -> str:
  """Describes a tagger."""
  return f"a tagger with {config['model']['tags']} tags"
