"""`mmdcodec convert`: public weights become a bundle."""

import pathlib

from mmdcodec.errors import UserError

HELP = "make a bundle of public weights (EnCodec at 24, 32 and 48 kHz)"
EXAMPLE = "mmdcodec convert facebook/encodec_24khz bundles/encodec_24khz"


def add_arguments(parser):
  """Adds the verb's arguments."""
  parser.add_argument(
    "source",
    metavar="HF_FOLDER",
    help="folder with config.json and model.safetensors, a .safetensors file of"
    " an original release, or an id on the Hugging Face Hub",
  )
  parser.add_argument("bundle", metavar="BUNDLE", help="folder to make")
  parser.add_argument(
    "--preset",
    help="codec preset with rate, causality and padding of weights without a"
    " config.json; not needed for the published ones",
  )
  parser.add_argument(
    "--force", action="store_true", help="replace the bundle if it exists"
  )


def run(args):
  """Converts one model."""
  from mmdcodec import bundle, convert
  from mmdcodec.convert import hub

  # Before anything is fetched; `bundle.save` looks again.
  convert.spare(args.bundle)
  source = hub.find(args.source)
  folder = source.parent if source.is_file() else source
  if folder.resolve() == pathlib.Path(args.bundle).resolve():
    raise UserError(
      f"{args.bundle} is where the weights come from: choose another name for"
      " the bundle."
    )
  config, variables = convert.read(source, args.preset)
  bundle.save(args.bundle, config, variables, force=args.force)
  model = config["model"]
  print(
    f"{args.bundle}: {config['source']['name']}, {model['rate']} Hz,"
    f" {model['codebooks']} x {model['codebook_size']} codes, every tensor used"
  )
  if not config["source"]["config"]:
    print(
      "there is no config.json; taken to be"
      f" {'causal' if model['causal'] else 'not causal'}, padded by"
      f" {model['pad_mode']}, in chunks of {model['chunk_seconds']:g} s"
    )
  print("its licence is that of the weights")
